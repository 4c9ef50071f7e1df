"""What may come next: the scores of all tokens, changed by the rules of a generation config.

The rules, and the order in which they are applied, are those of transformers' logits processors:
https://github.com/huggingface/transformers/blob/main/src/transformers/generation/logits_process.py
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Callable, Optional

import numpy as np

from ..tasks.task import log_softmax, softmax
from .config import GenerationConfig

__all__ = ["Rule", "apply", "rules_of"]

# From the tokens so far, int64 [length], and the scores of all tokens, float32 [vocabulary], to other scores. The array that
# comes in is the rule's to write.
Rule = Callable[[np.ndarray, np.ndarray], np.ndarray]

_NEVER = -math.inf
_HEADS = 256, 4096, None  # so many tokens are sorted first, and then more; None: all


def apply(rules: Sequence[Rule], ids: np.ndarray, scores: np.ndarray) -> np.ndarray:
    if rules:
        scores = np.array(scores, dtype=np.float32)
        for rule in rules:
            scores = rule(ids, scores)
    return scores


def rules_of(
    config: GenerationConfig,
    prompt: int,
    max_length: int,
    encoder_ids: Optional[np.ndarray] = None,
    own: Sequence[Rule] = (),
) -> list[Rule]:
    """The rules that a config asks for.

    Args:
        prompt: tokens that are given at the start.
        max_length: tokens in all.
        encoder_ids: of an encoder's text.
        own: a task's, which come before what sampling leaves out.
    """
    eos = np.array(config.eos_token_id, dtype=np.int64)
    rules: list[Rule] = []
    if config.sequence_bias:
        rules.append(_SequenceBias(config.sequence_bias))
    if encoder_ids is not None and config.encoder_repetition_penalty != 1.0:
        rules.append(_Penalty(1 / config.encoder_repetition_penalty, np.unique(encoder_ids)))
    if config.repetition_penalty != 1.0:
        rules.append(_Penalty(config.repetition_penalty))
    if config.no_repeat_ngram_size > 0:
        rules.append(_NoRepeat(config.no_repeat_ngram_size))
    if encoder_ids is not None and config.encoder_no_repeat_ngram_size > 0:
        rules.append(_NoRepeat(config.encoder_no_repeat_ngram_size, encoder_ids))
    if config.bad_words_ids:
        words = [each for each in config.bad_words_ids if not (len(each) == 1 and each[0] in config.eos_token_id)]
        rules.append(_SequenceBias([(each, _NEVER) for each in words]))
    if config.min_length > 0 and len(eos):
        rules.append(_NotBefore(config.min_length, eos))
    if config.min_new_tokens and len(eos):
        rules.append(_NotBefore(prompt + config.min_new_tokens, eos))
    if config.forced_bos_token_id is not None:
        rules.append(_Only(1, np.array([config.forced_bos_token_id])))
    if config.forced_eos_token_id:
        rules.append(_Only(max_length - 1, np.array(config.forced_eos_token_id)))
    rules += [_Only(place, np.array([token])) for place, token in config.forced_decoder_ids]
    if config.remove_invalid_values:
        rules.append(_finite)
    if config.exponential_decay_length_penalty is not None:
        start, factor = config.exponential_decay_length_penalty
        rules.append(_Decay(start + prompt, factor, eos))
    if config.suppress_tokens:
        rules.append(_Never(np.array(config.suppress_tokens)))
    if config.begin_suppress_tokens:
        # The first token that is free: a forced one stands before it.
        begin = prompt + (1 if prompt <= 1 and config.forced_bos_token_id is not None else 0)
        rules.append(_Never(np.array(config.begin_suppress_tokens), at=begin))
    rules += own
    if config.do_sample:
        rules += _warpers(config, len(eos))
    if config.renormalize_logits:
        rules.append(lambda ids, scores: log_softmax(scores))
    return rules


def _warpers(config: GenerationConfig, ends: int) -> list[Rule]:
    # Beams need one token beside all that could end a text.
    least = 1 if config.num_beams == 1 else max(ends, 1) + 1
    rules: list[Rule] = []
    if config.temperature != 1.0:
        temperature = np.float32(config.temperature)
        rules.append(lambda ids, scores: scores / temperature)
    if config.top_h is not None:
        rules.append(_TopH(config.top_h))
    if config.top_k:
        rules.append(_TopK(max(config.top_k, least)))
    if config.top_p < 1.0:
        rules.append(_TopP(config.top_p, least))
    if config.min_p is not None:
        rules.append(_MinP(config.min_p, least))
    if config.typical_p < 1.0:
        rules.append(_Typical(config.typical_p, least))
    if 0.0 < config.epsilon_cutoff < 1.0:
        rules.append(_Cutoff(config.epsilon_cutoff, least, by_entropy=False))
    if 0.0 < config.eta_cutoff < 1.0:
        rules.append(_Cutoff(config.eta_cutoff, least, by_entropy=True))
    return rules


@dataclass(frozen=True)
class _SequenceBias:
    """A word of several tokens is moved where all but its last have just come."""

    biases: Sequence[tuple[tuple[int, ...], float]]

    def __call__(self, ids: np.ndarray, scores: np.ndarray) -> np.ndarray:
        added = np.zeros_like(scores)
        for word, bias in self.biases:
            before = np.array(word[:-1], dtype=np.int64)
            if len(word) == 1 or (len(word) <= len(ids) + 1 and np.array_equal(ids[len(ids) - len(before) :], before)):
                added[word[-1]] += bias
        result: np.ndarray = scores + added
        return result


@dataclass(frozen=True)
class _Penalty:
    """CTRL's penalty (Keskar et al. 2019) on tokens that were there: those so far, or a fixed set."""

    penalty: float
    fixed: Optional[np.ndarray] = None

    def __call__(self, ids: np.ndarray, scores: np.ndarray) -> np.ndarray:
        seen = np.unique(ids) if self.fixed is None else self.fixed
        values, penalty = scores[seen], np.float32(self.penalty)
        scores[seen] = np.where(values < 0, values * penalty, values / penalty)
        return scores


@dataclass(frozen=True)
class _NoRepeat:
    """No run of `size` tokens twice: within the text, or also in an encoder's."""

    size: int
    encoder_ids: Optional[np.ndarray] = None

    def __call__(self, ids: np.ndarray, scores: np.ndarray) -> np.ndarray:
        text = ids if self.encoder_ids is None else self.encoder_ids
        runs = len(text) - self.size + 1
        if len(ids) + 1 < self.size or runs < 1:
            return scores
        windows = np.lib.stride_tricks.sliding_window_view(text, self.size)
        same = (windows[:, :-1] == ids[len(ids) - self.size + 1 :]).all(axis=1)
        scores[windows[same, -1]] = _NEVER
        return scores


@dataclass(frozen=True)
class _NotBefore:
    length: int
    tokens: np.ndarray

    def __call__(self, ids: np.ndarray, scores: np.ndarray) -> np.ndarray:
        if len(ids) < self.length:
            scores[self.tokens] = _NEVER
        return scores


@dataclass(frozen=True)
class _Only:
    """At one length nothing but these."""

    length: int
    tokens: np.ndarray

    def __call__(self, ids: np.ndarray, scores: np.ndarray) -> np.ndarray:
        if len(ids) == self.length:
            scores[:] = _NEVER
            scores[self.tokens] = 0.0
        return scores


@dataclass(frozen=True)
class _Never:
    tokens: np.ndarray
    at: Optional[int] = None  # one length; None: all

    def __call__(self, ids: np.ndarray, scores: np.ndarray) -> np.ndarray:
        if self.at is None or len(ids) == self.at:
            scores[self.tokens] = _NEVER
        return scores


@dataclass(frozen=True)
class _Decay:
    start: int
    factor: float
    eos: np.ndarray

    def __call__(self, ids: np.ndarray, scores: np.ndarray) -> np.ndarray:
        over = len(ids) - self.start
        if over > 0:
            possible = self.eos[np.isfinite(scores[self.eos])]
            values = scores[possible]
            scores[possible] = values + np.abs(values) * np.float32(math.pow(self.factor, over) - 1)
        return scores


def _finite(ids: np.ndarray, scores: np.ndarray) -> np.ndarray:
    largest = float(np.finfo(np.float32).max)
    result: np.ndarray = np.nan_to_num(scores, nan=0.0, posinf=largest, neginf=-largest)
    return result


@dataclass(frozen=True)
class _TopK:
    count: int

    def __call__(self, ids: np.ndarray, scores: np.ndarray) -> np.ndarray:
        if self.count < len(scores):
            scores[scores < np.partition(scores, -self.count)[-self.count]] = _NEVER
        return scores


@dataclass(frozen=True)
class _TopH:
    """The likeliest so many that they hold a share of the entropy (Potraghloo et al. 2025), of the first hundred."""

    share: float

    def __call__(self, ids: np.ndarray, scores: np.ndarray) -> np.ndarray:
        order = np.argsort(-scores, kind="stable")[:100]
        chances = softmax(scores[order])
        with np.errstate(divide="ignore", invalid="ignore"):
            terms = np.where(chances > 0, -chances * np.log(chances), np.float32(0))
        kept = np.cumsum(terms) <= terms.sum() * np.float32(self.share)
        kept[0] = True
        result: np.ndarray = np.full_like(scores, _NEVER)
        result[order[kept]] = scores[order[kept]]
        return result


@dataclass(frozen=True)
class _TopP:
    """Nucleus sampling (Holtzman et al. 2019)."""

    mass: float
    least: int

    def __call__(self, ids: np.ndarray, scores: np.ndarray) -> np.ndarray:
        places = np.flatnonzero(scores > _NEVER)
        possible = scores[places]
        chances = softmax(possible)
        for count in _HEADS:
            order = _first(-possible, count or len(possible))
            order = order[np.argsort(possible[order], kind="stable")]
            below = 1 - chances[order].sum() if len(order) < len(possible) else 0.0
            out = below + np.cumsum(chances[order]) <= 1 - self.mass
            if out[0] or len(order) == len(possible):  # else more is kept than was sorted
                break
        out[max(len(out) - self.least, 0) :] = False
        kept = places[order[~out]]
        result: np.ndarray = np.full_like(scores, _NEVER)
        result[kept] = scores[kept]
        return result


@dataclass(frozen=True)
class _MinP:
    share: float
    least: int

    def __call__(self, ids: np.ndarray, scores: np.ndarray) -> np.ndarray:
        chances = softmax(scores)
        out = chances < self.share * chances.max()
        best = _first(-scores, self.least)
        out[best[np.argsort(-scores[best], kind="stable")][: self.least]] = False
        scores[out] = _NEVER
        return scores


@dataclass(frozen=True)
class _Typical:
    """Locally typical sampling (Meister et al. 2022)."""

    mass: float
    least: int

    def __call__(self, ids: np.ndarray, scores: np.ndarray) -> np.ndarray:
        logs = log_softmax(scores)
        chances = np.exp(logs)
        entropy = _entropy(logs, chances)
        away = np.abs(-logs - np.float32(entropy))
        for count in _HEADS:
            order = _first(away, count or len(away))
            order = order[np.argsort(away[order], kind="stable")]
            total = np.cumsum(chances[order])
            if total[-1] >= self.mass:
                break
        last = min(int((total < self.mass).sum()), len(order) - 1)
        out = away > away[order[last]]
        out[order[: self.least]] = False
        scores[out] = _NEVER
        return scores


@dataclass(frozen=True)
class _Cutoff:
    """Epsilon and eta sampling (Hewitt et al. 2022)."""

    epsilon: float
    least: int
    by_entropy: bool

    def __call__(self, ids: np.ndarray, scores: np.ndarray) -> np.ndarray:
        chances, limit = softmax(scores), self.epsilon
        if self.by_entropy:
            logs = log_softmax(scores)
            limit = min(self.epsilon, math.sqrt(self.epsilon) * math.exp(-_entropy(logs, chances)))
        out = chances < limit
        least = min(self.least, len(scores))
        out &= scores < np.partition(scores, -least)[-least]
        scores[out] = _NEVER
        return scores


def _first(values: np.ndarray, count: int) -> np.ndarray:
    """Places of the smallest, in no order but their own: at least so many, with all that equal the last.

    To sort a vocabulary takes longer than half a step of a small model, and what sampling keeps is most often a few tokens.
    """
    last = min(count, len(values)) - 1
    result: np.ndarray = np.flatnonzero(values <= np.partition(values, last)[last])
    return result


def _entropy(logs: np.ndarray, chances: np.ndarray) -> float:
    possible = chances > 0
    return -float((logs[possible] * chances[possible]).sum())
