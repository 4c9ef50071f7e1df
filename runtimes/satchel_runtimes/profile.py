"""Where the time of a call goes, operator by operator, in a session of its own: what is timed elsewhere is not slowed by it."""

from __future__ import annotations

import bisect
import json
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Optional

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
    """Of one call, by the fastest quarter of several. A profiler's own clock slows small operators, so shares are worth more than times.

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
    nodes: dict[tuple[str, str, str], float] = defaultdict(float)
    parts = {component: _by_call(events, calls) for component, events in traces.items()}
    took = [sum(found[call][0] for found in parts.values()) for call in range(calls)]
    # A process that is held up is held up anywhere: what else the machine does is least in the fastest calls.
    fastest = sorted(range(calls), key=lambda call: took[call])[: max(1, calls // 4)]
    whole = sum(took[call] for call in fastest) / len(fastest) / 1e3
    for component, found in parts.items():
        for call in fastest:
            for event, own in _own_times(found[call][1]):
                name = event["name"].replace("_kernel_time", "")
                nodes[name, event["args"]["op_name"], component] += own / len(fastest) / 1e3
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


def _by_call(events: Sequence[Any], calls: int) -> list[tuple[float, list[Any]]]:
    """Of each counted call of a component the microseconds of its runs, and its nodes."""
    runs = sorted((each for each in events if each.get("name") == "model_run"), key=lambda each: each["ts"])
    per = len(runs) // (calls + 1)
    counted = runs[len(runs) - per * calls :]
    found: list[tuple[float, list[Any]]] = [
        (float(sum(each["dur"] for each in counted[call * per : (call + 1) * per])), []) for call in range(calls)
    ]
    starts = [each["ts"] for each in counted[::per]] if per else []
    for event in events:
        if event.get("cat") == "Node" and "op_name" in event["args"]:
            call = bisect.bisect_right(starts, event["ts"]) - 1
            if call >= 0:
                found[call][1].append(event)
    return found


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
