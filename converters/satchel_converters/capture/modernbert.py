"""ModernBERT with its two masks made here, as 4-D floats: of all valid tokens, and of those within the sliding window.

A ready 4-D mask is taken by both kinds of layers, so the window would be lost, unseen in texts that it holds; and
transformers' own mask is one that LiteRT cannot run. The model takes the two by name:
https://github.com/huggingface/transformers/blob/main/src/transformers/models/modernbert/modeling_modernbert.py, `ModernBertModel.forward`.
"""

from __future__ import annotations

import copy
import dataclasses
from typing import TYPE_CHECKING, Any

import torch

from . import encoder

if TYPE_CHECKING:
    from ..component import Component
    from . import Loaded

__all__ = ["capture", "with_masks"]


def _masks(module: Any, given: Any, named: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    valid = named["attention_mask"]
    if valid.dim() != 2:
        raise ValueError("the mask is 2-D")
    full = valid[:, None, None, :].to(torch.float32)
    places = torch.arange(valid.shape[1])
    # As transformers has it: half of `local_attention` to each side.
    near = ((places[:, None] - places[None, :]).abs() <= module.config.local_attention // 2).to(torch.float32)
    lowest = torch.finfo(torch.float32).min
    masks = {"full_attention": (1.0 - full) * lowest, "sliding_attention": (1.0 - full * near) * lowest}
    return given, {**named, "attention_mask": masks}


def with_masks(model: torch.nn.Module) -> torch.nn.Module:
    """A copy; the model that was given remains the reference."""
    made = copy.deepcopy(model)
    for module in made.modules():
        if type(module).__name__ == "ModernBertModel":
            module.register_forward_pre_hook(_masks, with_kwargs=True)
    return made


def capture(loaded: Loaded) -> tuple[Component, ...]:
    made: Any = with_masks(loaded.model)
    return encoder.capture(dataclasses.replace(loaded, model=made))
