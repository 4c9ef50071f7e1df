"""RT-DETR and its successors with the positions of its maps as constants.

They depend on the size alone, and transformers computes them in float64 by a power, which LiteRT does not have:
https://github.com/huggingface/transformers/blob/main/src/transformers/models/rt_detr/modeling_rt_detr.py, `RTDetrSinePositionEmbedding`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from .rewrite import capture_rewritten

if TYPE_CHECKING:
    from ..component import Component
    from . import Loaded

__all__ = ["FORWARDS", "capture"]


def _positions(self: Any, width: int, height: int, **given: Any) -> torch.Tensor:
    """[1, height * width, channels]. The first call, which is not traced, leaves what later ones take."""
    name = f"positions_{height}_{width}"
    if not hasattr(self, name):
        self.register_buffer(name, type(self).forward(self, width=width, height=height, **given))
    found: torch.Tensor = getattr(self, name)
    return found


FORWARDS = {f"{name}SinePositionEmbedding": _positions for name in ("RTDetr", "RTDetrV2", "DFine")}


def capture(loaded: Loaded) -> tuple[Component, ...]:
    return capture_rewritten(loaded, FORWARDS)
