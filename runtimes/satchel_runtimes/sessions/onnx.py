"""ONNX graphs on onnxruntime's CPU provider."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Optional

import numpy as np

from ..bundle import Bundle
from ..errors import IntegrityError, SupportError, UsageError
from ..manifest import Graph
from ..toolchain import need, require_version
from . import Session, SessionOptions, Tensors, Used
from .cache import Cache, check_room, needed
from .pieces import in_pieces

if TYPE_CHECKING:
    import onnxruntime

__all__ = ["PROFILES", "SESSION_OPTIONS", "open_session", "session_of"]

PROFILES = True

# A bundle may set these and nothing else: each changes speed or memory, none reads a file or loads a library.
# Keys as in onnxruntime_session_options_config_keys.h.
SESSION_OPTIONS = frozenset(
    {
        "optimization.disable_specified_optimizers",
        "session.disable_prepacking",
        "session.intra_op.allow_spinning",
        "session.inter_op.allow_spinning",
        "session.set_denormal_as_zero",
        "session.qdq_matmulnbits_accuracy_level",
    }
)

_NUMPY = {
    "tensor(float)": "float32",
    "tensor(float16)": "float16",
    "tensor(double)": "float64",
    "tensor(int64)": "int64",
    "tensor(int32)": "int32",
    "tensor(int8)": "int8",
    "tensor(uint8)": "uint8",
    "tensor(bool)": "bool",
}


class _OnnxSession:
    def __init__(self, graph: Graph, engine: onnxruntime.InferenceSession, used: Used) -> None:
        self._graph = graph
        self.used = used
        self._engine: Optional[onnxruntime.InferenceSession] = engine
        self.inputs, self.outputs = graph.given, graph.answered
        self._names = [spec.name for spec in self.outputs]

    def new_state(self, batch: int = 1, capacity: int = 0) -> Optional[Cache]:
        return _BoundCache(self._graph, self._running(), batch, capacity) if self._graph.state else None

    def run(self, tensors: Mapping[str, np.ndarray], state: Optional[Any] = None) -> Tensors:
        engine = self._running()
        if not self._graph.state:
            return dict(zip(self._names, engine.run(self._names, tensors)))
        cache = state or _BoundCache(self._graph, engine, *needed(tensors))
        check_room(cache, tensors)
        return in_pieces(self._call, tensors, cache)

    def _call(self, tensors: Mapping[str, np.ndarray], cache: Any) -> Tensors:  # Any: a _BoundCache
        engine = self._running()
        asked = [spec for spec in self.outputs if cache.wanted is None or spec.name in cache.wanted]
        binding = cache.binding(len(asked))
        sizes: dict[object, int] = {}
        for spec in self.inputs:
            given = np.ascontiguousarray(tensors[spec.name])
            if cache.given.get(spec.name) is not given:  # what an encoder found is the same for every token
                cache.given[spec.name] = given
                binding.bind_cpu_input(spec.name, given)
            sizes.update(zip(spec.shape, given.shape))
        # New arrays for each call, which the caller keeps. To ask the binding for its outputs wraps every cache again.
        found: Tensors = {
            spec.name: np.empty([sizes[axis] if isinstance(axis, str) else axis for axis in spec.shape], spec.dtype)
            for spec in asked
        }
        for name, array in found.items():
            binding.bind_output(name, "cpu", 0, array.dtype.type, array.shape, array.ctypes.data)
        engine.run_with_iobinding(binding, cache.how)
        return found

    def _running(self) -> onnxruntime.InferenceSession:
        if self._engine is None:
            raise UsageError("Cannot run the session.", why="it was closed", fix="load the bundle again")
        return self._engine

    def end_profile(self) -> str:
        """The file of its trace, of a session that was opened with `profile`."""
        found: str = self._running().end_profiling()
        return found

    def close(self) -> None:
        self._engine = None


class _BoundCache(Cache):
    """Its arrays are bound as inputs and as outputs, so the engine adds to them where they lie."""

    def __init__(self, graph: Graph, engine: onnxruntime.InferenceSession, batch: int, capacity: int) -> None:
        super().__init__(graph.caches, batch, capacity, graph.window)
        self._graph, self._engine = graph, engine
        self._bound = (-1, 0)
        self.given: dict[str, np.ndarray] = {}  # what else is bound
        self.how: Any = None  # RunOptions, of the same module

    def row(self, number: int) -> Cache:
        made: Any = super().row(number)
        made._bound, made.given = (-1, 0), {}
        return made  # type: ignore[no-any-return]  # of this class, which the one above does not know

    def binding(self, outputs: int) -> Any:  # Any: an IOBinding, whose module brings no types
        """Of so many outputs: what was bound for more would be written where nobody keeps it any more."""
        if self._bound != (self.version, outputs):
            import onnxruntime

            self._binding = self._engine.io_binding()
            self.how = onnxruntime.RunOptions()
            self.how.only_execute_path_to_fetches = True  # what only another output needs is not computed
            # Its default. Where it is not set onnxruntime 1.32 asks for it by an exception, 60 microseconds of every token.
            self.how.add_run_config_entry("gpu_graph_id", "0")
            for name, output in self._graph.state.items():
                value = onnxruntime.OrtValue.ortvalue_from_numpy(self.arrays[name])  # the same memory
                self._binding.bind_ortvalue_input(name, value)
                self._binding.bind_ortvalue_output(output, value)
            self.given = {}
            self._bound = self.version, outputs
        return self._binding


# onnxruntime reads its environment while the first session of a process is made; two at once have been seen to race.
_opening = threading.Lock()


def open_session(bundle: Bundle, graphs: tuple[Graph, ...], wanted: SessionOptions) -> Session:
    (graph,) = graphs  # dynamic axes: one entry serves every length
    target = bundle.manifest.target
    engine = need("onnxruntime", extra="onnx", to=f"run the bundle {bundle.path}")
    require_version("onnxruntime", engine.__version__, target.engine.version, to=f"run the bundle {bundle.path}")
    options = engine.SessionOptions()
    options.log_severity_level = 3  # a warning per unused initializer helps nobody on a device
    if wanted.threads is not None:
        options.intra_op_num_threads = wanted.threads
    if wanted.profile is not None:
        options.enable_profiling = True
        options.profile_file_prefix = f"{wanted.profile}-{graph.component}"
    for key, value in target.engine.options.items():
        if key not in SESSION_OPTIONS:
            raise IntegrityError(
                f"Cannot load the bundle {bundle.path}.",
                why=f"it sets the session option {key!r}, which is not on the allow-list",
                fix=f"convert again with options among {', '.join(sorted(SESSION_OPTIONS))}",
            )
        options.add_session_config_entry(key, value)
    file = bundle.file(graph.file)
    with _opening:
        try:
            opened = engine.InferenceSession(
                str(file) if file else bundle.read(graph.file), options, providers=["CPUExecutionProvider"]
            )
        except _load_errors(engine) as error:
            raise SupportError(
                f"Cannot run {graph.file} of the bundle {bundle.path}.",
                why=f"onnxruntime {engine.__version__} refuses it: {_first_line(error)}",
                fix="update onnxruntime on this device, or convert for a profile with this engine version",
            ) from None
    _check_names(bundle, graph, opened)
    return session_of(graph, opened, wanted.threads)


def session_of(graph: Graph, opened: onnxruntime.InferenceSession, threads: Optional[int] = None) -> Session:
    """A graph that the engine has opened already, from wherever it came."""
    version = need("onnxruntime", extra="onnx", to=f"run {graph.file}").__version__
    return _OnnxSession(graph, opened, {"engine": f"onnxruntime {version}", "threads": threads, "delegate": None})


def _load_errors(engine: Any) -> tuple[type[Exception], ...]:  # Any: a module
    state = engine.capi.onnxruntime_pybind11_state
    return (state.Fail, state.InvalidGraph, state.InvalidProtobuf, state.NotImplemented, state.RuntimeException)


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0][:300]


def _check_names(bundle: Bundle, graph: Graph, opened: onnxruntime.InferenceSession) -> None:
    for side, specs, found in (
        ("inputs", graph.inputs, opened.get_inputs()),
        ("outputs", graph.outputs, opened.get_outputs()),
    ):
        says = {spec.name: spec.dtype for spec in specs}
        has = {each.name: _NUMPY.get(each.type, each.type) for each in found}
        if says != has:
            raise IntegrityError(
                f"Cannot load {graph.file} of the bundle {bundle.path}.",
                why=f"its {side} are {has}, the manifest says {says}",
                fix="convert the model again",
            )
