"""BLIP as it compares pictures and texts before it looks at both: a graph of each tower, without the head that matches pairs.

https://github.com/huggingface/transformers/blob/main/src/transformers/models/blip/modeling_blip.py,
`BlipForImageTextRetrieval.forward` with `use_itm_head=False`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from .encoder import TEXT_INPUTS
from .two_towers import two_graphs

if TYPE_CHECKING:
    from ..component import Component
    from . import Loaded

__all__ = ["capture"]


class _Pictures(torch.nn.Module):
    def __init__(self, model: Any) -> None:
        super().__init__()
        self.body, self.projection, self.config = model.vision_model, model.vision_proj, model.config

    def forward(self, pixel_values: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"image_embeds": self.projection(self.body(pixel_values=pixel_values).last_hidden_state[:, 0])}


class _Words(torch.nn.Module):
    def __init__(self, model: Any) -> None:
        super().__init__()
        self.body, self.projection, self.config = model.text_encoder, model.text_proj, model.config

    def forward(self, **inputs: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"text_embeds": self.projection(self.body(**inputs, return_dict=True).last_hidden_state[:, 0])}


def capture(loaded: Loaded) -> tuple[Component, ...]:
    return two_graphs(loaded, _Pictures(loaded.model), _Words(loaded.model), TEXT_INPUTS[:2])
