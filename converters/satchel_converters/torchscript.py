"""TorchScript for torch itself: traced once, frozen, and proved at other shapes before it is taken.

torch calls the format deprecated. It is for services that have torch anyway and load no transformers.
"""

from __future__ import annotations

import copy
import dataclasses
import warnings
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from satchel_runtimes.errors import SupportError
from satchel_runtimes.manifest import Engine, Graph
from satchel_runtimes.toolchain import need

from .component import Component, specs
from .format import Artifact, Calibration, Format, Plan, Scheme, copy_twin
from .shapes import OTHER_SHAPES, difference, dynamic_shapes, resized, static_shapes

if TYPE_CHECKING:
    import numpy as np
    import torch

__all__ = ["FORMAT", "save_trace", "trace"]

_TOLERANCE = 1e-4  # as in onnx_export
_TO = "convert to TorchScript"

SCHEMES = {
    scheme.name: scheme
    for scheme in (
        Scheme("fp32", "reference", 4.0, ">=2.13", "float32 as it was trained", traced=True),
        Scheme(
            "int8-dynamic",
            "speed",
            1.05,
            ">=2.13",
            "int8 weights per channel, activations quantized on the fly, embeddings int8 per row",
            traced=True,
        ),
        Scheme(
            "fp32-export",
            "reference",
            4.0,
            ">=2.13",
            "float32 as a .pt2 of torch.export, TorchScript's successor",
            traced=True,
        ),
    )
}


def plan(scheme: Scheme, profile: Any, options: Mapping[str, str]) -> Plan:  # Any: a DeviceProfile
    """The torch of the profile.

    Raises:
        SupportError: the device has no torch.
    """
    engine = next((each for each in profile.engines if each.name == "torch"), None)
    if engine is None:
        raise SupportError(
            f"Cannot convert to torchscript for {profile.name}.",
            why=f"its engines are {', '.join(each.name for each in profile.engines) or 'not known'}",
            fix=f"choose one of its formats: {', '.join(profile.formats)}",
        )
    if options.get("io", "float32") != "float32":
        raise SupportError(
            f"Cannot make {scheme.name} with {options['io']} inputs and outputs.",
            why="activations are float32 at both ends of every scheme of torchscript",
            fix="leave --io-dtype out, or convert to tflite in int8-static",
        )
    return Plan(
        "torchscript",
        scheme,
        Engine("torch", engine.version),
        buckets=profile.sequence_buckets,
        int8_weights=profile.int8_weights,
    )


def export(components: Sequence[Component], plan: Plan, out: Path) -> Artifact:
    """Write each component as one trace with dynamic axes, or pinned to one shape where it is wrong at others.

    Raises:
        SupportError: the model cannot be traced, or its trace is wrong at the very shape that it was traced at.
    """
    graphs = []
    for component in components:
        if plan.scheme.name == "fp32-export":
            graphs.append(_export_program(component, out))
            continue
        file = f"{component.name}.pt"
        made = component
        if plan.scheme.name == "int8-dynamic":
            quantized = _quantize(component.module, reduced=plan.int8_weights == "int8-reduced")
            made = dataclasses.replace(component, module=quantized)
        save_trace(trace(made, made.example), out / file)
        bind: Mapping[str, int] = {}
        if _error(made, out / file) > _TOLERANCE:
            bind = static_shapes(component, plan.buckets)[-1]
            length = bind.get("sequence", 1)
            save_trace(trace(made, resized(made, 1, length, padded=True)), out / file)
            worst = _error(made, out / file, ((1, length),), padded=True)
            if worst > _TOLERANCE:
                raise SupportError(
                    f"Cannot convert {component.name} to TorchScript.",
                    why=f"the trace is wrong by {worst:.2g} of the largest value at the shape that was traced",
                    fix="convert to another format, or report the architecture",
                )
        graphs.append(Graph(component.name, file, specs(component.inputs), specs(component.outputs), bind=dict(bind)))
    return Artifact(out, tuple(graphs), tuple(graph.file for graph in graphs))


def apply(twin: Artifact, plan: Plan, out: Path, calibration: Calibration) -> Artifact:
    return copy_twin(twin, out)  # torch quantizes before the trace


def trace(component: Component, example: Mapping[str, torch.Tensor]) -> Any:  # Any: torch does not type its scripts
    """The component by position, with its outputs as a tuple.

    Raises:
        SupportError: it cannot be traced.
    """
    torch = need("torch", extra="convert", to=_TO, of="satchel")
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # tracing is deprecated, and it warns of every shape that it reads
            # Checked it is at other shapes, by `difference`; the inputs would otherwise be stored in the file.
            return torch.jit.trace(
                _positional(component),
                tuple(example[each.name] for each in component.inputs),
                check_trace=False,
                _store_inputs=False,
            )
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        lines = str(error).strip().splitlines() or [""]
        raise SupportError(
            f"Cannot trace {component.name}.",
            why=f"{type(error).__name__}: {lines[0][:300]}",
            fix="convert to another format; an architecture that needs a rewrite gets one file in capture/",
        ) from None


def _positional(component: Component) -> torch.nn.Module:
    import torch  # the component is made of it

    names = [each.name for each in component.inputs]

    class Positional(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = component.module

        def forward(self, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
            return tuple(self.inner(**dict(zip(names, tensors, strict=True))).values())

    return Positional().eval()


def _export_program(component: Component, out: Path) -> Graph:
    """Raises: SupportError where torch.export cannot take the model, or its program is wrong at another shape."""
    torch = need("torch", extra="convert", to=_TO, of="satchel")
    file = f"{component.name}.pt2"
    shapes = dynamic_shapes(component)
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.export.export(
                _positional(component),
                tuple(component.example[each.name] for each in component.inputs),
                dynamic_shapes={"tensors": tuple(shapes[each.name] for each in component.inputs)},
            )
    except (RuntimeError, ValueError, TypeError, AttributeError, KeyError, NotImplementedError) as error:
        lines = str(error).strip().splitlines() or [""]
        raise SupportError(
            f"Cannot export {component.name} with torch.export.",
            why=f"{type(error).__name__}: {lines[0][:300]}",
            fix="convert to another format or scheme",
        ) from None
    torch.export.save(program, out / file)
    worst = _difference(component, torch.export.load(out / file).module())
    if worst > _TOLERANCE:
        raise SupportError(
            f"Cannot export {component.name} with torch.export.",
            why=f"the program is wrong by {worst:.2g} of the largest value at a shape that was not traced",
            fix="convert to another format or scheme",
        )
    return Graph(component.name, file, specs(component.inputs), specs(component.outputs))


def save_trace(traced: Any, file: Path, *, freeze: bool = True) -> None:  # Any: torch does not type its scripts
    """Write a trace without the paths of this machine, which torch keeps for each line that it came from."""
    torch = need("torch", extra="convert", to=_TO, of="satchel")
    written = file.with_suffix(".tmp")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.save(torch.jit.freeze(traced) if freeze else traced, str(written))
    with zipfile.ZipFile(written) as full, zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as lean:
        for name in (each for each in full.namelist() if not each.endswith(".debug_pkl")):
            lean.writestr(zipfile.ZipInfo(name), full.read(name))
    written.unlink()


def _error(
    component: Component, file: Path, shapes: Sequence[tuple[int, int]] = OTHER_SHAPES, *, padded: bool = False
) -> float:
    torch = need("torch", extra="convert", to=_TO, of="satchel")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        loaded = torch.jit.load(str(file))
    return _difference(component, loaded, shapes, padded=padded)


def _difference(
    component: Component,
    loaded: Any,  # Any: a script, or an exported program's module
    shapes: Sequence[tuple[int, int]] = OTHER_SHAPES,
    *,
    padded: bool = False,
) -> float:
    import torch

    names = [each.name for each in component.outputs]

    def call(inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        found = loaded(*(torch.from_numpy(inputs[each.name]) for each in component.inputs))
        return {name: value.numpy() for name, value in zip(names, found, strict=True)}

    try:
        with torch.inference_mode():
            return difference(component, call, shapes, padded=padded)
    except (RuntimeError, IndexError):  # a shape that the trace cannot take at all
        return float("inf")


def _quantize(module: torch.nn.Module, *, reduced: bool) -> torch.nn.Module:
    """A copy with int8 products and embeddings.

    torch.ao halves the range of activations, for kernels that add pairs of products in 16 bits; its own module cannot be
    told otherwise. On VNNI the whole range is exact: cosine of MiniLM 0.990 to 0.993 against 0.957 to 0.974.
    """
    import torch  # the component is made of it

    quantization = need("torch.ao.quantization", extra="convert", to=_TO, of="satchel")
    linear: Callable[..., Any] = torch.ops.quantized.linear_dynamic

    class Linear(torch.nn.Module):
        def __init__(self, weights: Any) -> None:
            super().__init__()
            self.weights = weights

        def forward(self, values: Any) -> Any:
            return linear(values, self.weights, reduce_range=reduced)

    kinds = {
        torch.nn.Linear: quantization.per_channel_dynamic_qconfig,
        torch.nn.Embedding: quantization.float_qparams_weight_only_qconfig,
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.ao is to move to torchao, whose int8 cannot be traced
        made: torch.nn.Module = quantization.quantize_dynamic(copy.deepcopy(module), kinds)
    for name, each in list(made.named_modules()):
        if isinstance(each, torch.ao.nn.quantized.dynamic.Linear):
            parent, _, own = name.rpartition(".")
            setattr(made.get_submodule(parent), own, Linear(each._packed_params._packed_params))
    return made.eval()


FORMAT = Format(
    name="torchscript",
    engine="torch",
    shapes="dynamic",
    schemes=SCHEMES,
    packages=("torch", "transformers"),
    extra="convert",
    plan=plan,
    export=export,
    apply=apply,
    about="TorchScript for services that have torch; deprecated upstream, and code: loaded only where it is trusted",
)
