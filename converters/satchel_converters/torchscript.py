"""TorchScript for torch itself: traced once, frozen, and proved at other shapes before it is taken.

torch calls the format deprecated. It is for services that have torch anyway and load no transformers.
"""

from __future__ import annotations

import copy
import dataclasses
import inspect
import warnings
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from satchel_runtimes.errors import SupportError
from satchel_runtimes.manifest import Engine, Graph
from satchel_runtimes.toolchain import need

from .component import Component, specs
from .format import Artifact, Calibration, Format, Plan, Scheme, copy_twin, engine_has
from .process import Tell
from .shapes import difference, dynamic_shapes, length_of, resized, static_shapes

if TYPE_CHECKING:
    import torch

__all__ = ["FORMAT", "call_of", "error_of", "save_trace", "trace"]

_TOLERANCE = 1e-4  # as in onnx_export
_LARGE_ROWS = 1024  # as in onnx: a smaller embedding table is not worth the operators
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
    if not engine_has(engine.version, scheme.engine):
        raise SupportError(
            f"Cannot make {scheme.name} for {profile.name}.",
            why=f"it needs torch {scheme.engine}, the oldest that it ran in; the profile promises {engine.version}",
            fix="choose another format, or a profile with a newer torch",
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
    from .capture.attention import writing_in_place  # torch, which is here by now

    graphs = []
    for component in components:
        if plan.scheme.name == "fp32-export":
            graphs.append(_export_program(component, out))
            continue
        file = f"{component.name}.pt"
        made = component
        if plan.scheme.name == "int8-dynamic":
            made = _int8_dynamic(component, 63 if plan.int8_weights == "int8-reduced" else 127)
        with writing_in_place():
            whole = trace(made, made.example)
        save_trace(whole, out / file)
        bind: Mapping[str, int] = {}
        wrong = _error(made, out / file)
        if wrong > _TOLERANCE and component.state:
            raise SupportError(
                f"Cannot convert {component.name} to TorchScript.",
                why=f"the trace is wrong by {wrong:.2g} of the largest logit at a length that was not traced",
                fix="convert to onnx, or report the architecture",
            )
        if wrong > _TOLERANCE:
            bind = static_shapes(component, plan.buckets)[-1]
            length = length_of(bind)
            save_trace(trace(made, resized(made, 1, length, padded=True)), out / file)
            # Traced with padding, so that a branch for texts without any is not what is kept; checked with and without.
            worst = max(_error(made, out / file, ((1, length),), padded=padded) for padded in (False, True))
            if worst > _TOLERANCE:
                raise SupportError(
                    f"Cannot convert {component.name} to TorchScript.",
                    why=f"the trace is wrong by {worst:.2g} of the largest value at the shape that was traced",
                    fix="convert to another format, or report the architecture",
                )
        given, answered = specs(component.inputs), specs(component.outputs)
        state = dict(component.state)
        graphs.append(
            Graph(component.name, file, given, answered, bind=dict(bind), state=state, window=component.window)
        )
    return Artifact(out, tuple(graphs), tuple(graph.file for graph in graphs))


def apply(twin: Artifact, plan: Plan, out: Path, calibration: Calibration, tell: Tell) -> Artifact:
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

    # Every submodule gets the mode of the outermost one while it is traced: without `eval` dropout comes alive.
    names = [each.name for each in component.inputs]

    class Positional(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = component.module

        def forward(self, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
            return tuple(self.inner(**dict(zip(names, tensors, strict=True))).values())

    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    parameters = [inspect.Parameter(name, kind) for name in ("self", *names)]
    Positional.forward.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # functions have it
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
                dynamic_shapes=shapes,
            )
    except (RuntimeError, ValueError, TypeError, AttributeError, KeyError, NotImplementedError) as error:
        lines = str(error).strip().splitlines() or [""]
        raise SupportError(
            f"Cannot export {component.name} with torch.export.",
            why=f"{type(error).__name__}: {lines[0][:300]}",
            fix="convert to another format or scheme",
        ) from None
    torch.export.save(program, out / file)
    worst = error_of(component, torch.export.load(out / file).module())
    if worst > _TOLERANCE:
        raise SupportError(
            f"Cannot export {component.name} with torch.export.",
            why=f"the program is wrong by {worst:.2g} of the largest value at a shape that was not traced",
            fix="convert to another format or scheme",
        )
    given, answered = specs(component.inputs), specs(component.outputs)
    return Graph(component.name, file, given, answered, state=dict(component.state), window=component.window)


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
    component: Component, file: Path, shapes: Sequence[tuple[int, int]] | None = None, *, padded: bool = False
) -> float:
    torch = need("torch", extra="convert", to=_TO, of="satchel")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return error_of(component, torch.jit.load(str(file)), shapes, padded=padded)


def error_of(
    component: Component,
    module: Any,  # Any: a script, or an exported program's module
    shapes: Sequence[tuple[int, int]] | None = None,
    *,
    padded: bool = False,
    sizes: Mapping[str, int] | None = None,
) -> float:
    """`shapes.difference` of what was traced; infinite for a shape that it cannot take at all."""
    import torch

    call = call_of(module, [each.name for each in component.inputs], [each.name for each in component.outputs])
    try:
        with torch.inference_mode():
            return difference(component, call, shapes, padded=padded, sizes=sizes)
    except (RuntimeError, IndexError):
        return float("inf")


def call_of(
    module: Any,  # Any: as above
    inputs: Sequence[str],
    outputs: Sequence[str],
) -> Callable[[Mapping[str, np.ndarray]], dict[str, np.ndarray]]:
    """What was traced as a callable by name."""
    import torch

    def call(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        with torch.inference_mode():
            found = module(*(torch.from_numpy(np.ascontiguousarray(tensors[name])) for name in inputs))
        return {name: value.numpy() for name, value in zip(outputs, found, strict=True)}

    return call


def _int8_dynamic(component: Component, largest: int) -> Component:
    """The component with int8 rows in its linear layers and large embeddings, on torch's own quantized kernels.

    torch.ao.quantization's `quantize_dynamic` calls the same kernels and leaves activations 7 bits: its layer says
    `reduce_range=True` for CPUs whose kernels add products in 16 bits. With all 8 bits the cosine of MiniLM's embeddings is
    0.992 in place of 0.970 on average at the same speed. Where a profile asks for int8-reduced, the weights give a bit.
    """
    import torch

    class Linear(torch.nn.Module):
        def __init__(self, whole: torch.nn.Linear) -> None:
            super().__init__()
            weight = whole.weight.detach()
            scale = (weight.abs().amax(1) / largest).clamp_min(1e-12).double()
            rows = torch.quantize_per_channel(weight, scale, torch.zeros_like(scale, dtype=torch.int64), 0, torch.qint8)
            self.packed = torch.ops.quantized.linear_prepack(rows, None if whole.bias is None else whole.bias.detach())

        def forward(self, values: torch.Tensor) -> Any:  # Any: an operator without types
            return torch.ops.quantized.linear_dynamic(values, self.packed, False)

    class Embedding(torch.nn.Module):
        rows: torch.Tensor
        scale: torch.Tensor

        def __init__(self, whole: torch.nn.Embedding) -> None:
            super().__init__()
            weight = whole.weight.detach()
            scale = (weight.abs().amax(1, keepdim=True) / 127).clamp_min(1e-12)
            self.register_buffer("rows", (weight / scale).round().to(torch.int8))
            self.register_buffer("scale", scale)

        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            return torch.nn.functional.embedding(ids, self.rows).float() * torch.nn.functional.embedding(
                ids, self.scale
            )

    def large(each: torch.nn.Module) -> bool:
        return type(each) is torch.nn.Embedding and each.num_embeddings >= _LARGE_ROWS and each.max_norm is None

    module = copy.deepcopy(component.module)
    linear = _replace(module, lambda each: type(each) is torch.nn.Linear, Linear)
    if not linear:
        raise SupportError(
            f"Cannot make int8-dynamic of {component.name} in torchscript.",
            why="it has no linear layers, and this scheme is for those",
            fix="choose fp32, or another format",
        )
    _replace(module, large, Embedding)
    return dataclasses.replace(component, module=module)


def _replace(module: torch.nn.Module, chosen: Callable[[torch.nn.Module], bool], by: Callable[[Any], Any]) -> int:
    """Exchange submodules for what `by` makes of them; one that is used in several places stays one."""
    made: dict[torch.nn.Module, Any] = {}
    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            if chosen(child):
                made[child] = made.get(child) or by(child)
                setattr(parent, name, made[child])
    return len(made)


FORMAT = Format(
    name="torchscript",
    engine="torch",
    shapes="dynamic",
    schemes=SCHEMES,
    packages=("torch", "transformers"),
    extra="convert",
    caches=True,
    plan=plan,
    export=export,
    apply=apply,
    about="TorchScript for services that have torch; deprecated upstream, and code: loaded only where it is trusted",
)
