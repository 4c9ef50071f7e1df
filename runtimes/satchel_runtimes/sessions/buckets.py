"""Graphs of fixed shapes behind the contract of a session: several lengths, the smallest that fits, pad and slice back.

TFLite signatures and Neuron files are compiled for one shape each. What differs between engines is one callable.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Callable, Optional

import numpy as np

from ..errors import UsageError
from ..manifest import Graph, TensorSpec
from . import Tensors, Used

__all__ = ["Bucket", "BucketSession"]


@dataclass(frozen=True)
class Bucket:
    """One compiled shape: the axes that it fixes (none: it takes any), and a call on arrays of exactly that shape."""

    axes: Mapping[str, int]
    call: Callable[[Mapping[str, np.ndarray]], Tensors]


class BucketSession:
    """Serves any length up to the largest bucket, and any batch in slices of the compiled one."""

    def __init__(self, graph: Graph, buckets: tuple[Bucket, ...], used: Callable[[], Used]) -> None:
        self._graph = graph
        self._used: Optional[Callable[[], Used]] = used
        self._buckets = sorted(buckets, key=lambda bucket: tuple(bucket.axes.values()))
        # Where each dynamic axis is read, once: this is run for every call, and a call may take less than a millisecond.
        self._axes = {
            axis: (spec.name, place)
            for spec in reversed(graph.inputs)
            for place, axis in enumerate(spec.shape)
            if isinstance(axis, str)
        }
        self._dtypes: dict[str, Any] = {spec.name: np.dtype(spec.dtype) for spec in graph.inputs}  # Any: numpy dtypes

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        return self._graph.inputs

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        return self._graph.outputs

    @property
    def used(self) -> Used:
        if self._used is None:
            raise UsageError("Cannot say what runs.", why="the session was closed", fix="load the bundle again")
        return self._used()

    @property
    def largest(self) -> Mapping[str, int]:
        """The largest sizes of the axes that were compiled; none of a graph that takes any."""
        return self._buckets[-1].axes if self._buckets else {}

    def new_state(self, batch: int = 1, capacity: int = 0) -> None:
        return None

    def run(self, tensors: Mapping[str, np.ndarray], state: Optional[object] = None) -> Tensors:
        if not self._buckets:
            raise UsageError("Cannot run the session.", why="it was closed", fix="load the bundle again")
        if not self._buckets[0].axes:  # nothing to pad or slice
            return self._buckets[0].call(tensors)
        sizes = self._sizes(tensors)
        bucket = self._smallest(sizes)
        compiled, batch = bucket.axes.get("batch", sizes.get("batch", 1)), sizes.get("batch", 1)
        slices = [self._slice(tensors, bucket, start, compiled) for start in range(0, batch, compiled)]
        parts = [bucket.call(each) for each in slices]
        return {spec.name: self._joined(spec, [part[spec.name] for part in parts], sizes) for spec in self.outputs}

    def close(self) -> None:
        self._buckets, self._used = [], None  # these hold the engine, and nothing else does

    def _sizes(self, tensors: Mapping[str, np.ndarray]) -> dict[str, int]:
        """The dynamic axes of this call, by name."""
        return {axis: tensors[name].shape[place] for axis, (name, place) in self._axes.items()}

    def _smallest(self, sizes: Mapping[str, int]) -> Bucket:
        for bucket in self._buckets:
            if all(sizes[axis] <= size for axis, size in bucket.axes.items() if axis in sizes and axis != "batch"):
                return bucket
        largest = {axis: size for axis, size in self._buckets[-1].axes.items() if axis != "batch"}
        raise UsageError(
            f"Cannot run an input of {', '.join(f'{axis} {sizes[axis]}' for axis in largest)}.",
            why=f"the graph was compiled for at most {', '.join(f'{axis} {size}' for axis, size in largest.items())}",
            fix="shorten the input, or convert again with a larger --sequence-length",
        )

    def _slice(self, tensors: Mapping[str, np.ndarray], bucket: Bucket, start: int, compiled: int) -> Tensors:
        """Rows `start` and on, padded to the compiled shape with each input's padding value."""
        made = {}
        for spec in self.inputs:
            rows = tensors[spec.name][start : start + compiled]
            dtype = self._dtypes[spec.name]
            shape = tuple(
                [
                    bucket.axes.get(axis, rows.shape[place]) if isinstance(axis, str) else axis
                    for place, axis in enumerate(spec.shape)
                ]
            )
            if rows.shape == shape:
                made[spec.name] = rows if rows.dtype == dtype else rows.astype(dtype)
                continue
            padded: np.ndarray = np.full(shape, spec.padding, dtype) if spec.padding else np.zeros(shape, dtype)
            padded[tuple([slice(size) for size in rows.shape])] = rows
            made[spec.name] = padded
        return made

    def _joined(self, spec: TensorSpec, parts: list[np.ndarray], sizes: Mapping[str, int]) -> np.ndarray:
        whole = parts[0] if len(parts) == 1 else np.concatenate(parts)
        wanted = tuple([slice(sizes.get(axis)) if isinstance(axis, str) else slice(None) for axis in spec.shape])
        result: np.ndarray = whole[wanted]
        return result
