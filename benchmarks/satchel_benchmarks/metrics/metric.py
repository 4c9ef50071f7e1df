"""What a metric is: how it reads rows, its range and direction, and what a constant answer would reach."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = ["Metric", "Sums", "additive"]

Targets = Sequence[Any]  # Any: as an Example has them
Answers = Sequence[Any]  # Any: as `Task.reply` gives them

Sums = Callable[[np.ndarray], np.ndarray]  # numbers of rows, [resamples, rows] -> the metric on each resample


@dataclass(frozen=True)
class Metric:
    name: str
    unit: str
    fits: Callable[[Targets, Answers], bool]
    sums: Callable[[Targets, Answers], Sums]
    chance: Callable[[Targets, Answers], float]  # the best constant answer on these rows
    least: float = 0.0
    most: float | None = 1.0
    higher_is_better: bool = True
    relative: bool = False  # a drop is in per cent of the reference: a range without end has no points


def additive(rows: Any, value: Callable[[np.ndarray], np.ndarray]) -> Sums:  # Any: a matrix, or a sparse one of scipy
    """A metric of sums over rows.

    Args:
        rows: what each row adds, [rows, parts].
        value: the metric of sums, from [resamples, parts] to [resamples].
    """

    def sums(drawn: np.ndarray) -> np.ndarray:
        resamples, n = drawn.shape
        flat = (drawn + n * np.arange(resamples)[:, None]).ravel()
        times = np.bincount(flat, minlength=resamples * n).reshape(resamples, n)
        with np.errstate(divide="ignore", invalid="ignore"):  # a sum over nothing is NaN
            return value(np.asarray(times @ rows, dtype=np.float64))

    return sums
