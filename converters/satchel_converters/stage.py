"""The cached stage between a model and its schemes, and the job of the worker that makes it.

A stage is a folder: the exported graphs, the processors, and what the reference said to every golden sample. It is made in
a process of its own, so torch's memory is gone before weights are quantized, and it can be stopped at any moment.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from satchel_runtimes.golden import GoldenItem
from satchel_runtimes.manifest import Graph, TaskEntry, from_plain, to_plain
from satchel_runtimes.sessions import Session
from satchel_runtimes.tasks import Task, open_task
from satchel_runtimes.tasks.text_generation import TextGeneration

from .format import Artifact, Calibration, Plan
from .process import HERE, Room, Tell, run_process
from .source import SourceModel
from .written import own_words

__all__ = [
    "Job",
    "Stage",
    "open_tasks",
    "read_job",
    "read_stage",
    "run_worker",
]

JOB, STAGE = "job.json", "stage.json"
REFERENCE_FULL, REFERENCE_GOLDEN, INPUTS = "reference.safetensors", "reference-golden.safetensors", "inputs.json"
CALIBRATION = "calibration.json"

Run = Callable[[Artifact, Graph], Session]  # as a format has it


@dataclass(frozen=True)
class Job:
    """What a stage is made of, and where."""

    source: SourceModel
    tasks: tuple[str, ...]
    plan: Plan  # of the format's fp32, or of a scheme that its export makes
    max_length: int | None = None
    golden: tuple[Any, ...] = ()  # inputs of the main task in place of the built-in ones; Any: as JSON holds them
    kit: bool = False  # traced for a compiler on another machine, instead of the format's own export
    room: Room = HERE  # the worker is not told; it is in it


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

    def calibration(
        self, own: Sequence[Any] | None, run: Run | None = None
    ) -> Calibration:  # Any: what the main task takes
        """A user's inputs for the main task, or the built-in ones, encoded as a device will encode them. Where `run` opens a
        graph, a language model goes on with the built-in ones (`own_words`)."""

        def of(component: str) -> Iterator[Mapping[str, np.ndarray]]:
            task = open_tasks(self.entries, self.folder)[self.entries[0].name]
            items = _read_items(self.folder / CALIBRATION)
            if own is not None:
                items = tuple(GoldenItem(task.name, each, {}) for each in own)
            graph = next(each for each in self.twin.graphs if each.component == component)
            rows = [row for each in items for row in task.encode(each.input, task.check_options(each.options))]
            rows = [row for row in rows if row.component == component]
            if run is not None and own is None and type(task) is TextGeneration and rows:  # none that sees too
                rows = own_words(task, run(self.twin, graph), rows)
            for row in rows:
                yield task.given(row, graph)

        return of


@dataclass(frozen=True)
class _ModelFolder:
    """The processors of a model that is being converted, as a task reads them."""

    path: Path

    def read(self, name: str) -> bytes:
        return (self.path / name).read_bytes()


def open_tasks(entries: Sequence[TaskEntry], folder: Path) -> dict[str, Task]:
    """The tasks of a model whose processors lie in `folder`."""
    return {entry.name: open_task(entry, _ModelFolder(folder)) for entry in entries}


def _write_job(job: Job, folder: Path) -> None:
    plan = to_plain(job.plan)
    rest = {"tasks": job.tasks, "plan": plan, "max_length": job.max_length, "golden": job.golden, "kit": job.kit}
    text = json.dumps({"source": job.source.to_job(), **rest})
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
    source = SourceModel.from_job(raw["source"])
    plan = from_plain(Plan, raw["plan"])
    return Job(source, tuple(raw["tasks"]), plan, raw["max_length"], tuple(raw["golden"]), raw["kit"])


def run_worker(job: Job, folder: Path, tell: Tell, cancel: threading.Event | None = None) -> Stage:
    """Make a stage in `folder`.

    Raises:
        SatchelError, RuntimeError: as `run_process`.
    """
    _write_job(job, folder)
    run_process("export", folder, tell, cancel, job.room)
    return read_stage(folder)
