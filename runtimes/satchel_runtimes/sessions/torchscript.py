"""TorchScript graphs on torch. The format is deprecated upstream, and a file of it is code: see `code.py`."""

from __future__ import annotations

import io
import os
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any, Callable, Optional

import numpy as np

from ..bundle import Bundle
from ..errors import IntegrityError, SupportError, UsageError
from ..manifest import Graph, TensorSpec
from ..toolchain import need, require_version
from . import Session, SessionOptions, Tensors, Used
from .buckets import Bucket, BucketSession
from .code import require_trust

__all__ = ["open_session"]


class _TorchScriptSession:
    def __init__(self, graph: Graph, call: Callable[[Mapping[str, np.ndarray]], Tensors], used: Used) -> None:
        self._graph = graph
        self._call: Optional[Callable[[Mapping[str, np.ndarray]], Tensors]] = call
        self.used = used

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        return self._graph.inputs

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        return self._graph.outputs

    def new_state(self) -> None:
        return None

    def run(self, tensors: Mapping[str, np.ndarray], state: Optional[object] = None) -> Tensors:
        if self._call is None:
            raise UsageError("Cannot run the session.", why="it was closed", fix="load the bundle again")
        return self._call(tensors)

    def close(self) -> None:
        self._call = None


def open_session(bundle: Bundle, graphs: tuple[Graph, ...], wanted: SessionOptions) -> Session:
    require_trust(bundle, wanted)
    (graph,) = graphs  # dynamic axes, or one pinned shape
    _check_archive(bundle, graph)
    # torch complains of its own quantized tensors below Python's warnings; read when it is first imported.
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    torch = need("torch", extra="torch", to=f"run the bundle {bundle.path}")
    require_version(
        "torch", torch.__version__, bundle.manifest.target.engine.version, to=f"run the bundle {bundle.path}"
    )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of torch.jit as a whole; the converter said so
            module, takes = _load(torch, bundle.file(graph.file) or io.BytesIO(bundle.read(graph.file)), graph)
    except RuntimeError as error:
        raise SupportError(
            f"Cannot run {graph.file} of the bundle {bundle.path}.",
            why=f"torch {torch.__version__} refuses it: {str(error).strip().splitlines()[0][:300]}",
            fix="update torch on this device, or convert to onnx",
        ) from None
    if takes != len(graph.inputs):
        raise IntegrityError(
            f"Cannot load {graph.file} of the bundle {bundle.path}.",
            why=f"it takes {takes} inputs, the manifest says {', '.join(spec.name for spec in graph.inputs)}",
            fix="convert the model again",
        )
    used = {"engine": f"torch {torch.__version__}", "threads": wanted.threads, "delegate": None}
    call = _call(torch, module, graph, wanted.threads)
    if graph.bind:
        return BucketSession(graph, (Bucket(graph.bind, call),), lambda: used)
    return _TorchScriptSession(graph, call, used)


def _load(torch: Any, file: Any, graph: Graph) -> tuple[Any, int]:  # Any: modules, and a path or an open file
    """The loaded graph, and how many inputs it takes."""
    if graph.file.endswith(".pt2"):
        program = torch.export.load(file)
        return program.module(), len(program.graph_signature.user_inputs)
    module = torch.jit.load(str(file) if isinstance(file, Path) else file, map_location="cpu")
    return module, len(module.forward.schema.arguments) - 1  # the first is the module itself


# What the archives hold, below the folder that each has at its top.
_MEMBERS = {".pt": {"constants.pkl", "data.pkl"}, ".pt2": {"archive_format", "archive_version"}}


def _check_archive(bundle: Bundle, graph: Graph) -> None:
    """Look at the file before torch does."""
    path = bundle.file(graph.file)
    try:
        with zipfile.ZipFile(path or io.BytesIO(bundle.read(graph.file))) as archive:
            members = {name.partition("/")[2] for name in archive.namelist()}
    except zipfile.BadZipFile:
        members = set()
    wanted = _MEMBERS.get(PurePosixPath(graph.file).suffix)
    if wanted is None or not wanted <= members:
        raise IntegrityError(
            f"Cannot load {graph.file} of the bundle {bundle.path}.",
            why="it is not a TorchScript archive",
            fix="copy the bundle again",
        )


def _call(
    torch: Any, module: Any, graph: Graph, threads: Optional[int]
) -> Callable[[Mapping[str, np.ndarray]], Tensors]:
    names = [spec.name for spec in graph.inputs]
    outputs = [spec.name for spec in graph.outputs]

    def call(tensors: Mapping[str, np.ndarray]) -> Tensors:
        # The number of threads belongs to the process, not to a session: another may have set it since.
        if threads is not None and torch.get_num_threads() != threads:
            torch.set_num_threads(threads)
        with torch.inference_mode():
            # torch warns of arrays that it could write to and must not, and takes no negative strides.
            found = module(*(torch.from_numpy(np.require(tensors[name], None, ("C", "W"))) for name in names))
        return {name: value.numpy() for name, value in zip(outputs, found)}

    return call
