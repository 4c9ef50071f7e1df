"""ProphetNet: beside each token its decoder has others that look ahead, of which the first says what comes next.

They see the text's keys and one of their own, and nothing sees them; so the cache is that of any decoder, and the streams that look
further are not computed. transformers adds the distances of several tokens to the scores of others (it reads [tokens, streams, heads] as
[streams, heads, tokens]), and is right where it writes one after the other, as `generate` does. Each function stands for a method of transformers 5.23 with the same steps, but for the cache and the masks:
https://github.com/huggingface/transformers/blob/main/src/transformers/models/prophetnet/modeling_prophetnet.py
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import Any

import torch
from transformers.modeling_outputs import Seq2SeqLMOutput

from .attention import attend, held_capacity, held_positions, held_present
from .older_decoders import kept

__all__ = ["ONE_BY_ONE", "PROPHETNET"]

ONE_BY_ONE = ("prophetnet",)  # by model_type: what transformers reads wrongly several tokens at a time


def _logits(
    self: Any,
    input_ids: torch.Tensor | None = None,
    attention_mask: torch.Tensor | None = None,
    decoder_input_ids: torch.Tensor | None = None,
    decoder_attention_mask: torch.Tensor | None = None,
    encoder_outputs: Any = None,
    past_key_values: Any = None,
    **others: Any,
) -> Seq2SeqLMOutput:
    found = self.prophetnet(
        input_ids=input_ids,
        attention_mask=attention_mask,
        decoder_input_ids=decoder_input_ids,
        decoder_attention_mask=decoder_attention_mask,
        encoder_outputs=encoder_outputs,
        past_key_values=past_key_values,
        return_dict=True,
    )
    return Seq2SeqLMOutput(logits=self.lm_head(found.last_hidden_state_ngram))


def _decoder(
    self: Any,
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor | None = None,
    encoder_hidden_states: torch.Tensor | None = None,
    encoder_attention_mask: torch.Tensor | None = None,
    past_key_values: Any = None,
    **others: Any,
) -> Any:
    length, table = input_ids.shape[1], self.position_embeddings
    positions = held_positions()
    if positions is None:
        positions = torch.arange(length).expand(input_ids.shape)
    places = positions + 1 + table.padding_idx
    words = self.word_embeddings(input_ids) + table._forward(places.clamp(max=table.max_length - 1))
    # The first stream has the last embedding: transformers counts from minus one.
    ahead = self.ngram_embeddings.weight[-1] + table._forward((places + 1).clamp(max=table.max_length - 1))
    hidden = self.embeddings_layer_norm(torch.cat([words, ahead], dim=1))
    for layer in self.layers:
        (hidden,) = layer(hidden, None, encoder_hidden_states, past_key_values=past_key_values)
    made = sys.modules[type(self).__module__].ProphetNetDecoderModelOutput
    return made(last_hidden_state=hidden[:, :length], last_hidden_state_ngram=hidden[:, length:])


def _streams(self: Any, hidden_states: torch.Tensor, past_key_values: Any = None, **others: Any) -> Any:
    """The text's tokens, and behind them as many that look ahead."""
    batch, both, width = hidden_states.shape

    def heads(states: torch.Tensor) -> torch.Tensor:
        return states.reshape(batch, -1, self.num_attn_heads, self.head_dim).transpose(1, 2)

    text, ahead = hidden_states.chunk(2, dim=1)
    key, value = heads(self.key_proj(text)), heads(self.value_proj(text))
    key, value = past_key_values.self_attention_cache.update(key, value, self.layer_idx)
    positions = held_positions()
    if positions is None:
        attend(self, heads(self.query_proj(text)), key, value, None)
        return torch.zeros(batch, both, width), None, None
    distances = positions[:, :, None] - torch.arange(held_capacity())
    seen, _ = attend(self, heads(self.query_proj(text)), key, value, None, position_bias=_bias(self, text, distances))
    keys, values = held_present()
    query = heads(self.query_proj(ahead)) * self.head_dim**-0.5
    scores = torch.matmul(query, keys.transpose(2, 3)) + _bias(self, ahead, distances + 1)
    scores = scores + torch.where(distances >= 0, 0.0, torch.finfo(torch.float32).min)[:, None]
    own = (query * heads(self.key_proj(ahead))).sum(-1, keepdim=True)
    own = own + _bias(self, ahead, torch.zeros_like(positions)[:, :, None])
    shares = torch.softmax(torch.cat([scores, own], dim=-1), dim=-1)
    told = torch.matmul(shares[..., :-1], values) + shares[..., -1:] * heads(self.value_proj(ahead))
    return self.out_proj(torch.cat([seen.flatten(2), told.transpose(1, 2).flatten(2)], dim=1)), None, None


def _bias(self: Any, states: torch.Tensor, distances: torch.Tensor) -> torch.Tensor:
    """What is added to scores, [batch, heads, sequence, places]: of each token itself, by how far a place is behind it."""
    batch, length, places = distances.shape
    buckets = sys.modules[type(self).__module__].compute_relative_buckets(
        self.num_buckets, self.relative_max_distance, -distances.clamp(min=0)
    )
    table = self.relative_pos_embeddings(states).reshape(batch, length, self.num_buckets, self.num_attn_heads)
    index = buckets.long()[:, None].expand(batch, self.num_attn_heads, length, places)
    added: torch.Tensor = table.permute(0, 3, 1, 2).gather(3, index)
    return added


def _across(
    self: Any,
    hidden_states: torch.Tensor,
    key_value_states: torch.Tensor | None = None,
    attention_mask: Any = None,
    past_key_values: Any = None,
    **others: Any,
) -> Any:
    """To the encoder; its own attention is of the same class."""
    if past_key_values is None:
        return type(self).forward(self, hidden_states, key_value_states, attention_mask)
    batch = hidden_states.shape[0]

    def heads(states: torch.Tensor) -> torch.Tensor:
        return states.reshape(batch, -1, self.num_attn_heads, self.head_dim).transpose(1, 2)

    key, value = kept(self, hidden_states, key_value_states, past_key_values, heads, self.key_proj, self.value_proj)
    result, _ = attend(self, heads(self.query_proj(hidden_states)), key, value, None)
    return self.out_proj(result.flatten(2)), None


# As in `older_decoders`.
PROPHETNET: Mapping[str, Callable[..., Any]] = {
    "ProphetNetAttention.forward": _across,
    "ProphetNetDecoder.forward": _decoder,
    "ProphetNetForConditionalGeneration.forward": _logits,
    "ProphetNetNgramSelfAttention.forward": _streams,
}
