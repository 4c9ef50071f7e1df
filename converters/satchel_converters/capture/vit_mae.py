"""ViT-MAE without chance: features of the whole picture, its patches in order.

transformers hides three quarters of the patches of every picture, drawn anew in each call, and shuffles the rest: the same picture has
other features each time, which nothing can be compared with. `noise` decides the order of the patches (`random_masking` in
modeling_vit_mae.py), so the reference is the model with ascending noise, which keeps it, and a `mask_ratio` of 0, which keeps all of
them, as a finetuned encoder does. The graph then needs neither sorting nor gathering.
https://github.com/huggingface/transformers/blob/main/src/transformers/models/vit_mae/modeling_vit_mae.py
"""

from __future__ import annotations

import copy
import dataclasses
import importlib
from typing import TYPE_CHECKING, Any

import torch

from ..component import Component

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from . import Loaded

__all__ = ["capture", "in_order", "whole"]


def capture(loaded: Loaded) -> tuple[Component, ...]:
    simple = dataclasses.replace(loaded, model=in_order(loaded.model))
    (component,) = importlib.import_module(".image", __package__).capture(simple)
    return (dataclasses.replace(component, reference=whole(loaded.model)),)


def in_order(model: PreTrainedModel) -> PreTrainedModel:
    """A copy that leaves all patches where they are."""
    made: Any = copy.deepcopy(model)  # Any: its embeddings are of a class of their own
    made.embeddings.random_masking = lambda patches, noise=None: (patches, None, None)
    whole_model: PreTrainedModel = made
    return whole_model


def whole(model: PreTrainedModel) -> torch.nn.Module:
    """The model as transformers has it, asked for all patches in their order; the one that was given is not changed."""
    made: Any = copy.deepcopy(model)  # Any: as above
    made.config.mask_ratio = 0.0
    return _Whole(made)


class _Whole(torch.nn.Module):
    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixel_values: torch.Tensor) -> Any:  # Any: an output of transformers
        patches = self.model.embeddings.patch_embeddings.num_patches
        noise = torch.arange(patches, dtype=torch.float32).repeat(pixel_values.shape[0], 1)
        return self.model(pixel_values=pixel_values, noise=noise, return_dict=True)
