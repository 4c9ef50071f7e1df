"""TFLite graphs on LiteRT, or on the old tflite-runtime where that is what the device has."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from ..bundle import Bundle
from ..errors import IntegrityError, SupportError, ToolchainError
from ..manifest import Graph
from ..toolchain import need, require_version
from . import Session, SessionOptions, Tensors
from .buckets import Bucket, BucketSession

if TYPE_CHECKING:
    from types import ModuleType

__all__ = ["open_session"]

_MAGIC = b"TFL3"  # the flatbuffer's file identifier, at byte 4


def open_session(bundle: Bundle, graphs: tuple[Graph, ...], wanted: SessionOptions) -> Session:
    interpreters, name, version = _engine(f"run the bundle {bundle.path}")
    engine = bundle.manifest.target.engine
    # The range is LiteRT's own; the old runtime has other numbers, and the converter decides whether it may be used.
    if name == engine.name:
        require_version(name, version, engine.version, to=f"run the bundle {bundle.path}")
    elif name not in engine.also:
        raise ToolchainError(
            f"Cannot run the bundle {bundle.path}.",
            why=f"it was made for {engine.name} {engine.version}; {name} {version} computes some of its operators wrongly",
            fix=f"pip install '{engine.name}{engine.version}'",
        )
    file = graphs[0].file
    path = bundle.file(file)
    if _start(bundle, file)[4:8] != _MAGIC:
        raise IntegrityError(
            f"Cannot load {file} of the bundle {bundle.path}.",
            why="it is not a TFLite file",
            fix="copy the bundle again",
        )
    where: dict[str, object] = {"model_path": str(path)} if path else {"model_content": bundle.read(file)}
    try:
        interpreter = interpreters.Interpreter(**where, num_threads=wanted.threads)
    except (ValueError, RuntimeError) as error:
        raise SupportError(
            f"Cannot run {file} of the bundle {bundle.path}.",
            why=f"{name} {version} refuses it: {str(error).strip().splitlines()[0][:300]}",
            fix="update ai-edge-litert on this device, or convert again for this engine",
        ) from None
    signatures = interpreter.get_signature_list()
    lock = threading.Lock()  # an interpreter has one set of buffers, so its calls take turns
    buckets = []
    for graph in graphs:
        if graph.entry not in signatures:
            raise IntegrityError(
                f"Cannot load {file} of the bundle {bundle.path}.",
                why=f"it has no signature {graph.entry!r}, which the manifest names",
                fix="convert the model again",
            )
        buckets.append(Bucket(graph.bind, _call(interpreter.get_signature_runner(graph.entry), lock)))
    used = {"engine": f"{name} {version}", "threads": wanted.threads, "delegate": None}
    return BucketSession(graphs[0], tuple(buckets), used)


def _start(bundle: Bundle, file: str) -> bytes:
    path = bundle.file(file)
    if path is None:
        return bundle.read(file)
    with path.open("rb") as opened:
        return opened.read(8)


def _call(runner: Any, lock: threading.Lock) -> Any:  # Any: the engine's own class
    def call(tensors: Mapping[str, np.ndarray]) -> Tensors:
        with lock:
            found: Tensors = runner(**tensors)  # copies, as the runner documents
            return found

    return call


def _engine(to: str) -> tuple[ModuleType, str, str]:
    """The interpreter's module, and what it is."""
    import importlib.metadata
    import importlib.util

    for name, module in (
        ("ai-edge-litert", "ai_edge_litert.interpreter"),
        ("tflite-runtime", "tflite_runtime.interpreter"),
    ):
        if importlib.util.find_spec(module.partition(".")[0]) is not None:
            return need(module, extra="tflite", to=to), name, importlib.metadata.version(name)
    need("ai_edge_litert", extra="tflite", to=to)
    raise AssertionError("need raises for a package that is not there")
