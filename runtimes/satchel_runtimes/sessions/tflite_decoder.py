"""Decoders in LiteRT: graphs of one text, of fixed lengths of a prompt's piece and of a cache, whose cache never leaves the engine.

Each call reads the cache in one set of the engine's buffers and writes it into another, and the two change places.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Optional

import numpy as np

from ..bundle import Bundle
from ..errors import SupportError, ToolchainError, UsageError
from ..manifest import Graph, TensorSpec
from ..toolchain import need
from . import SessionOptions, Tensors, Used
from .cache import CAPACITY, POSITIONS, check_room, needed

__all__ = ["check_engine", "open_decoder"]


def open_decoder(bundle: Bundle, graphs: Sequence[Graph], wanted: SessionOptions, version: str) -> _TfliteDecoder:
    """Raises: SupportError for an engine that refuses the graph, UsageError for a delegate that it cannot take here."""
    to = f"run the bundle {bundle.path}"
    if wanted.delegate not in (None, "xnnpack", "none"):
        raise UsageError(
            f"Cannot use the delegate {wanted.delegate!r}.",
            why="a model that writes keeps its cache in the engine's own buffers",
            fix="leave the delegate out",
        )
    models = need("ai_edge_litert.compiled_model", extra="tflite", to=to)
    options = need("ai_edge_litert.options", extra="tflite", to=to)
    kernels = need("ai_edge_litert.cpu_kernel_mode", extra="tflite", to=to).CpuKernelMode
    mode = kernels.BUILTIN if wanted.delegate == "none" else kernels.XNNPACK
    chosen = options.CpuOptions(num_threads=wanted.threads or 0, kernel_mode=mode)
    file = graphs[0].file
    path = bundle.file(file)
    try:
        model = _made(models, str(path) if path else bundle.read(file), options.Options(cpu_options=chosen), to)
    except (RuntimeError, ValueError) as error:
        raise SupportError(
            f"Cannot run {file} of the bundle {bundle.path}.",
            why=f"ai-edge-litert {version} refuses it: {str(error).strip().splitlines()[0][:300]}",
            fix="update ai-edge-litert on this device, or convert again for this engine",
        ) from None
    unknown = [graph.entry for graph in graphs if graph.entry not in model.get_signature_list()]
    if unknown:
        raise SupportError(
            f"Cannot load {file} of the bundle {bundle.path}.",
            why=f"it has no signature {unknown[0]!r}, which the manifest names",
            fix="convert the model again",
        )
    delegate = "xnnpack" if mode == kernels.XNNPACK else None
    used: Used = {"engine": f"ai-edge-litert {version}", "threads": wanted.threads, "delegate": delegate}
    return _TfliteDecoder(graphs, model, used)


_environments: list[Any] = []  # the one of this process
_making = threading.Lock()


def _made(models: Any, given: Any, options: Any, to: str) -> Any:  # Any: as above
    """A model of a path or of a file's bytes.

    LiteRT says on stderr which accelerators it finds, and again when its registry goes, and has no switch for that. So a model is
    made unheard, and the registry is one for the process, never freed.
    """
    package = need("ai_edge_litert.environment", extra="tflite", to=to)
    with _making, _unheard():
        if not _environments:
            made = package.Environment.create(options=package.EnvironmentOptions())
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(made))
            _environments.append(made)
        start = models.CompiledModel.from_buffer if isinstance(given, bytes) else models.CompiledModel.from_file
        model = start(given, environment=_environments[0], options=options)
        for (
            entry,
            names,
        ) in model.get_signature_list().items():  # the first buffer that is written makes another registry
            buffer = model.create_input_buffer_by_name(entry, names["inputs"][0])
            details = buffer.get_tensor_details()
            buffer.write(np.zeros(details["shape"], details["dtype"]))
            break
        return model


@contextlib.contextmanager
def _unheard() -> Iterator[None]:
    kept, nothing = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nothing, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nothing)


def check_engine(name: str, bundle: Bundle) -> None:
    """Raises: ToolchainError for the old runtime, which keeps nothing between calls."""
    if name != "ai-edge-litert":
        raise ToolchainError(
            f"Cannot run the bundle {bundle.path}.",
            why=f"a model that writes needs ai-edge-litert, and this device has {name}",
            fix="pip install ai-edge-litert",
        )


class _Row:
    """The cache of one text at one capacity: what a call reads, and what it writes, by the graph's names."""

    def __init__(self, model: Any, graph: Graph) -> None:
        self.past = {name: model.create_input_buffer_by_name(graph.entry, name) for name in graph.state}
        self.present = {name: model.create_output_buffer_by_name(graph.entry, name) for name in graph.state.values()}
        self.given: dict[str, Any] = {}  # what else every call reads: the array, and its buffer
        for spec in graph.caches:
            self.past[spec.name].write(np.zeros(_shape(spec, graph.bind), spec.dtype))

    def flip(self, graph: Graph) -> None:
        for name, output in graph.state.items():
            self.past[name], self.present[output] = self.present[output], self.past[name]


class _Texts:
    """The caches of a batch. It has `hold` and `select` as `Cache` has them."""

    def __init__(self, session: _TfliteDecoder, batch: int, capacity: int) -> None:
        self._session = session
        # It grows: what a text may come to have is more often than not what the model can hold.
        self.graph, self.most = session.graph_of(1), capacity
        self.rows = [_Row(session.model, self.graph) for _ in range(batch)]

    @property
    def batch(self) -> int:
        return len(self.rows)

    @property
    def capacity(self) -> int:
        return self.graph.bind[CAPACITY]

    @property
    def nbytes(self) -> int:
        own = sum(int(np.prod(_shape(spec, self.graph.bind))) for spec in self.graph.caches) * 4
        return 2 * own * self.batch

    def hold(self, tokens: int) -> None:
        if tokens <= self.capacity:
            return
        graph = self._session.graph_of(tokens)
        self.rows = [self._copied(row, graph) for row in self.rows]
        self.graph = graph

    def select(self, rows: np.ndarray, tokens: int) -> None:
        taken: set[int] = set()
        made = []
        for row in map(int, rows):  # the first to go on from a text takes its buffers, others a copy
            made.append(self._copied(self.rows[row], self.graph) if row in taken else self.rows[row])
            taken.add(row)
        self.rows = made

    def _copied(self, row: _Row, graph: Graph) -> _Row:
        made = _Row(self._session.model, graph)
        for spec in self.graph.caches:
            shape = _shape(spec, self.graph.bind)
            held = row.past[spec.name].read(int(np.prod(shape)), np.dtype(spec.dtype).type).reshape(shape)
            wide: np.ndarray = np.zeros(_shape(spec, graph.bind), spec.dtype)
            wide[tuple(slice(size) for size in shape)] = held
            made.past[spec.name].write(wide)
        return made


class _TfliteDecoder:
    def __init__(self, graphs: Sequence[Graph], model: Any, used: Used) -> None:
        self._graphs = sorted(graphs, key=lambda graph: (graph.bind[CAPACITY], graph.bind["sequence"]))
        self.longest = self._graphs[-1].bind[CAPACITY]  # tokens of a text
        self._model: Optional[Any] = model
        self._lock = threading.Lock()  # the buffers of a signature belong to one call at a time
        self._buffers: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {}  # by signature: what goes in and comes out
        self.used = used
        self.inputs, self.outputs = graphs[0].given, graphs[0].answered

    @property
    def model(self) -> Any:
        if self._model is None:
            raise UsageError("Cannot run the session.", why="it was closed", fix="load the bundle again")
        return self._model

    def graph_of(self, tokens: int) -> Graph:
        """The smallest that holds so many tokens; its steps are of one.

        Raises:
            UsageError: there is none.
        """
        fits = [graph for graph in self._graphs if graph.bind[CAPACITY] >= tokens]
        if not fits:
            most = self._graphs[-1].bind[CAPACITY]
            raise UsageError(
                f"Cannot hold {tokens} tokens.",
                why=f"the graph was compiled for at most {most} in all",
                fix="shorten the text, or convert again with a larger --sequence-length",
            )
        return fits[0]

    def new_state(self, batch: int = 1, capacity: int = 0) -> _Texts:
        return _Texts(self, batch, capacity)

    def run(self, tensors: Mapping[str, np.ndarray], state: Optional[_Texts] = None) -> Tensors:
        texts = state or _Texts(self, *needed(tensors))
        texts.hold(min(int(tensors[POSITIONS].max()) + 1, texts.most))
        check_room(texts, tensors)  # type: ignore[arg-type]  # asks for capacity and batch alone
        with self._lock:
            rows = [self._row(texts, row, tensors) for row in range(texts.batch)]
        return {spec.name: np.stack([row[spec.name] for row in rows]) for spec in self.outputs}

    def _row(self, texts: _Texts, row: int, tensors: Mapping[str, np.ndarray]) -> Tensors:
        """Outputs of one text's tokens, without the batch axis."""
        ids, first = tensors["input_ids"][row], int(tensors[POSITIONS][row, 0])
        wanted = tensors["logits_positions"][row].tolist()
        found: dict[int, Tensors] = {}
        pieces = self._pieces(texts.graph.bind[CAPACITY], len(ids), len(set(wanted)) > 1)
        start = 0
        for graph in pieces:
            length = graph.bind["sequence"]
            part = ids[start : start + length]
            place = next((each - start for each in wanted if start <= each < start + length), 0)
            padded: np.ndarray = np.zeros((1, length), np.int32)
            padded[0, : len(part)] = part
            positions = (first + start + np.arange(length, dtype=np.int32))[None]
            small = {"input_ids": padded, POSITIONS: positions, "logits_positions": np.array([[place]], np.int32)}
            found[start + place] = self._call(graph, texts.rows[row], small, tensors, row)
            start += length
        return {spec.name: np.stack([found[each][spec.name] for each in wanted]) for spec in self.outputs}

    def _pieces(self, capacity: int, tokens: int, each: bool) -> list[Graph]:
        """The signatures that read so many tokens: one by one at the end, and where each is to be answered."""
        step, *more = [graph for graph in self._graphs if graph.bind[CAPACITY] == capacity]
        if each or not more:
            return [step] * tokens
        piece = more[0]
        size = piece.bind["sequence"]
        whole, rest = divmod(tokens, size)
        return [piece] * (whole + (rest > 1)) + [step] * (rest == 1)

    def _call(self, graph: Graph, row: _Row, small: Tensors, tensors: Mapping[str, np.ndarray], number: int) -> Tensors:
        entry = str(graph.entry)
        if entry not in self._buffers:
            taken = {name: self.model.create_input_buffer_by_name(graph.entry, name) for name in small}
            given = {
                spec.name: self.model.create_output_buffer_by_name(graph.entry, spec.name) for spec in self.outputs
            }
            self._buffers[entry] = taken, given
        taken, made = self._buffers[entry]
        for name, array in small.items():
            taken[name].write(array)
        beside = {}
        for spec in graph.given:
            if spec.name in small:
                continue
            array = tensors[spec.name]
            held = row.given.get(spec.name)
            if held is None or held[0] is not array:  # what an encoder found is the same for every token
                buffer = held[1] if held else self.model.create_input_buffer_by_name(graph.entry, spec.name)
                buffer.write(_filled(array[number], spec, graph.bind))
                row.given[spec.name] = held = (array, buffer)
            beside[spec.name] = held[1]
        self.model.run_by_name(graph.entry, {**taken, **beside, **row.past}, {**made, **row.present})
        row.flip(graph)
        found = {}
        for spec in self.outputs:
            shape = _shape(spec, graph.bind)
            found[spec.name] = made[spec.name].read(int(np.prod(shape)), np.dtype(spec.dtype).type).reshape(shape)[0, 0]
        return found

    def close(self) -> None:
        self._buffers, self._model = {}, None


def _shape(spec: TensorSpec, bind: Mapping[str, int]) -> tuple[int, ...]:
    return tuple([bind[axis] if isinstance(axis, str) else axis for axis in spec.shape])


def _filled(array: np.ndarray, spec: TensorSpec, bind: Mapping[str, int]) -> np.ndarray:
    """One row at the compiled sizes, with the padding behind it.

    Raises:
        UsageError: it is longer.
    """
    shape = _shape(spec, bind)[1:]
    if any(size > most for size, most in zip(array.shape, shape)):
        raise UsageError(
            f"Cannot read {spec.name} of {list(array.shape)}.",
            why=f"the graph was compiled for at most {list(shape)}",
            fix="shorten the input, or convert again with a larger --sequence-length",
        )
    made: np.ndarray = np.zeros(shape, spec.dtype)
    made[tuple(slice(size) for size in array.shape)] = array
    return made
