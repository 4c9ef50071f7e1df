"""When each word is said: what a decoder looks at while it writes, and the way through that which goes on in time.

Some heads of a whisper look at the part of the sound that they write about. The way of least cost through their weights, by dynamic
time warping, gives each token a time (https://github.com/openai/whisper, `find_alignment`), and tokens make words. Numbers and order
are those of transformers' `_extract_token_timestamps`.
"""

from __future__ import annotations

import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Callable

import numpy as np

from .task import softmax

__all__ = ["QUERIES", "SPACELESS", "Word", "alignment", "looked_at", "token_times", "words_of"]

QUERIES = "alignment_queries"  # the decoder's output: what these heads ask the encoder, [batch, tokens, heads * size]
SPACELESS = frozenset({"zh", "ja", "th", "lo", "my", "yue"})  # languages that put no spaces between words

_BEFORE, _AFTER = "\"'“¡¿([{-", "\"'.。,，!！?？:：”)]}、"  # marks that belong to the word behind them, and before them
_WHOLE = "\ufffd"  # what stands for bytes that are no whole character


def alignment(generation: Mapping[str, Any]) -> list[tuple[int, int]]:
    """Layers and heads that look at what is being said, as a generation config lists them; in the order of `QUERIES`."""
    return sorted((int(layer), int(head)) for layer, head in generation.get("alignment_heads") or ())


def looked_at(queries: np.ndarray, keys: Sequence[np.ndarray]) -> np.ndarray:
    """How much each head looks at each frame for each token, float32 [heads, tokens, frames].

    Args:
        queries: [tokens, heads * size], scaled.
        keys: of each head, [frames, size].
    """
    by_head = queries.reshape(len(queries), len(keys), -1)
    found: np.ndarray = np.stack([softmax(by_head[:, i] @ key.T) for i, key in enumerate(keys)])
    return found


def token_times(weights: np.ndarray, width: int) -> np.ndarray:
    """The frame at which each token's turn comes, int64 [tokens].

    Args:
        weights: [heads, tokens, frames].
        width: frames over which a median takes outliers away; odd.
    """
    with np.errstate(divide="ignore", invalid="ignore"):  # of a single token there is nothing to compare with
        even = (weights - weights.mean(axis=1, keepdims=True)) / weights.std(axis=1, keepdims=True)
    half = width // 2
    if even.shape[2] > half:
        mirrored = np.pad(even, ((0, 0), (0, 0), (half, half)), mode="reflect")
        windows = np.lib.stride_tricks.sliding_window_view(mirrored, width, axis=2)
        even = np.partition(windows, half, axis=3)[..., half]  # the median, in half the time of numpy's
    return _turns(-even.astype(np.float32).mean(axis=0).astype(np.float64))


def _turns(costs: np.ndarray) -> np.ndarray:
    """The column at which the cheapest way from corner to corner comes into each row; a way goes right, down or both.

    One diagonal at a time, because each depends on the two before it alone.
    """
    rows, columns = costs.shape
    total: np.ndarray = np.full((rows + 1, columns + 1), np.inf, np.float32)
    total[0, 0] = 0
    way: np.ndarray = np.zeros((rows + 1, columns + 1), np.int8)  # 0: from up and left, 1: from above, 2: from the left
    for diagonal in range(2, rows + columns + 1):
        down: np.ndarray = np.arange(max(1, diagonal - columns), min(rows, diagonal - 1) + 1)
        right: np.ndarray = diagonal - down
        both, above, left = total[down - 1, right - 1], total[down - 1, right], total[down, right - 1]
        from_both, from_above = (both < above) & (both < left), (above < both) & (above < left)
        total[down, right] = costs[down - 1, right - 1] + np.where(from_both, both, np.where(from_above, above, left))
        way[down, right] = np.where(from_both, 0, np.where(from_above, 1, 2))
    way[0, :], way[:, 0] = 2, 1
    turns: np.ndarray = np.zeros(rows, np.int64)
    i, j = rows, columns
    while i > 0 or j > 0:
        if i > 0:
            turns[i - 1] = j - 1  # the last that is written is the first that comes
        step = int(way[i, j])
        i, j = i - (step != 2), j - (step != 1)
    return turns


@dataclass(frozen=True)
class Word:
    """Its characters, and the places of its first and last token."""

    text: str
    first: int
    last: int

    def then(self, other: Word) -> Word:
        return Word(self.text + other.text, self.first, other.last)


def words_of(ids: Sequence[int], decoded: Callable[[Sequence[int]], str], *, spaced: bool) -> list[Word]:
    """The words that tokens make, with the marks that belong to them.

    Args:
        decoded: gives the text of some tokens.
        spaced: whether words begin with a space; otherwise each whole character is one.
    """
    found: list[Word] = []
    for piece in _whole(ids, decoded):
        mark = piece.text.strip() in string.punctuation
        if spaced and found and not piece.text.startswith(" ") and not mark:
            found[-1] = found[-1].then(piece)
        else:
            found.append(piece)
    behind: list[Word] = []  # from the last on
    for word in reversed(found):
        if behind and word.text.startswith(" ") and word.text.strip() in _BEFORE:
            behind[-1] = word.then(behind[-1])
        else:
            behind.append(word)
    words: list[Word] = []
    for word in reversed(behind):
        if words and not words[-1].text.endswith(" ") and word.text in _AFTER:
            words[-1] = words[-1].then(word)
        else:
            words.append(word)
    return [word for word in words if word.text]


def _whole(ids: Sequence[int], decoded: Callable[[Sequence[int]], str]) -> list[Word]:
    """Tokens that are whole characters, each alone or with the others that it needs."""
    text, pieces, first, at = decoded(ids), [], 0, 0
    for last in range(len(ids)):
        piece = decoded(ids[first : last + 1])
        place = at + piece.find(_WHOLE)
        if _WHOLE not in piece or place >= len(text) or text[place] == _WHOLE:  # the text itself may have such a mark
            pieces.append(Word(piece, first, last))
            first, at = last + 1, at + len(piece)
    return pieces
