"""Where the time of a call goes, operator by operator, in a session of its own: what is timed elsewhere is not slowed by it."""

from __future__ import annotations

import json
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Optional

import numpy as np

from .bundle import open_bundle
from .predictor import Predictor
from .sessions import SessionOptions

__all__ = ["NodeTime", "OperatorTime", "Profile", "profile", "summarize_traces"]

# Why there is none of a format, and what looks into its engine.
_WITHOUT = {
    "tflite": "LiteRT's Python API has no profiler of operators; its benchmark_model with --enable_op_profiling has one",
    "torchscript": "satchel does not read torch's profiler; torch.profiler shows what a TorchScript file does",
    "neuron": "the time of a NeuronCore is read by the vendor's own neuron-profile",
}
_SLOWEST = 12  # single nodes that are named


@dataclass(frozen=True)
class OperatorTime:
    """All nodes of one kind in one component: milliseconds of one call, and their share of it."""

    operator: str
    component: str
    nodes: int
    ms: float
    share: float


@dataclass(frozen=True)
class NodeTime:
    """One node of a graph."""

    node: str
    operator: str
    component: str
    ms: float
    share: float


@dataclass(frozen=True)
class Profile:
    """Of one call, by the medians of several. A profiler's own clock slows small operators, so shares are worth more than times.

    `why` says why there is none; then all else is empty.
    """

    tool: str
    calls: int
    tokens: int
    ms: float  # in the engine; what lies around it, tokenizers for instance, is not in here
    between_ms: float  # of that, outside of any operator
    operators: tuple[OperatorTime, ...]  # the slowest first
    slowest: tuple[NodeTime, ...]
    why: str = ""


def profile(
    path: Path, caller: Callable[[Predictor], tuple[Callable[[], object], int]], *, calls: int = 20, **loading: Any
) -> Profile:
    """Run a call several times on an engine that keeps a trace.

    Args:
        path: the bundle.
        caller: makes the call, and says how many tokens it is of.
        loading: threads, trust, delegate, cores, as of `load`.
    """
    bundle = open_bundle(path, verify="once")
    target = bundle.manifest.target
    if target.format in _WITHOUT:
        return Profile(target.engine.name, 0, 0, 0.0, 0.0, (), (), _WITHOUT[target.format])
    with tempfile.TemporaryDirectory(prefix="satchel-profile-") as folder:
        wanted = SessionOptions(**{"profile": str(Path(folder, "trace")), **loading})
        predictor = Predictor(bundle, options=wanted)
        try:
            call, tokens = caller(predictor)
            for _ in range(calls + 1):  # the first one is not counted
                call()
            tool = str(next(iter(predictor.graphs.values())).used["engine"])
            traces = {name: Path(_end(session)).read_bytes() for name, session in predictor.graphs.items()}
        finally:
            predictor.close()
    return summarize_traces(tool, {name: json.loads(trace) for name, trace in traces.items()}, calls, tokens)


def _end(session: Any) -> str:  # Any: a Session of an engine that profiles
    found: str = session.end_profile()
    return found


def summarize_traces(tool: str, traces: dict[str, Any], calls: int, tokens: int) -> Profile:
    """Traces of onnxruntime by component; each call ran every component as often as any other call did, and one more came first."""
    operators: dict[tuple[str, str], list[float]] = defaultdict(list)  # all nodes of one call
    times: dict[tuple[str, str, str], list[float]] = defaultdict(list)
    whole = 0.0
    for component, events in traces.items():
        runs = [each for each in events if each.get("name") == "model_run"]
        counted = sorted(runs, key=lambda each: each["ts"])[len(runs) // (calls + 1) :]
        if not counted:
            continue
        whole += _of_a_call([each["dur"] for each in counted], calls)
        start = counted[0]["ts"]
        for event, own in _own_times(
            each for each in events if each.get("cat") == "Node" and each["ts"] >= start and "op_name" in each["args"]
        ):
            name = event["name"].replace("_kernel_time", "")
            times[name, event["args"]["op_name"], component].append(own)
    nodes = {name: _of_a_call(found, calls) for name, found in times.items()}
    for (_, operator, component), ms in nodes.items():
        operators[operator, component].append(ms)
    inside = sum(nodes.values())
    most = whole or 1.0
    return Profile(
        tool,
        calls,
        tokens,
        whole,
        max(whole - inside, 0.0),
        tuple(
            OperatorTime(operator, component, len(each), sum(each), sum(each) / most)
            for (operator, component), each in sorted(operators.items(), key=lambda found: -sum(found[1]))
        ),
        tuple(
            NodeTime(*name, ms, ms / most) for name, ms in sorted(nodes.items(), key=lambda found: -found[1])[:_SLOWEST]
        ),
    )


def _of_a_call(microseconds: Sequence[float], calls: int) -> float:
    """Milliseconds of what ran so often in so many calls; a process that is held up once holds up one of its nodes."""
    return float(np.median(microseconds)) * len(microseconds) / calls / 1e3


def _own_times(events: Iterable[Any]) -> list[tuple[Any, float]]:
    """Of each event its microseconds without those that lie within it: the nodes of a branch lie in its `If`."""
    found: list[list[Any]] = []
    open_: list[int] = []  # of each thread the events that have not ended
    last: Optional[Any] = None
    for event in sorted(events, key=lambda each: (each["tid"], each["ts"], -each["dur"])):
        if last is None or event["tid"] != last["tid"]:
            open_ = []
        last = event
        while open_ and found[open_[-1]][0]["ts"] + found[open_[-1]][0]["dur"] <= event["ts"]:
            open_.pop()
        if open_ and event["ts"] + event["dur"] <= found[open_[-1]][0]["ts"] + found[open_[-1]][0]["dur"]:
            found[open_[-1]][1] -= event["dur"]
        open_.append(len(found))
        found.append([event, float(event["dur"])])
    return [(event, max(own, 0.0)) for event, own in found]
