"""A worker: a process that does one long step through files and JSON, in this environment or a toolchain's own.

    python -m satchel_converters.worker FOLDER

It can be stopped at any moment, and is stopped when it takes more memory or time than it may.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from satchel_runtimes import errors
from satchel_runtimes.errors import Cancelled, SatchelError

from .toolchains import Installed, using

__all__ = ["ERROR", "HERE", "Room", "Tell", "can_watch_memory", "kill_tree", "run_process"]

ERROR = "error.json"
_OURS = ("satchel_converters", "satchel_device_profiles", "satchel_runtimes")
_PROC = Path("/proc")

Tell = Callable[[str, str, int, int], None]  # stage, message, step, total


@dataclass(frozen=True)
class Room:
    """Where a worker runs, and what it may use there."""

    toolchain: Installed | None = None  # None: this environment
    memory_mb: float | None = None  # of the worker and its children together, in MiB
    seconds: float | None = None

    def __bool__(self) -> bool:
        """Whether it is more than this environment without limits."""
        return self != HERE


HERE = Room()


def run_process(what: str, folder: Path, tell: Tell, cancel: threading.Event | None, room: Room) -> None:
    """Run the job that lies in `folder`; `what` names it in an error.

    Raises:
        SatchelError: what the worker refused, with its own kind and exit code; a limit was reached; Cancelled when
            `cancel` was set.
        RuntimeError: the worker failed for a reason that is not the user's; its traceback is the message.
    """
    complaints = folder / "worker.log"
    stopped: list[SatchelError] = []
    with _environment(room) as (python, environment):
        process = _start(python, folder, environment, complaints)
        if cancel is not None or room.memory_mb is not None or room.seconds is not None:
            threading.Thread(target=_watch, args=(what, process, cancel, room, stopped), daemon=True).start()
        try:
            assert process.stdout is not None  # PIPE above
            for line in process.stdout:
                said = json.loads(line)
                tell(said["stage"], said["message"], said["step"], said["total"])
            code = process.wait()
        except BaseException:  # Ctrl-C, or a callback that raised: the worker must not outlive this call
            kill_tree(process)
            process.wait()
            raise
    if cancel is not None and cancel.is_set():
        raise Cancelled("The conversion was cancelled.", why="its cancel event was set", fix="run it again")
    if stopped:
        raise stopped[0]
    if (folder / ERROR).is_file():
        kind = json.loads((folder / ERROR).read_text())
        raise getattr(errors, kind["kind"])(kind["what"], why=kind["why"], fix=kind["fix"])
    if code:
        raise _died(what, code, complaints)
    complaints.unlink()


def _start(python: str, folder: Path, environment: Mapping[str, str], complaints: Path) -> subprocess.Popen[bytes]:
    with complaints.open("wb") as log:
        return subprocess.Popen(
            [python, "-m", "satchel_converters.worker", str(folder)],
            stdout=subprocess.PIPE,
            stderr=log,
            stdin=subprocess.DEVNULL,
            env=environment,
        )


def _died(what: str, code: int, complaints: Path) -> Exception:
    text = complaints.read_text("utf-8", "replace")
    if code in (-signal.SIGKILL, -signal.SIGTERM):
        return SatchelError(
            f"The {what} was killed.",
            why=f"its process got signal {-code}; most often the system was out of memory",
            fix="close other programs, or convert on a machine with more memory",
        )
    if "No space left on device" in text or "File too large" in text:
        return SatchelError(
            f"The {what} could not be written.",
            why="the disk is full, or a file size limit is set",
            fix="free some space, or set SATCHEL_CACHE to a larger disk",
        )
    return RuntimeError(f"the {what} process failed with status {code}\n{text[-8000:]}")


def _watch(
    what: str,
    process: subprocess.Popen[bytes],
    cancel: threading.Event | None,
    room: Room,
    stopped: list[SatchelError],
) -> None:
    """Stop the worker once it is told to, or takes too much.

    The memory is what /proc says is resident, of all its processes (pages that they share count twice).
    RLIMIT_AS would be simpler and breaks torch, which reserves address space far beyond what it uses.
    """
    began = time.monotonic()
    event = cancel or threading.Event()
    while process.poll() is None:
        if event.wait(0.05):
            kill_tree(process)
            return
        why = ""
        if room.seconds is not None and time.monotonic() - began > room.seconds:
            why = f"it took longer than the {room.seconds:g} seconds of --max-convert-seconds"
        elif room.memory_mb is not None:
            used = _resident(process.pid) / 2**20
            if used > room.memory_mb:
                why = f"it used {used:.0f} MiB of memory; --max-convert-memory-mb allows {room.memory_mb:g}"
        if why:
            stopped.append(SatchelError(f"The {what} was stopped.", why=why, fix="allow more, or leave the limit out"))
            kill_tree(process)
            return


def can_watch_memory() -> bool:
    return (_PROC / "self" / "statm").is_file()


def _resident(root: int) -> int:
    pages = 0
    for pid in _tree(root):
        with contextlib.suppress(OSError):  # one may end while it is looked at
            pages += int((_PROC / str(pid) / "statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def _tree(root: int) -> list[int]:
    """A process and its descendants; without /proc, the process alone."""
    children: dict[int, list[int]] = {}
    for file in _PROC.glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            # pid (name) state ppid …, and a name may hold spaces and brackets
            children.setdefault(int(file.read_text().rpartition(")")[2].split()[1]), []).append(int(file.parent.name))
    found = [root]
    for pid in found:
        found += children.get(pid, [])
    return found


def kill_tree(process: subprocess.Popen[Any]) -> None:  # Any: of bytes or text
    """Kill a process that was started here, and its descendants. They are in our own process group, so that a signal to
    all of it, from a terminal or a build server, reaches them as well; so they are found one by one."""
    if process.poll() is not None:
        return
    below = _tree(process.pid)[1:]
    process.kill()
    for pid in below:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


@contextlib.contextmanager
def _environment(room: Room) -> Iterator[tuple[str, dict[str, str]]]:
    """The Python to run, and its environment variables."""
    quiet = {"TOKENIZERS_PARALLELISM": "false"}
    if room.toolchain is None:
        # The worker imports what this process imports, however its path was set up.
        yield sys.executable, {**os.environ, **quiet, "PYTHONPATH": os.pathsep.join(each for each in sys.path if each)}
        return
    # Of this environment it sees satchel's own packages and nothing beside them: these may lie in site-packages, with
    # the very torch that the toolchain is there to avoid. So they get a folder of their own.
    with using(room.toolchain), tempfile.TemporaryDirectory(prefix="satchel-code-") as code:
        for name in _OURS:
            spec = importlib.util.find_spec(name)
            assert (
                spec is not None and spec.submodule_search_locations
            )  # they are packages, and installed with this one
            source = Path(next(iter(spec.submodule_search_locations)))
            try:
                os.symlink(source, Path(code, name), target_is_directory=True)
            except OSError:  # a system that does not let everybody make links
                shutil.copytree(source, Path(code, name))
        kept = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
        safe = {"PYTHONSAFEPATH": "1", "PYTHONNOUSERSITE": "1"}  # neither the current folder nor the user's packages
        yield str(room.toolchain.python), {**kept, **quiet, **safe, "PYTHONPATH": code}
