"""Guidance without a classifier (Sanchez et al. 2023, https://arxiv.org/abs/2306.17806): away from what the model would write after
another beginning, or after no more than the last token of this one.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..sessions import Session
from ..tasks.task import log_softmax
from .texts import Texts

__all__ = ["Guidance"]


class Guidance:
    """A rule, which reads every text a second time, behind `start` in place of its first `prompt` tokens."""

    def __init__(self, session: Session, scale: float, start: Sequence[int], prompt: int, longest: int) -> None:
        self._scale, self._prompt = np.float32(scale), prompt
        self._start: np.ndarray = np.array(start, dtype=np.int64)
        self._texts = Texts(session, 1, len(start) + longest - prompt)
        self._read: np.ndarray = np.zeros(0, dtype=np.int64)

    def __call__(self, ids: np.ndarray, scores: np.ndarray) -> np.ndarray:
        text = np.concatenate([self._start, ids[self._prompt :]])
        known = min(len(self._read), len(text) - 1)
        same = int(np.cumprod(text[:known] == self._read[:known]).sum())  # another way to go on, of beams or of a guess
        self._texts.keep(np.array([same]))
        other = log_softmax(self._texts.read([text[same:]])[0])
        self._read = text
        result: np.ndarray = self._scale * (log_softmax(scores) - other) + other
        return result
