"""Nearest neighbours of embeddings: semantic search, and classification by a few labelled examples, on a device.

    index = build(model.predict(texts), texts)
    index.save("answers.index")
    open_index("answers.index").query(model.predict("Where is my order?"), k=3)

Exact search is one product in numpy. For hundreds of thousands of vectors `approximate=True` takes the HNSW graph of faiss
(Malkov and Yashunin, 2018, https://arxiv.org/abs/1603.09320), which the extra "index" brings.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional, Union

import numpy as np

from .errors import IntegrityError, UsageError
from .tensors import pack_tensors, unpack_tensors
from .toolchain import need

__all__ = ["Index", "Neighbour", "build", "open_index"]

_VALUES = 16_000_000  # similarities at a time: 64 MB
_LINKS, _BUILD, _SEARCH = 32, 128, 128  # of the HNSW graph: links of a vector, candidates when built and when asked


@dataclass(frozen=True)
class Neighbour:
    """One vector that was found."""

    place: int  # in the order in which it was given
    similarity: float  # cosine, -1 to 1
    item: Any  # what was kept with it; its place where nothing was


class Index:
    """Vectors of length one with an item each; made by `build` and `open_index`. Several threads may query it."""

    def __init__(self, vectors: np.ndarray, items: Optional[Sequence[Any]], graph: Any = None) -> None:
        self._vectors, self._items, self._graph = vectors, items, graph

    def __len__(self) -> int:
        return len(self._vectors)

    @property
    def width(self) -> int:
        return int(self._vectors.shape[1])

    def query(self, embeddings: Any, k: int = 5) -> list[Any]:
        """The `k` nearest of one embedding, or a list of them for each of several; fewer where the index has fewer.

        Args:
            embeddings: float [width] or [queries, width], or a list of the former.

        Returns:
            `list[Neighbour]`, most similar first, equals in the order in which they were given; for several a list of these.

        Raises:
            UsageError: another width, values that are not finite, a vector of zeros, or `k` below 1.
        """
        if isinstance(k, bool) or not isinstance(k, int) or k < 1:
            raise UsageError(f"Cannot look for {k!r} neighbours.", why="k is a whole number from 1", fix="give k=5")
        asked = np.asarray(embeddings)
        unit = _unit(asked[None] if asked.ndim == 1 else asked, self.width)
        nearest = self._approximate if self._graph is not None else self._exact
        found = [
            [Neighbour(int(place), float(like), self._item(int(place))) for like, place in zip(*row) if place >= 0]
            for row in nearest(unit, min(k, len(self)))
        ]
        return found[0] if asked.ndim == 1 else found

    def classify(self, embeddings: Any, k: int = 5) -> list[Any]:
        """Labels by the nearest examples, where the items are labels: each votes with its similarity.

        Returns:
            `[{"label", "score"}]`, best first, as text-classification gives it with `top_k=None`; scores add to 1 over
            the labels among the `k` nearest. For several embeddings a list of these.

        Raises:
            UsageError: as `query` does.
        """
        found = self.query(embeddings, k)
        if np.ndim(embeddings) == 1:
            return _votes(found)
        return [_votes(each) for each in found]

    def save(self, path: Union[str, Path]) -> None:
        """Write one file, whole or not at all.

        Raises:
            UsageError: JSON has no form for an item.
        """
        try:
            items = json.dumps(self._items, ensure_ascii=False).encode()
        except (TypeError, ValueError) as error:
            raise UsageError(
                f"Cannot write {path}.",
                why=f"an item is nothing that JSON can hold: {error}",
                fix="keep strings, numbers, lists or mappings with the vectors, or the key of a database of yours",
            ) from None
        tensors = {"vectors": self._vectors, "items": np.frombuffer(items, np.uint8)}
        if self._graph is not None:
            tensors["graph"] = _faiss().serialize_index(self._graph)
        body = pack_tensors(tensors)
        path = Path(path)
        handle, half = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        try:
            with os.fdopen(handle, "wb") as stream:
                stream.write(hashlib.sha256(body).digest() + body)
            os.replace(half, path)
        except BaseException:
            os.unlink(half)
            raise

    def _item(self, place: int) -> Any:
        return place if self._items is None else self._items[place]

    def _exact(self, unit: np.ndarray, k: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        rows = max(1, _VALUES // len(self))
        for start in range(0, len(unit), rows):
            for likes in unit[start : start + rows] @ self._vectors.T:
                least = np.partition(likes, -k)[-k]
                places = np.flatnonzero(likes >= least)  # in their order, so that of equals the first ones stay
                places = places[np.argsort(-likes[places], kind="stable")[:k]]
                yield likes[places], places

    def _approximate(self, unit: np.ndarray, k: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        # The number of candidates belongs to the call, not to the graph, which several threads share.
        wanted = _faiss().SearchParametersHNSW(efSearch=max(_SEARCH, k))
        yield from zip(*self._graph.search(unit, k, params=wanted))


def build(embeddings: Any, items: Optional[Sequence[Any]] = None, *, approximate: bool = False) -> Index:
    """Index some embeddings.

    Args:
        embeddings: float [vectors, width], or a list of arrays [width], as `predict` of sentence-embedding returns them.
        items: what `query` gives back, one per vector: texts, labels, keys.
        approximate: a graph in place of the exact search; it misses a neighbour now and then.

    Raises:
        UsageError: no vectors, values that are not finite, a vector of zeros, or another number of items.
        ToolchainError: `approximate` without faiss.
    """
    vectors = _unit(np.asarray(embeddings))
    if items is not None and len(items) != len(vectors):
        raise UsageError(
            "Cannot build an index.",
            why=f"there are {len(vectors)} vectors and {len(items)} items",
            fix="give one item for each vector",
        )
    graph = None
    if approximate:
        faiss = _faiss()
        graph = faiss.IndexHNSWFlat(vectors.shape[1], _LINKS, faiss.METRIC_INNER_PRODUCT)
        graph.hnsw.efConstruction = _BUILD
        graph.add(vectors)
    return Index(vectors, None if items is None else list(items), graph)


def open_index(path: Union[str, Path]) -> Index:
    """Read what `Index.save` wrote. The graph of an approximate one is read by faiss: open those of a source that you trust.

    Raises:
        UsageError: no such file.
        IntegrityError: it is damaged, or something else.
        ToolchainError: it is approximate, and faiss is not installed.
    """
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise UsageError(f"Cannot open {path}.", why=str(error.strerror), fix="give a file that save wrote") from None
    if hashlib.sha256(data[32:]).digest() != data[:32]:
        raise IntegrityError(
            f"Cannot open {path}.", why="its content does not have its checksum", fix="build and save the index again"
        )
    tensors = unpack_tensors(data[32:], str(path))
    graph = _faiss().deserialize_index(tensors["graph"]) if "graph" in tensors else None
    return Index(tensors["vectors"], json.loads(tensors["items"].tobytes()), graph)


def _faiss() -> Any:  # Any: a module without types
    return need("faiss", extra="index", to="search approximately")


def _unit(vectors: np.ndarray, width: Optional[int] = None) -> np.ndarray:
    """float32 [vectors, width] of length one."""
    if vectors.ndim != 2 or not vectors.size or vectors.dtype.kind not in "fiu":
        why = f"they have shape {list(vectors.shape)} and type {vectors.dtype}; numbers in [vectors, width] are needed"
    elif width not in (None, vectors.shape[1]):
        why = f"they are {vectors.shape[1]} wide, those of the index {width}"
    elif not np.isfinite(vectors).all():
        why = "a value is not finite"
    else:
        lengths = np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)
        if lengths.all():
            unit: np.ndarray = np.ascontiguousarray(vectors / lengths, np.float32)
            return unit
        why = f"vector {int(np.argmin(lengths))} is all zeros, so it has no direction"
    raise UsageError("Cannot compare embeddings.", why=why, fix="give the arrays that sentence-embedding returns")


def _votes(found: Sequence[Neighbour]) -> list[dict[str, Any]]:
    votes: dict[Any, float] = defaultdict(float)
    for each in found:
        votes[each.item] += max(each.similarity, 0.0)
    total = sum(votes.values())
    scores = [(label, vote / total if total else 1 / len(votes)) for label, vote in votes.items()]
    return [{"label": label, "score": score} for label, score in sorted(scores, key=lambda each: -each[1])]
