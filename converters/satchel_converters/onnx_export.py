"""Routes from a component to float32 ONNX. The first whose result is right at shapes that were not traced is taken.

No exporter is right for every architecture. Of 76 tiny ones traced at one shape and compared at another, torch's tracing
exporter gave 68, transformers' own 67, the best of both 70 (and seven exports succeeded and were wrong). So each result
is run here on two other shapes and compared with torch. Tracing comes first: on MiniLM it takes a sixth of the time, and
onnxruntime runs its float32 graph 1.1 times as fast. torch calls it deprecated; where it is gone the next route serves.
"""

from __future__ import annotations

import contextlib
import gc
import io
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from satchel_runtimes.errors import SupportError
from satchel_runtimes.toolchain import need

from .component import Axis, Component, Input, Output
from .onnx_tidy import tidy_reshapes
from .shapes import difference, dynamic_shapes

__all__ = ["export_component"]

# Largest error over the largest magnitude that a float32 graph may have against torch at another shape.
_TOLERANCE = 1e-4
_LARGE = 512 * 2**20  # bytes of weights
# What tracing, torch.export and the exporters raise for a model that they cannot take, each in its own subclass.
_EXPORT_ERRORS = (RuntimeError, ValueError, TypeError, AttributeError, KeyError, IndexError, NotImplementedError)

# -> onnx_ir.Model, which mypy cannot see, and the tensors of the module that it has views of, by name
Route = Callable[[Component, int, Path], tuple[Any, Mapping[str, Any]]]


def export_component(component: Component, opset: int, ir_version: int | None, out: Path) -> tuple[str, str]:
    """Write `<name>.onnx` and its weights file into `out`; return both names.

    Raises:
        SupportError: no route gives a graph that is right at another shape.
    """
    ir = need("onnx_ir", extra="convert", to="export to ONNX", of="satchel")
    passes = need("onnx_ir.passes.common", extra="convert", to="export to ONNX", of="satchel")
    file, weights = f"{component.name}.onnx", f"{component.name}.onnx.data"
    failures: list[str] = []
    for name, route in {**(_OF_DECODERS if component.state else {}), **_ROUTES}.items():
        try:
            with _quiet():
                program, bound = route(component, opset, out)
        except _EXPORT_ERRORS as error:
            lines = str(error).strip().splitlines() or [""]
            failures.append(f"{name}: {type(error).__name__}: {lines[0][:200]}")
            continue
        program.ir_version = ir_version or program.ir_version
        passes.ClearMetadataAndDocStringPass()(program)  # stack traces of this machine, half a megabyte of them
        ir.save(program, out / file, external_data=weights)
        for value in program.graph.initializers.values() if bound else ():
            value.const_value = None  # what rewrote the graph remembers it
        del program
        gc.collect()
        difference = _difference(component, out / file, _from_file(bound, out / file))
        if difference <= _TOLERANCE:
            return file, weights
        failures.append(f"{name}: wrong by {difference:.2g} of the largest value at a shape that was not traced")
    raise SupportError(
        f"Cannot export {component.name} to ONNX.",
        why="; ".join(failures),
        fix="an architecture that needs a rewrite gets one file in satchel_converters/capture/",
    )


def _by_tracing(component: Component, opset: int, out: Path) -> tuple[Any, Mapping[str, Any]]:
    """A decoder, and what is large, is traced without its weights, which are bound to it afterwards."""
    from .onnx_weights import bind_weights  # torch, which nothing above needs

    torch = need("torch", extra="convert", to="export to ONNX", of="satchel")
    ir = need("onnx_ir", extra="convert", to="export to ONNX", of="satchel")
    optimizer = need("onnxscript.optimizer", extra="convert", to="export to ONNX", of="satchel")
    names = [each.name for each in component.inputs]

    class Positional(torch.nn.Module):  # type: ignore[misc, name-defined]  # torch is a module imported late
        """The tracer calls by position and wants a tuple."""

        def __init__(self) -> None:
            super().__init__()
            self.inner = component.module

        def forward(self, *tensors: Any) -> tuple[Any, ...]:
            return tuple(self.inner(**dict(zip(names, tensors, strict=True))).values())

    module = Positional()
    weights = sum(each.nbytes for each in component.module.parameters())
    apart = bool(component.state) or weights > _LARGE
    file = out / "traced.onnx"
    try:
        with torch.no_grad():
            torch.onnx.export(
                # The exporter gives every submodule the mode of this one back: without eval, dropout comes alive.
                module.eval(),
                tuple(component.example[name] for name in names),
                str(file),
                dynamo=False,
                opset_version=min(opset, 20),
                custom_opsets={"com.microsoft": 1},  # of the attention of decoders
                input_names=names,
                output_names=[each.name for each in component.outputs],
                dynamic_axes={**_named_axes(component.inputs), **_named_axes(component.outputs)},
                export_params=not apart,
                do_constant_folding=not apart,
            )
        program = ir.load(file)
        if apart:  # the exporter remembers the weights of its last model, which so is one that has none
            torch.onnx.export(torch.nn.Identity(), (torch.zeros(1),), io.BytesIO(), dynamo=False)
    finally:
        file.unlink(missing_ok=True)
    bound = bind_weights(program, module) if apart else {}
    rest = sorted({each.name for each in program.graph.inputs} - set(names))
    if rest:
        raise ValueError(f"the traced graph asks for {rest[0]}, which is no weight of the module")
    optimizer.optimize(program)
    return program, bound


def _tidied(component: Component, opset: int, out: Path) -> tuple[Any, Mapping[str, Any]]:
    program, bound = _by_tracing(component, opset, out)
    tidy_reshapes(program)
    return program, bound


def _named_axes(values: tuple[Input, ...] | tuple[Output, ...]) -> dict[str, dict[int, str]]:
    return {
        each.name: {place: axis.name for place, axis in enumerate(each.axes) if isinstance(axis, Axis)}
        for each in values
    }


def _by_transformers(component: Component, opset: int, out: Path) -> tuple[Any, Mapping[str, Any]]:
    exporters = need("transformers.exporters.exporter_onnx", extra="convert", to="export to ONNX", of="satchel")
    config = exporters.OnnxConfig(dynamic=True, dynamic_shapes=dynamic_shapes(component), opset_version=opset)
    return exporters.OnnxExporter().export(component.module, dict(component.example), config=config).program, {}


_OF_DECODERS: Mapping[str, Route] = {"torch's tracing exporter, tidied": _tidied}
_ROUTES: Mapping[str, Route] = {"torch's tracing exporter": _by_tracing, "transformers' exporter": _by_transformers}


def _from_file(bound: Mapping[str, Any], file: Path) -> Callable[[], None]:
    """Let the module read its weights from a saved graph's file. What comes back lets go of the pages until it needs them again."""
    if not bound:
        return lambda: None
    from .onnx_weights import read_from_file

    return read_from_file(bound, file)


def _difference(component: Component, file: Path, rest: Callable[[], None]) -> float:
    """The graph's error; `rest` is called between the module's answers and the graph's."""
    engine = need("onnxruntime", extra="convert", to="check the ONNX export", of="satchel")
    options = engine.SessionOptions()
    options.log_severity_level = 4
    names = [each.name for each in component.outputs]
    opened: list[Any] = []

    def run(inputs: Mapping[str, Any]) -> dict[str, Any]:
        if not opened:
            rest()
            opened.append(engine.InferenceSession(str(file), options, providers=["CPUExecutionProvider"]))
        return dict(zip(names, opened[0].run(names, dict(inputs)), strict=True))

    try:
        return difference(component, run)
    except _engine_errors(
        engine
    ):  # a graph that the engine refuses, or that breaks at this shape, is as wrong as can be
        return float("inf")
    finally:
        opened.clear()
        rest()


def _engine_errors(engine: Any) -> tuple[type[Exception], ...]:  # Any: a module
    state = engine.capi.onnxruntime_pybind11_state
    return (state.Fail, state.InvalidGraph, state.NotImplemented, state.RuntimeException, state.InvalidArgument)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Exporters print their steps on stdout and warn of packages that are not there."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "transformers", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
