"""The schemes of ONNX: each makes another graph of a float32 one, in onnxruntime's operators."""

from __future__ import annotations

import contextlib
import logging
import shutil
import tempfile
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from satchel_runtimes.errors import UsageError
from satchel_runtimes.parity import CLASSES
from satchel_runtimes.toolchain import need

from .format import Plan
from .onnx_cache import narrow_caches, observe_caches
from .onnx_merge import merge_products
from .onnx_rounding import round_int4, round_int8
from .onnx_smooth import Samples, observe, open_model, smooth, weighted
from .onnx_tables import embeddings_to_int8, look_up_blocks, tie_embeddings, tied
from .onnx_tensors import lies_apart, tensor_of, values_of
from .process import Tell
from .sensitivity import scan_layers

if TYPE_CHECKING:
    import onnx

__all__ = ["BY_PARTS", "CALIBRATION_METHODS", "LEAST_SAMPLES", "Wanted", "quantize"]

# The schemes that take a tensor at a time; to the others onnxruntime's quantizers need the whole graph in memory.
BY_PARTS = frozenset({"fp32", "int8-weights", "int8-weights-kv8", "int4-weights"})

# How the range of an activation is taken from the samples in int8-static.
CALIBRATION_METHODS = ("minmax", "percentile", "entropy")
LEAST_SAMPLES = 8  # different ones; ranges of fewer are chance
# percentile: of the values within the range. Entropy by onnxruntime's own numbers, 128 bins of 128, has one range to choose from.
_CALIBRATOR = {"percentile": {"percentile": 99.999}, "entropy": {"num_bins": 512, "num_quantized_bins": 128}}
# Weights that share a scale in int8-weights and int4-weights; there are kernels for 16 to 256.
_BLOCK, _BLOCK4 = 128, 32
_VOCABULARY = 8192  # columns of a product that are the tokens of a language
_MATRIX = 2  # axes
_SCORED = 32  # samples on which a scan compares
# What a convnet computes in int8 from end to end. A transformer does so in its matrix products alone: with more, or with
# their results in int8 too, MiniLM's cosine falls from 0.998 to 0.94.
_CONVNET = ("Conv", "MatMul", "Gemm", "Add", "Relu", "Clip", "MaxPool", "AveragePool", "GlobalAveragePool", "Concat")


@dataclass(frozen=True)
class Wanted:
    """What a scheme is made from, beside the graph."""

    plan: Plan
    samples: Samples  # of this component, at batch 1; none where only another component has samples
    component: str
    tell: Tell
    writes: bool = False  # it has a cache, and what it writes is read by itself
    notes: dict[str, Any] = field(default_factory=dict)  # filled by the scheme; Any: JSON

    @property
    def levels(self) -> int | None:
        """The largest level of a weight; None where the grid is not symmetric."""
        return {"int8": 127, "int8-reduced": 64}.get(self.plan.int8_weights)


def quantize(model: onnx.ModelProto, wanted: Wanted) -> onnx.ModelProto:
    """The graph in the plan's scheme.

    Raises:
        UsageError: a scheme that needs samples has too few.
    """
    if wanted.plan.scheme.name.startswith("int"):
        _untie(model)
        if wanted.writes:
            merge_products(model)
    return _SCHEMES[wanted.plan.scheme.name](model, wanted)


def _fp32(model: onnx.ModelProto, wanted: Wanted) -> onnx.ModelProto:
    tie_embeddings(model)
    return model


def _fp16(model: onnx.ModelProto, wanted: Wanted) -> onnx.ModelProto:
    float16 = need("onnxruntime.transformers.float16", extra="convert", to="convert to fp16", of="satchel")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # one per weight that float16 rounds to zero
        converted: onnx.ModelProto = float16.convert_float_to_float16(model, keep_io_types=True)
    return converted


def _int8_dynamic(model: onnx.ModelProto, wanted: Wanted) -> onnx.ModelProto:
    if wanted.samples:
        _check_samples(wanted)
        _prepare(model, wanted)
    embeddings_to_int8(model)
    return _dynamic(model, wanted, ())


def _int8_static(model: onnx.ModelProto, wanted: Wanted) -> onnx.ModelProto:
    _check_samples(wanted)
    if not _convolutional(model):
        _prepare(model, wanted)
    embeddings_to_int8(model)
    wanted.notes["calibration"] = f"{_method(wanted)} over {len(wanted.samples)} samples"
    return _static(model, wanted, _ranges(model, wanted), ())


def _int8_mixed(model: onnx.ModelProto, wanted: Wanted) -> onnx.ModelProto:
    """int8, with the layers that it hurts most in a better precision: int8 weights in blocks with float activations, which
    is faster and smaller than float32, or float32 where the layer is a convolution. What writes has those in every layer: it reads
    one token at a time, which is as fast, and its own errors again."""
    if wanted.writes:
        return _int8_weights(model, wanted)
    _check_samples(wanted)
    chosen = wanted.samples[:: max(1, len(wanted.samples) // _SCORED)][:_SCORED]
    expected = _answers(model, chosen)
    convolutional = _convolutional(model)
    if not convolutional:
        _prepare(model, wanted)
    embeddings_to_int8(model)
    ranges = _ranges(model, wanted) if convolutional else None
    constants = {each.name: int(np.prod(each.dims)) for each in model.graph.initializer}
    layers = {
        name: float(constants[node.input[1]]) for name, node in weighted(model, ("MatMul", "Conv", "Gemm")).items()
    }

    def make(kept: frozenset[str]) -> onnx.ModelProto:
        if convolutional:
            return _static(_copy(model), wanted, ranges, kept)
        return _blocks(_dynamic(_copy(model), wanted, kept), 8)

    def worst(made: onnx.ModelProto) -> float:
        return min(_cosines(expected, _answers(made, chosen)))

    limit = wanted.plan.min_cosine or CLASSES["int8"].cosine_mean
    scan = scan_layers(layers, make, worst, limit, wanted.tell)
    wanted.notes["sensitivity"] = {**scan.notes(), "score_of": f"worst cosine of {len(chosen)} calibration samples"}
    wanted.notes["layers"] = f"{len(scan.kept)} of {len(layers)} in a better precision"
    return make(scan.kept)


def _int8_weights(model: onnx.ModelProto, wanted: Wanted) -> onnx.ModelProto:
    return _with_tables(model, lambda: _blocks(model, 8))


def _with_tables(model: onnx.ModelProto, make: Callable[[], onnx.ModelProto]) -> onnx.ModelProto:
    """Make the products in blocks, and the embeddings int8: from the head's own eight bits where it has the same table."""
    pairs = [(look.output[0], product.output[0]) for look, product in tied(model)]
    embeddings_to_int8(model, kept={look for look, _ in pairs})
    made = make()
    for look, product in pairs:
        look_up_blocks(made, look, product)
    return made


def _int8_weights_kv8(model: onnx.ModelProto, wanted: Wanted) -> onnx.ModelProto:
    if not wanted.samples:  # an encoder, beside a decoder
        return _int8_weights(model, wanted)
    _check_samples(wanted)
    peaks = observe_caches(model, wanted.samples)
    made = _int8_weights(model, wanted)
    narrow_caches(made, peaks)
    return made


def _int4_weights(model: onnx.ModelProto, wanted: Wanted) -> onnx.ModelProto:
    """On MiniLM over 200 texts, mean cosine: 0.964 with symmetric blocks, 0.971 with a zero point, 0.974 by onnxruntime's HQQ,
    0.987 with the rounding of GPTQ."""
    shared = [(look.output[0], product.output[0], product.name) for look, product in tied(model)]
    heads = {*_vocabulary_heads(model), *(name for *_, name in shared)}
    embeddings_to_int8(model, kept={look for look, *_ in shared})
    spared = sorted(heads)  # nothing is known of what they are multiplied with
    if wanted.samples:
        _check_samples(wanted)
        tokens = sum(next(iter(each.values())).shape[1] for each in wanted.samples)
        wanted.notes["calibration"] = f"{len(wanted.samples)} samples of {tokens} positions in all"
        spared = round_int4(model, observe(model, wanted.samples), _BLOCK4, heads)
        wanted.notes["eight_bits"] = spared
    made = _blocks(model, 4, kept=spared)
    if spared:
        made = _blocks(made, 8)
    for look, product, name in shared:
        if name in spared:
            look_up_blocks(made, look, product)
    embeddings_to_int8(made)  # those whose head has four bits
    return made


def _vocabulary_heads(model: onnx.ModelProto) -> list[str]:
    """The products that give a logit for each token: every error there is one of the answer itself, so they keep eight bits."""
    outputs = {each.name for each in model.graph.output}
    shapes = {each.name: list(each.dims) for each in model.graph.initializer}
    products = [node for node in model.graph.node if node.op_type == "MatMul" and node.output[0] in outputs]
    return [node.name for node in products if shapes.get(node.input[1], [0, 0])[-1] >= _VOCABULARY]


_SCHEMES = {
    "fp32": _fp32,
    "fp16": _fp16,
    "int8-dynamic": _int8_dynamic,
    "int8-static": _int8_static,
    "int8-mixed": _int8_mixed,
    "int8-weights": _int8_weights,
    "int8-weights-kv8": _int8_weights_kv8,
    "int4-weights": _int4_weights,
}


def _prepare(model: onnx.ModelProto, wanted: Wanted) -> None:
    places = smooth(model, tuple(observe(model, wanted.samples)))
    if wanted.levels is not None:
        round_int8(model, places, wanted.levels)
    count = sum(place.tensor.endswith(".smooth") for place in places)
    wanted.notes["smoothed"] = f"{count} of {len(places)} places"


def _check_samples(wanted: Wanted) -> None:
    different = {b"".join(each[name].tobytes() for name in sorted(each)) for each in wanted.samples}
    if len(different) < LEAST_SAMPLES:
        raise UsageError(
            f"Cannot calibrate {wanted.component}.",
            why=f"there are {len(different)} different samples of {len(wanted.samples)}; the ranges of activations are taken from them",
            fix=f"name a file with at least {LEAST_SAMPLES} different inputs with --calibration",
        )


def _dynamic(model: onnx.ModelProto, wanted: Wanted, kept: Collection[str]) -> onnx.ModelProto:
    """Weights per output channel in the sign that the profile names, activations uint8 per call. On VNNI, u8 by s8 is the
    fast pair: 400 GOP/s against 150 for u8 by u8 and 30 for s8 by s8 (one core, large products)."""
    import onnx

    quantization = need("onnxruntime.quantization", extra="convert", to="quantize", of="satchel")
    kind = quantization.QuantType
    del model.graph.value_info[:]  # the quantizer infers shapes itself and stumbles over the exporter's
    with _in_folder() as folder:
        target = folder / "quantized.onnx"
        with _quantizer_quiet():
            quantization.quantize_dynamic(
                model,
                target,
                op_types_to_quantize=["MatMul"],
                nodes_to_exclude=list(kept),
                per_channel=True,
                reduce_range=wanted.plan.int8_weights == "int8-reduced",
                weight_type=kind.QUInt8 if wanted.plan.int8_weights == "uint8" else kind.QInt8,
                extra_options={"DefaultTensorType": onnx.TensorProto.FLOAT, "MatMulConstBOnly": True},
            )
        return onnx.load(target)


def _static(model: onnx.ModelProto, wanted: Wanted, ranges: Any, kept: Collection[str]) -> onnx.ModelProto:
    """The same numbers with activation ranges that are known before; written as quantize and dequantize pairs, which
    onnxruntime fuses. Any: the quantizer's own ranges."""
    import onnx

    package = need("onnxruntime.quantization", extra="convert", to="quantize", of="satchel")
    quantizers = need("onnxruntime.quantization.qdq_quantizer", extra="convert", to="quantize", of="satchel")
    kind = package.QuantType
    del model.graph.value_info[:]
    convolutional = _convolutional(model)
    options: dict[str, Any] = {"DefaultTensorType": onnx.TensorProto.FLOAT, "MatMulConstBOnly": True}
    if not convolutional:
        options["OpTypesToExcludeOutputQuantization"] = ["MatMul"]
    kinds = _kinds(model)
    constant = weighted(model, ("MatMul", "Gemm"))
    products = {node.name for node in model.graph.node if node.op_type in ("MatMul", "Gemm")}
    with _quantizer_quiet():
        quantizer = quantizers.QDQQuantizer(
            _inferred(model),
            True,
            wanted.plan.int8_weights == "int8-reduced",
            kind.QUInt8 if wanted.plan.int8_weights == "uint8" else kind.QInt8,
            kind.QUInt8,
            ranges,
            [],
            [*kept, *sorted(products - set(constant))],
            list(kinds),
            options,
        )
        quantizer.quantize_model()
    made: onnx.ModelProto = quantizer.model.model
    return made


def _ranges(model: onnx.ModelProto, wanted: Wanted) -> Any:  # Any: the quantizer's own type
    """One sample at a time: the calibrators that take histograms cannot hold samples of different lengths at once."""
    import onnx

    calibrate = need("onnxruntime.quantization.calibrate", extra="convert", to="quantize", of="satchel")
    methods = {
        "minmax": calibrate.CalibrationMethod.MinMax,
        "percentile": calibrate.CalibrationMethod.Percentile,
        "entropy": calibrate.CalibrationMethod.Entropy,
    }
    method = _method(wanted)
    with _in_folder() as folder, _quantizer_quiet(), contextlib.redirect_stdout(None):
        onnx.save(_inferred(model), folder / "model.onnx", save_as_external_data=True, location="weights")
        calibrator = calibrate.create_calibrator(
            folder / "model.onnx",
            list(_kinds(model)),
            augmented_model_path=str(folder / "augmented.onnx"),
            calibrate_method=methods[method],
            use_external_data_format=True,
            extra_options=_CALIBRATOR.get(method, {}),
        )
        for sample in wanted.samples:
            calibrator.collect_data(_One(sample))
            wanted.tell("calibrate", method, 1, len(wanted.samples))
        return calibrator.compute_data()


class _One:
    """A single sample as the calibrators read them."""

    def __init__(self, sample: Mapping[str, np.ndarray]) -> None:
        self._left = [dict(sample)]

    def get_next(self) -> dict[str, np.ndarray] | None:
        return self._left.pop() if self._left else None


def _method(wanted: Wanted) -> str:
    return wanted.plan.calibration_method or CALIBRATION_METHODS[0]


def _kinds(model: onnx.ModelProto) -> tuple[str, ...]:
    return _CONVNET if _convolutional(model) else ("MatMul",)


def _convolutional(model: onnx.ModelProto) -> bool:
    """Whether most of the weights are those of convolutions."""
    sizes = {each.name: int(np.prod(each.dims)) for each in model.graph.initializer}
    convolutions, products = (
        sum(sizes[node.input[1]] for node in weighted(model, kinds).values())
        for kinds in (("Conv",), ("MatMul", "Gemm"))
    )
    return convolutions > products


def _inferred(model: onnx.ModelProto) -> onnx.ModelProto:
    import onnx

    return onnx.shape_inference.infer_shapes(model) if model.ByteSize() < 2**31 - 2**20 else model


def _blocks(model: onnx.ModelProto, bits: int, kept: Sequence[str] = ()) -> onnx.ModelProto:
    """Products whose weights share a scale in blocks; of a graph whose tensors lie apart, one product at a time."""
    from onnx import helper, numpy_helper

    graph = model.graph
    tensors = {each.name: each for each in graph.initializer}
    if not any(map(lies_apart, tensors.values())):
        return _in_blocks(model, bits, kept)
    for name, node in weighted(model).items():
        if name in kept or len(tensors[node.input[1]].dims) != _MATRIX:
            continue
        matrix = numpy_helper.from_array(values_of(tensors[node.input[1]]), node.input[1])
        alone = helper.make_model(helper.make_graph([node], "product", [], [], [matrix]))
        made = _in_blocks(alone, bits, ())
        for tensor in made.graph.initializer:
            if tensor.name not in tensors:
                tensors[tensor.name] = tensor_of(numpy_helper.to_array(tensor), tensor.name)
                graph.initializer.append(tensors[tensor.name])
        (product,) = made.graph.node
        node.CopyFrom(product)
    if all(each.domain != "com.microsoft" for each in model.opset_import):
        model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    used = {each for node in graph.node for each in node.input}
    for tensor in [each for each in graph.initializer if each.name not in used]:
        graph.initializer.remove(tensor)
    return model


def _in_blocks(model: onnx.ModelProto, bits: int, kept: Sequence[str]) -> onnx.ModelProto:
    module = need("onnxruntime.quantization.matmul_nbits_quantizer", extra="convert", to="quantize", of="satchel")
    block, symmetric = (_BLOCK, True) if bits == 8 else (_BLOCK4, False)
    with _quantizer_quiet():
        quantizer = module.MatMulNBitsQuantizer(
            model,
            bits=bits,
            block_size=block,
            is_symmetric=symmetric,
            accuracy_level=4,
            nodes_to_exclude=list(kept),
        )
        quantizer.process()
    result: onnx.ModelProto = quantizer.model.model
    return result


def _answers(model: onnx.ModelProto, samples: Samples) -> list[np.ndarray]:
    """Per sample, all outputs in one row."""
    session = open_model(model)
    return [np.concatenate([each.ravel() for each in session.run(None, dict(sample))]) for sample in samples]


def _cosines(ours: Sequence[np.ndarray], theirs: Sequence[np.ndarray]) -> list[float]:
    found = []
    for one, other in zip(ours, theirs, strict=True):
        norms = float(np.linalg.norm(one) * np.linalg.norm(other))
        found.append(float(one @ other) / norms if norms > 0 and np.isfinite(norms) else 0.0)
    return found


def _copy(model: onnx.ModelProto) -> onnx.ModelProto:
    import onnx

    made = onnx.ModelProto()
    made.CopyFrom(model)
    return made


def _untie(model: onnx.ModelProto) -> None:
    """Store what the engine would turn over when it loads the graph: a table that is the head as well."""
    graph = model.graph
    tables = {each.name: each for each in graph.initializer}
    for node in [each for each in graph.node if each.op_type == "Transpose" and each.input[0] in tables]:
        order = next((list(each.ints) for each in node.attribute if each.name == "perm"), None)
        graph.initializer.append(tensor_of(values_of(tables[node.input[0]]).transpose(order), node.output[0]))
        graph.node.remove(node)


@contextlib.contextmanager
def _in_folder() -> Iterator[Path]:

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
