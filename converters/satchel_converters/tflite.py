"""TFLite for LiteRT: litert-torch traces each length as a signature, and the signatures share their weights.

The schemes are ai-edge-quantizer's own recipes. No TensorFlow is involved.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from satchel_runtimes.errors import SupportError
from satchel_runtimes.manifest import Engine, Graph
from satchel_runtimes.toolchain import need

from .component import Component, specs
from .format import Artifact, Calibration, Format, Plan, Scheme, copy_twin, engine_has, oldest, silent
from .process import Tell
from .quiet import quiet
from .shapes import cache_shapes, difference, length_of, made_sizes, others_of, resized, static_shapes
from .tflite_quantize import METHODS, quantize_static

if TYPE_CHECKING:
    import torch

__all__ = ["FORMAT"]

_TOLERANCE = 1e-4  # as in onnx_export
_TO = "convert to TFLite"

SCHEMES = {
    scheme.name: scheme
    for scheme in (
        Scheme("fp32", "reference", 4.0, ">=1.0", "float32 as it was trained", traced=True),
        Scheme("fp16", "size", 2.0, ">=1.0", "float16 weights, computed as float32"),
        Scheme("int8-dynamic", "speed", 1.02, ">=1.0", "int8 weights per channel, activations quantized on the fly"),
        Scheme(
            "int8-static",
            "speed",
            1.02,
            ">=1.0",
            "int8 weights per channel, int8 activations with ranges from samples, sensitive layers kept better; for convnets",
            convolutions=True,
            calibrated=True,
            ranges=True,
        ),
        Scheme("int8-weights", "size", 1.02, ">=1.0", "int8 weights per channel, float activations"),
        Scheme("int4-weights", "size", 0.55, ">=2.0", "int4 weights in blocks of 32, int8 embeddings"),
    )
}

# The recipes of ai-edge-quantizer for each scheme, the later over the earlier: (name, operator or None for all). Embeddings stay at
# int8 in int4-weights: with both at int4, MiniLM's mean cosine was 0.946, below what the class allows.
_RECIPES = {
    "int8-dynamic": (("dynamic_wi8_afp32", None),),
    "int8-weights": (("weight_only_wi8_afp32", None),),
    "int4-weights": (("dynamic_wi8_afp32", None), ("dynamic_wi4b32_afp32", "FULLY_CONNECTED")),
}

# What the old runtime computes as LiteRT does. It loads int8-dynamic and answers wrongly: cosine -0.05 on MiniLM.
_OLD_RUNTIME_COMPUTES = ("fp32", "fp16", "int8-weights")


def plan(scheme: Scheme, profile: Any, options: Mapping[str, str]) -> Plan:  # Any: a DeviceProfile
    """The engine of the profile and its lengths.

    Raises:
        SupportError: the device has no TFLite engine, or only one that computes the scheme wrongly.
    """
    engines = {each.name: each for each in profile.engines}
    litert, old = engines.get("ai-edge-litert"), engines.get("tflite-runtime")
    if litert is None and old is None:
        raise SupportError(
            f"Cannot convert to tflite for {profile.name}.",
            why=f"its engines are {', '.join(engines) or 'not known'}",
            fix=f"choose one of its formats: {', '.join(profile.formats)}",
        )
    if litert is None and scheme.name not in _OLD_RUNTIME_COMPUTES:
        raise SupportError(
            f"Cannot make {scheme.name} for {profile.name}.",
            why="its engine is tflite-runtime, which loads this scheme and computes it wrongly without a word",
            fix=f"choose one of {', '.join(_OLD_RUNTIME_COMPUTES)}, or install ai-edge-litert on the device",
        )
    if litert is not None and not engine_has(litert.version, scheme.engine):
        raise SupportError(
            f"Cannot make {scheme.name} for {profile.name}.",
            why=f"it needs ai-edge-litert {scheme.engine}; the profile promises {litert.version}",
            fix="choose another scheme, or a profile with a newer engine",
        )
    engine: Any = litert or old  # one of them is there
    # A device may have both engines; the bundle says whether the old one may run it.
    also = ("tflite-runtime",) if scheme.name in _OLD_RUNTIME_COMPUTES else ()
    needs = ".".join(str(part) for part in oldest(engine.version))
    io = options.get("io", "float32")
    if io != "float32" and not scheme.calibrated:
        raise SupportError(
            f"Cannot make {scheme.name} with {io} inputs and outputs.",
            why="its activations are float32, so there is no scale to store them with",
            fix="choose int8-static, or leave --io-dtype out",
        )
    method = options.get("calibration_method", "")
    if method and not scheme.calibrated:
        raise SupportError(
            f"Cannot make {scheme.name} with --calibration-method {method}.",
            why="it takes no ranges from samples",
            fix="choose int8-static, or leave --calibration-method out",
        )
    if method and method not in METHODS:
        raise SupportError(
            f"Cannot make {scheme.name} with --calibration-method {method}.",
            why=f"tflite has {', '.join(METHODS)}",
            fix="choose one of these, or leave it out: then each is tried on samples held back, and the best is taken",
        )
    return Plan(
        "tflite",
        scheme,
        Engine(engine.name, f">={needs}", also=also),
        buckets=profile.sequence_buckets,
        calibration_method=method,
        min_cosine=float(options.get("min_cosine", 0.0)),
        io=io,
    )


def export(components: Sequence[Component], plan: Plan, out: Path) -> Artifact:
    """Write each component with one signature per bucket, checked against torch in every signature.

    Raises:
        SupportError: litert-torch cannot convert the model, or a signature answers wrongly.
    """
    graphs: list[Graph] = []
    known: dict[str, int] = {}  # sizes of what one component hands to another
    for component in [each.fixed or each for each in components]:
        file = f"{component.name}.tflite"
        cached = bool(component.state)
        shapes = cache_shapes(component, plan.longest, known) if cached else static_shapes(component, plan.buckets)
        if not cached:
            known |= made_sizes(component, shapes[-1])
        _convert(component, shapes, out / file)
        worst = max(_check(component, out / file, shape) for shape in shapes)
        if worst > _TOLERANCE:
            raise SupportError(
                f"Cannot convert {component.name} to TFLite.",
                why=f"the converted graph is wrong by {worst:.2g} of the largest value",
                fix="convert to another format, or report the architecture",
            )
        inputs = tuple(
            dataclasses.replace(spec, dtype=_DTYPES.get(spec.dtype, spec.dtype)) for spec in specs(component.inputs)
        )
        outputs = specs(component.outputs)
        graphs += [
            Graph(
                component.name,
                file,
                inputs,
                outputs,
                entry=_signature(shape),
                bind=dict(shape),
                state=dict(component.state),
            )
            for shape in shapes
        ]
    return Artifact(out, tuple(graphs), tuple(dict.fromkeys(graph.file for graph in graphs)))


_DTYPES = {"int64": "int32"}  # LiteRT's kernels index with 32 bits


_Shape = Mapping[str, int]


def _signature(shape: _Shape) -> str:
    return "_".join(f"{axis}_{size}" for axis, size in shape.items() if axis != "batch") or "batch_1"


def _convert(component: Component, shapes: Sequence[_Shape], file: Path) -> None:
    torch = need("torch", extra="convert-tflite", to=_TO, of="satchel")
    with quiet():
        litert = need("litert_torch", extra="convert-tflite", to=_TO, of="satchel")
        # torch makes an identity matrix of 8-bit places, an operator that the converter leaves and no runtime has.
        litert.fx_infra.decomp.add_pre_convert_decomp(torch.ops.aten.eye, _identity)
        # torch widens what it puts together, here 32 bits of an input and 64 of a constant; the converter does not.
        litert.fx_infra.decomp.add_pre_convert_decomp(torch.ops.aten.cat, _one_type)
        # Checks of shapes in the middle of a graph, an operator that it does not have; replaying it shows more.
        os.environ["TRANSFORMERS_DISABLE_TORCH_CHECK"] = "1"
        module = _named(component)
        made: Any = None  # the converter, once it has a signature
        try:
            for shape in shapes:
                example = resized(component, 1, length_of(shape), sizes=others_of(component, shape))
                inputs = {name: _as_int32(torch, value) for name, value in example.items()}
                made = (made or litert).signature(_signature(shape), module, sample_kwargs=inputs)
            made.convert().export(str(file))
        except Exception as error:  # noqa: BLE001  # the converter's own errors derive from nothing narrower
            lines = str(error).strip().splitlines() or [""]
            raise SupportError(
                f"Cannot convert {component.name} to TFLite.",
                why=f"{type(error).__name__}: {lines[0][:300]}",
                fix="convert to another format; an architecture that needs a rewrite gets one file in capture/",
            ) from None


def _identity(rows: int, columns: int | None = None, *, dtype: torch.dtype | None = None, **_: Any) -> torch.Tensor:
    import torch

    down, across = (torch.arange(size) for size in (rows, rows if columns is None else columns))
    return (down[:, None] == across).to(dtype or torch.get_default_dtype())


def _one_type(tensors: Sequence[torch.Tensor], dim: int = 0) -> Any:  # Any: a tensor, or that it stays as it is
    import torch

    if len({each.dtype for each in tensors}) == 1:
        return NotImplemented
    wide = functools.reduce(torch.promote_types, (each.dtype for each in tensors))
    return torch.cat([each.to(wide) for each in tensors], dim)


def _named(component: Component) -> torch.nn.Module:  # a class that needs torch to exist
    """The component with the parameters of `forward` by name, which torch.export reads from the signature."""
    import torch

    class Named(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = component.module

        def forward(self, *positional: Any, **named: Any) -> Any:
            given = {**dict(zip(names, positional, strict=False)), **named}
            return self.inner(**given)

    names = [each.name for each in component.inputs]
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    parameters = [inspect.Parameter("self", kind), *(inspect.Parameter(name, kind) for name in names)]
    Named.forward.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # functions have it
    return Named().eval()


def _as_int32(torch: Any, value: Any) -> Any:  # Any: tensors of a module imported late
    return value.to(torch.int32) if value.dtype == torch.int64 else value


def _check(component: Component, file: Path, shape: _Shape) -> float:
    """The error of one signature against the module, on two thirds of its length so that padding is in it."""
    interpreters = need("ai_edge_litert.interpreter", extra="convert-tflite", to=_TO, of="satchel")
    try:
        interpreter = interpreters.Interpreter(model_path=str(file), num_threads=2)
        interpreter.allocate_tensors()
    except (ValueError, RuntimeError) as error:  # an operator that the converter wrote and no runtime has
        raise SupportError(
            f"Cannot run {component.name} in TFLite.",
            why=f"LiteRT: {str(error).strip().splitlines()[0][:300]}",
            fix="take another format for this model: --format onnx",
        ) from None
    run = interpreter.get_signature_runner(_signature(shape))

    def call(inputs: Mapping[str, Any]) -> Mapping[str, Any]:
        found: Mapping[str, Any] = run(**{n: v.astype("int32") if v.dtype == "int64" else v for n, v in inputs.items()})
        return found

    return difference(component, call, ((1, length_of(shape)),), padded=True, sizes=others_of(component, shape))


def apply(twin: Artifact, plan: Plan, out: Path, calibration: Calibration, tell: Tell = silent) -> Artifact:
    """Quantize the float32 file; every signature keeps sharing its weights."""
    if plan.scheme.name == "fp32":
        return copy_twin(twin, out)
    notes: dict[str, Any] = {}
    for file in twin.files:
        if plan.scheme.calibrated:
            graphs = [graph for graph in twin.graphs if graph.file == file]
            samples = calibration(graphs[0].component)
            made = quantize_static((twin.folder / file).read_bytes(), graphs, samples, plan, tell)
            (out / file).write_bytes(made.content)
            notes |= made.notes if len(twin.files) == 1 else {graphs[0].component: made.notes}
            continue
        package = need("ai_edge_quantizer", extra="convert-tflite", to="quantize TFLite", of="satchel")
        with quiet():
            quantizer = package.quantizer.Quantizer(str(twin.folder / file))
            if plan.scheme.name == "fp16":
                _add_fp16(package, quantizer)
            else:
                quantizer.load_quantization_recipe(_recipe(package.recipe, plan.scheme.name))
            try:
                quantizer.quantize().export_model(str(out / file), overwrite=True)
            except (RuntimeError, ValueError) as error:  # of tables whose rows are no whole number of blocks
                raise SupportError(
                    f"Cannot make {plan.scheme.name} of {file}.",
                    why=f"ai-edge-quantizer: {str(error).strip().splitlines()[0][-300:]}",
                    fix="choose another scheme, such as int8-weights",
                ) from None
    return Artifact(out, twin.graphs, twin.files, notes=notes)


def _recipe(recipes: Any, scheme: str) -> list[Any]:  # Any: a module imported late, and its own dictionaries
    steps = []
    for name, operator in _RECIPES[scheme]:
        only = {"operation_name": recipes.TFLOperationName[operator]} if operator else {}
        steps += getattr(recipes, name)(**only)
    return steps


def _add_fp16(package: Any, quantizer: Any) -> None:  # Any: classes of a package imported late
    names = package.recipe_manager if hasattr(package, "recipe_manager") else package.recipe.recipe_manager
    quantizer.update_quantization_recipe(
        regex=".*",
        operation_name=package.qtyping.TFLOperationName.ALL_SUPPORTED,
        op_config=package.qtyping.OpQuantizationConfig(
            weight_tensor_config=package.qtyping.TensorQuantizationConfig(
                num_bits=16, dtype=package.qtyping.TensorDataType.FLOAT
            ),
            compute_precision=package.qtyping.ComputePrecision.FLOAT,
            explicit_dequantize=True,
        ),
        algorithm_key=names.AlgorithmName.FLOAT_CASTING,
    )


FORMAT = Format(
    name="tflite",
    engine="ai-edge-litert",
    shapes="static",
    schemes=SCHEMES,
    packages=("torch", "transformers", "litert_torch", "ai_edge_quantizer", "ai_edge_litert"),
    needs={"torch": ">=2.11", "transformers": ">=5.23"},
    extra="convert-tflite",
    plan=plan,
    export=export,
    apply=apply,
    caches=True,
    about="TFLite for LiteRT on phones and small boards; lengths are signatures that share their weights",
)
