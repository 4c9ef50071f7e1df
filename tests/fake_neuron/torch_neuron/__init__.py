"""Stands in for the vendor's module of Inf1: the signature of its `trace`, and plain TorchScript for what it compiles.

The real one takes other keywords too and hands them to `torch.jit.trace`; here they are an error.
"""

from __future__ import annotations

import torch

__version__ = "1.13.1.2.9.17.0"
_ALLOWED = ["--fast-math", "none"]


def trace(
    model,
    example_inputs,
    *,
    compiler_args=None,
    compiler_workdir=None,
    compiler_timeout=None,
    fallback=True,
    dynamic_batch_size=False,
):
    if compiler_args != _ALLOWED:
        raise RuntimeError(f"neuron-cc: error: unrecognized arguments: {compiler_args}")
    if not isinstance(model, torch.nn.Module) or isinstance(model, torch.jit.ScriptModule):
        raise TypeError("a script is taken as it is: nothing would be compiled")
    print("neuron-cc: Compiler status PASS")
    return torch.jit.trace(model, example_inputs, check_trace=False)
