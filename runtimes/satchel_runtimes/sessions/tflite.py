"""TFLite graphs on LiteRT, or on the old tflite-runtime where that is what the device has."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Optional

import numpy as np

from ..bundle import Bundle
from ..errors import IntegrityError, SupportError, ToolchainError, UsageError
from ..manifest import Graph
from ..toolchain import need, require_version
from . import Session, SessionOptions, Tensors, Used
from .buckets import Bucket, BucketSession
from .tflite_decoder import check_engine, open_decoder

if TYPE_CHECKING:
    from types import ModuleType

__all__ = ["DELEGATES", "open_session"]

# Beside these, the path of a library that makes one, and its options: `libedgetpu.so.1,device=usb`. LiteRT applies XNNPACK
# by itself, to what that can compute; "xnnpack" insists on it, "none" is the engine's own kernels.
DELEGATES = ("xnnpack", "none")

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
    if graphs[0].state:
        check_engine(name, bundle)
        return open_decoder(bundle, graphs, wanted, version)
    where: dict[str, object] = {"model_path": str(path)} if path else {"model_content": bundle.read(file)}
    chosen = _delegation(interpreters, wanted.delegate)
    try:
        interpreter = interpreters.Interpreter(**where, num_threads=wanted.threads, **chosen)
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

    def used() -> Used:
        smallest = min(buckets, key=lambda bucket: tuple(bucket.axes.values()))
        smallest.call(_zeros(graphs[0], smallest))  # delegates take their part of the graph when a signature first runs
        with lock:
            parts = sum(each["op_name"] == "DELEGATE" for each in interpreter._get_ops_details())
        ran = wanted.delegate if wanted.delegate not in (None, "none") else "xnnpack"
        return {"engine": f"{name} {version}", "threads": wanted.threads, "delegate": ran if parts else None}

    if wanted.delegate not in (None, "none") and used()["delegate"] is None:
        raise SupportError(
            f"Cannot run {file} of the bundle {bundle.path} on the delegate {wanted.delegate!r}.",
            why="the delegate takes none of the graph's operators, so all of it would run on the CPU",
            fix="convert in a scheme that the delegate computes, or leave the delegate out",
        )
    return BucketSession(graphs[0], tuple(buckets), used)


def _zeros(graph: Graph, bucket: Bucket) -> Tensors:
    shapes = {
        spec.name: [bucket.axes.get(axis, 1) if isinstance(axis, str) else axis for axis in spec.shape]
        for spec in graph.inputs
    }
    return {spec.name: np.zeros(shapes[spec.name], spec.dtype) for spec in graph.inputs}


def _delegation(interpreters: Any, wanted: Optional[str]) -> dict[str, Any]:  # Any: a module imported late
    """Arguments of the interpreter for a delegate.

    Raises:
        UsageError: the library is not there, or makes no delegate.
    """
    if wanted is None or wanted == "xnnpack":
        return {}
    own = {"experimental_op_resolver_type": interpreters.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES}
    if wanted == "none":
        return own
    library, *pairs = wanted.split(",")
    try:
        # LiteRT's own loader leaves a half-made object that complains on stderr when it is freed: look first.
        for symbol in ("tflite_plugin_create_delegate", "tflite_plugin_destroy_delegate"):
            getattr(ctypes.CDLL(library), symbol)
        options = dict(pair.split("=", 1) for pair in pairs)
        return {**own, "experimental_delegates": [interpreters.load_delegate(library, options)]}
    except (ValueError, OSError, AttributeError) as error:  # AttributeError: a library that makes no delegate
        raise UsageError(
            f"Cannot use the delegate {wanted!r}.",
            why=str(error).strip() or f"{library} makes none with these options",
            fix=f"name one of {', '.join(DELEGATES)}, or a delegate's library as PATH[,OPTION=VALUE…]",
        ) from None


def _start(bundle: Bundle, file: str) -> bytes:
    path = bundle.file(file)
    if path is None:
        return bundle.read(file)
    with path.open("rb") as opened:
        return opened.read(8)


def _call(runner: Any, lock: threading.Lock) -> Any:  # Any: the engine's own class
    scaled_in = _scaled(runner.get_input_details())
    scaled_out = _scaled(runner.get_output_details())

    def call(tensors: Mapping[str, np.ndarray]) -> Tensors:
        if scaled_in:
            tensors = {**tensors, **{name: _quantize(tensors[name], *scale) for name, scale in scaled_in.items()}}
        with lock:
            found: Tensors = runner(**tensors)  # copies, as the runner documents
        for name, (scale, zero, _) in scaled_out.items():
            found[name] = (found[name].astype(np.float32) - zero) * np.float32(scale)
        return found

    return call


_Scale = tuple[float, int, Any]  # Any: a numpy dtype


def _scaled(details: Mapping[str, Mapping[str, Any]]) -> dict[str, _Scale]:  # Any: as the engine describes a tensor
    """The inputs or outputs that hold real numbers as scaled integers; token ids have no scale."""
    return {
        name: (each["quantization"][0], each["quantization"][1], each["dtype"])
        for name, each in details.items()
        if each["quantization"][0]
    }


def _quantize(values: np.ndarray, scale: float, zero: int, dtype: Any) -> np.ndarray:
    limits = np.iinfo(dtype)
    whole: np.ndarray = np.clip(np.rint(values / scale) + zero, limits.min, limits.max).astype(dtype)
    return whole


def _engine(to: str) -> tuple[ModuleType, str, str]:
    """The interpreter's module, and what it is."""
    import importlib.util

    for name, package in (("ai-edge-litert", "ai_edge_litert"), ("tflite-runtime", "tflite_runtime")):
        if importlib.util.find_spec(package) is not None:
            found = need(f"{package}.interpreter", extra="tflite", to=to)
            # importlib.metadata, which every distribution has, takes 20 ms of a cold start of 200.
            return found, name, need(package, extra="tflite", to=to).__version__
    need("ai_edge_litert", extra="tflite", to=to)
    raise AssertionError("need raises for a package that is not there")
