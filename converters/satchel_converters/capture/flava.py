"""FLAVA as it compares pictures and texts: a graph of each of its one-sided encoders, with the projection of its first token.

https://github.com/huggingface/transformers/blob/main/src/transformers/models/flava/modeling_flava.py,
`FlavaForPreTraining.forward`, the contrastive part.
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
        FirstToken(model.image_model, model.image_projection, "image_embeds"),
        FirstToken(model.text_model, model.text_projection, "text_embeds"),
        TEXT_INPUTS,
    )
