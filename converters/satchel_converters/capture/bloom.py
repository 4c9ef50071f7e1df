"""BLOOM's activation without its own gradient, a Python function that TorchScript cannot store:
https://github.com/huggingface/transformers/blob/main/src/transformers/models/bloom/modeling_bloom.py, `BloomGelu`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from .rewrite import capture_rewritten

if TYPE_CHECKING:
    from ..component import Component
    from . import Loaded

__all__ = ["capture", "gelu"]


def gelu(self: Any, x: torch.Tensor) -> torch.Tensor:
    """The same approximation by the hyperbolic tangent."""
    return torch.nn.functional.gelu(x, approximate="tanh")


def capture(loaded: Loaded) -> tuple[Component, ...]:
    return capture_rewritten(loaded, {"BloomGelu": gelu})
