"""TorchScript graphs on torch, and torch.export's. Both are deprecated or young, and a file of them is code: see `code.py`."""

from __future__ import annotations

import io
import os
import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Callable, Optional

import numpy as np

from ..bundle import Bundle
from ..errors import IntegrityError, SupportError, UsageError
from ..manifest import Graph
from ..toolchain import need, require_version
from . import Session, SessionOptions, Tensors, Used
from .buckets import Bucket, BucketSession
from .cache import Cache, check_room, needed
from .code import require_trust
from .pieces import in_pieces

if TYPE_CHECKING:
    from types import ModuleType

__all__ = ["open_session"]

# What the archives hold, below the folder that each has at its top.
_MEMBERS = {".pt": {"constants.pkl", "data.pkl"}, ".pt2": {"archive_format", "archive_version"}}


def open_session(bundle: Bundle, graphs: tuple[Graph, ...], wanted: SessionOptions) -> Session:
    require_trust(bundle, wanted)
    for graph in graphs:
        _check_archive(bundle, graph.file)
    # torch complains of its own quantized tensors below Python's warnings; read when it is first imported.
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    torch = need("torch", extra="torch", to=f"run the bundle {bundle.path}")
    version: str = torch.__version__.partition("+")[0]
    require_version("torch", version, bundle.manifest.target.engine.version, to=f"run the bundle {bundle.path}")
    if graphs[0].state:
        (graph,) = graphs
        return _DecoderSession(graph, _call(torch, _load(bundle, graph, torch), graph, wanted), version, wanted)
    # A graph of any shape is a bucket that fixes no axis. Pinned ones pad and slice, and refuse what is larger.
    buckets = tuple(Bucket(graph.bind, _call(torch, _load(bundle, graph, torch), graph, wanted)) for graph in graphs)
    used = {"engine": f"torch {version}", "threads": wanted.threads, "delegate": None}
    return BucketSession(graphs[0], buckets, lambda: used)


class _DecoderSession:
    """A graph that writes its cache in place: what it returns of it is what it was given."""

    def __init__(self, graph: Graph, call: Callable[..., Tensors], version: str, wanted: SessionOptions) -> None:
        self._graph = graph
        self._call: Optional[Callable[..., Tensors]] = call
        self.inputs, self.outputs = graph.given, graph.answered
        self.used: Used = {"engine": f"torch {version}", "threads": wanted.threads, "delegate": None}

    def new_state(self, batch: int = 1, capacity: int = 0) -> Cache:
        return Cache(self._graph.caches, batch, capacity, self._graph.window)

    def run(self, tensors: Mapping[str, np.ndarray], state: Optional[Cache] = None) -> Tensors:
        cache = state or self.new_state(*needed(tensors))
        check_room(cache, tensors)
        return in_pieces(self._step, tensors, cache)

    def _step(self, tensors: Mapping[str, np.ndarray], cache: Cache) -> Tensors:
        if self._call is None:
            raise UsageError("Cannot run the session.", why="it was closed", fix="load the bundle again")
        found = self._call({**tensors, **cache.arrays})
        return {spec.name: found[spec.name] for spec in self.outputs}

    def close(self) -> None:
        self._call = None


def _call(torch: ModuleType, module: Any, graph: Graph, wanted: SessionOptions) -> Callable[..., Tensors]:
    """numpy in, numpy out. Any: a ScriptModule, whose class torch alone has."""
    inputs, outputs = [spec.name for spec in graph.inputs], [spec.name for spec in graph.outputs]
    threads = wanted.threads
    # The optimizing executor records a shape's first two runs and compiles for it: 43 and 23 ms in place of 10 and 8 on
    # MiniLM, for nothing, since torch fuses no CPU operators in its wheels. From the third run on both take 4.7 ms.
    plainly = torch.jit.optimized_execution

    def call(tensors: Mapping[str, np.ndarray]) -> Tensors:
        # torch has one number of threads per process (with OpenMP, per calling thread), so sessions that differ take turns.
        if threads is not None and torch.get_num_threads() != threads:
            torch.set_num_threads(threads)
        with torch.inference_mode(), plainly(False):
            # torch warns of arrays that it could write to and must not, and takes no negative strides.
            found = module(*[torch.from_numpy(np.require(tensors[name], None, ("C", "W"))) for name in inputs])
        return {name: value.numpy() for name, value in zip(outputs, found)}

    return call


def _load(
    bundle: Bundle, graph: Graph, torch: ModuleType
) -> Any:  # Any: a ScriptModule, or an exported program's module
    path = bundle.file(graph.file)
    file = str(path) if path else io.BytesIO(bundle.read(graph.file))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore"
            )  # that torch.jit, and tensors of int8, are deprecated; docs/convert.md says it
            if graph.file.endswith(".pt2"):
                program = torch.export.load(file)
                _check_inputs(bundle, graph, list(program.graph_signature.user_inputs), named=False)
                return program.module()
            module = torch.jit.load(file, map_location="cpu")
    except RuntimeError as error:  # torch's only kind: an operator that it lacks, a damaged record
        raise SupportError(
            f"Cannot run {graph.file} of the bundle {bundle.path}.",
            why=f"torch {torch.__version__} refuses it: {str(error).strip().splitlines()[0][:300]}",
            fix="update torch on this device, or convert again for the version that it has",
        ) from None
    schema = module.forward.schema if hasattr(module, "forward") else None
    _check_inputs(bundle, graph, [each.name for each in schema.arguments[1:]] if schema else [])
    return module


def _check_archive(bundle: Bundle, file: str) -> None:
    """Such a file is a zip with known members; anything else never reaches torch, which reads pickles too."""
    import struct
    import zipfile

    try:
        with zipfile.ZipFile(bundle.file(file) or io.BytesIO(bundle.read(file))) as archive:
            members = [name.partition("/")[2] for name in archive.namelist()]
    except (zipfile.BadZipFile, NotImplementedError, EOFError, ValueError, struct.error):  # as bundle.py says
        members = []
    wanted = _MEMBERS.get(file[file.rindex(".") :] if "." in file else "")
    scripted = not file.endswith(".pt") or any(name.startswith("code/") for name in members)
    if wanted is None or not wanted <= set(members) or not scripted:
        raise IntegrityError(
            f"Cannot load {file} of the bundle {bundle.path}.",
            why="it is not a TorchScript file",
            fix="copy the bundle again",
        )


def _check_inputs(bundle: Bundle, graph: Graph, takes: list[str], *, named: bool = True) -> None:
    says = [spec.name for spec in graph.inputs]
    if takes != says and (named or len(takes) != len(says)):
        raise IntegrityError(
            f"Cannot load {graph.file} of the bundle {bundle.path}.",
            why=f"it takes {takes}; the manifest says {says}",
            fix="convert the model again",
        )
