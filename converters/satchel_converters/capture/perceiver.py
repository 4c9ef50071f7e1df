"""Perceiver's scores of bytes end where the text ends: its decoder always asks for every position that it knows.

https://github.com/huggingface/transformers/blob/main/src/transformers/models/perceiver/modeling_perceiver.py,
`PerceiverForMaskedLM.forward`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from .rewrite import capture_rewritten

if TYPE_CHECKING:
    from ..component import Component
    from . import Loaded

__all__ = ["capture"]


def _forward(self: Any, input_ids: torch.Tensor, attention_mask: torch.Tensor, **rest: Any) -> Any:
    found = type(self).forward(self, input_ids=input_ids, attention_mask=attention_mask, **rest)
    found["logits"] = found["logits"][:, : input_ids.shape[1]]
    return found


def capture(loaded: Loaded) -> tuple[Component, ...]:
    return capture_rewritten(loaded, {"PerceiverForMaskedLM": _forward}, whole=False)
