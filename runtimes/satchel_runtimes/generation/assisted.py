"""Several tokens in one call: guesses of a smaller model, or of the text itself, that the model then confirms.

Greedy search with guesses gives what it gives without, and sampling the same chances (Leviathan et al. 2023, algorithm 1,
https://arxiv.org/abs/2211.17192). Guesses by prompt lookup: https://github.com/apoorvumang/prompt-lookup-decoding.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Optional, Protocol

import numpy as np

from ..sessions import Session
from ..tasks.task import softmax
from .config import GenerationConfig
from .scores import Rule, apply
from .search import Chosen, Prompt, Stops, draw, likeliest
from .texts import Texts

__all__ = ["Assistant", "Guesser", "Lookup", "assisted"]


# With the prompt: engines of fixed lengths read it at once where one answer is asked for.
_NONE: tuple[np.ndarray, Optional[np.ndarray]] = (np.zeros(0, dtype=np.int64), None)


class Guesser(Protocol):
    def guess(self, ids: np.ndarray, most: int) -> tuple[np.ndarray, Optional[np.ndarray]]:
        """At most so many tokens that may follow `ids`, and, where they were drawn, the chances that each was drawn
        with, float32 [tokens, vocabulary]."""

    def told(self, taken: int, guessed: int) -> None:
        """How many of the last guesses were right."""


class Lookup:
    """What followed the last words where they came before."""

    def __init__(self, count: int, longest: int) -> None:
        self._count, self._longest = count, longest

    def guess(self, ids: np.ndarray, most: int) -> tuple[np.ndarray, Optional[np.ndarray]]:
        for size in range(min(self._longest, len(ids) - 1), 0, -1):
            windows = np.lib.stride_tricks.sliding_window_view(ids, size)
            for place in np.flatnonzero((windows == ids[-size:]).all(axis=1)):
                start = int(place) + size
                if start < len(ids):
                    return ids[start : start + min(self._count, most)].copy(), None
        return np.zeros(0, dtype=np.int64), None

    def told(self, taken: int, guessed: int) -> None:
        pass


class Assistant:
    """A second model with the same tokens. It guesses two more after a call whose guesses were all right, else one less."""

    def __init__(self, session: Session, prompt: Prompt, config: GenerationConfig, random: np.random.Generator) -> None:
        self._texts = Texts(session, 1, prompt.longest(config), prompt.beside)
        self._rules, self._sampled, self._random = prompt.rules(config, session), config.do_sample, random
        self._most = config.num_assistant_tokens
        self._ends = config.eos_token_id

    def guess(self, ids: np.ndarray, most: int) -> tuple[np.ndarray, Optional[np.ndarray]]:
        text, chances = ids, []
        self._texts.keep(np.array([len(ids) - 1]))
        for _ in range(min(self._most, most, self._texts.back or most)):
            logits = self._texts.read([text[int(self._texts.lengths[0]) :]])[0]
            scores = apply(self._rules, text, logits)
            token = draw(scores, self._random) if self._sampled else likeliest(scores)
            text = np.append(text, token)
            chances.append(softmax(scores))
            if token in self._ends:
                break
        return text[len(ids) :], np.stack(chances) if self._sampled and chances else None

    def told(self, taken: int, guessed: int) -> None:
        self._most = self._most + 2 if taken == guessed else max(1, self._most - 1)


def assisted(
    session: Session,
    prompt: Prompt,
    config: GenerationConfig,
    stops: Stops,
    random: np.random.Generator,
    guesser: Guesser,
) -> Iterator[list[Optional[Chosen]]]:
    """Like `one_by_one` for one prompt."""
    longest, rules = prompt.longest(config), prompt.rules(config, session)
    texts = Texts(session, 1, longest, prompt.beside)
    ids = np.array(prompt.ids, dtype=np.int64)
    while True:
        read = int(texts.lengths[0])
        guesses, chances = _NONE if not read else guesser.guess(ids, min(longest - len(ids) - 1, texts.back or longest))
        ends = np.flatnonzero(np.isin(guesses, config.eos_token_id))
        guesses = guesses[: ends[0] + 1] if len(ends) else guesses
        unread = ids[read:] if read else prompt.read
        logits = texts.outputs([np.append(unread, guesses)], len(ids) - read - 1)["logits"][0]
        logits = logits[:-1] if len(ends) else logits  # nothing comes behind the end, and a form would allow nothing
        came, taken = _confirmed(ids, guesses, chances, logits, rules, config.do_sample, random)
        if len(guesses):
            guesser.told(taken, len(guesses))
        for token in came:
            ids = np.append(ids, token)
            ended = token in config.eos_token_id or len(ids) >= longest or stops(ids)
            yield [Chosen(int(token), ended)]
            if ended:
                return
        texts.keep(np.array([len(ids) - 1]))


def _confirmed(
    ids: np.ndarray,
    guesses: np.ndarray,
    chances: Optional[np.ndarray],
    logits: np.ndarray,
    rules: list[Rule],
    sampled: bool,
    random: np.random.Generator,
) -> tuple[list[int], int]:
    """The tokens that come, and how many of the guesses are among them. Logits are one more than guesses, and the last token is
    then the model's own; or as many, where nothing comes behind the last guess."""
    came: list[int] = []
    for place in range(len(logits)):
        scores = apply(rules, np.append(ids, came).astype(np.int64), logits[place])
        guess = int(guesses[place]) if place < len(guesses) else None
        if sampled and guess is not None and chances is not None:
            own, theirs = softmax(scores), chances[place]
            if random.random() <= own[guess] / max(float(theirs[guess]), 1e-30):
                came.append(guess)
                continue
            rest = np.clip(own - theirs, 0.0, None)  # so that both ways together have the model's own chances
            with np.errstate(divide="ignore"):
                return [*came, draw(np.log(rest), random)], place
        token = draw(scores, random) if sampled else likeliest(scores)
        came.append(token)
        if token != guess:
            return came, place
    return came, len(guesses)
