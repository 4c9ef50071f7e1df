"""The calls that a golden row of a model that writes comes to, so that finish.py can make them and needs no task.

Each is a graph and what it is given; its cache is what the call before left, and what an encoder's graph answered is taken by name.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from satchel_runtimes.errors import SupportError
from satchel_runtimes.golden import GoldenItem
from satchel_runtimes.manifest import Graph, TensorSpec
from satchel_runtimes.sessions import Session, Tensors
from satchel_runtimes.sessions.buckets import Bucket, BucketSession
from satchel_runtimes.sessions.static_decoder import KeptRow, StaticDecoder, StaticTexts, fixed_shape, widened
from satchel_runtimes.tasks import Row, Task
from satchel_runtimes.tensors import pack_tensors, unpack_tensors

__all__ = ["Log", "read_calls", "recorded_sessions", "unique_rows", "write_calls"]

_CALLS, _TENSORS = "kit-calls.json", "kit-calls.safetensors"  # in the stage

Run = Callable[[Mapping[str, np.ndarray]], Tensors]


@dataclass
class Log:
    """What was called since it was last emptied: the place of the graph, what it was given, what is new of it, whether its logits count."""

    calls: list[dict[str, Any]] = field(default_factory=list)  # Any: JSON
    tensors: list[Tensors] = field(default_factory=list)
    found: Tensors = field(default_factory=dict)  # by graphs without a cache

    def empty(self) -> None:
        self.calls, self.tensors, self.found = [], [], {}

    def add(self, graph: int, given: Tensors) -> None:
        self.calls.append({"graph": graph, "given": sorted(given), "answers": False})
        self.tensors.append(given)


class _Row(KeptRow):
    def __init__(self, past: Tensors) -> None:
        super().__init__()
        self.past = past


class _Decoder(StaticDecoder[_Row]):
    """A traced decoder as compiled graphs of it will be run, which notes its calls."""

    def __init__(self, graphs: Mapping[int, Graph], calls: Mapping[int, Run], log: Log) -> None:
        super().__init__(list(graphs.values()), {"engine": "torch"})
        self._place = {id(graph): place for place, graph in graphs.items()}
        self._calls, self._log = calls, log

    def new_row(self, graph: Graph) -> _Row:
        return _Row({spec.name: np.zeros(fixed_shape(spec, graph.bind), spec.dtype) for spec in graph.caches})

    def copied(self, row: _Row, old: Graph, graph: Graph) -> _Row:
        shapes = {spec.name: fixed_shape(spec, graph.bind) for spec in graph.caches}
        return _Row({name: widened(each, shapes[name]) for name, each in row.past.items()})

    def placed(self, array: np.ndarray, spec: TensorSpec, graph: Graph, row: _Row, earlier: Any) -> Any:
        return array[None]

    def call(self, graph: Graph, row: _Row, small: Tensors) -> Tensors:
        place = self._place[id(graph)]
        beside = {name: each for name, (_, each) in row.given.items()}
        known = self._log.found
        own = {name: each for name, each in beside.items() if name not in known or not _same(known[name], each)}
        self._log.add(place, {**small, **own})
        found = self._calls[place]({**small, **beside, **row.past})
        row.past = {name: found[output] for name, output in graph.state.items()}
        return {spec.name: found[spec.name] for spec in self.outputs}

    def run_row(self, texts: StaticTexts[_Row], number: int, tensors: Mapping[str, np.ndarray]) -> Tensors:
        result = super().run_row(texts, number, tensors)
        self._log.calls[-1]["answers"] = True  # of a prompt, its last token
        return result

    def close(self) -> None:
        self._calls = {}


def _same(found: np.ndarray, given: np.ndarray) -> bool:
    return found.ndim == given.ndim and np.array_equal(widened(found, given.shape).astype(given.dtype), given)


def recorded_sessions(graphs: Sequence[Graph], calls: Mapping[int, Run]) -> tuple[dict[str, Session], Log]:
    """A session of each component, over the callables of its graphs by their places."""
    log = Log()

    def noting(place: int) -> Run:
        def call(tensors: Mapping[str, np.ndarray]) -> Tensors:
            log.add(place, dict(tensors))
            found = calls[place](tensors)
            log.found.update(found)
            return found

        return call

    sessions: dict[str, Session] = {}
    for component in dict.fromkeys(graph.component for graph in graphs):
        own = {place: graph for place, graph in enumerate(graphs) if graph.component == component}
        first = next(iter(own.values()))
        if first.state:
            sessions[component] = _Decoder(own, calls, log)
        else:
            buckets = tuple([Bucket(graph.bind, noting(place)) for place, graph in own.items()])
            sessions[component] = BucketSession(first, buckets, lambda: {"engine": "torch"})
    return sessions, log


def unique_rows(tasks: Mapping[str, Task], items: Sequence[GoldenItem]) -> list[tuple[Task, Row]]:
    """Every row of every golden sample once, with a task that runs it."""
    found: dict[tuple[str, bytes], tuple[Task, Row]] = {}
    for item in items:
        task = tasks[item.task]
        for row in task.encode(item.input, task.check_options(item.options)):
            found.setdefault(row.key, (task, row))
    return list(found.values())


def write_calls(folder: Path, rows: Sequence[tuple[Task, Row]], sessions: Mapping[str, Session], log: Log) -> None:
    """Run each row, and write its calls beside the traces.

    Raises:
        SupportError: the task makes more of the calls than their logits.
    """
    calls: list[list[dict[str, Any]]] = []
    tensors: Tensors = {}
    for at, (task, row) in enumerate(rows):
        log.empty()
        ((_, outputs),) = task.forward(sessions, [row], 1)
        answers = sum(each["answers"] for each in log.calls)
        if set(outputs) != {"logits"} or len(outputs["logits"]) != answers:
            raise SupportError(
                f"Cannot make a compile kit of {task.name}.",
                why="a kit's golden rows are judged by the logits of single calls, and this task answers otherwise",
                fix="convert on an instance that has the compiler",
            )
        calls.append(log.calls)
        tensors.update(
            {f"{at:05}/call/{k}/{n}": each for k, given in enumerate(log.tensors) for n, each in given.items()}
        )
    (folder / _CALLS).write_text(json.dumps(calls))
    (folder / _TENSORS).write_bytes(pack_tensors(tensors))


def read_calls(folder: Path) -> tuple[list[list[dict[str, Any]]], Tensors]:
    """By row, and their tensors; nothing where no graph has a cache."""
    if not (folder / _CALLS).is_file():
        return [], {}
    calls: list[list[dict[str, Any]]] = json.loads((folder / _CALLS).read_text())
    return calls, unpack_tensors((folder / _TENSORS).read_bytes(), _TENSORS)
