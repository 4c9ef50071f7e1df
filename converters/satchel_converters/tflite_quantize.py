"""int8 TFLite with ranges from samples.

A convnet is int8 from end to end, its weights rounded against its samples (`tflite_rounding.py`). In a transformer only what has weights
is int8: softmax, normalization and attention gain nothing in speed (int8 attention alone halves it) and lose the answers. Where samples
that were held back show too large an error still, a scan finds the layers to keep in a better precision. On MiniLM these are the six
matrices that write into the residual stream, whose largest values are a hundred times the usual ones.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from satchel_runtimes.errors import SupportError, UsageError
from satchel_runtimes.manifest import Graph
from satchel_runtimes.toolchain import need

from .format import Plan
from .process import Tell
from .quiet import quiet
from .sensitivity import scan_layers
from .tflite_rounding import KINDS, Layer, Moments, code_of, find_layers, put_on_grid

__all__ = ["METHODS", "Made", "quantize_static"]

_TO = "quantize TFLite"
_LEAST = 8  # samples; from fewer, what is held back says nothing
_HELD = 4  # every fourth sample is held back to score on, and 16 of them are enough
_SCORED = 16
_ROUNDED = 32  # samples that weights are rounded against; twice as many gave the same answers
# Mean cosine of the raw outputs. At 0.99 the worst of MiniLM's embeddings were below what parity allows.
_WANTED = 0.994

_Sample = Mapping[str, np.ndarray]
# From the lowest and highest value of each sample, and its 0.01 % and 99.99 % points, to one range.
METHODS: Mapping[str, Callable[[np.ndarray], tuple[float, float]]] = {
    "minmax": lambda seen: (seen[:, 0].min(), seen[:, 3].max()),
    "percentile": lambda seen: (seen[:, 1].min(), seen[:, 2].max()),
    "average": lambda seen: (seen[:, 0].mean(), seen[:, 3].mean()),
}


@dataclass(frozen=True)
class Made:
    """A quantized file, and what was decided in making it, as JSON."""

    content: bytes
    notes: Mapping[str, Any]


@dataclass(frozen=True)
class _Twin:
    """The float32 file, opened."""

    content: bytes
    model: Any  # the flatbuffer's schema
    graphs: tuple[Graph, ...]  # one per signature
    subgraphs: tuple[int, ...]  # of each
    layers: tuple[Layer, ...]
    ranks: Mapping[str, int]  # of each tensor
    attention: bool


def quantize_static(
    content: bytes, graphs: Sequence[Graph], samples: Iterable[_Sample], plan: Plan, tell: Tell
) -> Made:
    """Quantize a float32 file in all its signatures.

    Args:
        samples: inputs at their own sizes.

    Raises:
        UsageError: too few samples.
        SupportError: the quantizer cannot do this graph.
    """
    given = list(samples)
    if len(given) < _LEAST:
        raise UsageError(
            f"Cannot calibrate {graphs[0].component}.",
            why=f"there are {len(given) or 'no'} samples to take the ranges of its activations from, and {_LEAST} are the least",
            fix="name a file with more inputs with --calibration",
        )
    twin = _open(content, graphs)
    step = max(_HELD, -(-len(given) // _SCORED))
    held, used = given[::step], [each for place, each in enumerate(given) if place % step]
    tell("calibration", f"{len(used)} samples", 1, 3)
    seen, moments = _observe(twin, used)
    source = content
    if not twin.attention:
        source = _rounded(twin, seen, moments)
    tell("calibration", "weights rounded" if source is not content else "ranges found", 2, 3)
    expected = _answers(content, twin.graphs[-1], held)

    def make(method: str, kept: frozenset[str], ends: str = "float32") -> bytes:
        return _quantize(twin, source, {name: METHODS[method](each) for name, each in seen.items()}, kept, ends)

    def score(made: bytes) -> float:
        found = _answers(made, twin.graphs[-1], held)
        cosines = [_cosine(a, b) for a, b in zip(expected, found, strict=True)]
        return float(np.min(cosines) if plan.min_cosine else np.mean(cosines))

    wanted = plan.min_cosine or _WANTED
    methods = (plan.calibration_method,) if plan.calibration_method else tuple(METHODS)
    scores = {method: score(make(method, frozenset())) for method in methods}
    method = max(scores, key=lambda name: scores[name])
    tell("calibration", f"ranges by {method}", 3, 3)
    notes: dict[str, Any] = {
        "calibration": method,
        "samples": len(given),
        "score": round(scores[method], 5),
        "methods": {name: round(value, 5) for name, value in scores.items()},
        "float operators": "all without weights" if twin.attention else "none",
        "weights": "nearest" if source is content else "rounded against the samples, biases corrected",
    }
    kept: frozenset[str] = frozenset()
    if scores[method] < wanted:
        costs = {layer.name: float(layer.size) for layer in twin.layers}
        scan = scan_layers(costs, lambda names: make(method, names), score, wanted, tell)
        kept = scan.kept
        better = "int8-dynamic" if twin.attention else "float32"
        notes |= {"score": round(scan.score, 5), "kept": f"{len(kept)} of {len(costs)} layers in {better}"}
        notes |= {"sensitivity": scan.notes()}
    return Made(make(method, kept, plan.io), notes)


def _open(content: bytes, graphs: Sequence[Graph]) -> _Twin:
    schema = need("ai_edge_litert.schema_py_generated", extra="convert-tflite", to=_TO, of="satchel")
    files = need("ai_edge_litert.tools.flatbuffer_utils", extra="convert-tflite", to=_TO, of="satchel")
    model = files.convert_bytearray_to_object(bytearray(content))
    codes = {getattr(schema.BuiltinOperator, name): name for name in (*KINDS, "BATCH_MATMUL")}
    layers = find_layers(model, codes)
    own = {id(operator) for layer in layers for _, operator in layer.operators}
    subgraphs = {each.signatureKey.decode(): int(each.subgraphIndex) for each in model.signatureDefs}
    return _Twin(
        content,
        model,
        tuple(graphs),
        tuple(subgraphs[str(graph.entry)] for graph in graphs),
        layers,
        {tensor.name.decode(): len(tensor.shape) for graph in model.subgraphs for tensor in graph.tensors},
        # Products of two activations, which litert-torch writes as either operator.
        attention=any(
            codes.get(code_of(model, operator)) in ("BATCH_MATMUL", "FULLY_CONNECTED") and id(operator) not in own
            for graph in model.subgraphs
            for operator in graph.operators
        ),
    )


def _observe(twin: _Twin, samples: Sequence[_Sample]) -> tuple[dict[str, np.ndarray], dict[str, Moments]]:
    """What the activations hold, a row per sample, the same in all signatures for what a layer reads and writes; and the
    moments of the layers' inputs."""
    seen: dict[str, list[list[float]]] = {}
    moments = {layer.name: Moments() for layer in twin.layers}
    reads = {layer.name: layer.activations(twin.model)[0][0] for layer in twin.layers}
    wanted = {name for layer in twin.layers for names in layer.activations(twin.model) for name in names}
    for graph, subgraph in zip(twin.graphs, twin.subgraphs, strict=True):
        with quiet():
            interpreter = _interpreter(twin.content, keep=True)
        run = interpreter.get_signature_runner(graph.entry)
        held = {
            each["name"]: each["index"]
            for each in interpreter.get_tensor_details(subgraph)
            if each["dtype"] is np.float32
            and twin.model.buffers[twin.model.subgraphs[subgraph].tensors[each["index"]].buffer].data is None
            and (each["name"] in wanted or not twin.attention)
        }
        for number, sample in enumerate(samples):
            run(**_fitted(graph, sample))
            for name, index in held.items():
                values = interpreter.get_tensor(index, subgraph)
                if values.size:
                    flat = values.ravel()
                    last = flat.size - 1
                    places = [0, round(last * 1e-4), round(last * (1 - 1e-4)), last]
                    ordered = np.partition(flat, sorted(set(places)))
                    seen.setdefault(name, []).append([float(ordered[place]) for place in places])
            if not twin.attention and number < _ROUNDED:
                for layer in twin.layers:
                    if layer.operators[0][0] == subgraph:
                        values = interpreter.get_tensor(held[reads[layer.name]], subgraph)
                        moments[layer.name].add(twin.model, layer, values)
    for layer in twin.layers:
        for names in layer.activations(twin.model):
            rows = [row for name in names for row in seen.get(name, [])]
            seen.update(dict.fromkeys(names, rows))
    return {name: np.array(rows) for name, rows in seen.items()}, moments


def _rounded(twin: _Twin, seen: Mapping[str, np.ndarray], moments: Mapping[str, Moments]) -> bytes:
    files = need("ai_edge_litert.tools.flatbuffer_utils", extra="convert-tflite", to=_TO, of="satchel")
    model = files.convert_bytearray_to_object(bytearray(twin.content))
    steps = {}
    for layer in twin.layers:
        low, high = METHODS["percentile"](seen[layer.activations(twin.model)[0][0]])  # the narrowest, so the safest
        steps[layer.name] = max((max(high, 0.0) - min(low, 0.0)) / 255, 1e-12)
    put_on_grid(model, twin.layers, moments, steps)
    return bytes(files.convert_object_to_bytearray(model))


def _quantize(
    twin: _Twin, content: bytes, ranges: Mapping[str, tuple[float, float]], kept: frozenset[str], io: str
) -> bytes:
    package = need("ai_edge_quantizer", extra="convert-tflite", to=_TO, of="satchel")
    names, algorithms = package.recipe.TFLOperationName, package.recipe.AlgorithmName
    with quiet():
        quantizer = package.quantizer.Quantizer(bytearray(content))
        if twin.attention:
            for kind in KINDS:
                quantizer.add_static_config(_these(twin, kind), names[kind], activation_num_bits=8, weight_num_bits=8)
            for end in (names.INPUT, names.OUTPUT) if io == "int8" else ():
                quantizer.add_static_config(".*", end, activation_num_bits=8, weight_num_bits=8)
        else:
            quantizer.load_quantization_recipe(package.recipe.static_wi8_ai8())
            for end in (names.INPUT, names.OUTPUT) if io == "float32" else ():
                _leave(quantizer, ".*", end, algorithms)
        quantizer.add_dynamic_config(".*", names.EMBEDDING_LOOKUP, num_bits=8)
        for kind in {layer.kind for layer in twin.layers if layer.name in kept}:
            if twin.attention and kind == "FULLY_CONNECTED":
                quantizer.add_dynamic_config(_these(twin, kind, kept), names[kind], num_bits=8)
            else:
                _leave(quantizer, _these(twin, kind, kept), names[kind], algorithms)
        try:
            result = quantizer.quantize(
                {name: _as_range(each, twin.ranks[name]) for name, each in ranges.items()},
                enable_progress_bar=False,
                enable_progress_report=False,
            )
        except (ValueError, RuntimeError, NotImplementedError) as error:
            raise SupportError(
                f"Cannot quantize {twin.graphs[0].component} to int8-static.",
                why=f"{type(error).__name__}: {str(error).strip()[:300]}",
                fix="choose int8-dynamic or int8-weights",
            ) from None
        return bytes(result.quantized_model)


def _these(twin: _Twin, kind: str, names: frozenset[str] | None = None) -> str:
    """An expression for the layers of one kind, all or those with these names, in all signatures."""
    chosen = [each for each in twin.layers if each.kind == kind and (names is None or each.name in names)]
    outputs = "|".join(re.escape(output) for each in chosen for output in each.outputs(twin.model))
    return f"^(?:{outputs or '(?!)'});$"  # (?!) matches nothing


def _leave(quantizer: Any, regex: str, operation: Any, algorithms: Any) -> None:  # Any: classes imported late
    quantizer.update_quantization_recipe(
        regex=regex, operation_name=operation, op_config=None, algorithm_key=algorithms.NO_QUANTIZE
    )


def _as_range(ends: tuple[float, float], rank: int) -> dict[str, np.ndarray]:
    """As the quantizer holds it; zero is always in a range, for padding."""
    low, high = min(ends[0], 0.0), max(ends[1], 0.0)
    return {"min": np.full([1] * rank, low, np.float32), "max": np.full([1] * rank, high, np.float32)}


def _answers(content: bytes, graph: Graph, samples: Sequence[_Sample]) -> list[list[np.ndarray]]:
    """The outputs of each sample, where they are its own and no padding."""
    with quiet():
        run = _interpreter(content, keep=False).get_signature_runner(graph.entry)
    made = []
    for sample in samples:
        sizes = {
            axis: min(size, graph.bind.get(axis, size))
            for spec in graph.inputs
            for axis, size in zip(spec.shape, sample[spec.name].shape, strict=True)
            if isinstance(axis, str)
        }
        found = run(**_fitted(graph, sample))
        own = [
            tuple(slice(0, sizes.get(axis) if isinstance(axis, str) else None) for axis in spec.shape)
            for spec in graph.outputs
        ]
        made.append([found[spec.name][part].copy() for spec, part in zip(graph.outputs, own, strict=True)])
    return made


def _cosine(expected: Sequence[np.ndarray], found: Sequence[np.ndarray]) -> float:
    """The lowest of all outputs; what is not a number is as wrong as can be."""
    worst = 1.0
    for one, other in zip(expected, found, strict=True):
        a, b = one.ravel().astype(np.float64), other.ravel().astype(np.float64)
        length = float(np.linalg.norm(a) * np.linalg.norm(b))
        value = float(a @ b) / length if length else float(np.array_equal(a, b))
        worst = min(worst, value if np.isfinite(value) else -1.0)
    return worst


def _fitted(graph: Graph, sample: _Sample) -> dict[str, np.ndarray]:
    """A sample in the shape of one signature: cut where it is longer, padded as a session pads."""
    tensors = {}
    for spec in graph.inputs:
        shape = [graph.bind.get(axis, 1) if isinstance(axis, str) else axis for axis in spec.shape]
        whole = np.full(shape, spec.padding or 0, dtype=spec.dtype)
        part = tuple(slice(0, min(sizes)) for sizes in zip(shape, sample[spec.name].shape, strict=True))
        whole[part] = sample[spec.name][part]
        tensors[spec.name] = whole
    return tensors


def _interpreter(content: bytes, *, keep: bool) -> Any:  # Any: a class imported late
    interpreters = need("ai_edge_litert.interpreter", extra="convert-tflite", to=_TO, of="satchel")
    made = interpreters.Interpreter(model_content=content, num_threads=1, experimental_preserve_all_tensors=keep)
    made.allocate_tensors()
    return made
