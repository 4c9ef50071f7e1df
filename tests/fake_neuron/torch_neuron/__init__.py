"""A fake of the frozen package for Inf1 with its signatures (AWS Neuron documentation, torch-neuron API reference)."""

from __future__ import annotations

from typing import Any

from fake_neuron_graphs import batched, compiled, run_compiler

from . import experimental

__all__ = ["SATCHEL_FAKE", "experimental", "trace"]

__version__ = "1.13.1.2.11.1+fake"
SATCHEL_FAKE = True

_CASTS = {"none": "matmult", "all": "all"}  # of --fast-math; Inf1 has no float32 matrix multiplication


def trace(
    model: Any,
    example_inputs: Any,
    *,
    compiler_args: list[str] | None = None,
    compiler_workdir: str | None = None,
    compiler_timeout: int | None = None,
    dynamic_batch_size: bool = False,
    fallback: bool = True,
    minimum_segment_size: int = 2,
    separate_weights: bool = False,
    single_fusion_ratio_threshold: float = 0.4,
    subgraph_builder_function: Any = None,
    subgraph_inputs_pruning: bool = True,
    subgraph_maxsize: int | None = None,
    verbose: str | int = "INFO",
) -> Any:
    if isinstance(compiler_args, str):
        raise TypeError("compiler_args is a list of strings")
    arguments = list(compiler_args or [])
    print("INFO:Neuron: compiling")
    run_compiler("neuron-cc", arguments, compiler_workdir)
    cast = _CASTS[arguments[arguments.index("--fast-math") + 1] if "--fast-math" in arguments else "all"]
    found = compiled(model, example_inputs, cast)
    return batched(found) if dynamic_batch_size else found
