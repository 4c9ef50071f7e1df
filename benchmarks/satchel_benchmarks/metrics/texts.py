"""Metrics of texts: answers to questions as SQuAD judges them, and the word error rate of transcripts."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np

from satchel_runtimes.toolchain import need

from .metric import Answers, Metric, Sums, Targets, additive

__all__ = ["CHRF", "EXACT_MATCH", "F1", "WER", "normalized"]

_PUNCTUATION = str.maketrans("", "", string.punctuation)
_CANDIDATES = 50  # constant answers that are tried: the most frequent ones


def normalized(text: str) -> str:
    """As SQuAD's own script has it (Rajpurkar et al. 2016): lower case, without punctuation, articles, more blanks."""
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text.lower().translate(_PUNCTUATION)).split())


def _questions(targets: Targets, answers: Answers) -> bool:
    return all(isinstance(each, list) and _are_answers(each) for each in targets) and isinstance(answers[0], str)


def _are_answers(target: list[object]) -> bool:
    return all(isinstance(each, dict) and "text" in each for each in target)


def _same(right: str, said: str) -> float:
    return float(right == said)


def _overlap(right: str, said: str) -> float:
    ours, theirs = right.split(), said.split()
    if not ours or not theirs:
        return float(ours == theirs)
    common = sum((Counter(ours) & Counter(theirs)).values())
    return 2 * common / (len(ours) + len(theirs))


Judge = Callable[[str, str], float]


def _right(targets: Targets) -> list[list[str]]:
    """No answer is the empty one."""
    return [[normalized(each["text"]) for each in target] or [""] for target in targets]


def _mean_of_best(judge: Judge) -> Callable[[Targets, Answers], Sums]:
    def sums(targets: Targets, answers: Sequence[str]) -> Sums:
        pairs = zip(_right(targets), answers, strict=True)
        rows = [max(judge(each, normalized(said)) for each in right) for right, said in pairs]
        return additive(np.array(rows)[:, None], lambda total: total[:, 0] / len(rows))

    return sums


def _constant(judge: Judge) -> Callable[[Targets, Answers], float]:
    def chance(targets: Targets, answers: Answers) -> float:
        right = _right(targets)
        candidates = Counter(text for row in right for text in set(row)).most_common(_CANDIDATES)
        return max(sum(max(judge(each, said) for each in row) for row in right) / len(right) for said, _ in candidates)

    return chance


def _transcripts(targets: Targets, answers: Answers) -> bool:
    return all(isinstance(each, str) for each in targets) and isinstance(answers[0], str)


def _word_errors(targets: Targets, answers: Answers) -> Sums:
    jiwer = need("jiwer", extra="evaluate", to="judge transcripts", of="satchel")
    plain = jiwer.Compose(
        [
            jiwer.ToLowerCase(),
            jiwer.RemovePunctuation(),
            jiwer.RemoveMultipleSpaces(),
            jiwer.Strip(),
            jiwer.ReduceToListOfListOfWords(),
        ]
    )
    rows = []
    for right, said in zip(targets, answers, strict=True):
        words = len(plain(right)[0])
        if not words:  # jiwer refuses to divide by it
            rows.append([len(plain(said)[0]), 0])
            continue
        found = jiwer.process_words(right, said, reference_transform=plain, hypothesis_transform=plain)
        rows.append([found.substitutions + found.deletions + found.insertions, words])
    return additive(np.array(rows, float), lambda total: np.where(total[:, 1] > 0, total[:, 0] / total[:, 1], np.nan))


def _character_overlap(targets: Targets, answers: Answers) -> Sums:
    sacrebleu = need("sacrebleu", extra="evaluate", to="judge written texts", of="satchel")
    judge = sacrebleu.CHRF()
    rows = [judge.sentence_score(said, [right]).score / 100 for right, said in zip(targets, answers, strict=True)]
    return additive(np.array(rows)[:, None], lambda total: total[:, 0] / len(rows))


CHRF = Metric(
    "chrf",
    "F-score of character n-grams (Popović 2015), mean of texts",
    _transcripts,
    _character_overlap,
    lambda targets, answers: 0.0,  # nothing
)
EXACT_MATCH = Metric("exact_match", "share of questions", _questions, _mean_of_best(_same), _constant(_same))
F1 = Metric("f1", "F1 of words, mean of questions", _questions, _mean_of_best(_overlap), _constant(_overlap))
WER = Metric(
    "wer",
    "errors per word",
    _transcripts,
    _word_errors,
    lambda targets, answers: 1.0,  # nothing: every word is missing
    most=None,
    higher_is_better=False,
)
