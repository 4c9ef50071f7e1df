"""The gates: each looks at the evidence and says passed, refused or not judged. The exit code is the first refusal's."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from satchel_benchmarks.accuracy import Accuracy
from satchel_benchmarks.metrics import METRICS
from satchel_runtimes.errors import (
    AccuracyError,
    IntegrityError,
    LatencyError,
    ParityError,
    SatchelError,
    SizeError,
    SupportError,
    ToolchainError,
)
from satchel_runtimes.measure import Latency, Ratio
from satchel_runtimes.parity import Parity

__all__ = [
    "GATES",
    "Budget",
    "Evidence",
    "Verdict",
    "accuracy_words",
    "first_refusal",
    "judge_accuracy",
    "judge_all",
]

PASSED, REFUSED, NOT_JUDGED = "passed", "refused", "not_judged"
_MB = 2**20


@dataclass(frozen=True)
class Verdict:
    """What one gate says. `value` and `limit` are in `unit`; `where` is the machine or the sample."""

    gate: str
    status: str
    why: str
    value: float | None = None
    limit: float | None = None
    unit: str = ""
    where: str = ""


@dataclass(frozen=True)
class Evidence:
    """All that was found out about one candidate. None: it was not found out."""

    device: str
    scheme: str
    purpose: str  # what the scheme is for: reference, speed or size
    problem: SatchelError | None = None  # what stopped the candidate before it could be measured
    toolchain: str = ""
    engine: str = ""
    reference: Mapping[str, Parity] = field(default_factory=dict)
    batched: Mapping[str, Parity] = field(default_factory=dict)
    size_bytes: int | None = None
    latency: Mapping[int, Latency] = field(default_factory=dict)  # by tokens, or by the height of a picture
    shape: str = ""  # the one shape of inputs without a length, in words: 224x224
    speedup: Mapping[int, Ratio] = field(default_factory=dict)  # against the float twin, by tokens
    estimate_ms: Mapping[int, float] = field(default_factory=dict)  # from the profile's facts, by tokens
    accuracy: Accuracy | None = None  # the metric that is judged
    metrics: tuple[Accuracy, ...] = ()  # it and others, on the same rows
    peak_rss_bytes: int | None = None
    device_memory_mb: float | None = None
    notes: Mapping[str, Any] = field(default_factory=dict)  # what the converter decided, as JSON
    here: str = ""
    absolute_counts: bool = False  # this machine stands for the device
    ratio_counts: bool = False  # this machine has the device's instruction sets

    def at(self, length: int) -> str:
        """A measured length in words."""
        return self.shape or f"{length} tokens"


@dataclass(frozen=True)
class Budget:
    size_mb: float | None = None
    latency_ms: float | None = None
    memory_mb: float | None = None
    max_drop: float | None = None  # points of the task's metric below the reference
    prefer: str = "latency"  # or "size": keep a scheme for speed that is slower than float
    require: frozenset[str] = frozenset()  # gates whose not_judged is a refusal


def _toolchain(evidence: Evidence, budget: Budget) -> Verdict:
    return _of_problem("toolchain", ToolchainError, evidence, evidence.toolchain)


def _integrity(evidence: Evidence, budget: Budget) -> Verdict:
    return _of_problem("integrity", IntegrityError, evidence, "safetensors weights, every file hashed")


def _support(evidence: Evidence, budget: Budget) -> Verdict:
    return _of_problem("support", SupportError, evidence, evidence.engine)


def _of_problem(gate: str, kind: type[SatchelError], evidence: Evidence, good: str) -> Verdict:
    if isinstance(evidence.problem, kind):
        return Verdict(gate, REFUSED, f"{evidence.problem.what} {evidence.problem.why}", where=evidence.here)
    if evidence.problem is not None:
        return Verdict(gate, NOT_JUDGED, "stopped before")
    return Verdict(gate, PASSED, good, where=evidence.here)


def _parity(evidence: Evidence, budget: Budget) -> Verdict:
    if isinstance(evidence.problem, ParityError):
        return Verdict("parity", REFUSED, f"{evidence.problem.what} {evidence.problem.why}")
    if not evidence.reference:
        return Verdict("parity", NOT_JUDGED, "stopped before")
    for part in (evidence.reference, evidence.batched):
        for task, parity in part.items():
            if not parity.passed:
                name = next((each for each in parity.limits if _beyond(parity, each)), "")
                value, limit = parity.figures.get(name), parity.limits.get(name)
                return Verdict("parity", REFUSED, f"{task}: {parity.why}", value, limit, name, parity.where)
    task, parity = next(iter(evidence.reference.items()))
    name, limit = next(((n, v) for n, v in parity.limits.items() if n != "flipped_answers"), ("flipped_answers", 0.0))
    value = parity.figures[name]
    said = "at least" if name.startswith("cosine") else "at most"
    why = f"{task}: {name.replace('_', ' ')} {value:.4g}, {said} {limit:g} allowed; {parity.samples} samples, also in batches"
    if "perplexity" in parity.figures:
        why += f"; perplexity {parity.figures['perplexity']:.4g}, the model's own {parity.figures['perplexity_reference']:.4g}"
        why += f" ({parity.figures['perplexity_rise']:+.1%})"
    return Verdict("parity", PASSED, why, value, limit, name, evidence.here)


def _beyond(parity: Parity, name: str) -> bool:
    value, limit = parity.figures[name], parity.limits[name]
    return not (value >= limit if name.startswith("cosine") else value <= limit)  # true for NaN


def _accuracy(evidence: Evidence, budget: Budget) -> Verdict:
    found, limit = evidence.accuracy, budget.max_drop
    if found is None:
        return Verdict("accuracy", NOT_JUDGED, "stopped before" if evidence.problem else "no task data was given")
    return judge_accuracy(found, limit)


def judge_accuracy(found: Accuracy, limit: float | None) -> Verdict:
    """Whether a metric may have fallen by as much as it did, and whether the reference says anything at all."""
    words = accuracy_words(found)
    if found.reference_at_chance:
        why = (
            f"the reference does not do this task: its {found.metric} is {found.reference:.4g} "
            f"({found.reference_low:.4g} to {found.reference_high:.4g}), a constant answer has {found.chance:.4g}"
        )
        return Verdict("accuracy", REFUSED, why, found.reference, found.chance, found.metric, "reference")
    if found.drop is None or found.low is None or found.high is None:
        return Verdict("accuracy", NOT_JUDGED, f"{words}; there is no reference beside it")
    unit = "per cent" if _relative(found) else "points"
    if limit is None:
        why = f"{words}; no budget says how much it may lose: --max-drop"
        return Verdict("accuracy", NOT_JUDGED, why, found.drop, None, unit, f"{found.n} rows")
    refused = not found.drop <= limit  # also for NaN
    unsure = found.low <= limit if refused else found.high > limit
    why = f"{words}, at most {limit:g} allowed"
    if unsure:
        why += f"; the interval is wide, it holds {'less' if refused else 'more'} than that: judge it on more rows"
    return Verdict("accuracy", REFUSED if refused else PASSED, why, found.drop, limit, unit, f"{found.n} rows")


def accuracy_words(found: Accuracy) -> str:
    beside = f", the reference {found.reference:.4g}" if found.reference is not None else ""
    said = f"{found.metric} {found.value:.4g}{beside} on {found.n} rows"
    if found.drop is None:
        return said
    unit = "%" if _relative(found) else " points"
    return f"{said}: {'lost' if found.drop > 0 else 'gained' if found.drop < 0 else 'the same,'} {abs(found.drop):.2f}{unit} ({found.low:.2f} to {found.high:.2f} lost)"


def _relative(found: Accuracy) -> bool:
    return METRICS[found.metric].relative


def _latency(evidence: Evidence, budget: Budget) -> Verdict:
    if not evidence.latency:
        return _unmeasured(evidence, budget)
    tokens = max(evidence.latency)
    p50 = evidence.latency[tokens].p50_ms
    limit = budget.latency_ms
    if evidence.absolute_counts and limit is not None and p50 > limit:
        why = f"{p50:.2f} ms for {evidence.at(tokens)}, at most {limit:g} allowed"
        return Verdict("latency", REFUSED, why, p50, limit, "ms", evidence.here)
    if evidence.ratio_counts and evidence.purpose == "speed" and budget.prefer == "latency":
        for length, ratio in evidence.speedup.items():
            if ratio.high < 1:
                why = (
                    f"{evidence.scheme} is {ratio.value:.2f} times as fast as float32 at {evidence.at(length)} "
                    f"({ratio.low:.2f} to {ratio.high:.2f}); --prefer size keeps it"
                )
                return Verdict("latency", REFUSED, why, ratio.value, 1.0, "x float32", evidence.here)
    if not evidence.absolute_counts and (limit is not None or not evidence.ratio_counts):
        return _unmeasured(evidence, budget)
    return Verdict("latency", PASSED, _latency_words(evidence), p50, limit, "ms", evidence.here)


def _latency_words(evidence: Evidence) -> str:
    words = []
    for tokens, latency in evidence.latency.items():
        ratio = evidence.speedup.get(tokens)
        faster = f", {ratio.value:.2f} x float32" if ratio is not None and ratio.meaningful else ""
        words.append(f"{latency.p50_ms:.2f} ms at {evidence.at(tokens)}{faster}")
    return "; ".join(words)


def _unmeasured(evidence: Evidence, budget: Budget) -> Verdict:
    if evidence.problem is not None:
        return Verdict("latency", NOT_JUDGED, "stopped before")
    tokens = max(evidence.estimate_ms, default=0)
    value = evidence.estimate_ms.get(tokens)
    estimate = (
        f"; estimate from its facts: {value:.1f} ms or more for {evidence.at(tokens)}" if value is not None else ""
    )
    why = f"this machine is not {evidence.device}{estimate}"
    unit = "ms, estimated" if value is not None else "ms"
    return Verdict("latency", NOT_JUDGED, why, value, budget.latency_ms, unit, evidence.here)


def _size(evidence: Evidence, budget: Budget) -> Verdict:
    if evidence.size_bytes is None:
        return Verdict("size", NOT_JUDGED, "stopped before")
    value = evidence.size_bytes / _MB
    limits = [(budget.size_mb, "the budget"), (evidence.device_memory_mb, f"the memory of {evidence.device}")]
    for limit, name in limits:
        if limit is not None and value > limit:
            return Verdict("size", REFUSED, f"{value:.1f} MiB, {name} is {limit:g}", value, limit, "MiB")
    return Verdict("size", PASSED, f"{value:.1f} MiB", value, budget.size_mb, "MiB")


def _memory(evidence: Evidence, budget: Budget) -> Verdict:
    if evidence.peak_rss_bytes is None:
        return Verdict("memory", NOT_JUDGED, "stopped before")
    value = evidence.peak_rss_bytes / _MB
    given = [each for each in (budget.memory_mb, evidence.device_memory_mb) if each is not None]
    limit = min(given) if given else None
    over = limit is not None and value > limit
    words = f"{value:.0f} MiB at the peak of a fresh process"
    if not evidence.absolute_counts:
        why = f"{words} here; this machine is not {evidence.device}"
        return Verdict("memory", NOT_JUDGED, why, value, limit, "MiB", evidence.here)
    if over:
        return Verdict("memory", REFUSED, f"{words}, at most {limit:g} allowed", value, limit, "MiB", evidence.here)
    return Verdict("memory", PASSED, words, value, limit, "MiB", evidence.here)


# In the order of exit codes: the first refusal is the reason that a pipeline sees.
GATES: Mapping[str, tuple[Callable[[Evidence, Budget], Verdict], type[SatchelError]]] = {
    "toolchain": (_toolchain, ToolchainError),
    "integrity": (_integrity, IntegrityError),
    "support": (_support, SupportError),
    "parity": (_parity, ParityError),
    "accuracy": (_accuracy, AccuracyError),
    "latency": (_latency, LatencyError),
    "size": (_size, SizeError),
    "memory": (_memory, SizeError),
}

_FIXES = {
    "accuracy": "try a scheme that is closer to float32, raise --max-drop, or give the data that it is judged on (--data)",
    "parity": "try a scheme that is closer to float32 (satchel formats lists them), or report the difference",
    "latency": "try another scheme, raise the budget, or allow it with --prefer size",
    "size": "try a smaller scheme, or raise the budget",
    "memory": "try a smaller scheme, or raise the budget",
}


def judge_all(evidence: Evidence, budget: Budget) -> tuple[Verdict, ...]:
    verdicts = [gate(evidence, budget) for gate, _ in GATES.values()]
    return tuple(_required(each, budget) for each in verdicts)


def _required(verdict: Verdict, budget: Budget) -> Verdict:
    if verdict.status == NOT_JUDGED and verdict.gate in budget.require:
        why = f"{verdict.why}; --require {verdict.gate} wants it judged"
        return Verdict(verdict.gate, REFUSED, why, verdict.value, verdict.limit, verdict.unit, verdict.where)
    return verdict


def first_refusal(verdicts: tuple[Verdict, ...], what: str) -> SatchelError | None:
    """The error that a caller gets; None where every gate let the candidate through."""
    for verdict in verdicts:
        if verdict.status == REFUSED:
            where = f" ({verdict.where})" if verdict.where else ""
            fix = _FIXES.get(verdict.gate, "see the report")
            if verdict.where == "reference":
                fix = "mend the checkpoint first: its own answers cannot tell a good artifact from a bad one"
            return GATES[verdict.gate][1](f"{what}: refused by {verdict.gate}.", why=verdict.why + where, fix=fix)
    return None
