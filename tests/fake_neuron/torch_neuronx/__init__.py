"""A fake of the vendor's package with its signatures (AWS Neuron documentation, torch-neuronx API reference) and no device.

Anything that the vendor's functions do not take is a TypeError here too.
"""

from __future__ import annotations

import shlex
from typing import Any

import fake_neuron_device  # noqa: F401  # torch knows the device once the package is imported
from fake_neuron_graphs import batched, compiled, makes_nothing_on_the_host, run_compiler

from . import experimental

__all__ = ["SATCHEL_FAKE", "dynamic_batch", "experimental", "move_trace_to_device", "trace"]

__version__ = "2.9.0.2.11.1+fake"
SATCHEL_FAKE = True  # the runtime loads fake artifacts where this is, and nowhere else


def trace(
    func: Any,
    example_inputs: Any,
    *_: Any,
    input_output_aliases: dict[Any, Any] = {},  # noqa: B006  # as the vendor has it
    compiler_workdir: str | None = None,
    compiler_args: str | list[str] | None = None,
    partitioner_config: Any = None,
    inline_weights_to_neff: bool = True,
    cpu_backend: bool = False,
) -> Any:
    if _ or input_output_aliases or partitioner_config is not None or cpu_backend:
        raise TypeError("the fake does not know this argument")
    if not inline_weights_to_neff:
        makes_nothing_on_the_host(func, example_inputs)
    arguments = shlex.split(compiler_args) if isinstance(compiler_args, str) else list(compiler_args or [])
    print("...\nCompiler status PASS")  # the real one talks on stdout
    run_compiler("neuronx-cc", arguments, compiler_workdir)
    cast = arguments[arguments.index("--auto-cast") + 1] if "--auto-cast" in arguments else "matmult"
    return compiled(func, example_inputs, cast)


def dynamic_batch(neuron_script: Any) -> Any:
    return batched(neuron_script)


def move_trace_to_device(trace: Any, device_id: int) -> None:
    """With the weights that `inline_weights_to_neff=False` keeps apart."""
    trace.core = device_id
