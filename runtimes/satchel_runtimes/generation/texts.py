"""A batch of texts in a decoder: what was read of each, and the next call of the graph."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Optional

import numpy as np

from ..sessions import Session, Tensors

__all__ = ["Texts"]

_LOGITS = frozenset({"logits"})


class Texts:
    """Texts of different lengths, side by side; each call reads more tokens of each and gives their logits.

    Args:
        session: a graph that takes input_ids, position_ids and logits_positions, and keeps a cache.
        count: of texts.
        longest: tokens that a text may come to have.
        beside: what every call is given too, such as an encoder's states, [count, …].
    """

    def __init__(
        self, session: Session, count: int, longest: int, beside: Optional[Mapping[str, np.ndarray]] = None
    ) -> None:
        self._session, self._beside = session, dict(beside or {})
        self._cache: Any = session.new_state(count, longest)  # Any: the engine's own
        self.lengths: np.ndarray = np.zeros(count, dtype=np.int64)

    @property
    def count(self) -> int:
        return len(self.lengths)

    def read(self, tokens: Sequence[np.ndarray]) -> np.ndarray:
        """Read so many tokens of each text as are given; the logits of the last of each, float32 [count, vocabulary]."""
        last = np.array([[len(each) - 1] for each in tokens], dtype=np.int64)
        self._cache.wanted = _LOGITS
        return self._run(tokens, last)["logits"][:, 0]

    def step(self, tokens: np.ndarray) -> np.ndarray:
        """Read one token of each text, int64 [count]; logits as of `read`."""
        self._cache.wanted = _LOGITS
        return self._call(tokens[:, None], self.lengths[:, None], np.zeros((self.count, 1), dtype=np.int64))["logits"][
            :, 0
        ]

    def outputs(self, tokens: Sequence[np.ndarray], first: int = 0) -> Tensors:
        """Like `read`, with all outputs of every token from the `first` on, [count, tokens, …]; texts that are shorter have
        anything behind."""
        every = np.arange(first, max(map(len, tokens)), dtype=np.int64)
        last = np.array([[len(each) - 1] for each in tokens], dtype=np.int64)
        return self.outputs_at(tokens, np.minimum(every, last))

    def outputs_at(self, tokens: Sequence[np.ndarray], places: np.ndarray) -> Tensors:
        """Those of some of the tokens, by their places among `tokens`, int64 [count, kept]."""
        self._cache.wanted = None
        return self._run(tokens, places)

    @property
    def back(self) -> Optional[int]:
        """Tokens that `keep` may take back; None: any."""
        found: Optional[int] = getattr(self._cache, "back", None)
        return found

    def keep(self, lengths: np.ndarray) -> None:
        """Forget what was read beyond so many tokens of each text."""
        self.lengths = np.minimum(self.lengths, lengths)

    def select(self, rows: np.ndarray) -> None:
        """Text i goes on from text `rows[i]`; there may be more of them than before."""
        self._cache.select(rows, int(self.lengths.max()))
        self.lengths = self.lengths[rows]
        if len(rows) != len(next(iter(self._beside.values()), rows)):
            self._beside = {name: value[rows] for name, value in self._beside.items()}

    def _run(self, tokens: Sequence[np.ndarray], places: np.ndarray) -> Tensors:
        longest = max(map(len, tokens))
        ids: np.ndarray = np.zeros(
            (len(tokens), longest), dtype=np.int64
        )  # what pads a text is written over by its next token
        for row, each in enumerate(tokens):
            ids[row, : len(each)] = each
        counts = np.array([len(each) for each in tokens], dtype=np.int64)
        together = len(tokens) == 1 or longest == 1 or not self.lengths.any()
        if not together:
            raise ValueError("several texts go on one token at a time: their places in the cache differ")
        found = self._call(ids, self.lengths[:, None] + np.arange(longest), places)
        self.lengths = self.lengths - longest + counts
        return found

    def _call(self, ids: np.ndarray, positions: np.ndarray, places: np.ndarray) -> Tensors:
        self._cache.hold(int(positions[:, -1].max()) + 1)
        given = {"input_ids": ids, "position_ids": positions, "logits_positions": places, **self._beside}
        found = self._session.run(given, self._cache)
        self.lengths = self.lengths + ids.shape[1]
        return found
