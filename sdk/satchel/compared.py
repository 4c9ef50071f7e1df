"""What a comparison found: a row for each candidate, how each pair of them agrees, and which one is shipped."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from satchel_benchmarks.comparison import Comparison as Speed
from satchel_runtimes.errors import SatchelError
from satchel_runtimes.manifest import to_plain
from satchel_runtimes.parity import Parity
from satchel_runtimes.run import Run

from .agreement import Agreement
from .gates import Verdict

__all__ = ["Compared", "Pair", "Row", "figure_words", "table_of"]

# How a row stands. Only the first two passed every gate.
SHIPS, PASSES, REFUSED, NOT_MADE, NO_TOOLCHAIN = "ships", "passes", "refused", "cannot be made", "toolchain missing"

Json = Any  # what `json.loads` gives back


@dataclass(frozen=True)
class Row:
    """One format and scheme, with all that was found out before it was refused. None, or empty: it was not found out."""

    format: str
    scheme: str
    status: str
    gate: str = ""  # that refused it
    why: str = ""
    fix: str = ""
    exit_code: int = 0
    bundle: str | None = None  # where it was kept
    max_tokens: int | None = None  # texts are cut there
    size_bytes: int | None = None
    peak_rss_bytes: int | None = None
    run: Run | None = None
    against_fp32: tuple[Speed, ...] = ()  # of its own format, in turn
    against_first: tuple[Speed, ...] = ()  # of the rows that were measured
    parity: Mapping[str, Parity] = field(default_factory=dict)  # with the reference, by task
    parity_in_batches: Mapping[str, Parity] = field(default_factory=dict)
    agreement: Mapping[str, tuple[Agreement, ...]] = field(default_factory=dict)  # with the reference, by task
    verdicts: tuple[Verdict, ...] = ()

    @property
    def label(self) -> str:
        return f"{self.format} {self.scheme}"

    @property
    def passed(self) -> bool:
        return self.status in (SHIPS, PASSES)

    def words(self) -> str:
        """Why it does not ship, to follow its name."""
        if self.status == REFUSED:
            return f"refused by {self.gate}: {self.why}"
        return f"{self.status}: {self.why}" if self.why else self.status

    def to_plain(self) -> dict[str, Json]:
        run = self.run.to_plain() if self.run else {}
        cold = run.get("cold")
        return {
            "format": self.format,
            "scheme": self.scheme,
            "status": self.status,
            "gate": self.gate,
            "why": self.why,
            "fix": self.fix,
            "exit_code": self.exit_code,
            "bundle": self.bundle,
            "max_tokens": self.max_tokens,
            "size_bytes": self.size_bytes,
            "load_s": cold["load_s"] if cold else None,
            "cold_start": cold,
            "shape": run.get("shape") or None,  # of inputs without a length; latency is by its height
            "latency_ms": run.get("latency", {}),
            "against_fp32": _speeds(self.against_fp32),
            "against_first": _speeds(self.against_first),
            "throughput": run.get("throughput"),
            "peak_rss_bytes": self.peak_rss_bytes,
            "parity": to_plain(self.parity),
            "parity_in_batches": to_plain(self.parity_in_batches),
            "agreement": to_plain(self.agreement),
            "engine": run.get("engine"),
            "threads": run.get("threads"),
            "versions": run.get("versions", {}),
            "verdicts": to_plain(self.verdicts),
        }


def _speeds(found: tuple[Speed, ...]) -> dict[str, Json]:
    """Times as fast by tokens; where a ratio would mean nothing, why."""
    return {
        str(each.tokens): {
            "value": each.ratio.value if each.ratio else None,
            "low": each.ratio.low if each.ratio else None,
            "high": each.ratio.high if each.ratio else None,
            "why": each.why,
        }
        for each in found
    }


@dataclass(frozen=True)
class Pair:
    """How two candidates answer the same samples, by task; judged by the looser of their classes."""

    one: str
    other: str
    numbers: str  # the class: fp32, fp16, int8 or int4
    parity: Mapping[str, Parity]
    agreement: Mapping[str, tuple[Agreement, ...]]
    left_out: int  # samples that one of them cuts shorter than the other


@dataclass(frozen=True)
class Compared:
    """All of a comparison. `error` is what `convert` would raise where nothing would ship."""

    model: str
    device: str
    tasks: tuple[str, ...]
    rows: tuple[Row, ...]
    pairs: tuple[Pair, ...]
    ships: Row | None
    summary: str
    reasons: tuple[str, ...]  # a sentence for each candidate before the one that ships
    notes: tuple[str, ...]
    error: SatchelError | None
    when: str
    seconds: Mapping[str, float]
    machine: Mapping[str, Json]

    @property
    def exit_code(self) -> int:
        return self.error.exit_code if self.error else 0

    def to_plain(self) -> dict[str, Json]:
        """As JSON knows it; a figure that is not a number is null."""
        ships, error = self.ships, self.error
        plain = {
            "satchel_compare": 1,
            "when": self.when,
            "model": self.model,
            "device": self.device,
            "tasks": self.tasks,
            "ships": {"format": ships.format, "scheme": ships.scheme} if ships else None,
            "summary": self.summary,
            "reasons": self.reasons,
            "notes": self.notes,
            "exit_code": self.exit_code,
            "error": {"what": error.what, "why": error.why, "fix": error.fix} if error else None,
            "rows": [row.to_plain() for row in self.rows],
            "pairs": self.pairs,
            "least_like": {
                row.label: {"other": worst[0], "words": worst[1]}
                for row in self.rows
                if (worst := least_like(self, row)) is not None
            },
            "seconds": {stage: round(value, 3) for stage, value in self.seconds.items()},
            "machine": self.machine,
        }
        finite: dict[str, Json] = _finite(to_plain(plain))
        return finite


def _finite(value: Json) -> Json:
    if isinstance(value, dict):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


_FIGURES = {  # the figure to read first, of each kind of answer: name, words, whether more is better
    "cosine_min": "cosine ≥ {:.4f}",
    "total_variation_p95": "variation ≤ {:.2g}",
    "probability_error_p95": "probability ± {:.2g}",
    "number_error": "error {:.2g} of spread",
}


def figure_words(parity: Mapping[str, Json]) -> str:
    """The figure of a comparison that says most, from its JSON."""
    figures = parity["figures"]
    if "relative_error" in parity["limits"] and figures.get("relative_error") is not None:
        return f"rel. error {figures['relative_error']:.1e}"
    for name, words in _FIGURES.items():
        if figures.get(name) is not None:
            return words.format(figures[name])
    return str(parity["why"]) or "not judged"


def table_of(found: Compared) -> list[tuple[str, ...]]:
    """Rows for a terminal; the first is the head. The middle of a latency stands with half its 95 % interval."""
    lengths = sorted({tokens for row in found.rows if row.run for tokens in row.run.latency})
    shape = next((row.run.shape for row in found.rows if row.run), "")
    head = ("candidate", "", "MiB", "load s", *(f"ms at {shape or tokens}" for tokens in lengths))
    rows = [(*head, "× fp32", "× first", "peak MiB", "against the model", "same", "least like")]
    task = found.tasks[0]
    for row in found.rows:
        run = row.run
        latency = [run.latency.get(tokens) if run else None for tokens in lengths]
        parity = row.parity.get(task)
        rows.append(
            (
                row.label,
                f"no: {row.gate}" if row.status == REFUSED else row.status,
                _number(row.size_bytes, 2**20, 1),
                _number(run.cold.load_s if run and run.cold else None, 1, 2),
                *(f"{x.p50_ms:.2f} ±{50 * (x.high_ms - x.low_ms) / x.p50_ms:.0f}%" if x else "–" for x in latency),
                _last(row.against_fp32),
                _last(row.against_first),
                _number(row.peak_rss_bytes, 2**20, 0),
                figure_words(to_plain(parity)) if parity else "–",
                _same_words(row.agreement.get(task, ())),
                ": ".join(least_like(found, row) or ("–",)),
            )
        )
    return rows


def _number(value: float | None, unit: float, digits: int) -> str:
    return "–" if value is None else f"{value / unit:.{digits}f}"


def _last(found: tuple[Speed, ...]) -> str:
    """At the longest input; a question mark where the spread leaves no ratio."""
    last = max(found, key=lambda each: each.tokens, default=None)
    return "–" if last is None else f"{last.ratio.value:.2f}" if last.ratio else "?"


def _same_words(found: tuple[Agreement, ...]) -> str:
    return f"{found[0].same}/{found[0].of}" if found else "–"


def least_like(found: Compared, row: Row) -> tuple[str, str] | None:
    """The candidate that answers least like this one, and how close they are; of those that passed, where there are any."""
    task = found.tasks[0]
    own = {
        pair.other if pair.one == row.label else pair.one: pair.parity[task]
        for pair in found.pairs
        if row.label in (pair.one, pair.other) and task in pair.parity
    }
    good = {each.label for each in found.rows if each.passed} & set(own)
    worst = min(good or own, key=lambda label: _closeness(own[label]), default=None)
    return (worst, figure_words(to_plain(own[worst]))) if worst is not None else None


def _closeness(parity: Parity) -> float:
    """Larger is closer, whatever is compared; what could not be compared is furthest."""
    for name in _FIGURES:
        if name in parity.figures:
            return parity.figures[name] if name.startswith("cosine") else -parity.figures[name]
    return -math.inf
