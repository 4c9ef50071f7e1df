"""Decoders in graphs of one text and of fixed sizes: a prompt is read in pieces, and a cache grows from one capacity to the next.

What differs between engines is where the cache of a text lies, and how a graph is called.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Generic, Optional, TypeVar

import numpy as np

from ..errors import UsageError
from ..manifest import Graph, TensorSpec
from . import Tensors, Used
from .cache import CAPACITY, POSITIONS, WINDOW_POSITIONS, check_room, needed

__all__ = ["KeptRow", "StaticDecoder", "StaticTexts", "fixed_shape", "widened"]


class KeptRow:
    """The cache of one text at one capacity, where the engine keeps it."""

    def __init__(self) -> None:
        # What else every call reads, such as what an encoder found: the caller's array, and the engine's own of it. Any: as above
        self.given: dict[str, tuple[np.ndarray, Any]] = {}


Row = TypeVar("Row", bound=KeptRow)


class StaticTexts(Generic[Row]):
    """The caches of a batch. It has `hold` and `select` as `Cache` has them."""

    def __init__(self, session: StaticDecoder[Row], batch: int, capacity: int) -> None:
        self.wanted: Optional[Collection[str]] = None  # as of `Cache`; all are computed
        self._session = session
        # It grows: what a text may come to have is more often than not what the model can hold.
        self.graph, self.most = session.graph_of(1), capacity
        self.rows = [session.new_row(self.graph) for _ in range(batch)]

    @property
    def batch(self) -> int:
        return len(self.rows)

    @property
    def capacity(self) -> int:
        return self.graph.bind[CAPACITY]

    @property
    def nbytes(self) -> int:
        """Each text's cache, and that which a call writes."""
        own = sum(int(np.prod(fixed_shape(spec, self.graph.bind))) for spec in self.graph.caches) * 4
        return 2 * own * self.batch

    def hold(self, tokens: int) -> None:
        if tokens <= self.capacity:
            return
        graph = self._session.graph_of(tokens)
        self.rows = [self._session.copied(row, self.graph, graph) for row in self.rows]
        self.graph = graph

    def select(self, rows: np.ndarray, tokens: int) -> None:
        taken: set[int] = set()
        made = []
        for row in map(int, rows):  # the first to go on from a text takes its cache, others a copy
            made.append(
                self._session.copied(self.rows[row], self.graph, self.graph) if row in taken else self.rows[row]
            )
            taken.add(row)
        self.rows = made


class StaticDecoder(ABC, Generic[Row]):
    """A session over graphs that fix the tokens of a call and the capacity of the cache; `Row` is an engine's cache of one text."""

    def __init__(self, graphs: Sequence[Graph], used: Used) -> None:
        self._graphs = sorted(graphs, key=lambda graph: (graph.bind[CAPACITY], graph.bind["sequence"]))
        self.longest = self._graphs[-1].bind[CAPACITY]  # tokens of a text
        self._lock = threading.Lock()  # the buffers of a graph belong to one call at a time
        self.used = used
        self.inputs, self.outputs = graphs[0].given, graphs[0].answered

    @abstractmethod
    def new_row(self, graph: Graph) -> Row:
        """An empty cache of one text, as a graph reads it."""

    @abstractmethod
    def copied(self, row: Row, old: Graph, graph: Graph) -> Row:
        """A cache that holds the same in the places of another graph, which are as many or more."""

    @abstractmethod
    def placed(self, array: np.ndarray, spec: TensorSpec, graph: Graph, row: Row, earlier: Any) -> Any:
        """An input that stays the same from call to call, where the engine reads it; `earlier` is what it had in its place."""

    @abstractmethod
    def call(self, graph: Graph, row: Row, small: Tensors) -> Tensors:
        """One call on a text: `small` with its batch of one, what `row` has been given, and its cache, which it goes on with."""

    @abstractmethod
    def close(self) -> None: ...

    def graph_of(self, tokens: int) -> Graph:
        """The smallest that holds so many tokens; its steps are of one.

        Raises:
            UsageError: there is none.
        """
        fits = [graph for graph in self._graphs if graph.bind[CAPACITY] >= tokens]
        if not fits:
            raise UsageError(
                f"Cannot hold {tokens} tokens.",
                why=f"the graph was compiled for at most {self.longest} in all",
                fix="shorten the text, or convert again with a larger --sequence-length",
            )
        return fits[0]

    def new_state(self, batch: int = 1, capacity: int = 0) -> StaticTexts[Row]:
        return StaticTexts(self, batch, capacity)

    def run(self, tensors: Mapping[str, np.ndarray], state: Optional[StaticTexts[Row]] = None) -> Tensors:
        texts = state or StaticTexts(self, *needed(tensors))
        texts.hold(min(int(tensors[POSITIONS].max()) + 1, texts.most))
        check_room(texts, tensors)
        with self._lock:
            rows = self.run_rows(texts, tensors)
        return {spec.name: np.stack([row[spec.name] for row in rows]) for spec in self.outputs}

    def run_rows(self, texts: StaticTexts[Row], tensors: Mapping[str, np.ndarray]) -> list[Tensors]:
        return [self.run_row(texts, row, tensors) for row in range(texts.batch)]

    def run_row(self, texts: StaticTexts[Row], number: int, tensors: Mapping[str, np.ndarray]) -> Tensors:
        """Outputs of one text's tokens, without the batch axis."""
        ids, first = tensors["input_ids"][number], int(tensors[POSITIONS][number, 0])
        wanted = tensors["logits_positions"][number].tolist()
        row = texts.rows[number]
        found: dict[int, Tensors] = {}
        start = 0
        for graph in self._pieces(texts.capacity, len(ids), len(set(wanted)) > 1):
            length = graph.bind["sequence"]
            part = ids[start : start + length]
            place = next((each - start for each in wanted if start <= each < start + length), 0)
            padded: np.ndarray = np.zeros((1, length), np.int64)
            padded[0, : len(part)] = part
            positions = (first + start + np.arange(length))[None]
            small = {"input_ids": padded, POSITIONS: positions, "logits_positions": np.array([[place]])}
            if any(spec.name == WINDOW_POSITIONS for spec in graph.given):
                small[WINDOW_POSITIONS] = positions  # the graph has places for all, so nothing is left behind
            self._give(graph, row, small, tensors, number)
            dtypes = {spec.name: spec.dtype for spec in graph.given}
            outputs = self.call(graph, row, {name: each.astype(dtypes[name]) for name, each in small.items()})
            found[start + place] = {spec.name: outputs[spec.name][0, 0] for spec in self.outputs}
            start += length
        return {spec.name: np.stack([found[each][spec.name] for each in wanted]) for spec in self.outputs}

    def _give(self, graph: Graph, row: Row, small: Tensors, tensors: Mapping[str, np.ndarray], number: int) -> None:
        for spec in graph.given:
            if spec.name in small:
                continue
            array, held = tensors[spec.name], row.given.get(spec.name)
            if held is None or held[0] is not array:  # what an encoder found is the same for every token
                whole = _filled(array[number], spec, graph.bind)
                row.given[spec.name] = array, self.placed(whole, spec, graph, row, held[1] if held else None)

    def _pieces(self, capacity: int, tokens: int, each: bool) -> list[Graph]:
        """The graphs that read so many tokens: one by one at the end, and where each is to be answered."""
        step, *more = [graph for graph in self._graphs if graph.bind[CAPACITY] == capacity]
        if each or not more:
            return [step] * tokens
        piece = more[0]
        size = piece.bind["sequence"]
        whole, rest = divmod(tokens, size)
        return [piece] * (whole + (rest > 1)) + [step] * (rest == 1)


def fixed_shape(spec: TensorSpec, bind: Mapping[str, int]) -> tuple[int, ...]:
    return tuple([bind[axis] if isinstance(axis, str) else axis for axis in spec.shape])


def widened(array: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """The same in the first places of a larger shape, and zeros."""
    made: np.ndarray = np.zeros(shape, array.dtype)
    made[tuple(slice(size) for size in array.shape)] = array
    return made


def _filled(array: np.ndarray, spec: TensorSpec, bind: Mapping[str, int]) -> np.ndarray:
    """One row at the compiled sizes, with the padding behind it.

    Raises:
        UsageError: it is longer.
    """
    shape = fixed_shape(spec, bind)[1:]
    if any(size > most for size, most in zip(array.shape, shape)):
        raise UsageError(
            f"Cannot read {spec.name} of {list(array.shape)}.",
            why=f"the graph was compiled for at most {list(shape)}",
            fix="shorten the input, or convert again with a larger --sequence-length",
        )
    return widened(array.astype(spec.dtype, copy=False), shape)
