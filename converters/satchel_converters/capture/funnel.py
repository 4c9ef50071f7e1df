"""Funnel at any length, and with padding that changes nothing.

transformers makes its relative positions from lists of Python's numbers, so a trace keeps the length that it saw; and it drops the last
token of a batch's longest text only, so that a padded text gets another answer than alone:
https://github.com/huggingface/transformers/blob/main/src/transformers/models/funnel/modeling_funnel.py, `FunnelAttentionStructure`.
Here every text is pooled by its own length. The sine of a distance is made of the sines and cosines of the two places, so no
table of distances is shifted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from transformers.modeling_outputs import BaseModelOutput

from satchel_runtimes.errors import SupportError

from .rewrite import capture_rewritten

if TYPE_CHECKING:
    from ..component import Component
    from . import Loaded

__all__ = ["FORWARDS", "capture"]

_FAR = 1e6  # as in transformers: what a masked score loses


class _Side(NamedTuple):
    """What attention must know of the queries, or of the keys; each [batch, tokens]."""

    places: torch.Tensor  # in tokens of the text, float32
    types: torch.Tensor
    valid: torch.Tensor  # 1.0 for tokens of the text


def _encode(encoder: Any, states: torch.Tensor, side: _Side) -> tuple[torch.Tensor, _Side, torch.Tensor]:
    """The last states with what is known of them, and those after the first block, which the decoder adds."""
    first = states
    for number, block in enumerate(encoder.blocks):
        distance = 2**number  # between two tokens of this block
        queries, own = _pooled(states, side, distance) if number else (states, side)
        for place, layer in enumerate(block):
            for repeat in range(encoder.config.block_repeats[number]):
                if place == repeat == 0:
                    # The pooled tokens lie between those that they are made of.
                    keys = side._replace(places=_numbered(states) * max(distance // 2, 1))
                    states = _layer(layer, queries, states, own, keys)
                    side = own._replace(places=_numbered(states) * distance)
                else:
                    states = _layer(layer, states, states, side, side)
        if number == 0:
            first = states
    return states, side, first


def _numbered(states: torch.Tensor) -> torch.Tensor:
    """0, 1, 2 …: [batch, tokens]."""
    return torch.ones_like(states[:, :, 0]).cumsum(1) - 1.0


def _pooled(states: torch.Tensor, side: _Side, distance: int) -> tuple[torch.Tensor, _Side]:
    """Means of pairs: the first token twice, so that it stays alone, and without the last token of each text."""
    batch, length, width = states.shape
    half = (length + 1) // 2
    # Doubling the first token moves all others up by one, so of as many places as the text has the last token falls out.
    doubled = torch.cat([states[:, :1], states, torch.zeros_like(states[:, :1])], 1)[:, : 2 * half]
    inside = (_numbered(doubled) < side.valid.sum(1, keepdim=True)).to(states.dtype)
    weights = inside.reshape(batch, half, 2).sum(2)
    queries = (doubled * inside[..., None]).reshape(batch, half, 2, width).sum(2) / weights.clamp(min=1.0)[..., None]
    types = torch.cat([side.types[:, :1], side.types, side.types[:, -1:]], 1)[:, : 2 * half].reshape(batch, half, 2)
    places = _numbered(queries) * distance - distance // 2
    return queries, _Side(places, types[:, :, 0], (weights > 0).to(states.dtype))


def _layer(layer: Any, queries: torch.Tensor, keys: torch.Tensor, query: _Side, key: _Side) -> torch.Tensor:
    attention = layer.attention
    config = attention.config
    batch, shape = queries.shape[0], (config.n_head, config.d_head)
    q = attention.q_head(queries).view(batch, queries.shape[1], *shape) * attention.scale
    k = attention.k_head(keys).view(batch, keys.shape[1], *shape)
    v = attention.v_head(keys).view(batch, keys.shape[1], *shape)
    content = torch.einsum("bind,bjnd->bnij", q + attention.r_w_bias * attention.scale, k)
    relative = _relative(attention, q, query, key)
    if config.separate_cls:
        others = (_numbered(queries)[:1] > 0).to(q.dtype)[0][:, None] * (_numbered(keys)[:1] > 0).to(q.dtype)[0]
        relative = relative * others
    scores = content + relative - _FAR * (1.0 - key.valid[:, None, None, :])
    found = torch.einsum("bnij,bjnd->bind", torch.softmax(scores, -1), v)
    found = attention.post_proj(found.reshape(batch, queries.shape[1], config.n_head * config.d_head))
    made: torch.Tensor = layer.ffn(attention.layer_norm(queries + found))
    return made


def _relative(attention: Any, q: torch.Tensor, query: _Side, key: _Side) -> torch.Tensor:
    """Scores by distance, and by whether both tokens are of one text: [batch, heads, queries, keys]."""
    half = attention.config.d_model // 2
    frequencies = 1.0 / 10000.0 ** (torch.arange(half, dtype=torch.float32) / half)
    weights = torch.einsum("bind,mnd->bnim", q + attention.r_r_bias * attention.scale, attention.r_kernel)
    sines, cosines = weights[..., :half], weights[..., half:]
    at = (query.places[..., None] * frequencies)[:, None]
    to = key.places[..., None] * frequencies
    # sin(a - b) = sin a cos b - cos a sin b, and cos(a - b) = cos a cos b + sin a sin b
    with_cosine = sines * torch.sin(at) + cosines * torch.cos(at)
    with_sine = cosines * torch.sin(at) - sines * torch.cos(at)
    positional = torch.einsum("bnim,bjm->bnij", with_cosine, torch.cos(to))
    positional = positional + torch.einsum("bnim,bjm->bnij", with_sine, torch.sin(to))
    kinds = torch.einsum("bind,snd->bnis", q + attention.r_s_bias * attention.scale, attention.seg_embed)
    first, second = query.types[:, :, None], key.types[:, None, :]
    # The type of the first token, 2, is that of both texts.
    same = ((first == second) | (first == 2) | (second == 2))[:, None].to(q.dtype)
    return positional + kinds[..., 1:] * same + kinds[..., :1] * (1.0 - same)


def _sides(
    self: Any, input_ids: torch.Tensor, attention_mask: torch.Tensor, token_type_ids: torch.Tensor | None
) -> tuple[torch.Tensor, _Side]:
    if attention_mask.dim() != 2:
        raise ValueError("the mask is 2-D")
    states = self.embeddings(input_ids)
    types = torch.zeros_like(input_ids) if token_type_ids is None else token_type_ids
    return states, _Side(_numbered(states), types, attention_mask.to(states.dtype))


def _base(
    self: Any,
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor,
    token_type_ids: torch.Tensor | None = None,
    **_: Any,
) -> BaseModelOutput:
    states, side = _sides(self, input_ids, attention_mask, token_type_ids)
    return BaseModelOutput(last_hidden_state=_encode(self.encoder, states, side)[0])


def _whole(
    self: Any,
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor,
    token_type_ids: torch.Tensor | None = None,
    **_: Any,
) -> BaseModelOutput:
    states, side = _sides(self, input_ids, attention_mask, token_type_ids)
    last, pooled, first = _encode(self.encoder, states, side)
    stride = 2 ** (len(self.config.block_sizes) - 1)
    # Each pooled token is added to all that it was made of; to those that were dropped nothing is.
    others = torch.repeat_interleave((last * pooled.valid[..., None])[:, 1:], stride, 1)
    spread = torch.nn.functional.pad(torch.cat([last[:, :1], others], 1), (0, 0, 0, stride))
    states = first + spread[:, : first.shape[1]]
    for layer in self.decoder.layers:
        states = _layer(layer, states, states, side, side)
    return BaseModelOutput(last_hidden_state=states)


FORWARDS = {"FunnelBaseModel": _base, "FunnelModel": _whole}


def capture(loaded: Loaded) -> tuple[Component, ...]:
    """Raises: SupportError for settings that no published Funnel has."""
    config = loaded.model.config
    odd = {"pooling_type": "mean", "attention_type": "relative_shift"} | dict.fromkeys(
        ("separate_cls", "truncate_seq", "pool_q_only"), True
    )
    for name, usual in odd.items():
        if getattr(config, name) != usual:
            raise SupportError(
                f"Cannot convert {loaded.source.id}.",
                why=f"its {name} is {getattr(config, name)!r}; satchel carries Funnel with {usual!r}",
                fix="take a published Funnel, or another architecture",
            )
    # Three blocks need five tokens, and "No." has four.
    return capture_rewritten(loaded, FORWARDS, least=2 ** (len(config.block_sizes) - 1) + 1)
