"""MobileViTV2 in operators that TFLite has.

Its attention multiplies by an expanded tensor, which the converter turns into shapes that do not fit each other; a product broadcasts
by itself. And patches that do not overlap are put together by `fold`, which becomes a scattered sum; shuffling pixels is the same:
https://github.com/huggingface/transformers/blob/main/src/transformers/models/mobilevitv2/modeling_mobilevitv2.py,
`MobileViTV2LinearSelfAttention.forward` and `MobileViTV2Layer.folding`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

from .rewrite import capture_rewritten

if TYPE_CHECKING:
    from ..component import Component
    from . import Loaded

__all__ = ["FORWARDS", "capture"]


def _attention(self: Any, hidden_states: torch.Tensor) -> torch.Tensor:
    """[batch, channels, pixels of a patch, patches] in and out."""
    parts = self.qkv_proj(hidden_states)
    query, key, value = torch.split(parts, [1, self.embed_dim, self.embed_dim], dim=1)
    context = (key * torch.softmax(query, dim=-1)).sum(dim=-1, keepdim=True)
    result: torch.Tensor = self.out_proj(torch.relu(value) * context)
    return result


def _folding(self: Any, patches: torch.Tensor, output_size: tuple[int, int]) -> torch.Tensor:
    """[batch, channels, pixels of a patch, patches] to [batch, channels, height, width]."""
    side = self.patch_height
    height, width = output_size
    if self.patch_width != side or height % side or width % side:
        return type(self).folding(self, patches, output_size)  # type: ignore[no-any-return]  # of transformers
    batch, channels, pixels, _ = patches.shape
    return torch.pixel_shuffle(patches.reshape(batch, channels * pixels, height // side, width // side), side)


FORWARDS: dict[str, Callable[..., Any]] = {
    "MobileViTV2LinearSelfAttention": _attention,
    "MobileViTV2Layer.folding": _folding,
}


def capture(loaded: Loaded) -> tuple[Component, ...]:
    return capture_rewritten(loaded, FORWARDS)
