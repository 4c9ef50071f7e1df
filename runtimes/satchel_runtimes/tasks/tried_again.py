"""Whether what a whisper wrote is to be believed, and at which temperatures it is asked again (Radford et al. 2022, section 4.5).

A text that repeats itself packs well, and one that is made up is unlikely. Names, meanings and numbers are those of transformers'
`generate_with_fallback`.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Optional

import numpy as np

from ..errors import UsageError
from ..generation import GenerationConfig, Prompt
from ..generation.scores import apply
from ..sessions import Session
from .task import log_softmax

__all__ = ["THRESHOLDS", "Tries", "at_temperature", "average_log", "packed", "tries_of"]

THRESHOLDS = ("compression_ratio_threshold", "logprob_threshold", "no_speech_threshold")


@dataclass(frozen=True)
class Tries:
    """One temperature after the other, until a text passes. None: as the settings say."""

    temperatures: tuple[Optional[float], ...] = (None,)
    compression_ratio: Optional[float] = None
    logprob: Optional[float] = None
    no_speech: Optional[float] = None

    @property
    def plain(self) -> bool:
        return self == Tries()

    def repeats(self, ids: Sequence[int], vocabulary: int) -> bool:
        return self.compression_ratio is not None and packed(ids, vocabulary) > self.compression_ratio

    def unlikely(self, average: float) -> bool:
        return self.logprob is not None and average < self.logprob

    def silent(self, chance: float) -> bool:
        """Of a text that is unlikely."""
        return self.no_speech is not None and chance > self.no_speech


def tries_of(given: Mapping[str, Any], temperature: Any) -> Tries:  # Any: what a caller wrote
    """Raises: UsageError for what is no number, or one threshold without that which it goes with."""
    several = temperature if isinstance(temperature, (list, tuple)) else (temperature,)
    if not several or any(each is not None and (not _is_number(each) or each < 0) for each in several):
        raise UsageError(
            f"Cannot use temperature={temperature!r}.",
            why="it is a number from 0 up, or several that are tried one after the other",
            fix="pass (0.0, 0.2, 0.4, 0.6, 0.8, 1.0), or leave it out",
        )
    for name in THRESHOLDS:
        if given[name] is not None and not _is_number(given[name]):
            raise UsageError(f"Cannot use {name}={given[name]!r}.", why="it is a number", fix="pass one")
    if given["no_speech_threshold"] is not None and given["logprob_threshold"] is None:
        raise UsageError(
            f"Cannot use no_speech_threshold={given['no_speech_threshold']!r} alone.",
            why="silence is where a text is unlikely too",
            fix="pass logprob_threshold with it, for instance -1.0",
        )
    return Tries(tuple(several), *(given[name] for name in THRESHOLDS))


def at_temperature(config: GenerationConfig, temperature: Optional[float]) -> GenerationConfig:
    if temperature is None:
        return config
    if temperature == 0:
        return config.changed({"do_sample": False, "temperature": None})
    return config.changed({"do_sample": True, "temperature": float(temperature), "num_beams": 1})


def packed(ids: Sequence[int], vocabulary: int) -> float:
    """How many times smaller the tokens become when they are packed."""
    size = int(math.log2(vocabulary) / 8) + 1
    whole = b"".join(each.to_bytes(size, "little") for each in ids)
    return len(whole) / len(zlib.compress(whole))


def average_log(
    prompt: Prompt, config: GenerationConfig, decoder: Session, ids: Sequence[int], logits: np.ndarray
) -> float:
    """The mean logarithm of the chances with which the tokens came, temperature aside.

    Args:
        ids: new tokens.
        logits: before each of them, [tokens, vocabulary].
    """
    rules, temperature = prompt.rules(config, decoder), np.float32(config.temperature if config.do_sample else 1.0)
    text, start, total = np.array([*prompt.ids, *ids], dtype=np.int64), len(prompt.ids), 0.0
    for place, row in enumerate(logits):
        scores = log_softmax(row) if config.num_beams > 1 else row  # as beams see them
        chosen = apply(rules, text[: start + place], scores) * temperature
        total += float(log_softmax(chosen)[ids[place]])
    return total / len(ids)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
