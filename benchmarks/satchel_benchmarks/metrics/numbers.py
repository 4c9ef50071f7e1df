"""Metrics of numbers: whether they come in the right order, and how surely a language model knows its tokens."""

from __future__ import annotations

from collections import Counter

import numpy as np

from satchel_runtimes.toolchain import need

from .metric import Answers, Metric, Sums, Targets, additive

__all__ = ["PERPLEXITY", "SPEARMAN"]


def _numbers(targets: Targets, answers: Answers) -> bool:
    return all(isinstance(each, (int, float)) for each in (*targets, answers[0]))


def _spearman(targets: Targets, answers: Answers) -> Sums:
    stats = need("scipy.stats", extra="evaluate", to="judge similarities", of="satchel")
    right, said = np.array(targets, float), np.array(answers, float)

    def sums(drawn: np.ndarray) -> np.ndarray:
        ours, theirs = (stats.rankdata(values[drawn], axis=1) for values in (right, said))
        ours, theirs = (ranks - ranks.mean(axis=1, keepdims=True) for ranks in (ours, theirs))
        norm = np.sqrt((ours**2).sum(axis=1) * (theirs**2).sum(axis=1))
        # Numbers that are all the same have no order: nothing is known of the right one.
        found: np.ndarray = np.divide((ours * theirs).sum(axis=1), norm, out=np.zeros(len(drawn)), where=norm > 0)
        return found

    return sums


def _masked(targets: Targets, answers: Answers) -> bool:
    return isinstance(answers[0], dict) and "nll" in answers[0]


def _perplexity(targets: Targets, answers: Answers) -> Sums:
    rows = np.array([[sum(each["nll"]), len(each["nll"])] for each in answers])
    return additive(rows, lambda total: np.exp(total[:, 0] / total[:, 1]))


def _unigrams(targets: Targets, answers: Answers) -> float:
    """Guessing each token by how often it is masked elsewhere in these rows, with one more for every word there is."""
    counts = Counter(token for each in answers for token in each["tokens"])
    total, words = sum(counts.values()), max(each["vocabulary"] for each in answers)
    if not total:
        return float(words)
    nll = sum(-times * np.log(times / (total - 1 + words)) for times in counts.values())
    return float(np.exp(nll / total))


SPEARMAN = Metric("spearman", "rank correlation", _numbers, _spearman, lambda targets, answers: 0.0, least=-1.0)
PERPLEXITY = Metric(
    "perplexity",
    "exp of the mean negative log likelihood of tokens that are masked one at a time",
    _masked,
    _perplexity,
    _unigrams,
    least=1.0,
    most=None,
    higher_is_better=False,
    relative=True,
)
