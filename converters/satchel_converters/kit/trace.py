"""The traced model of a kit: TorchScript that an older torch reads, proved here before it travels."""

from __future__ import annotations

import json
import warnings
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from satchel_runtimes.errors import ParityError, SupportError
from satchel_runtimes.golden import GoldenItem, judge_tasks, records_of, run_items
from satchel_runtimes.manifest import Graph
from satchel_runtimes.parity import CLASSES
from satchel_runtimes.sessions.buckets import Bucket, BucketSession
from satchel_runtimes.tasks import Task

from ..component import Component, specs
from ..format import Artifact
from ..shapes import difference, resized, static_shapes

__all__ = ["Positional", "replay", "trace", "unknown_operators"]

_TOLERANCE = 1e-4  # as in onnx_export
_jit: Any = torch.jit  # Any: torch does not type its scripts


class Positional(torch.nn.Module):
    """A component by position, with its outputs as a tuple: what `trace` of every torch takes."""

    def __init__(self, component: Component) -> None:
        super().__init__()
        self.inner, self.names = component.module, [each.name for each in component.inputs]

    def forward(self, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return tuple(self.inner(**dict(zip(self.names, tensors, strict=True))).values())


def trace(components: Sequence[Component], buckets: Sequence[int], out: Path, *, reader: str | None) -> Artifact:
    """Trace each component once for all lengths, or once per length where one trace does not serve them all.

    Args:
        reader: the release of torch that must read the files, where it is older than this one.

    Raises:
        SupportError: the model cannot be traced, or its trace is wrong or not readable there.
    """
    graphs: list[Graph] = []
    for component in components:
        lengths = [shape["sequence"] for shape in static_shapes(component, buckets)]
        whole = _traced(component, component.example)
        errors = {length: _error(component, whole, length) for length in lengths}
        if max(errors.values()) <= _TOLERANCE:
            files = dict.fromkeys(lengths, _save(whole, out / f"{component.name}.pt", reader))
        else:  # a length that was traced is in the graph: each gets a trace of its own
            files = {}
            for length in lengths:
                fixed = _traced(component, resized(component, 1, length, padded=True))
                _refuse_wrong(component, length, _error(component, fixed, length))
                files[length] = _save(fixed, out / f"{component.name}_sequence_{length}.pt", reader)
        graphs += [
            Graph(
                component.name,
                files[length],
                specs(component.inputs),
                specs(component.outputs),
                bind={"batch": 1, "sequence": length},
            )
            for length in lengths
        ]
    return Artifact(out, tuple(graphs), tuple(dict.fromkeys(graph.file for graph in graphs)))


def _traced(component: Component, example: Mapping[str, torch.Tensor]) -> Any:  # Any: torch does not type its scripts
    inputs = tuple(example[each.name] for each in component.inputs)
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # tracing is deprecated, and it warns of every shape that it reads
            # The example inputs would be stored in the file; checked it is at other shapes, below.
            return _jit.trace(Positional(component).eval(), inputs, check_trace=False, _store_inputs=False)
    except (RuntimeError, ValueError, TypeError) as error:
        lines = str(error).strip().splitlines() or [""]
        raise SupportError(
            f"Cannot trace {component.name} for a compile kit.",
            why=f"{type(error).__name__}: {lines[0][:300]}",
            fix="choose another format; an architecture that needs a rewrite gets one file in capture/",
        ) from None


def _error(component: Component, traced: Any, length: int) -> float:  # Any: a script
    call = _call(traced, [each.name for each in component.inputs], [each.name for each in component.outputs])
    try:
        return difference(component, call, ((1, length),), padded=True)
    except (RuntimeError, IndexError):  # a length that the trace cannot take at all
        return float("inf")


def _refuse_wrong(component: Component, length: int, error: float) -> None:
    if not error <= _TOLERANCE:
        raise SupportError(
            f"Cannot trace {component.name} for a compile kit.",
            why=f"the trace for {length} tokens is wrong by {error:.2g} of the largest value",
            fix="choose another format, or report the architecture",
        )


def _call(traced: Any, inputs: Sequence[str], outputs: Sequence[str]) -> Any:  # Any: a script, and a plain callable
    def call(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        with torch.inference_mode():
            found = traced(*(torch.from_numpy(np.ascontiguousarray(tensors[name])) for name in inputs))
        return {name: value.numpy() for name, value in zip(outputs, found, strict=True)}

    return call


def _save(traced: Any, file: Path, reader: str | None) -> str:  # Any: a script
    unknown = unknown_operators(traced, reader) if reader else []
    if unknown:
        raise SupportError(
            f"Cannot trace {file.stem} for a compile kit.",
            why=f"torch {reader}, which reads the kit, has no operator {', '.join(unknown)}",
            fix="choose a device with a newer torch, such as inf2; or give the architecture a file in capture/",
        )
    written = file.with_suffix(".tmp")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        _jit.save(traced, str(written))
    # What each line of the graph came from: paths of this machine, which are nobody's business elsewhere.
    with zipfile.ZipFile(written) as full, zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as lean:
        for name in (each for each in full.namelist() if not each.endswith(".debug_pkl")):
            lean.writestr(zipfile.ZipInfo(name), full.read(name))
    written.unlink()
    return file.name


def unknown_operators(traced: Any, reader: str) -> list[str]:  # Any: a script
    """The operators of a trace that an older torch does not know; its list was printed by that torch itself."""
    known = set(json.loads(Path(__file__).with_name(f"torch-{reader}.json").read_text())["aten"])
    kinds = {node.kind() for node in _nodes(traced.inlined_graph)}
    return sorted(kind for kind in kinds if kind.startswith("aten::") and kind[6:] not in known)


def _nodes(block: Any) -> Iterator[Any]:  # Any: torch does not type its graphs
    for node in block.nodes():
        yield node
        for inner in node.blocks():
            yield from _nodes(inner)


def replay(
    twin: Artifact,
    tasks: Mapping[str, Task],
    items: Sequence[GoldenItem],
    answers: Sequence[Mapping[str, np.ndarray]],
) -> dict[str, dict[str, float]]:
    """The golden samples through the saved traces, padded as the compiled graphs will be: the figures of each task.

    Raises:
        ParityError: a trace answers otherwise than the model, or the model's own answers can prove nothing.
    """
    sessions = {}
    for component in dict.fromkeys(graph.component for graph in twin.graphs):
        graphs = [graph for graph in twin.graphs if graph.component == component]
        names = [spec.name for spec in graphs[0].inputs], [spec.name for spec in graphs[0].outputs]
        traces = {file: _jit.load(str(twin.folder / file)) for file in {graph.file for graph in graphs}}
        buckets = tuple(Bucket(graph.bind, _call(traces[graph.file], *names)) for graph in graphs)
        sessions[component] = BucketSession(graphs[0], buckets, lambda: {"engine": f"torch {torch.__version__}"})
    whole = records_of(tasks, items, answers, keep=max(array.size for each in answers for array in each.values()))
    found = judge_tasks(items, whole, run_items(tasks, sessions, items), CLASSES["fp32"])
    for task, parity in found.items():
        if not parity.passed:
            raise ParityError(
                f"The traced model of the kit does not answer {task} as the model does.",
                why=f"{parity.why} ({parity.where})",
                fix="report this architecture; no kit was written",
            )
    return {task: dict(parity.figures) for task, parity in found.items()}
