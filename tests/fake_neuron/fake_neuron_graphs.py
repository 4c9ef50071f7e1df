"""What both fakes do: run the fake compiler, and give a real TorchScript module that takes exactly one shape and dtype.

The casts are computed too: `matmult` under autocast, `all` with the weights in bfloat16 as well, so parity is that of real
numbers.
"""

from __future__ import annotations

import copy
import linecache
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

_jit: Any = torch.jit
_made = 0


def run_compiler(name: str, arguments: Sequence[str], workdir: str | None) -> None:
    """As the vendor's package does: a process, whose failure is a RuntimeError with all that it said."""
    folder = Path(workdir or tempfile.mkdtemp(prefix="fake-neuron-"))
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "graph.hlo").write_bytes(b"HLO")
    compiler = Path(__file__).parent / "bin" / name
    given = ["compile", str(folder / "graph.hlo"), "--framework", "XLA", "--output", str(folder / "graph.neff")]
    done = subprocess.run(
        [sys.executable, str(compiler), *given, *arguments], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"{name} failed with {done.returncode}:\n{done.stdout}{done.stderr}")


def compiled(model: Any, inputs: Any, cast: str) -> Any:
    """A script that computes what the model does, for this one shape, and says that it is a fake."""
    given = (inputs,) if isinstance(inputs, torch.Tensor) else tuple(inputs)
    if os.environ.get("FAKE_NEURON_WRONG") == str(given[0].shape[-1]):
        model = _Wrong(model)
    with torch.no_grad():
        if cast == "none":
            inner = _jit.trace(model, given, check_trace=False)
        else:
            whole = copy.deepcopy(model).to(torch.bfloat16) if cast == "all" else model
            with torch.autocast("cpu", torch.bfloat16, cache_enabled=False):
                inner = _jit.trace(_Float(whole).eval(), given, check_trace=False)
        found = inner(*given)
    checks = "".join(
        f"        if list(a{place}.shape) != {list(each.shape)} or a{place}.dtype != torch.{str(each.dtype)[6:]}:\n"
        f"            raise RuntimeError('input {place}: the graph was compiled for {list(each.shape)} {each.dtype}')\n"
        for place, each in enumerate(given)
    )
    return _scripted(inner, len(given), checks + _placed(len(given), _outputs(found)), _outputs(found))


def makes_nothing_on_the_host(model: Any, inputs: Any) -> None:
    """The vendor traces on torch-xla's device: tensors that a model makes elsewhere do not meet those of its inputs."""
    scripts = [each for each in model.modules() if isinstance(each, torch.jit.ScriptModule)]
    if not scripts:
        try:
            with torch.no_grad():
                copy.deepcopy(model).to("meta")(*[each.to("meta") for each in inputs])
        except RuntimeError as error:
            if "item() cannot be called" not in str(error):  # to read a value is slow there, and no error
                raise
        return
    graph = scripts[0].inlined_graph
    for node in graph.findAllNodes("prim::Constant"):
        if node.output().type().kind() == "DeviceObjType":
            raise RuntimeError(
                f"Expected all tensors to be on the same device, but found xla and {node.output().toIValue()}"
            )


def _placed(inputs: int, outputs: int) -> str:
    """Outputs stay on the device where all inputs lie there, and on the core of the graph; one that does not brings all back."""
    there = " and ".join(f"not a{place}.is_cpu" for place in range(inputs))
    astray = bool(os.environ.get("FAKE_NEURON_HOST"))  # as a runtime that knows no such rule
    names = ", ".join(f"a{place}.cpu()" for place in range(inputs))
    moved = ", ".join(f"found[{place}].to(a0.device)" for place in range(outputs)) if outputs else "found.to(a0.device)"
    return (
        f"        there = {there}\n"
        "        core = a0.device.index\n"
        "        if there and (core is None or core != self.core):\n"
        "            raise RuntimeError('the graph lies on another core than its inputs, or was not moved to one')\n"
        f"        found = self.inner({names})\n"
        f"        if there and not {astray}:\n"
        f"            return {moved}{',' if outputs == 1 else ''}\n"
        "        return found\n"
    )


def batched(script: Any) -> Any:
    """Around a compiled graph: any batch, row by row. The compiled one stays as strict as it is."""
    inputs = len(script.forward.schema.arguments) - 1
    outputs = script.outputs
    rows = ", ".join(f"a{place}[i : i + 1]" for place in range(inputs))
    joined = ", ".join(f"torch.cat([part[{place}] for part in parts])" for place in range(outputs))
    if not outputs:  # one tensor, not a tuple
        joined = "torch.cat(parts)"
    body = (
        f"        parts = [self.inner({rows}) for i in range(a0.shape[0])]\n"
        f"        return {joined}{',' if outputs == 1 else ''}\n"
    )
    return _scripted(script, inputs, body, outputs)


class _Float(torch.nn.Module):
    """Outputs in the dtype that the model has without casts."""

    def __init__(self, inner: Any) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, *tensors: torch.Tensor) -> Any:
        found = self.inner(*tensors)
        return found.float() if isinstance(found, torch.Tensor) else tuple(each.float() for each in found)


class _Wrong(torch.nn.Module):
    """One per cent too much, as a compiler with a mistake for one shape might."""

    def __init__(self, inner: Any) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, *tensors: torch.Tensor) -> Any:
        return tuple(each * 1.01 for each in self.inner(*tensors))


def _outputs(found: Any) -> int:
    return 0 if isinstance(found, torch.Tensor) else len(found)


def _names(count: int) -> str:
    return ", ".join(f"a{place}" for place in range(count))


def _scripted(inner: Any, inputs: int, body: str, outputs: int) -> Any:
    """TorchScript knows no variable arguments, so the text of `forward` is written for as many as there are."""
    global _made
    _made += 1
    name = f"<fake neuron {os.getpid()}-{_made}>"
    text = (
        "class Compiled(torch.nn.Module):\n    compiler_type: str\n    outputs: int\n    core: int\n"
        "    def __init__(self, inner):\n        super().__init__()\n"
        f"        self.inner, self.compiler_type, self.outputs, self.core = inner, 'fake', {outputs}, -1\n"
        f"    def forward(self, {_names(inputs)}):\n{body}"
    )
    linecache.cache[name] = (len(text), None, text.splitlines(keepends=True), name)
    space: dict[str, Any] = {"torch": torch, "__name__": "fake_neuron"}
    exec(compile(text, name, "exec", dont_inherit=True), space)  # noqa: S102  # annotations as types, not names
    make: Callable[[Any], torch.nn.Module] = space["Compiled"]
    return _jit.script(make(inner).eval())
