"""Decoders on Neuron: the caches of texts lie in device memory, go into each call as its inputs, and are what comes out of it.

The vendor documents two ways to keep state there. Aliases of trace's `input_output_aliases` are of one text and one graph: they belong
to what was traced, a prompt's graph cannot hand them to that of a step, nor a beam to another. Tensors on the device as inputs can be
handed on, so it is these. Verified by contract, not on hardware.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Optional

import numpy as np

from ..errors import SupportError, UsageError
from ..manifest import Graph, TensorSpec
from ..neuron_cores import ALLOCATOR
from ..toolchain import need
from . import Tensors, Used
from .static_decoder import KeptRow, StaticDecoder, StaticTexts, fixed_shape, widened

__all__ = ["NeuronDecoder"]


class _Row(KeptRow):
    """`past` are tensors on the device of the core that the text is written on."""

    def __init__(self, core: int, past: Mapping[str, Any]) -> None:
        super().__init__()
        self.core, self.past = core, dict(past)


class NeuronDecoder(StaticDecoder[_Row]):
    """Texts take turns on the cores, and stay where they began.

    Args:
        copies: of each core, what torch calls it and the loaded graphs by file.
    """

    def __init__(
        self,
        graphs: Sequence[Graph],
        copies: Sequence[tuple[str, Mapping[str, Any]]],  # Any: scripts
        used: Used,
        places: tuple[int, ...],
    ) -> None:
        super().__init__(graphs, used)
        self._torch = need("torch", to="run a compiled graph", install="it comes with the vendor's packages")
        self._copies, self._places = list(copies), places
        self._turn = itertools.count()
        self._locks = [threading.Lock() for _ in copies]
        self._pool: Optional[ThreadPoolExecutor] = None
        if len(copies) > 1:
            self._pool = ThreadPoolExecutor(len(copies), "neuron")

    def new_row(self, graph: Graph) -> _Row:
        core = next(self._turn) % len(self._open())
        return self._filled(core, graph, {})

    def copied(self, row: _Row, old: Graph, graph: Graph) -> _Row:
        if old.file == graph.file:  # a call makes a new cache and leaves the one that it read
            made = _Row(row.core, row.past)
            made.given = dict(row.given)
            return made
        return self._filled(row.core, graph, {name: each.cpu().numpy() for name, each in row.past.items()})

    def placed(self, array: np.ndarray, spec: TensorSpec, graph: Graph, row: _Row, earlier: Any) -> Any:
        return self._sent(array[None], row.core)

    def call(self, graph: Graph, row: _Row, small: Tensors) -> Tensors:
        device, loaded = self._open()[row.core]
        there = {name: self._sent(array, row.core) for name, array in small.items()}
        there.update((name, each) for name, (_, each) in row.given.items())
        there.update(row.past)
        with self._torch.no_grad():
            found = loaded[graph.file](*[there[spec.name] for spec in graph.inputs])
        made = {spec.name: value for spec, value in zip(graph.outputs, found)}
        row.past = {name: made[output] for name, output in graph.state.items()}
        self._check(row, device)
        return {spec.name: made[spec.name].cpu().numpy() for spec in self.outputs}

    def run_rows(self, texts: StaticTexts[_Row], tensors: Mapping[str, np.ndarray]) -> list[Tensors]:
        self._open()
        rows: dict[int, list[int]] = {}
        for number, row in enumerate(texts.rows):
            rows.setdefault(row.core, []).append(number)

        def on(core: int) -> dict[int, Tensors]:
            with self._locks[core]:
                return {number: self.run_row(texts, number, tensors) for number in rows[core]}

        found: dict[int, Tensors] = {}
        for part in self._pool.map(on, rows) if self._pool is not None and len(rows) > 1 else map(on, rows):
            found.update(part)
        return [found[number] for number in range(texts.batch)]

    def close(self) -> None:
        if self._pool is not None:
            self._pool.shutdown()
        ALLOCATOR.give_back(self._places)
        self._copies, self._places, self._pool = [], (), None

    def _open(self) -> list[tuple[str, Mapping[str, Any]]]:
        if not self._copies:
            raise UsageError("Cannot run the session.", why="it was closed", fix="load the bundle again")
        return self._copies

    def _filled(self, core: int, graph: Graph, held: Mapping[str, np.ndarray]) -> _Row:
        past = {}
        for spec in graph.caches:
            nothing: np.ndarray = np.zeros(0, spec.dtype)
            old = held.get(spec.name, nothing.reshape((0,) * len(spec.shape)))
            past[spec.name] = self._sent(widened(old, fixed_shape(spec, graph.bind)), core)
        return _Row(core, past)

    def _sent(self, array: np.ndarray, core: int) -> Any:
        return self._torch.from_numpy(np.ascontiguousarray(array)).to(self._copies[core][0])

    def _check(self, row: _Row, device: str) -> None:
        """Raises: SupportError where the cache has left the device, and each token would carry it there and back."""
        here = next((name for name, each in row.past.items() if str(each.device) != device), None)
        if here is not None:
            raise SupportError(
                "Cannot keep the cache on the device.",
                why=f"all inputs lay on {device}, and the graph gave {here} back on {row.past[here].device}",
                fix="run it with the torch-neuronx that the bundle names",
            )
