"""XLNet's classifier with the last token of each text, wherever padding stands.

transformers takes the last place, for its tokenizer pads on the left; sessions pad on the right, which changes nothing else, for
places are relative: https://github.com/huggingface/transformers/blob/main/src/transformers/models/xlnet/modeling_xlnet.py, `XLNetSequenceSummary`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from transformers.models.xlnet.modeling_xlnet import XLNetForSequenceClassificationOutput

from . import encoder
from .rewrite import capture_rewritten

if TYPE_CHECKING:
    from ..component import Component
    from . import Loaded

__all__ = ["FORWARDS", "capture"]


def _forward(
    self: Any,
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor,
    token_type_ids: torch.Tensor | None = None,
    **_: Any,
) -> XLNetForSequenceClassificationOutput:
    if attention_mask.dim() != 2:
        raise ValueError("the mask is 2-D")
    named = {"input_ids": input_ids, "attention_mask": attention_mask, "token_type_ids": token_type_ids}
    states = self.transformer(**named, use_mems=False, return_dict=True)[0]
    place = (attention_mask.sum(1) - 1)[:, None, None].expand(-1, 1, states.shape[2])
    last = torch.gather(states, 1, place)[:, 0]
    summary = self.sequence_summary
    return XLNetForSequenceClassificationOutput(logits=self.logits_proj(summary.activation(summary.summary(last))))


FORWARDS = {"XLNetForSequenceClassification": _forward}


def capture(loaded: Loaded) -> tuple[Component, ...]:
    if loaded.model.config.summary_type != "last":
        return encoder.capture(loaded)
    return capture_rewritten(loaded, FORWARDS)
