"""ONNX for onnxruntime: exported with dynamic axes, then the schemes of this engine.

Fusions stay onnxruntime's own, at load time: fusing ahead (transformers' `ort_fusions="cpu"`) was measured slower on
MiniLM, 0.88 against 0.97 of the best fp32 session at 128 tokens, and 2.0 against 2.7 times in int8.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import shutil
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from satchel_runtimes.errors import SupportError
from satchel_runtimes.manifest import Engine, Graph
from satchel_runtimes.toolchain import need

from .component import Component, specs
from .format import Artifact, Calibration, Format, Plan, Scheme, engine_has, oldest, silent
from .onnx_export import export_component
from .process import Tell

if TYPE_CHECKING:
    import onnx

__all__ = ["FORMAT"]

# What each onnxruntime reads at most: (release, opset, IR). From its versioning page,
# https://onnxruntime.ai/docs/reference/compatibility.html. 18 is the least that torch's exporter writes; beyond 20 no
# operator of an encoder gains anything, and a lower opset runs on more devices.
_READS = (((1, 17), 20, 9), ((1, 15), 19, 9), ((1, 14), 18, 8))
_LARGE_ROWS = 1024  # an embedding table with fewer rows is not worth three more operators
_SINGLE_FILE_BYTES = 1_500_000_000  # protobuf ends at 2 GB
_BLOCK = 128  # weights that share a scale in int8-weights; onnxruntime has kernels for 16 to 256

SCHEMES = {
    scheme.name: scheme
    for scheme in (
        Scheme("fp32", "reference", 4.0, ">=1.14", "float32 as it was trained", traced=True),
        Scheme("fp16", "size", 2.0, ">=1.14", "half the size; CPUs compute it as float32"),
        Scheme("int8-dynamic", "speed", 1.0, ">=1.14", "int8 weights per channel, activations quantized on the fly"),
        Scheme("int8-weights", "size", 1.05, ">=1.22", "int8 weights in blocks, float activations"),
    )
}


def plan(scheme: Scheme, profile: Any, options: Mapping[str, str]) -> Plan:  # Any: a DeviceProfile
    """Opset, IR and session options for the oldest engine that the profile promises.

    Raises:
        SupportError: the profile's engine has no kernels for the scheme, or reads no opset that torch writes.
    """
    engine = next((each for each in profile.engines if each.name.startswith("onnxruntime")), None)
    if engine is None:
        raise SupportError(
            f"Cannot convert to onnx for {profile.name}.",
            why=f"its engines are {', '.join(each.name for each in profile.engines) or 'not known'}",
            fix=f"choose one of its formats: {', '.join(profile.formats)}",
        )
    if not engine_has(engine.version, scheme.engine):
        raise SupportError(
            f"Cannot make {scheme.name} for {profile.name}.",
            why=f"it needs onnxruntime {scheme.engine}; the profile promises {engine.version}",
            fix=f"choose another scheme ({', '.join(SCHEMES)}), or a profile with a newer engine",
        )
    found = next(((o, ir, since) for since, o, ir in _READS if oldest(engine.version) >= since), None)
    if found is None:
        raise SupportError(
            f"Cannot convert to onnx for {profile.name}.",
            why=f"torch writes opset 18 or newer, onnxruntime {engine.version} admits one that reads less",
            fix="update the engine to onnxruntime 1.14 or newer, and the profile with it",
        )
    if options.get("io", "float32") != "float32":
        raise SupportError(
            f"Cannot make {scheme.name} with {options['io']} inputs and outputs.",
            why="activations are float32 at both ends of every scheme of onnx",
            fix="leave --io-dtype out, or convert to tflite in int8-static",
        )
    opset, ir, since = found
    wanted = int(options.get("opset", opset))
    if wanted > opset or wanted < 18:
        raise SupportError(
            f"Cannot write opset {wanted} for {profile.name}.",
            why=f"onnxruntime {engine.version} reads up to {opset}, torch writes 18 or newer",
            fix=f"leave --opset out, or choose 18 to {opset}",
        )
    needs = max(since, oldest(scheme.engine))
    session = dict(profile.session_options.get(scheme.name, {}))
    return Plan(
        "onnx",
        scheme,
        Engine("onnxruntime", ">=" + ".".join(str(part) for part in needs), wanted, ir, session),
        int8_weights=profile.int8_weights,
    )


def export(components: Sequence[Component], plan: Plan, out: Path) -> Artifact:
    """Write each component in float32, weights beside the graph so that they stream to disk.

    Raises:
        SupportError: no exporter gives a graph that is right at another shape.
    """
    graphs = []
    for component in components:
        file, weights = export_component(component, plan.engine.opset or _READS[0][1], plan.engine.ir, out)
        graphs.append(Graph(component.name, file, specs(component.inputs), specs(component.outputs), weights=weights))
    return Artifact(out, tuple(graphs), tuple(name for g in graphs for name in (g.file, g.weights) if name))


def apply(twin: Artifact, plan: Plan, out: Path, calibration: Calibration, tell: Tell = silent) -> Artifact:
    """Make a scheme of the exported float32 graphs, each in one file."""
    onnx = need("onnx", extra="convert", to="write ONNX", of="satchel")
    graphs: list[Graph] = []
    for graph in twin.graphs:
        model = onnx.load(twin.folder / graph.file)
        model = _SCHEMES[plan.scheme.name](model, plan)
        model.ir_version = plan.engine.ir or model.ir_version
        graphs.append(_save(model, graph, out))
        del model
        gc.collect()
    return Artifact(out, tuple(graphs), tuple(name for g in graphs for name in (g.file, g.weights) if name))


def _save(model: onnx.ModelProto, graph: Graph, out: Path) -> Graph:
    import dataclasses

    import onnx

    weights = f"{graph.file}.data" if model.ByteSize() > _SINGLE_FILE_BYTES else None
    if weights:
        onnx.save(model, out / graph.file, save_as_external_data=True, location=weights)
    else:
        (out / graph.file).write_bytes(model.SerializeToString())
    return dataclasses.replace(graph, weights=weights)


def _fp32(model: onnx.ModelProto, plan: Plan) -> onnx.ModelProto:
    return model


def _fp16(model: onnx.ModelProto, plan: Plan) -> onnx.ModelProto:
    float16 = need("onnxruntime.transformers.float16", extra="convert", to="convert to fp16", of="satchel")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # one per weight that float16 rounds to zero
        converted: onnx.ModelProto = float16.convert_float_to_float16(model, keep_io_types=True)
    return converted


def _int8_dynamic(model: onnx.ModelProto, plan: Plan) -> onnx.ModelProto:
    """Weights per output channel in the sign that the profile names, activations uint8 per call. On VNNI, u8 by s8 is the
    fast pair: 400 GOP/s against 150 for u8 by u8 and 30 for s8 by s8 (one core, large products)."""
    import onnx

    quantization = need("onnxruntime.quantization", extra="convert", to="quantize", of="satchel")
    kind = quantization.QuantType
    _embeddings_to_int8(model)
    del model.graph.value_info[:]  # the quantizer infers shapes itself and stumbles over the exporter's
    with _in_folder() as folder:
        target = folder / "quantized.onnx"
        with _quantizer_quiet():
            quantization.quantize_dynamic(
                model,
                target,
                op_types_to_quantize=["MatMul"],
                per_channel=True,
                reduce_range=plan.int8_weights == "int8-reduced",
                weight_type=kind.QUInt8 if plan.int8_weights == "uint8" else kind.QInt8,
                extra_options={"DefaultTensorType": onnx.TensorProto.FLOAT, "MatMulConstBOnly": True},
            )
        return onnx.load(target)


def _int8_weights(model: onnx.ModelProto, plan: Plan) -> onnx.ModelProto:
    module = need("onnxruntime.quantization.matmul_nbits_quantizer", extra="convert", to="quantize", of="satchel")
    _embeddings_to_int8(model)
    with _quantizer_quiet():
        quantizer = module.MatMulNBitsQuantizer(model, bits=8, block_size=_BLOCK, is_symmetric=True, accuracy_level=4)
        quantizer.process()
    result: onnx.ModelProto = quantizer.model.model
    return result


_SCHEMES = {"fp32": _fp32, "fp16": _fp16, "int8-dynamic": _int8_dynamic, "int8-weights": _int8_weights}


def _embeddings_to_int8(model: onnx.ModelProto) -> None:
    """Replace each large embedding table by int8 rows with a scale per row, looked up and multiplied back.

    onnxruntime's quantizer gives a table one scale for all rows; one per row costs 4 bytes each and keeps rare words as
    exact as common ones.
    """
    from onnx import helper, numpy_helper

    graph = model.graph
    tables = {each.name: each for each in graph.initializer}
    uses: dict[str, int] = {}
    for node in graph.node:
        for name in node.input:
            uses[name] = uses.get(name, 0) + 1
    for place in reversed(range(len(graph.node))):
        node = graph.node[place]
        if node.op_type != "Gather" or node.input[0] not in tables or uses[node.input[0]] > 1:
            continue
        if next((a.i for a in node.attribute if a.name == "axis"), 0) != 0:
            continue
        name = node.input[0]
        values = numpy_helper.to_array(tables[name])
        if values.ndim != 2 or values.shape[0] < _LARGE_ROWS or values.dtype != np.float32:
            continue
        scale = np.maximum(np.abs(values).max(axis=1, keepdims=True) / 127, np.finfo(np.float32).tiny)
        rows = np.clip(np.rint(values / scale), -127, 127).astype(np.int8)
        graph.initializer.remove(tables[name])
        graph.initializer.append(numpy_helper.from_array(rows, f"{name}.int8"))
        graph.initializer.append(numpy_helper.from_array(scale.astype(np.float32), f"{name}.scale"))
        ids, out = node.input[1], node.output[0]
        made = [
            helper.make_node("Gather", [f"{name}.int8", ids], [f"{out}.int8"], name=f"{node.name}.rows"),
            helper.make_node("Cast", [f"{out}.int8"], [f"{out}.float"], name=f"{node.name}.cast", to=1),
            helper.make_node("Gather", [f"{name}.scale", ids], [f"{out}.scale"], name=f"{node.name}.scales"),
            helper.make_node("Mul", [f"{out}.float", f"{out}.scale"], [out], name=f"{node.name}.mul"),
        ]
        del graph.node[place]
        for offset, each in enumerate(made):
            graph.node.insert(place + offset, each)


@contextlib.contextmanager
def _in_folder() -> Iterator[Path]:
    import tempfile

    folder = Path(tempfile.mkdtemp(prefix="satchel-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _quantizer_quiet() -> Iterator[None]:
    logging.disable(logging.WARNING)  # it advises a preprocessing step on the root logger
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)


FORMAT = Format(
    name="onnx",
    engine="onnxruntime",
    shapes="dynamic",
    schemes=SCHEMES,
    packages=("torch", "transformers", "onnx", "onnxscript", "onnxruntime"),
    needs={
        "torch": ">=2.11",
        "transformers": ">=5.23",
        "onnx": ">=1.21",
        "onnxscript": ">=0.7",
        "onnxruntime": ">=1.22",
    },
    extra="convert",
    plan=plan,
    export=export,
    apply=apply,
    about="ONNX for onnxruntime on any CPU, in the browser and on phones",
)
