"""Canine at any length, and with padding that changes nothing.

transformers cuts its local attention into chunks by Python's own loop and counts molecules of the whole batch, so a trace keeps the
length that it saw and a padded text gets another answer than alone:
https://github.com/huggingface/transformers/blob/main/src/transformers/models/canine/modeling_canine.py, `CanineModel.forward`.
Here the chunks are a mask, and the molecules of each text are counted by its own length.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from transformers.models.canine.modeling_canine import CanineModelOutputWithPooling

from .rewrite import capture_rewritten

if TYPE_CHECKING:
    from ..component import Component
    from . import Loaded

__all__ = ["FORWARDS", "capture"]

_LOWEST = torch.finfo(torch.float32).min


def _encode(encoder: Any, states: torch.Tensor, allowed: torch.Tensor) -> torch.Tensor:
    """The layers of an encoder; `allowed`, 1.0 or 0.0, is broadcast to [batch, heads, queries, keys]."""
    for layer in encoder.layer:
        own = layer.attention.self
        batch, length = states.shape[:2]
        shape = (batch, length, own.num_attention_heads, own.attention_head_size)
        query, key, value = (each(states).view(shape).transpose(1, 2) for each in (own.query, own.key, own.value))
        scores = query @ key.transpose(2, 3) / own.attention_head_size**0.5 + (1.0 - allowed) * _LOWEST
        found = (torch.softmax(scores, 3) @ value).transpose(1, 2).reshape(batch, length, own.all_head_size)
        attended = layer.attention.output(found, states)
        states = layer.output(layer.intermediate(attended), attended)
    return states


def _forward(
    self: Any,
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor,
    token_type_ids: torch.Tensor | None = None,
    **_: Any,
) -> CanineModelOutputWithPooling:
    if attention_mask.dim() != 2:
        raise ValueError("the mask is 2-D")
    rate, width = self.config.downsampling_rate, self.config.local_transformer_stride
    characters = self.char_embeddings(input_ids=input_ids, token_type_ids=token_type_ids)
    valid = attention_mask.to(characters.dtype)
    places = torch.arange(input_ids.shape[1])
    chunk = torch.div(places, width, rounding_mode="floor")
    together = (chunk[:, None] == chunk[None, :]).to(characters.dtype)
    characters = _encode(self.initial_char_encoder, characters, together * valid[:, None, None, :])

    down = self.chars_to_molecules
    # Room for a text that is shorter than a molecule.
    roomy = torch.nn.functional.pad(characters.transpose(1, 2), (0, rate - 1))
    pooled = down.activation(down.conv(roomy)).transpose(1, 2)
    molecules = down.LayerNorm(torch.cat([characters[:, :1], pooled[:, :-1]], 1))
    count = torch.div(attention_mask.sum(1, keepdim=True), rate, rounding_mode="floor").clamp(min=1)
    present = (torch.arange(molecules.shape[1])[None, :] < count).to(characters.dtype)
    molecules = _encode(self.encoder, molecules, present[:, None, None, :])

    # Each molecule but the first stands for `rate` characters, and the last one for all that remain.
    own = torch.minimum(torch.div(places, rate, rounding_mode="floor")[None, :] + 1, count - 1)
    spread = torch.gather(molecules, 1, own[..., None].expand(-1, -1, molecules.shape[2]))
    both = torch.cat([characters, spread], 2) * valid[..., None]
    states = _encode(self.final_char_encoder, self.projection(both), valid[:, None, None, :])
    first = None if self.pooler is None else self.pooler(molecules)
    return CanineModelOutputWithPooling(last_hidden_state=states, pooler_output=first)


FORWARDS = {"CanineModel": _forward}


def capture(loaded: Loaded) -> tuple[Component, ...]:
    return capture_rewritten(loaded, FORWARDS, least=loaded.model.config.downsampling_rate)
