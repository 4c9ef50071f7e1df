"""Install a toolchain into a virtual environment of its own, whole or not at all, and remove it.

A virtual environment cannot be renamed (its scripts hold its path), so it is made in its place and its marker is written last.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from satchel_runtimes.errors import SatchelError, ToolchainError, UsageError
from satchel_runtimes.toolchain import satisfies

from ..process import kill_tree
from . import MARKER, Installed, Toolchain, find_installed, folders_of, locked, python_in, toolchains_folder

__all__ = ["install", "remove"]

# What would make pip look at, or write to, another place than the new environment.
_LEADS_AWAY = ("PYTHONPATH", "PYTHONHOME", "PIP_TARGET", "PIP_PREFIX", "PIP_ROOT", "PIP_USER", "PIP_PYTHON")
_VERSIONS = "import importlib.metadata as m, json; print(json.dumps({d.metadata['Name']: d.version for d in m.distributions()}))"
_NEWS = ("Collecting ", "Processing ", "Downloading ", "Building ", "Installing ", "Successfully ", "ERROR: ")
_NO_NETWORK = (
    "NewConnectionError",
    "NameResolutionError",
    "Temporary failure in name resolution",
    "Network is unreachable",
    "Connection refused",
    "ConnectTimeoutError",
    "ReadTimeoutError",
    "ProxyError",
)


def install(
    toolchain: Toolchain, tell: Callable[[str], None], *, python: Path | None = None, replace: bool = False
) -> Installed:
    """Make the environment; one that is there already is left as it is, unless `replace` is set.

    Raises:
        UsageError: `python` is no Python.
        ToolchainError: its version does not do, or pip cannot install the pins.
        SatchelError: another install of the same is under way.
    """
    base = python or Path(sys.executable)
    version = _python_version(base)
    if not satisfies(version, toolchain.python):
        raise ToolchainError(
            f"Cannot install the toolchain {toolchain.name}.",
            why=f"it needs Python {toolchain.python}; {base} is {version}",
            fix="name another with --python /path/to/python3.11",
        )
    with locked(toolchain.name, exclusive=True):
        there = find_installed(toolchain)
        if there is not None and not replace:
            return there
        for each in folders_of(toolchain.name):
            if each == toolchain.folder or not (each / MARKER).is_file():
                _discard(each)
        folder = toolchain.folder
        try:
            _check_space(toolchain)
            return _make(toolchain, base, folder, tell)
        except OSError as error:
            _discard(folder)
            raise _complaint(toolchain, f"{error.strerror or error}") from error
        except BaseException:  # Ctrl-C too: what is half made is of no use
            _discard(folder)
            raise


def remove(name: str) -> list[Path]:
    """Remove a toolchain with whatever pins, and what is half made of it; return what was removed."""
    found = folders_of(name)
    if found:
        with locked(name, exclusive=True):
            for each in found:
                _discard(each)
    return found


def _make(toolchain: Toolchain, base: Path, folder: Path, tell: Callable[[str], None]) -> Installed:
    folder.mkdir(parents=True)
    tell(f"a virtual environment of {base} in {folder}")
    _run(toolchain, [str(base), "-m", "venv", str(folder)], tell)
    python = str(python_in(folder))
    pip = [python, "-m", "pip", "install", "--disable-pip-version-check", "--no-input", "--progress-bar", "off"]
    # torch first and by its exact pin: anything else that drags it in may bring another build, and gigabytes of CUDA.
    for pin in toolchain.pins:
        if pin.startswith("torch=="):
            _run(toolchain, [*pip, "-c", str(toolchain.requirements), pin], tell)
    _run(toolchain, [*pip, "-r", str(toolchain.requirements)], tell)
    _run(toolchain, [python, "-m", "pip", "check"], tell)
    versions = json.loads(subprocess.run([python, "-I", "-c", _VERSIONS], capture_output=True, check=True).stdout)
    size = sum(each.lstat().st_size for each in folder.rglob("*"))
    about = {"python": _python_version(Path(python)), "versions": versions, "bytes": size, "pins": toolchain.pins}
    beside = folder / f".{MARKER}"
    beside.write_text(json.dumps(about, indent=1))
    os.replace(beside, folder / MARKER)
    return Installed(toolchain.name, folder, about["python"], versions, size)


def _run(toolchain: Toolchain, command: Sequence[str], tell: Callable[[str], None]) -> None:
    """One step; what is news of its output is told, and all of it kept for a complaint."""
    environment = {name: value for name, value in os.environ.items() if name not in _LEADS_AWAY}
    said: list[str] = []
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=environment,
        text=True,
        errors="replace",
    ) as process:
        assert process.stdout is not None  # PIPE above
        try:
            for line in process.stdout:
                said.append(line.strip())
                if line.startswith(_NEWS):
                    tell(line.strip().partition(" (from ")[0])
        except BaseException:  # Ctrl-C: pip must not go on writing into a folder that is being removed
            kill_tree(process)
            raise
    if process.returncode:
        raise _complaint(toolchain, "\n".join(said))


def _complaint(toolchain: Toolchain, said: str) -> SatchelError:
    errors = [line for line in said.splitlines() if line.startswith("ERROR:")] or said.splitlines()[-3:]
    why, fix = "; ".join(errors)[-600:], "see what pip says above, and run this again"
    if any(word in said for word in _NO_NETWORK):
        why = "pip cannot reach its package index"
        fix = "check the network or pip's index settings (pip config list), and run this again"
    elif "No space left on device" in said or "Disk quota exceeded" in said:
        why = f"the disk is full; it takes about {toolchain.disk_mb} MiB in {toolchains_folder()}"
        fix = "free some space, or set SATCHEL_CACHE to a larger disk"
    elif "No matching distribution found" in said:
        fix = "pip's index must be reachable and have this version for this Python and system: see pip config list, or --python"
    elif "ensurepip" in said:
        why, fix = (
            "this Python cannot make virtual environments",
            "install its venv module, e.g. apt install python3-venv",
        )
    return ToolchainError(f"Cannot install the toolchain {toolchain.name}.", why=why, fix=fix)


def _check_space(toolchain: Toolchain) -> None:
    toolchains_folder().mkdir(parents=True, exist_ok=True)
    if shutil.disk_usage(toolchains_folder()).free < toolchain.disk_mb * 2**20:
        raise _complaint(toolchain, "No space left on device")


def _python_version(python: Path) -> str:
    command = [str(python), "-I", "-c", "import platform; print(platform.python_version())"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError) as error:
        raise UsageError(
            f"Cannot use --python {python}.",
            why=f"it does not run: {error}",
            fix="give the path of a Python executable",
        ) from None


def _discard(folder: Path) -> None:
    """The marker first: whatever stops this, what is left is half made and not used."""
    with contextlib.suppress(FileNotFoundError):
        (folder / MARKER).unlink()
    shutil.rmtree(folder, ignore_errors=True)
