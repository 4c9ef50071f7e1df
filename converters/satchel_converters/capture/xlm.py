"""XLM and FlauBERT without the counts that they assert: `lengths.max().item()` makes a graph depend on its data.

https://github.com/huggingface/transformers/blob/main/src/transformers/models/xlm/modeling_xlm.py, `XLMModel.forward`. The lengths
are used for nothing else where a mask is given.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import torch
from transformers.modeling_outputs import BaseModelOutput

from . import encoder
from .rewrite import capture_rewritten

if TYPE_CHECKING:
    from ..component import Component
    from . import Loaded

__all__ = ["FORWARDS", "capture"]


def _forward(
    self: Any,  # Any: modules of transformers, here and in the other rewrites
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor,
    token_type_ids: torch.Tensor | None = None,
    **_: Any,
) -> BaseModelOutput:
    if attention_mask.dim() != 2:
        raise ValueError("the mask is 2-D")
    before = getattr(self, "pre_norm", False)  # of FlauBERT
    states = self.embeddings(input_ids) + self.position_embeddings(self.position_ids[:, : input_ids.shape[1]])
    if token_type_ids is not None:
        states = states + self.embeddings(token_type_ids)
    mask = attention_mask[..., None].to(states.dtype)
    states = self.layer_norm_emb(states) * mask
    for attend, norm1, feed, norm2 in zip(self.attentions, self.layer_norm1, self.ffns, self.layer_norm2, strict=True):
        attended = states + attend(norm1(states) if before else states, attention_mask, cache=None)[0]
        states = attended if before else norm1(attended)
        fed = states + feed(norm2(states) if before else states)
        states = (fed if before else norm2(fed)) * mask
    return BaseModelOutput(last_hidden_state=states)


FORWARDS = {"XLMModel": _forward, "FlaubertModel": _forward}


def capture(loaded: Loaded) -> tuple[Component, ...]:
    if loaded.model.config.causal:
        return encoder.capture(loaded)
    (component,) = capture_rewritten(loaded, FORWARDS)
    if getattr(loaded.model.config, "pre_norm", False):
        # transformers 5.23 cannot run these at all: it indexes a cache that has no index. A test mends that and compares.
        component = dataclasses.replace(component, reference=component.module)
    return (component,)
