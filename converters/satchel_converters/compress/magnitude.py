"""Single weights, the smallest of every matrix, set to zero: a smaller file once it is compressed, and nothing faster."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

__all__ = ["matrices", "zero_smallest"]


def zero_smallest(model: nn.Module, share: float) -> dict[str, int]:
    """Zero the share of each matrix; further training leaves these zeros alone. How many went, by matrix.

    Per matrix, because their scales differ: over all of them together, one whole layer could go.
    """
    gone = {}
    for name, weight in matrices(model):
        count = round(share * weight.numel())
        smallest = weight.detach().abs().flatten().argsort(stable=True)[:count]
        with torch.no_grad():
            weight.view(-1)[smallest] = 0.0
        gone[name] = count
        if weight.requires_grad:
            keep = weight.detach() != 0
            weight.register_hook(lambda slope, keep=keep: slope * keep)  # type: ignore[no-untyped-call]
    return gone


def matrices(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Every matrix and convolution; not embeddings, whose rows are not multiplied, and none that is tied to them."""
    tables = {id(each.weight) for each in model.modules() if isinstance(each, nn.Embedding)}
    for name, module in model.named_modules():
        if isinstance(module, (nn.Linear, nn.Conv2d, Conv1D)) and id(module.weight) not in tables:
            yield name, module.weight
