"""The cache of a decoder: keys and values of the tokens so far, in arrays that a graph writes in place.

A token's place in the arrays is its position in the text. So texts of different lengths stand side by side without holes,
what a rejected token left is written over by the next one at its place, and nothing is moved to add one.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Optional, Protocol

import numpy as np

from ..errors import UsageError
from ..manifest import TensorSpec

__all__ = ["CAPACITY", "POSITIONS", "Cache", "check_room", "needed"]

CAPACITY = "capacity"  # the axis of cache tensors that tokens lie along
POSITIONS = "position_ids"  # the input that says where a token is written


class Cache:
    """What a session keeps between the calls for one batch of texts; it belongs to one thread at a time.

    `arrays` are the graph's cache inputs by name, [batch, …, capacity, …]. New ones are zeros that the system has only promised:
    memory is taken as it is written.
    """

    def __init__(self, specs: Sequence[TensorSpec], batch: int, capacity: int) -> None:
        self._specs = tuple(specs)
        self.batch, self.capacity = batch, capacity
        self.arrays: dict[str, np.ndarray] = {
            spec.name: np.zeros(self._shape(spec), spec.dtype) for spec in self._specs
        }
        self.version = 0  # counts the times that arrays were exchanged
        self.wanted: Optional[Collection[str]] = None  # outputs of the next calls; an engine may answer with more

    @property
    def nbytes(self) -> int:
        return sum(each.nbytes for each in self.arrays.values())

    def hold(self, tokens: int) -> None:
        """Make room for so many tokens in all; at least double, so that a long text is copied few times."""
        if tokens <= self.capacity:
            return
        old, self.capacity = self.capacity, max(tokens, 2 * self.capacity)
        for spec in self._specs:
            made: np.ndarray = np.zeros(self._shape(spec), spec.dtype)
            made[self._used(spec, old)] = self.arrays[spec.name]
            self.arrays[spec.name] = made
        self.version += 1

    def select(self, rows: np.ndarray, tokens: int) -> None:
        """Row i becomes what row `rows[i]` was, in its first `tokens` places."""
        rows = np.asarray(rows)
        moved = np.flatnonzero(rows != np.arange(len(rows))) if len(rows) == self.batch else None
        if moved is not None and not len(moved):
            return
        for spec in self._specs:
            used, array = self._used(spec, tokens), self.arrays[spec.name][self._used(spec, tokens)]
            if moved is not None:
                array[moved] = array[rows[moved]]  # what is taken is copied first
            else:
                made: np.ndarray = np.zeros((len(rows), *self._shape(spec)[1:]), spec.dtype)
                made[used] = array[rows]
                self.arrays[spec.name] = made
        if moved is None:
            self.batch = len(rows)
            self.version += 1

    def _shape(self, spec: TensorSpec) -> tuple[int, ...]:
        sizes: Mapping[str, int] = {"batch": self.batch, CAPACITY: self.capacity}
        return tuple([sizes[axis] if isinstance(axis, str) else axis for axis in spec.shape])

    def _used(self, spec: TensorSpec, tokens: int) -> tuple[slice, ...]:
        return tuple([slice(tokens) if axis == CAPACITY else slice(None) for axis in spec.shape])


def needed(tensors: Mapping[str, np.ndarray]) -> tuple[int, int]:
    """Batch and capacity of a cache for one call alone."""
    positions = tensors[POSITIONS]
    return len(positions), int(positions.max()) + 1


class Room(Protocol):
    """What every engine's cache can say of itself."""

    @property
    def batch(self) -> int: ...

    @property
    def capacity(self) -> int: ...


def check_room(cache: Room, tensors: Mapping[str, np.ndarray]) -> None:
    """Raises: UsageError where a call would write beside the cache, which engines do not check."""
    positions = tensors[POSITIONS]
    if positions.max() >= cache.capacity or len(positions) != cache.batch:
        raise UsageError(
            f"Cannot write token {positions.max()} of {len(positions)} texts into the cache.",
            why=f"it holds {cache.capacity} tokens of {cache.batch} texts",
            fix="make room with `hold`, or a cache that holds more",
        )
