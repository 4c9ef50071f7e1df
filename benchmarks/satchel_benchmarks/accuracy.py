"""How good answers are on labelled rows: metrics with intervals, beside the reference's on the same rows, and beside chance."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from satchel_runtimes.errors import UsageError

from .metrics import METRICS
from .metrics.metric import Metric, Sums

__all__ = ["Accuracy", "measure"]

_RESAMPLES = 1000
_SEED = 20261123
_BLOCK = 2**22  # counts of one block of resamples: 32 MB
_LEVEL = (2.5, 97.5)  # 95 % of the resamples lie between


@dataclass(frozen=True)
class Accuracy:
    """One metric on some rows; every pair of `low` and `high` holds 95 % of the resamples of these rows."""

    metric: str
    unit: str
    value: float
    reference: float | None  # of the model that was converted, on the same rows
    drop: float | None  # in points, positive is worse; of a metric without upper end in per cent of the reference
    low: float | None  # of the drop, from resamples of the same rows for both
    high: float | None
    chance: float  # what the best constant answer reaches on these rows
    n: int
    value_low: float
    value_high: float
    reference_low: float | None = None
    reference_high: float | None = None
    least: float = 0.0  # the metric's range
    most: float | None = 1.0  # None: no end
    higher_is_better: bool = True

    def to_plain(self) -> dict[str, Any]:
        """As JSON knows it, which has no NaN and no infinity."""
        plain: dict[str, Any] = dataclasses.asdict(self)
        odd = (name for name, value in plain.items() if isinstance(value, float) and not np.isfinite(value))
        return {**plain, **dict.fromkeys(odd)}

    @property
    def reference_at_chance(self) -> bool:
        """Whether the reference is not surely better than a constant answer."""
        if self.reference_low is None or self.reference_high is None:
            return False
        if self.higher_is_better:
            return self.reference_low <= self.chance
        return self.reference_high >= self.chance


def measure(
    names: Sequence[str],
    targets: Sequence[Any],  # Any: as an Example has them
    answers: Sequence[Any],  # Any: as `Task.reply` gives them
    reference: Sequence[Any] | None = None,
) -> tuple[Accuracy, ...]:
    """The metrics that fit these targets, in the order of their names.

    Raises:
        UsageError: no metric fits.
    """
    if not answers or len(answers) != len(targets) or (reference is not None and len(reference) != len(answers)):
        raise ValueError(f"{len(targets)} targets, {len(answers)} answers, {len(reference or ())} of the reference")
    fitting = [METRICS[name] for name in names if METRICS[name].fits(targets, answers)]
    if not fitting:
        raise UsageError(
            "Cannot judge these answers.",
            why=f"none of {', '.join(names) or 'no metric'} fits right answers such as {str(targets[0])[:60]!r}",
            fix="give each row its right answer, or name the task that the data is for with --task",
        )
    return tuple(_accuracy(metric, targets, answers, reference) for metric in fitting)


def _accuracy(
    metric: Metric, targets: Sequence[Any], answers: Sequence[Any], reference: Sequence[Any] | None
) -> Accuracy:
    n = len(targets)
    value, sampled = _with_resamples(metric.sums(targets, answers), n)
    low, high = _between(sampled)
    alone = Accuracy(
        metric.name,
        metric.unit,
        value,
        reference=None,
        drop=None,
        low=None,
        high=None,
        chance=metric.chance(targets, answers),
        n=n,
        value_low=low,
        value_high=high,
        least=metric.least,
        most=metric.most,
        higher_is_better=metric.higher_is_better,
    )
    if reference is None:
        return alone
    theirs, theirs_sampled = _with_resamples(metric.sums(targets, reference), n)
    reference_low, reference_high = _between(theirs_sampled)
    drop_low, drop_high = _between(_drop(metric, theirs_sampled, sampled))  # the same seed, so the same rows: paired
    return dataclasses.replace(
        alone,
        reference=theirs,
        reference_low=reference_low,
        reference_high=reference_high,
        drop=float(_drop(metric, np.array(theirs), np.array(value))),
        low=drop_low,
        high=drop_high,
    )


def _drop(metric: Metric, reference: np.ndarray, value: np.ndarray) -> np.ndarray:
    worse: np.ndarray = (reference - value) if metric.higher_is_better else (value - reference)
    return 100 * (worse / reference if metric.relative else worse)


def _with_resamples(sums: Sums, n: int) -> tuple[float, np.ndarray]:
    """The metric on all rows, and on each resample of them, drawn with a fixed seed."""
    seeded = np.random.default_rng(_SEED)
    found = []
    for start in range(0, _RESAMPLES, block := max(1, _BLOCK // n)):
        count = min(block, _RESAMPLES - start)
        drawn = seeded.integers(0, n, (count, n))
        found.append(sums(drawn))
    return float(sums(np.arange(n)[None])[0]), np.concatenate(found)


def _between(sampled: np.ndarray) -> tuple[float, float]:
    """A resample without a single word to judge has no value, and is left out."""
    low, high = np.nanpercentile(sampled, _LEVEL) if not np.isnan(sampled).all() else (np.nan, np.nan)
    return float(low), float(high)
