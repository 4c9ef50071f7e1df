"""multiple-choice: one graph that scores one choice, so that a question may have any number of them."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import torch

from . import encoder

if TYPE_CHECKING:
    from ..component import Component
    from . import Loaded

__all__ = ["capture"]


class _OneChoice(torch.nn.Module):
    """The head's [batch, choices, tokens] with one choice each: `logits` are [batch, 1]."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.model, self.config = model, model.config

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        token_type_ids: torch.Tensor | None = None,
        **_: Any,
    ) -> dict[str, torch.Tensor]:
        if attention_mask.dim() != 2:
            raise ValueError("the mask is 2-D")
        given = {"input_ids": input_ids, "attention_mask": attention_mask, "token_type_ids": token_type_ids}
        named = {name: value[:, None] for name, value in given.items() if value is not None}
        return {"logits": self.model(**named, return_dict=True).logits}


def capture(loaded: Loaded) -> tuple[Component, ...]:
    one: Any = _OneChoice(loaded.model)
    (component,) = encoder.capture(dataclasses.replace(loaded, model=one))
    return (dataclasses.replace(component, reference=one),)
