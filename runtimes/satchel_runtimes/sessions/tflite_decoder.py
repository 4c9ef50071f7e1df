"""Decoders in LiteRT, whose cache never leaves the engine.

Each call reads the cache in one set of the engine's buffers and writes it into another, and the two change places.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import threading
from collections.abc import Iterator, Sequence
from typing import Any, Optional

import numpy as np

from ..bundle import Bundle
from ..errors import SupportError, ToolchainError, UsageError
from ..manifest import Graph, TensorSpec
from ..toolchain import need
from . import SessionOptions, Tensors, Used
from .static_decoder import KeptRow, StaticDecoder, fixed_shape, widened

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


class _Row(KeptRow):
    """What a call reads, and what it writes, by the graph's names."""

    def __init__(self, model: Any, graph: Graph) -> None:
        super().__init__()
        self.past = {name: model.create_input_buffer_by_name(graph.entry, name) for name in graph.state}
        self.present = {name: model.create_output_buffer_by_name(graph.entry, name) for name in graph.state.values()}
        for spec in graph.caches:
            self.past[spec.name].write(np.zeros(fixed_shape(spec, graph.bind), spec.dtype))

    def flip(self, graph: Graph) -> None:
        for name, output in graph.state.items():
            self.past[name], self.present[output] = self.present[output], self.past[name]


class _TfliteDecoder(StaticDecoder[_Row]):
    def __init__(self, graphs: Sequence[Graph], model: Any, used: Used) -> None:
        super().__init__(graphs, used)
        self._model: Optional[Any] = model
        self._buffers: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {}  # by signature: what goes in and comes out

    @property
    def model(self) -> Any:
        if self._model is None:
            raise UsageError("Cannot run the session.", why="it was closed", fix="load the bundle again")
        return self._model

    def new_row(self, graph: Graph) -> _Row:
        return _Row(self.model, graph)

    def copied(self, row: _Row, old: Graph, graph: Graph) -> _Row:
        made = _Row(self.model, graph)
        for spec in old.caches:
            held = _read(row.past[spec.name], spec, old)
            made.past[spec.name].write(widened(held, fixed_shape(spec, graph.bind)))
        return made

    def placed(self, array: np.ndarray, spec: TensorSpec, graph: Graph, row: _Row, earlier: Any) -> Any:
        buffer = earlier or self.model.create_input_buffer_by_name(graph.entry, spec.name)
        buffer.write(array)
        return buffer

    def call(self, graph: Graph, row: _Row, small: Tensors) -> Tensors:
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
        beside = {name: buffer for name, (_, buffer) in row.given.items()}
        self.model.run_by_name(graph.entry, {**taken, **beside, **row.past}, {**made, **row.present})
        row.flip(graph)
        return {spec.name: _read(made[spec.name], spec, graph) for spec in self.outputs}

    def close(self) -> None:
        self._buffers, self._model = {}, None


def _read(buffer: Any, spec: TensorSpec, graph: Graph) -> np.ndarray:  # Any: the engine's own
    shape = fixed_shape(spec, graph.bind)
    found: np.ndarray = buffer.read(int(np.prod(shape)), np.dtype(spec.dtype).type).reshape(shape)
    return found
