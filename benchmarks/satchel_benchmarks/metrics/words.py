"""Metrics of labels that words carry: names found whole (seqeval), and words with the right label."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from satchel_runtimes.toolchain import need

from .metric import Answers, Metric, Sums, Targets, additive

__all__ = ["ENTITY_F1", "TOKEN_ACCURACY"]

_OUTSIDE = "O"


def _words(targets: Targets, answers: Answers) -> bool:
    return all(isinstance(each, dict) and "labels" in each for each in targets) and isinstance(answers[0], list)


def _names(targets: Targets, answers: Answers) -> bool:
    return _words(targets, answers) and any(label[:2] in ("B-", "S-") for each in targets for label in each["labels"])


def _entities(labels: Sequence[str | None]) -> set[Any]:  # Any: tuples of seqeval
    """Kind, first and last word of each name; a word that was cut has no label, so it is in none."""
    module = need("seqeval.metrics.sequence_labeling", extra="evaluate", to="judge names in texts", of="satchel")
    return set(module.get_entities([label or _OUTSIDE for label in labels]))


def _f1_of(total: np.ndarray) -> np.ndarray:
    return np.asarray(np.nan_to_num(2 * total[:, 0] / total[:, 1]))


def _entity_rows(targets: Targets, answers: Sequence[Sequence[str | None]]) -> np.ndarray:
    pairs = [(_entities(target["labels"]), _entities(said)) for target, said in zip(targets, answers, strict=True)]
    return np.array([[len(right & said), len(right) + len(said)] for right, said in pairs], float)


def _entity_f1(targets: Targets, answers: Answers) -> Sums:
    return additive(_entity_rows(targets, answers), _f1_of)


def _one_label_everywhere(targets: Targets, answers: Answers) -> float:
    labels = {label for each in targets for label in each["labels"]}
    return max(
        float(_f1_of(_entity_rows(targets, [[label] * len(each["labels"]) for each in targets]).sum(0)[None])[0])
        for label in labels
    )


def _token_accuracy(targets: Targets, answers: Answers) -> Sums:
    pairs = [(target["labels"], said) for target, said in zip(targets, answers, strict=True)]
    rows = [[sum(a == b for a, b in zip(right, said, strict=True)), len(right)] for right, said in pairs]
    return additive(np.array(rows, float), lambda total: total[:, 0] / total[:, 1])


def _most_frequent(targets: Targets, answers: Answers) -> float:
    _, counts = np.unique([label for each in targets for label in each["labels"]], return_counts=True)
    return float(counts.max() / counts.sum())


ENTITY_F1 = Metric("entity_f1", "F1 of whole names", _names, _entity_f1, _one_label_everywhere)
TOKEN_ACCURACY = Metric("token_accuracy", "share of words", _words, _token_accuracy, _most_frequent)
