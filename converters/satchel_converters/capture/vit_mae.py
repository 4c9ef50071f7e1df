"""ViT-MAE without chance: features of the whole picture, its patches in order.

transformers hides three quarters of the patches of every picture, drawn anew in each call, and shuffles the rest: the same picture has
other features each time, which nothing can be compared with. `noise` decides the order of the patches (modeling_vit_mae.py,
`random_masking`), so ascending noise keeps it, and a `mask_ratio` of 0 keeps all of them, as for a finetuned encoder.
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

__all__ = ["capture", "whole"]


def capture(loaded: Loaded) -> tuple[Component, ...]:
    made: Any = whole(loaded.model)  # Any: it is called as the model is, and is no class of transformers
    generic = importlib.import_module(".image", __package__)
    (component,) = generic.capture(dataclasses.replace(loaded, model=made))
    return (dataclasses.replace(component, reference=made),)


def whole(model: PreTrainedModel) -> torch.nn.Module:
    """The model with all patches of a picture in their order; the one that was given is not changed."""
    made: Any = copy.deepcopy(model)
    made.config.mask_ratio = 0.0
    return _Whole(made)


class _Whole(torch.nn.Module):
    def __init__(self, model: Any) -> None:  # Any: of transformers
        super().__init__()
        self.model, self.config = model, model.config

    def forward(self, pixel_values: torch.Tensor, return_dict: bool = True) -> Any:  # Any: an output of transformers
        patches = (pixel_values.shape[2] // self.config.patch_size) * (pixel_values.shape[3] // self.config.patch_size)
        noise = torch.arange(patches, dtype=torch.float32).repeat(pixel_values.shape[0], 1)
        return self.model(pixel_values=pixel_values, noise=noise, return_dict=return_dict)
