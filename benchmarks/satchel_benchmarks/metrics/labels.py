"""Metrics of labels: a right one, one of the five likeliest, and F1 of one label or several to a row."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np

from satchel_runtimes.toolchain import need

from .metric import Answers, Metric, Sums, Targets, additive

__all__ = ["ACCURACY", "F1_MACRO", "F1_MICRO", "TOP_1", "TOP_5"]


def _single(targets: Targets, answers: Answers) -> bool:
    return all(isinstance(each, str) for each in targets) and isinstance(answers[0], (list, tuple))


def _labelled(targets: Targets, answers: Answers) -> bool:
    return _single(targets, answers) or (all(isinstance(each, (list, tuple)) for each in targets) and _several(answers))


def _several(answers: Answers) -> bool:
    return isinstance(answers[0], dict) and "labels" in answers[0]


def _top(count: int) -> Callable[[Targets, Answers], Sums]:
    """Answers are labels, the likeliest first."""

    def sums(targets: Targets, answers: Answers) -> Sums:
        hits = [target in answer[:count] for target, answer in zip(targets, answers, strict=True)]
        return additive(np.array(hits, float)[:, None], lambda total: total[:, 0] / len(hits))

    return sums


def _most_frequent(count: int) -> Callable[[Targets, Answers], float]:
    return lambda targets, _: sum(times for _, times in Counter(targets).most_common(count)) / len(targets)


def _more_than_five(targets: Targets, answers: Answers) -> bool:
    return _single(targets, answers) and len({*targets, *(label for each in answers for label in each)}) > 5


def _indicators(targets: Targets, answers: Answers) -> tuple[Any, Any]:  # Any: sparse matrices of scipy
    """Rows by labels: where a label is right, and where it was said."""
    binarizer = need("sklearn.preprocessing", extra="evaluate", to="judge labels", of="satchel").MultiLabelBinarizer
    right = [[each] if isinstance(each, str) else each for each in targets]
    said = [each["labels"] if isinstance(each, dict) else each[:1] for each in answers]
    both = binarizer(sparse_output=True).fit([*right, *said])
    return both.transform(right), both.transform(said)


def _f1(average: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> Callable[[Targets, Answers], Sums]:
    def sums(targets: Targets, answers: Answers) -> Sums:
        sparse = need("scipy.sparse", extra="evaluate", to="judge labels", of="satchel")
        right, said = _indicators(targets, answers)
        parts = sparse.hstack([right.multiply(said), right + said]).tocsr()
        return additive(parts, lambda total: average(*np.split(total, 2, axis=1)))

    return sums


# Of hits, and of the labels that are right plus those that were said. As scikit-learn has them, a label that is neither
# does not count, and F1 of nothing is 0.
def _micro(hits: np.ndarray, both: np.ndarray) -> np.ndarray:
    return _ratio(2 * hits.sum(axis=1), both.sum(axis=1))


def _macro(hits: np.ndarray, both: np.ndarray) -> np.ndarray:
    return _ratio(_ratio(2 * hits, both).sum(axis=1), (both > 0).sum(axis=1))


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.asarray(np.divide(part, whole, out=np.zeros(part.shape), where=whole > 0))


def _constant(average: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> Callable[[Targets, Answers], float]:
    def chance(targets: Targets, answers: Answers) -> float:
        """The best of the most frequent label, the two most frequent, … where a row may have several."""
        right, _ = _indicators(targets, answers)
        counts = -np.sort(-np.asarray(right.sum(axis=0), float).ravel())
        counts = counts[counts > 0]
        most = 1 if isinstance(targets[0], str) else len(counts)
        said = np.tril(np.ones((most, len(counts)))) if len(counts) else np.zeros((1, 1))
        hits = said * counts if len(counts) else said
        both = (counts if len(counts) else 0) + said * len(targets)
        return float(np.max(average(hits, both)))

    return chance


ACCURACY = Metric("accuracy", "share of rows", _single, _top(1), _most_frequent(1))
TOP_1 = Metric("top_1", "share of rows", _single, _top(1), _most_frequent(1))
TOP_5 = Metric("top_5", "share of rows", _more_than_five, _top(5), _most_frequent(5))
F1_MICRO = Metric("f1_micro", "F1", _labelled, _f1(_micro), _constant(_micro))
F1_MACRO = Metric("f1_macro", "F1, mean of labels", _labelled, _f1(_macro), _constant(_macro))
