"""LayoutLMv3's answers lie in the text: the patches of the picture, which follow its tokens, are cut off. Its distances between
boxes are of 32 bits: TFLite has no absolute value of 64.

https://github.com/huggingface/transformers/blob/main/src/transformers/models/layoutlmv3/modeling_layoutlmv3.py,
`LayoutLMv3ForQuestionAnswering.forward` and `LayoutLMv3Encoder.relative_position_bucket`.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import torch

from . import joined
from .rewrite import rewritten

if TYPE_CHECKING:
    from ..component import Component
    from . import Loaded

__all__ = ["capture"]


def _forward(
    self: Any,
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor,
    bbox: torch.Tensor,
    pixel_values: torch.Tensor,
    token_type_ids: torch.Tensor | None = None,
    **rest: Any,
) -> Any:
    given = {"input_ids": input_ids, "attention_mask": attention_mask, "bbox": bbox, "pixel_values": pixel_values}
    found = type(self).forward(self, token_type_ids=token_type_ids, **given, **rest)
    for name in ("start_logits", "end_logits"):
        found[name] = found[name][:, : input_ids.shape[1]]
    return found


def _bucket(self: Any, relative_position: torch.Tensor, **settings: Any) -> torch.Tensor:
    bucket: torch.Tensor = type(self).relative_position_bucket(self, relative_position.to(torch.int32), **settings)
    return bucket


def capture(loaded: Loaded) -> tuple[Component, ...]:
    changed: Any = rewritten(
        loaded.model,
        {"LayoutLMv3ForQuestionAnswering": _forward, "LayoutLMv3Encoder.relative_position_bucket": _bucket},
    )
    (component,) = joined.capture(dataclasses.replace(loaded, model=changed))
    return (dataclasses.replace(component, reference=changed),)
