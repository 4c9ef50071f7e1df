"""The traced model of a kit: TorchScript that an older torch reads, proved here before it travels."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from satchel_runtimes.errors import ParityError, SupportError
from satchel_runtimes.golden import GoldenItem, judge_tasks, records_of, run_items
from satchel_runtimes.manifest import Graph
from satchel_runtimes.parity import CLASSES
from satchel_runtimes.sessions.cache import CAPACITY
from satchel_runtimes.tasks import Task

from ..component import Component, specs
from ..format import Artifact, Plan
from ..shapes import fixed_shapes, others_of, resized
from ..torchscript import call_of, error_of, save_trace
from ..torchscript import trace as traced
from .calls import recorded_sessions, unique_rows, write_calls

__all__ = ["replay", "trace", "unknown_operators"]

_TOLERANCE = 1e-4  # as in onnx_export
_jit: Any = torch.jit  # Any: torch does not type its scripts


def trace(components: Sequence[Component], plan: Plan, out: Path, *, reader: str | None) -> Artifact:
    """Trace each component once for all its sizes, or once for each where one trace does not serve them all.

    Args:
        reader: the release of torch that must read the files, where it is older than this one.

    Raises:
        SupportError: the model cannot be traced, or its trace is wrong or not readable there.
    """
    graphs: list[Graph] = []
    for component, shapes in fixed_shapes(components, plan):
        whole = traced(component, component.example)
        if max(_error(component, whole, shape) for shape in shapes) <= _TOLERANCE:
            files = [_save(whole, out / f"{component.name}.pt", reader)] * len(shapes)
        else:  # a length that was traced is in the graph: each gets a trace of its own
            files = []
            for shape in shapes:
                length = shape.get("sequence", 1)
                example = resized(component, 1, length, padded=True, sizes=others_of(component, shape))
                fixed = traced(component, example)
                _refuse_wrong(component, length, _error(component, fixed, shape))
                capacity = f"_capacity_{shape[CAPACITY]}" if CAPACITY in shape else ""
                files.append(_save(fixed, out / f"{component.name}{capacity}_sequence_{length}.pt", reader))
        inputs, outputs = specs(component.inputs), specs(component.outputs)
        graphs += [
            Graph(component.name, file, inputs, outputs, bind=shape, state=dict(component.state))
            for file, shape in zip(files, shapes, strict=True)
        ]
    return Artifact(out, tuple(graphs), tuple(dict.fromkeys(graph.file for graph in graphs)))


def _error(component: Component, whole: Any, shape: Mapping[str, int]) -> float:  # Any: a script
    checked, sizes = ((1, shape.get("sequence", 1)),), others_of(component, shape)
    return error_of(component, whole, checked, padded=True, sizes=sizes)


def _refuse_wrong(component: Component, length: int, error: float) -> None:
    if not error <= _TOLERANCE:
        raise SupportError(
            f"Cannot trace {component.name} for a compile kit.",
            why=f"the trace for {length} tokens is wrong by {error:.2g} of the largest value",
            fix="choose another format, or report the architecture",
        )


def _save(whole: Any, file: Path, reader: str | None) -> str:  # Any: a script
    unknown = unknown_operators(whole, reader) if reader else []
    if unknown:
        raise SupportError(
            f"Cannot trace {file.stem} for a compile kit.",
            why=f"torch {reader}, which reads the kit, has no operator {', '.join(unknown)}",
            fix="choose a device with a newer torch, such as inf2; or give the architecture a file in capture/",
        )
    if not reader:
        _follow_inputs(whole)
    save_trace(whole, file, freeze=False)  # the vendors' compilers look for the weights
    return file.name


def _follow_inputs(whole: Any) -> None:  # Any: a script
    """Let what the graph makes lie where its inputs do: a trace keeps the device that it ran on, and torch_neuronx traces it again on
    one of its own."""
    graph = whole.graph
    torch._C._jit_pass_inline(graph)
    place = graph.create("prim::device", [list(graph.inputs())[1]], 1)  # the first is the module itself
    place.output().setType(torch._C.DeviceObjType.get())
    graph.prependNode(place)
    for node in graph.findAllNodes("prim::Constant"):
        if node.output().type().kind() == "DeviceObjType":
            node.output().replaceAllUsesWith(place.output())


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
    """The golden samples through the saved traces, padded as the compiled graphs will be: the figures of each task. What a model that
    writes is called with is noted in the stage.

    Raises:
        ParityError: a trace answers otherwise than the model, or the model's own answers can prove nothing.
    """
    traces = {file: _jit.load(str(twin.folder / file)) for file in twin.files}
    calls = {}
    for place, graph in enumerate(twin.graphs):
        names = [spec.name for spec in graph.inputs], [spec.name for spec in graph.outputs]
        calls[place] = call_of(traces[graph.file], *names)
    sessions, log = recorded_sessions(twin.graphs, calls)
    whole = records_of(tasks, items, answers, keep=max(array.size for each in answers for array in each.values()))
    found = judge_tasks(items, whole, run_items(tasks, sessions, items), CLASSES["fp32"])
    for task, parity in found.items():
        if not parity.passed:
            raise ParityError(
                f"The traced model of the kit does not answer {task} as the model does.",
                why=f"{parity.why} ({parity.where})",
                fix="report this architecture; no kit was written",
            )
    if any(graph.state for graph in twin.graphs):
        write_calls(twin.folder, unique_rows(tasks, items), sessions, log)
    return {task: dict(parity.figures) for task, parity in found.items()}
