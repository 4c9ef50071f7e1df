"""Idefics3 and SmolVLM: transformers looks for empty pictures and for masked patches, and a tile of a device has neither.

https://github.com/huggingface/transformers/blob/main/src/transformers/models/idefics3/modeling_idefics3.py
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

from ..component import Component
from . import seeing_decoder
from .rewrite import rewritten

if TYPE_CHECKING:
    from . import Loaded

__all__ = ["capture"]


def _features(self: Any, pixel_values: torch.Tensor, **others: Any) -> Any:
    return self.connector(self.vision_model(pixel_values))


def _transformer(self: Any, pixel_values: torch.Tensor) -> torch.Tensor:
    states = self.encoder(inputs_embeds=self.embeddings(pixel_values), attention_mask=None).last_hidden_state
    result: torch.Tensor = self.post_layernorm(states)
    return result


def _embeddings(self: Any, pixel_values: torch.Tensor) -> torch.Tensor:
    patches = self.patch_embedding(pixel_values).flatten(2).transpose(1, 2)
    result: torch.Tensor = patches + self.position_embedding(self.whole)
    return result


def capture(loaded: Loaded) -> tuple[Component, ...]:
    """Raises: SupportError as of `seeing_decoder.capture`."""
    forwards: dict[str, Callable[..., Any]] = {}
    for name in ("Idefics3", "SmolVLM"):
        forwards[f"{name}Model.get_image_features"] = _features
        forwards[f"{name}VisionTransformer.forward"] = _transformer
        forwards[f"{name}VisionEmbeddings.forward"] = _embeddings
    seeing: Any = rewritten(loaded.model, forwards, shared=True)
    seeing.model.vision_model.embeddings.whole = _places(loaded.model)
    return seeing_decoder.capture(loaded, seeing)


def _places(model: Any) -> torch.Tensor:  # Any: one of two classes
    """The position of each patch of a whole tile, as transformers rounds it, [1, patches]."""
    found: list[torch.Tensor] = []
    sees = model.model.vision_model
    hook = sees.embeddings.position_embedding.register_forward_pre_hook(lambda table, given: found.append(given[0]))
    side = sees.config.image_size
    try:
        with torch.no_grad():
            sees(torch.zeros(1, 3, side, side))
    finally:
        hook.remove()
    return found[0]
