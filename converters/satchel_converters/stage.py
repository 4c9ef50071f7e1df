"""The cached stage between a model and its schemes, and the worker process that makes it.

A stage is a folder: the exported graphs, the processors, and what the reference said to every golden sample. It is made in
a process of its own, so torch's memory is gone before weights are quantized, and it can be stopped at any moment.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from satchel_runtimes import errors
from satchel_runtimes.errors import Cancelled, SatchelError
from satchel_runtimes.golden import GoldenItem
from satchel_runtimes.manifest import Graph, TaskEntry, from_plain, to_plain
from satchel_runtimes.tasks import Task, task_class

from .format import Artifact, Calibration, Plan
from .source import SourceModel

__all__ = ["Job", "Stage", "open_tasks", "read_job", "read_stage", "run_worker"]

JOB, STAGE, ERROR = "job.json", "stage.json", "error.json"
REFERENCE_FULL, REFERENCE_GOLDEN, INPUTS = "reference.safetensors", "reference-golden.safetensors", "inputs.json"
CALIBRATION = "calibration.json"


@dataclass(frozen=True)
class Job:
    """What a stage is made of; its JSON is the key of the cache."""

    source: SourceModel
    tasks: tuple[str, ...]
    plan: Plan  # of the format's fp32, or of a scheme that its export makes
    max_length: int | None = None
    kit: bool = False  # traced for a compiler on another machine, instead of the format's own export


@dataclass(frozen=True)
class Stage:
    """What a worker left: the float artifact, the processors, and the reference's answers."""

    twin: Artifact
    entries: tuple[TaskEntry, ...]
    items: tuple[GoldenItem, ...]
    processors: tuple[str, ...]
    toolchain: dict[str, str]

    @property
    def folder(self) -> Path:
        return self.twin.folder

    def calibration(self, own: Sequence[Any] | None) -> Calibration:  # Any: what the main task takes
        """A user's inputs for the main task, or the built-in ones, encoded as a device will encode them."""

        def of(component: str) -> Iterator[Mapping[str, np.ndarray]]:
            task = open_tasks(self.entries, self.folder)[self.entries[0].name]
            items = _read_items(self.folder / CALIBRATION)
            if own is not None:
                items = tuple(GoldenItem(task.name, each, {}) for each in own)
            for item in items if component == task.component else ():
                for row in task.encode(item.input, task.check_options(item.options)):
                    yield {name: array[None] for name, array in row.tensors.items()}

        return of


@dataclass(frozen=True)
class _ModelFolder:
    """The processors of a model that is being converted, as a task reads them."""

    path: Path

    def read(self, name: str) -> bytes:
        return (self.path / name).read_bytes()


def open_tasks(entries: Sequence[TaskEntry], folder: Path) -> dict[str, Task]:
    """The tasks of a model whose processors lie in `folder`."""
    return {entry.name: task_class(entry.name)(entry, _ModelFolder(folder)) for entry in entries}


def _write_job(job: Job, folder: Path) -> None:
    source = {
        "id": job.source.id,
        "folder": str(job.source.folder),
        "revision": job.source.revision,
        "trust_remote_code": job.source.trust_remote_code,
    }
    plan = to_plain(job.plan)
    rest = {"tasks": job.tasks, "plan": plan, "max_length": job.max_length, "kit": job.kit}
    text = json.dumps({"source": source, **rest})
    (folder / JOB).write_text(text)


def read_stage(folder: Path) -> Stage:
    raw = json.loads((folder / STAGE).read_text())
    graphs = tuple(from_plain(Graph, each) for each in raw["graphs"])
    entries = tuple(from_plain(TaskEntry, each) for each in raw["entries"])
    items = _read_items(folder / INPUTS)
    return Stage(
        Artifact(folder, graphs, tuple(raw["files"])), entries, items, tuple(raw["processors"]), raw["toolchain"]
    )


def _read_items(file: Path) -> tuple[GoldenItem, ...]:
    return tuple(GoldenItem(each["task"], each["input"], each["options"]) for each in json.loads(file.read_text()))


def read_job(folder: Path) -> Job:
    raw = json.loads((folder / JOB).read_text())
    config = json.loads((Path(raw["source"]["folder"]) / "config.json").read_text("utf-8"))
    source = SourceModel(
        raw["source"]["id"],
        Path(raw["source"]["folder"]),
        config,
        raw["source"]["revision"],
        raw["source"]["trust_remote_code"],
    )
    return Job(source, tuple(raw["tasks"]), from_plain(Plan, raw["plan"]), raw["max_length"], raw["kit"])


Tell = Callable[[str, str, int, int], None]  # stage, message, step, total


def run_worker(job: Job, folder: Path, tell: Tell, cancel: threading.Event | None = None) -> Stage:
    """Make a stage in `folder`.

    Raises:
        SatchelError: what the worker refused, with its own kind and exit code; Cancelled when `cancel` was set.
        RuntimeError: the worker failed for a reason that is not the user's; its traceback is the message.
    """
    _write_job(job, folder)
    command = [sys.executable, "-m", "satchel_converters.worker", str(folder)]
    complaints = folder / "worker.log"
    with complaints.open("wb") as log:
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=log, stdin=subprocess.DEVNULL, env=_environment()
        )
    if cancel is not None:
        threading.Thread(target=_stop_when, args=(process, cancel), daemon=True).start()
    try:
        assert process.stdout is not None  # PIPE above
        for line in process.stdout:
            said = json.loads(line)
            tell(said["stage"], said["message"], said["step"], said["total"])
        code = process.wait()
    except BaseException:  # Ctrl-C, or a callback that raised: the worker must not outlive this call
        process.kill()
        process.wait()
        raise
    if cancel is not None and cancel.is_set():
        raise Cancelled("The conversion was cancelled.", why="its cancel event was set", fix="run it again")
    if (folder / ERROR).is_file():
        kind = json.loads((folder / ERROR).read_text())
        raise getattr(errors, kind["kind"])(kind["what"], why=kind["why"], fix=kind["fix"])
    if code:
        raise _died(code, complaints)
    complaints.unlink()
    return read_stage(folder)


def _died(code: int, complaints: Path) -> Exception:
    text = complaints.read_text("utf-8", "replace")
    if code in (-signal.SIGKILL, -signal.SIGTERM):
        return SatchelError(
            "The export was killed.",
            why=f"its process got signal {-code}; most often the system was out of memory",
            fix="close other programs, or convert on a machine with more memory",
        )
    if "No space left on device" in text or "File too large" in text:
        return SatchelError(
            "The export could not be written.",
            why="the disk is full, or a file size limit is set",
            fix="free some space, or set SATCHEL_CACHE to a larger disk",
        )
    return RuntimeError(f"the export process failed with status {code}\n{text[-8000:]}")


def _stop_when(process: subprocess.Popen[bytes], cancel: threading.Event) -> None:
    while process.poll() is None:
        if cancel.wait(0.05):
            process.kill()
            return


def _environment() -> dict[str, str]:
    """The worker imports what this process imports, however its path was set up."""
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(each for each in sys.path if each),
        "TOKENIZERS_PARALLELISM": "false",
    }
