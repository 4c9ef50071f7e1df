"""What a replay of golden samples found, in words and as rows for people and pipelines."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .errors import ParityError
from .golden import CONVERSION, DEVICE, LISTS, SAME, Replay

__all__ = ["Findings", "findings"]

# By `Replay.finding`: the comparison that shows it, and what it means with what to do about it.
_AGAINST = {
    CONVERSION: "the converted model",
    DEVICE: "this artifact where it was built",
    LISTS: "the converted model, in batches",
}
_SAID = {
    SAME: ("this machine computes what the build machine did, and {} keeps the model within its limits", ""),
    DEVICE: (
        "this machine computes something else than the one that built the bundle",
        "update the engine on this machine, or convert for it again; do not ship this bundle here",
    ),
    CONVERSION: (
        "this machine computes what the build machine did; it is the conversion to {} that costs more than it may",
        "convert again with a scheme that is closer to float32; another machine would answer the same",
    ),
    LISTS: (
        "single inputs are answered as they should be, but lists are not",
        "predict one input at a time (batch_size=1), or report this with the bundle's scheme, {}",
    ),
}


@dataclass(frozen=True)
class Findings:
    """`rows` are the comparisons, as JSON; `finding` is what they come to, `says` the same in words."""

    rows: tuple[dict[str, Any], ...]  # Any: JSON
    finding: str
    says: str
    fix: str

    @property
    def passed(self) -> bool:
        return self.finding == SAME

    def check(self, bundle: object) -> None:
        """Raises: ParityError where anything differs."""
        if self.passed:
            return
        against = _AGAINST[self.finding]
        bad = next(each for each in self.rows if not each["passed"] and each["against"] == against)
        why = f"against {against}, {bad['task']}: {bad['why']} ({bad['where']})"
        raise ParityError(f"{bundle}: {self.says}", why=why, fix=self.fix)


def findings(found: Replay, scheme: str) -> Findings:
    parts = {
        _AGAINST[CONVERSION]: found.reference,
        _AGAINST[DEVICE]: found.artifact,
        _AGAINST[LISTS]: found.batched,
    }
    rows = tuple(
        {
            "against": against,
            "task": task,
            "passed": parity.passed,
            "samples": parity.samples,
            "figures": dict(parity.figures),
            "limits": dict(parity.limits),
            "why": parity.why,
            "where": parity.where,
        }
        for against, part in parts.items()
        for task, parity in part.items()
    )
    says, fix = _SAID[found.finding]
    return Findings(rows, found.finding, says.format(scheme), fix.format(scheme))
