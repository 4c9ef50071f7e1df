"""ViLT without a choice of patches: its own code draws the patches of a picture by chance, in another order each time, which no
graph can hold. All are taken in their order; where they stand comes with them, so that the answer is the same.

A row of the runtime is one picture without padding, for which all patches count:
https://github.com/huggingface/transformers/blob/main/src/transformers/models/vilt/modeling_vilt.py, `ViltEmbeddings.visual_embed`.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import torch

from satchel_runtimes.errors import SupportError

from . import joined
from .rewrite import rewritten

if TYPE_CHECKING:
    from ..component import Component
    from . import Loaded

__all__ = ["capture"]


def _visual_embed(
    self: Any, pixel_values: torch.Tensor, pixel_mask: torch.Tensor, max_image_length: int = 200
) -> tuple[torch.Tensor, torch.Tensor, None]:
    """Patches of [batch, 3, height, width] with their places: [batch, 1 + patches, hidden], and a mask of ones."""
    patches = self.patch_embeddings(pixel_values)
    side = self.config.image_size // self.config.patch_size
    first, places = self.position_embeddings[:, :1], self.position_embeddings[:, 1:]
    grid = places.transpose(1, 2).reshape(1, -1, side, side)
    grid = torch.nn.functional.interpolate(grid, size=patches.shape[2:], mode="bilinear", align_corners=True)
    placed = (patches + grid).flatten(2).transpose(1, 2)
    whole = torch.cat([(self.cls_token + first).expand(placed.shape[0], -1, -1), placed], dim=1)
    return whole, torch.ones_like(whole[:, :, 0], dtype=torch.long), None


def capture(loaded: Loaded) -> tuple[Component, ...]:
    most = loaded.source.facts.config.get("max_image_length", -1)
    if isinstance(most, int) and most > 0:
        raise SupportError(
            f"Cannot convert {loaded.source.id}.",
            why=f"it looks at {most} patches of a picture, drawn by chance: no two answers are the same",
            fix="set max_image_length to -1 in config.json: then it looks at all patches",
        )
    changed: Any = rewritten(loaded.model, {"ViltEmbeddings.visual_embed": _visual_embed})
    return joined.capture(dataclasses.replace(loaded, model=changed))
