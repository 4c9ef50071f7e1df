"""Longformer by blocks, at any length: each block of half a window looks at itself, the one before and the one after.

transformers finds the globally attended tokens with `nonzero`, writes them in place, and pads texts to whole windows, which no
exporter carries (a trace is wrong at another batch size without a word):
https://github.com/huggingface/transformers/blob/main/src/transformers/models/longformer/modeling_longformer.py, `LongformerSelfAttention`.
A classifier's one global token is always the first; other heads have none, except question answering, whose are those of the question.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from transformers.models.longformer.modeling_longformer import LongformerBaseModelOutputWithPooling

from satchel_runtimes.errors import SupportError

from .rewrite import capture_rewritten

if TYPE_CHECKING:
    from ..component import Component
    from . import Loaded

__all__ = ["FORWARDS", "attended_locally", "capture"]

_LOWEST = torch.finfo(torch.float32).min


def _heads(values: torch.Tensor, attention: Any) -> torch.Tensor:
    """[batch, tokens, hidden] to [batch, heads, tokens, head]."""
    batch, length = values.shape[:2]
    return values.view(batch, length, attention.num_heads, attention.head_dim).transpose(1, 2)


def _blocks(values: torch.Tensor, count: Any, size: int) -> torch.Tensor:
    """[batch, heads, tokens, head], with zeros up to whole blocks, to [batch, heads, blocks, size, head]."""
    padding = count * size - values.shape[2]
    padded = torch.nn.functional.pad(values, (0, 0, 0, padding))
    return padded.view(values.shape[0], values.shape[1], count, size, values.shape[3])


def _neighbours(blocks: torch.Tensor) -> torch.Tensor:
    """Each block between the one before and the one after: [batch, heads, blocks, 3 * size, head]."""
    nothing = torch.zeros_like(blocks[:, :, :1])
    before = torch.cat([nothing, blocks[:, :, :-1]], 2)
    after = torch.cat([blocks[:, :, 1:], nothing], 2)
    return torch.cat([before, blocks, after], 3)


def _attend(attention: Any, states: torch.Tensor, valid: torch.Tensor, first: bool) -> torch.Tensor:
    """What `attention` makes of `states` [batch, tokens, hidden]; `valid` [batch, tokens] is 1.0 for tokens of the text.

    Args:
        first: whether the first token attends to all, and all to it.
    """
    size = attention.one_sided_attn_window_size
    batch, length = states.shape[:2]
    count = (length + size - 1) // size
    query = _heads(attention.query(states), attention) / attention.head_dim**0.5
    key, value = _heads(attention.key(states), attention), _heads(attention.value(states), attention)
    local = valid.clone()
    if first:
        # The first token has a place of its own beside the window.
        local = torch.cat([torch.zeros_like(valid[:, :1]), valid[:, 1:]], 1)
    present = _neighbours(_blocks(local[:, None, :, None], count, size)).transpose(3, 4)
    places = torch.arange(3 * size)
    band = ((places[None, :] - places[:size, None] - size).abs() <= size).to(torch.float32)
    scores = _blocks(query, count, size) @ _neighbours(_blocks(key, count, size)).transpose(3, 4)
    scores = scores + (1.0 - present * band) * _LOWEST
    values = _neighbours(_blocks(value, count, size))
    if first:
        to_first = _blocks(query @ key[:, :, :1].transpose(2, 3), count, size)
        weights = torch.softmax(torch.cat([to_first, scores], 4), 4)
        found = weights[..., 1:] @ values + weights[..., :1] * value[:, :, None, :1]
    else:
        found = torch.softmax(scores, 4) @ values
    found = found.reshape(batch, attention.num_heads, count * size, attention.head_dim)[:, :, :length]
    if first:
        found = torch.cat([_from_first(attention, states, valid), found[:, :, 1:]], 2)
    return found.transpose(1, 2).reshape(batch, length, attention.embed_dim)


def attended_locally(attention: Any, states: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
    """The same where no token is seen by all."""
    return _attend(attention, states, valid, first=False)


def _from_first(attention: Any, states: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
    """The first token's own attention, which has projections of its own: [batch, heads, 1, head]."""
    query = _heads(attention.query_global(states[:, :1]), attention) / attention.head_dim**0.5
    scores = query @ _heads(attention.key_global(states), attention).transpose(2, 3)
    weights = torch.softmax(scores + (1.0 - valid[:, None, None, :]) * _LOWEST, 3)
    return weights @ _heads(attention.value_global(states), attention)


def _forward(
    self: Any,
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor,
    global_attention_mask: torch.Tensor | None = None,
    token_type_ids: torch.Tensor | None = None,
    **_: Any,
) -> LongformerBaseModelOutputWithPooling:
    if attention_mask.dim() != 2:
        raise ValueError("the mask is 2-D")
    states = self.embeddings(input_ids=input_ids, token_type_ids=token_type_ids)
    valid = attention_mask.to(states.dtype)
    for layer in self.encoder.layer:
        found = _attend(layer.attention.self, states, valid, global_attention_mask is not None)
        attended = layer.attention.output(found, states)
        states = layer.output(layer.intermediate(attended), attended)
    pooled = None if self.pooler is None else self.pooler(states)
    return LongformerBaseModelOutputWithPooling(last_hidden_state=states, pooler_output=pooled)


FORWARDS = {"LongformerModel": _forward}


def capture(loaded: Loaded) -> tuple[Component, ...]:
    """Raises: SupportError for question answering."""
    if type(loaded.model).__name__ in ("LongformerForQuestionAnswering", "LongformerForMultipleChoice"):
        raise SupportError(
            f"Cannot convert {loaded.source.id}.",
            why="the tokens that this head of Longformer attends to globally are found in each text, which no static graph can do",
            fix="take another architecture for this task; classifiers of texts and of tokens, and masks, are carried",
        )
    return capture_rewritten(loaded, FORWARDS)
