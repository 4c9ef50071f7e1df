"""The timestamps among a whisper's tokens: where they may come, and where they cut a window."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Optional

import numpy as np

from .task import log_softmax

__all__ = ["MARK", "Marks", "Part", "cut"]

MARK = 0.02  # seconds between two timestamps
_FRAMES = 2  # of features, between two timestamps


@dataclass(frozen=True)
class Part:
    """Tokens with the seconds from and to, their language where it is known, and the second at which each ends where that was asked."""

    start: float
    end: float
    ids: Sequence[int]
    times: Sequence[float] = ()
    language: Optional[str] = None


def cut(ids: list[int], first: int, frames: int) -> tuple[list[Part], int]:
    """The pieces of speech that timestamps mark in the tokens of a window, and the frames after which the next window begins.

    Two timestamps in a row end one piece and begin the next. Where the tokens end with such a pair the window was cut in the middle
    of a piece, which the next one reads again.

    Args:
        ids: without the prompt.
        first: the timestamp of 0.0 seconds.
        frames: that the window has.
    """
    marked = [each >= first for each in ids]
    ends = [i + 1 for i in range(len(ids) - 1) if marked[i] and marked[i + 1]]
    whole = marked[-2:] == [False, True]  # nothing is said behind the last timestamp

    def seconds(token: int) -> float:
        return (token - first) * MARK

    if not ends:
        last = next((each for each in reversed(ids) if each >= first), first)
        # By transformers' own expression, which rounds.
        end = (last - first if last != first else int(np.float32(frames) * np.float32(0.01) / np.float32(MARK))) * MARK
        return [Part(0.0, end, ids)], frames
    ends = [*ends, len(ids)] if whole else [*ends[:-1], ends[-1] + 1]
    parts, begin = [], 0
    for place, stop in enumerate(ends):
        piece = ids[begin:stop]
        end = piece[-2] if place == len(ends) - 1 and not whole else piece[-1]
        parts.append(Part(seconds(piece[0]), seconds(end), piece))
        begin = stop
    return parts, frames if whole else (ids[begin - 2] - first) * _FRAMES


@dataclass(frozen=True)
class Marks:
    """Which timestamps may come: in pairs, never back in time, and one first; all of them together against every other token."""

    untimed: int  # the token that stands for "without", behind which timestamps begin
    eos: int
    begin: int  # tokens of the prompt
    first: Optional[int]  # the last timestamp that a text may begin with

    def __call__(self, ids: np.ndarray, scores: np.ndarray) -> np.ndarray:
        marks = self.untimed + 1
        scores[self.untimed] = -np.inf
        said = ids[self.begin :]
        last = len(said) >= 1 and said[-1] >= marks
        before = len(said) < 2 or said[-2] >= marks
        if last and before:
            scores[marks:] = -np.inf
        elif last:
            scores[: self.eos] = -np.inf
        came = said[said >= marks]
        if len(came):
            scores[marks : int(came[-1]) + (0 if last and not before else 1)] = -np.inf
        if not len(said):
            scores[:marks] = -np.inf
            if self.first is not None:
                scores[marks + self.first + 1 :] = -np.inf
        logs = log_softmax(scores)
        top = logs[marks:].max()
        with np.errstate(divide="ignore", invalid="ignore"):
            together = top + np.log(np.exp(logs[marks:] - top).sum()) if np.isfinite(top) else -np.inf
        if together > logs[:marks].max():
            scores[:marks] = -np.inf
        return scores
