"""Prompts that a graph with sliding windows reads in pieces, since its windows have places for no more at once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Callable

import numpy as np

from . import Tensors
from .cache import POSITIONS, WINDOW_POSITIONS, Cache

__all__ = ["in_pieces"]

_WANTED = "logits_positions"

Call = Callable[[Mapping[str, np.ndarray], Cache], Tensors]


def in_pieces(call: Call, tensors: Mapping[str, np.ndarray], cache: Cache) -> Tensors:
    """The outputs of `call`, which reads the tokens of a piece at most; what is asked for of a text ends with its last token.

    The engines' attention goes on from a cache with one text at a time, or with one token of each. So a batch that must be read
    in pieces is read text by text.
    """
    if cache.window is None:
        return call(tensors, cache)
    positions = tensors[POSITIONS]
    count = positions.shape[1]
    if count <= 1 or int(positions.max()) < cache.room and not cache.left.any():
        return call({**tensors, WINDOW_POSITIONS: cache.places(positions)}, cache)
    rows = []
    for row in range(len(positions)):
        own = cache.row(row) if len(positions) > 1 else cache
        rows.append(_text(call, {name: each[row : row + 1] for name, each in tensors.items()}, own))
    return {name: np.concatenate([each[name] for each in rows]) for name in rows[0]}


def _text(call: Call, tensors: Mapping[str, np.ndarray], cache: Cache) -> Tensors:
    wanted = tensors[_WANTED][0]
    found: list[tuple[np.ndarray, Tensors]] = []
    end = int(wanted.max()) + 1
    for start in range(0, end, cache.most):
        piece = slice(start, min(start + cache.most, end))
        asked = np.flatnonzero((wanted >= piece.start) & (wanted < piece.stop))
        given = {**tensors, "input_ids": tensors["input_ids"][:, piece], POSITIONS: tensors[POSITIONS][:, piece]}
        # A graph answers something: of a piece that nothing is asked of, its first token.
        given[_WANTED] = wanted[None, asked] - start if len(asked) else np.zeros((1, 1), dtype=np.int64)
        given[WINDOW_POSITIONS] = cache.places(given[POSITIONS])
        outputs = call(given, cache)
        if len(asked):
            found.append((asked, outputs))
    order = np.argsort(np.concatenate([asked for asked, _ in found]))
    return {name: np.concatenate([each[name] for _, each in found], axis=1)[:, order] for name in found[0][1]}
