"""What a search found: every trial, those that no other beats, and the one that was published."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from satchel_runtimes.errors import SatchelError
from satchel_runtimes.manifest import to_plain

from .search_space import words_of
from .tune_study import Limits, Tried

__all__ = ["Tuned", "table_of"]

Json = Any  # what `json.loads` gives back


@dataclass(frozen=True)
class Tuned:
    """The result of `satchel.tune`. `error` is what the command ends with: the nearest trial where none meets the budgets."""

    model: str
    device: str
    tasks: tuple[str, ...]
    limits: Limits
    prefer: str
    tried: tuple[Tried, ...]
    pareto: tuple[Tried, ...]  # of those that meet every budget
    chosen: Tried | None
    finals: tuple[tuple[int, Json], ...]  # trial -> what the report of its conversion on the evaluation rows says
    left_out: tuple[str, ...]
    ended: str
    judged_on: str
    bundle: Path | None
    recipe: Path | None
    study: Path
    error: SatchelError | None
    seed: int
    when: str
    seconds: float
    machine: Mapping[str, object]

    @property
    def exit_code(self) -> int:
        return self.error.exit_code if self.error else 0

    def to_plain(self) -> dict[str, Json]:
        error = self.error
        return {
            "satchel_tune": 1,
            "model": self.model,
            "device": self.device,
            "tasks": list(self.tasks),
            "budgets": dataclasses.asdict(self.limits),
            "prefer": self.prefer,
            "trials": [_plain(each) for each in self.tried],
            "pareto": [each.number for each in self.pareto],
            "chosen": self.chosen.number if self.chosen else None,
            "finals": [{"trial": number, **report} for number, report in self.finals],
            "left_out": list(self.left_out),
            "ended": self.ended,
            "judged_on": self.judged_on,
            "bundle": str(self.bundle) if self.bundle else None,
            "recipe": str(self.recipe) if self.recipe else None,
            "study": str(self.study),
            "exit_code": self.exit_code,
            "error": {"what": error.what, "why": error.why, "fix": error.fix} if error else None,
            "seed": self.seed,
            "when": self.when,
            "seconds": self.seconds,
            "machine": to_plain(self.machine),
        }


def _plain(tried: Tried) -> dict[str, Json]:
    return {**dataclasses.asdict(tried), "words": words_of(tried.point), "passed": tried.passed}


def table_of(found: Tuned) -> Sequence[Sequence[str]]:
    """The Pareto set, from fast to slow; the chosen one is marked."""
    head = ("", "trial", "drop, points", "ms", "MiB", "what")
    rows = [
        (
            "*" if found.chosen is not None and each.number == found.chosen.number else "",
            str(each.number),
            _drop_words(each),
            f"{each.figures['latency_ms']:.2f}",
            f"{each.figures['size_mb']:.1f}",
            words_of(each.point),
        )
        for each in sorted(found.pareto, key=lambda each: each.figures["latency_ms"])
    ]
    return [head, *rows]


def _drop_words(tried: Tried) -> str:
    accuracy = tried.accuracy
    if accuracy and accuracy.get("low") is not None:
        return f"{accuracy['drop']:.2f} ({accuracy['low']:.2f} to {accuracy['high']:.2f})"
    return f"{tried.figures['drop']:.2f}"
