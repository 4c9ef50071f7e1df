"""Depth Anything's head for pictures of any size: transformers turns the last size into a Python number, which a trace keeps:
https://github.com/huggingface/transformers/blob/main/src/transformers/models/depth_anything/modeling_depth_anything.py,
`DepthAnythingDepthEstimationHead.forward`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from .rewrite import capture_rewritten

if TYPE_CHECKING:
    from ..component import Component
    from . import Loaded

__all__ = ["FORWARDS", "capture"]


def _head(self: Any, hidden_states: list[torch.Tensor], patch_height: Any, patch_width: Any) -> torch.Tensor:
    """[batch, height, width]; `patch_height` and `patch_width` are numbers, or what a tracer has for them."""
    size = (patch_height * self.patch_size, patch_width * self.patch_size)
    depth = self.conv1(hidden_states[self.head_in_index])
    depth = torch.nn.functional.interpolate(depth, size, mode="bilinear", align_corners=True)
    depth = self.activation1(self.conv2(depth))
    depth = self.activation2(self.conv3(depth)) * self.max_depth
    result: torch.Tensor = depth.squeeze(dim=1)
    return result


FORWARDS = {"DepthAnythingDepthEstimationHead": _head}


def capture(loaded: Loaded) -> tuple[Component, ...]:
    return capture_rewritten(loaded, FORWARDS)
