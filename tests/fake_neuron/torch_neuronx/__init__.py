"""Stands in for the vendor's module of Inf2, Trn1 and Trn2: the signature of its `trace`, and plain TorchScript."""

from __future__ import annotations

import torch

__version__ = "2.9.0.2.11.0"
_TAKES = {
    "--target": ("inf2", "trn1", "trn2"),
    "--auto-cast": ("none", "matmult", "all"),
    "--auto-cast-type": ("bf16", "fp16", "tf32"),
    "--optlevel": ("1", "2", "3"),
    "--model-type": ("transformer", "generic", "unet-inference"),
}


def trace(
    func,
    example_inputs,
    *_,
    input_output_aliases=None,
    compiler_workdir=None,
    compiler_args=None,
    partitioner_config=None,
    inline_weights_to_neff=True,
    cpu_backend=False,
):
    words = compiler_args.split() if isinstance(compiler_args, str) else list(compiler_args or [])
    for name, value in zip(words[::2], words[1::2], strict=True):
        if value not in _TAKES.get(name, ()):
            raise RuntimeError(f"neuronx-cc: error: {name} {value}")
    if "--target" not in words:
        raise RuntimeError("neuronx-cc: error: --target is required")
    if not isinstance(func, torch.nn.Module) or isinstance(func, torch.jit.ScriptModule):
        raise TypeError("a script is taken as it is: nothing would be compiled")
    print("Compiler status PASS")
    return torch.jit.trace(func, example_inputs, check_trace=False)
