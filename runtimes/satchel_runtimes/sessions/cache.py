"""The cache of a decoder: keys and values of the tokens so far, in arrays that a graph writes in place.

A token's place in the arrays is its position in the text. So texts of different lengths stand side by side without holes,
what a rejected token left is written over by the next one at its place, and nothing is moved to add one.

Layers that see the last tokens alone, those of a sliding window, have places for two windows and some. There a token's place is its
position less what the text has left behind; when the places are full, the last window moves to the front.
"""

from __future__ import annotations

import copy
import mmap
from collections.abc import Collection, Mapping, Sequence
from typing import Optional, Protocol

import numpy as np

from ..errors import UsageError
from ..manifest import TensorSpec

__all__ = ["CAPACITY", "POSITIONS", "WINDOW_CAPACITY", "WINDOW_POSITIONS", "Cache", "check_room", "needed"]

CAPACITY = "capacity"  # the axis of cache tensors that tokens lie along
POSITIONS = "position_ids"  # the input that says where a token is written
# The same of layers with a sliding window.
WINDOW_CAPACITY, WINDOW_POSITIONS = "window_capacity", "window_positions"
_BACK = 32  # tokens that a text may forget, beyond which its window may have moved
_SPARE = 96  # places beside two windows
_HUGE = 1 << 20  # bytes of an array in which numpy and the system may use huge pages


class Cache:
    """What a session keeps between the calls for one batch of texts; it belongs to one thread at a time.

    `arrays` are the graph's cache inputs by name, [batch, …, capacity, …]. New ones are zeros that the system has only promised:
    memory is taken as it is written.

    Args:
        window: tokens that the layers with a sliding window see; None where there are none.
    """

    def __init__(self, specs: Sequence[TensorSpec], batch: int, capacity: int, window: Optional[int] = None) -> None:
        self._specs = tuple(specs)
        self.batch, self.capacity, self.window = batch, capacity, window
        self.left: np.ndarray = np.zeros(
            batch, dtype=np.int64
        )  # of each text, tokens that its windows have left behind
        self.arrays: dict[str, np.ndarray] = {
            spec.name: _promised(self._shape(spec), spec.dtype) for spec in self._specs
        }
        self.version = 0  # counts the times that arrays were exchanged
        self.wanted: Optional[Collection[str]] = None  # outputs of the next calls; an engine may answer with more

    @property
    def nbytes(self) -> int:
        return sum(each.nbytes for each in self.arrays.values())

    @property
    def room(self) -> int:
        """Places of the layers with a sliding window."""
        return self.capacity if self.window is None else min(self.capacity, 2 * self.window + _SPARE)

    @property
    def back(self) -> int:
        """Tokens that `keep` of a text may take back."""
        return self.capacity if self.room == self.capacity else _BACK

    @property
    def most(self) -> int:
        """Tokens that one call may read."""
        return self.capacity if self.window is None else self.room - self._behind

    @property
    def _behind(self) -> int:
        """Tokens before the next one that are kept when a window moves."""
        return (self.window or 1) - 1 + _BACK

    def hold(self, tokens: int) -> None:
        """Make room for so many tokens in all; at least double, so that a long text is copied few times."""
        if tokens <= self.capacity:
            return
        old = self.capacity, self.room
        self.capacity = max(tokens, 2 * self.capacity)
        for spec in self._specs:
            used = self._used(spec, *old)
            if self._shape(spec) != self.arrays[spec.name].shape:
                made = _promised(self._shape(spec), spec.dtype)
                made[used] = self.arrays[spec.name]
                self.arrays[spec.name] = made
        self.version += 1

    def places(self, positions: np.ndarray) -> np.ndarray:
        """Where the layers with a sliding window write the tokens at `positions`, [batch, tokens], each row in a run. Makes room
        for them.

        Raises:
            UsageError: a text forgot more tokens than `back`.
        """
        starts, count = positions[:, 0], positions.shape[1]
        self.left[starts == 0] = 0
        for row in np.flatnonzero(self.left > np.maximum(starts - (self.window or 1) + 1, 0)):
            raise UsageError(
                f"Cannot go back to token {starts[row]}.",
                why=f"layers that see {self.window} tokens have left those before it behind",
                fix=f"go back {self.back} tokens at most, or read the text again",
            )
        for row in np.flatnonzero(starts - self.left + count > self.room):
            first, end = int(starts[row]) - self._behind - int(self.left[row]), int(starts[row] - self.left[row])
            for spec in self._specs:
                if WINDOW_CAPACITY in spec.shape:
                    lines = np.moveaxis(self.arrays[spec.name][row], spec.shape.index(WINDOW_CAPACITY) - 1, 0)
                    lines[: end - first] = lines[first:end]
            self.left[row] += first
        found: np.ndarray = positions - self.left[:, None]
        return found

    def row(self, number: int) -> Cache:
        """The cache of one text, in the same memory."""
        made = copy.copy(self)
        made.batch, made.left = 1, self.left[number : number + 1]
        made.arrays = {name: array[number : number + 1] for name, array in self.arrays.items()}
        return made

    def select(self, rows: np.ndarray, tokens: int) -> None:
        """Row i becomes what row `rows[i]` was, in its first `tokens` places."""
        rows = np.asarray(rows)
        moved = np.flatnonzero(rows != np.arange(len(rows))) if len(rows) == self.batch else None
        if moved is not None and not len(moved):
            return
        for spec in self._specs:
            used = self._used(spec, tokens, min(tokens, self.room))
            array = self.arrays[spec.name][used]
            if moved is not None:
                array[moved] = array[rows[moved]]  # what is taken is copied first
            else:
                made = _promised((len(rows), *self._shape(spec)[1:]), spec.dtype)
                made[used] = array[rows]
                self.arrays[spec.name] = made
        self.left = self.left[rows]
        if moved is None:
            self.batch = len(rows)
            self.version += 1

    def _shape(self, spec: TensorSpec) -> tuple[int, ...]:
        sizes: Mapping[str, int] = {"batch": self.batch, CAPACITY: self.capacity, WINDOW_CAPACITY: self.room}
        return tuple([sizes[axis] if isinstance(axis, str) else axis for axis in spec.shape])

    def _used(self, spec: TensorSpec, tokens: int, near: int) -> tuple[slice, ...]:
        """The first `tokens` places, or the first `near` of a sliding window."""
        ends = {CAPACITY: tokens, WINDOW_CAPACITY: near}
        return tuple([slice(ends.get(axis)) if isinstance(axis, str) else slice(None) for axis in spec.shape])


def _promised(shape: tuple[int, ...], dtype: str) -> np.ndarray:
    """Zeros that take memory as they are written, by pages of 4 KiB. numpy asks for pages of 2 MiB where an array is large, and one
    of those goes to the first token of each head."""
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    if size < _HUGE or not hasattr(mmap, "MADV_NOHUGEPAGE"):
        made: np.ndarray = np.zeros(shape, dtype)
        return made
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory.madvise(mmap.MADV_NOHUGEPAGE)
    promised: np.ndarray = np.frombuffer(memory, dtype).reshape(shape)
    return promised


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
