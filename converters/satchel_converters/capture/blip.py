"""BLIP as it compares pictures and texts before it looks at both: a graph of each tower, without the head that matches pairs.

https://github.com/huggingface/transformers/blob/main/src/transformers/models/blip/modeling_blip.py,
`BlipForImageTextRetrieval.forward` with `use_itm_head=False`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .encoder import TEXT_INPUTS
from .two_towers import FirstToken, two_graphs

if TYPE_CHECKING:
    from ..component import Component
    from . import Loaded

__all__ = ["capture"]


def capture(loaded: Loaded) -> tuple[Component, ...]:
    model: Any = loaded.model
    return two_graphs(
        loaded,
        FirstToken(model.vision_model, model.vision_proj, "image_embeds"),
        FirstToken(model.text_encoder, model.text_proj, "text_embeds"),
        TEXT_INPUTS[:2],
    )
