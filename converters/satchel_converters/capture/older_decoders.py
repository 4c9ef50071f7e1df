"""Decoders that compute attention themselves, without transformers' attention interface: made to ask `attend` in its place.

Each function stands for a method of transformers 5.23 with the same steps, but for the cache and the mask:
https://github.com/huggingface/transformers/tree/main/src/transformers/models
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import Any

import torch

from .attention import attend
from .bloom import gelu

__all__ = ["OLDER", "kept"]


def _plain(self: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: Any = None) -> Any:
    """GPT-J and CodeGen."""
    return _attended(self, query, key, value, 1 / float(self.scale_attn), None)


def _image_gpt(self: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: Any = None) -> Any:
    """In both of its orders of computation, which differ in half precision alone."""
    scaling = float(value.shape[-1]) ** -0.5 if self.scale_attn_weights else 1.0
    if self.scale_attn_by_inverse_layer_idx:
        scaling /= self.layer_idx + 1
    return _attended(self, query, key, value, scaling, None)


def _gpt_neo(self: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: Any = None) -> Any:
    """Scores are not scaled; every second layer sees a window."""
    window = self.config.window_size if self.attention_type == "local" else None
    return _attended(self, query, key, value, 1.0, window)


def _attended(self: Any, query: Any, key: Any, value: Any, scaling: float, window: int | None) -> Any:
    result, _ = attend(self, query, key, value, None, scaling=scaling, sliding_window=window)
    return result.transpose(1, 2), None


def _bloom(
    self: Any, hidden_states: torch.Tensor, residual: torch.Tensor, alibi: Any, attention_mask: Any, **others: Any
) -> Any:
    module = sys.modules[type(self).__module__]
    query, key, value = self._reshape(self.query_key_value(hidden_states))
    slopes = module._get_alibi_slopes(self.num_heads, hidden_states.device)
    result, _ = attend(self, query, key, value, None, scaling=self.inv_norm_factor, slopes=slopes * self.beta)
    return self.dense(result.flatten(2)) + residual, None


def _mpt(self: Any, hidden_states: torch.Tensor, position_bias: torch.Tensor, **others: Any) -> Any:
    mixed = self.Wqkv(hidden_states)
    if self.clip_qkv:
        mixed = mixed.clamp(min=-self.clip_qkv, max=self.clip_qkv)
    batch, length = hidden_states.shape[:2]
    parts = [each.reshape(batch, length, self.n_heads, self.head_dim).transpose(1, 2) for each in mixed.chunk(3, dim=2)]
    query, key, value = parts
    slopes = position_bias[:, 0, -1] - position_bias[:, 0, -2]
    result, _ = attend(self, query, key, value, None, scaling=self.softmax_scale, slopes=slopes)
    return self.out_proj(result.flatten(2)), None


def _falcon(
    self: Any,
    hidden_states: torch.Tensor,
    alibi: torch.Tensor | None,
    attention_mask: Any,
    position_embeddings: Any = None,
    **others: Any,
) -> Any:
    """With rotary positions. Those of ALiBi are rounded to bfloat16 in this model, and no two ways to add them agree."""
    parts = self._split_heads(self.query_key_value(hidden_states))
    query, key, value = (each.transpose(1, 2) for each in parts)
    if alibi is None:
        rotate = sys.modules[type(self).__module__].apply_rotary_pos_emb
        query, key = rotate(query, key, *position_embeddings)
    result, _ = attend(self, query, key, value, None)
    return self.dense(result.flatten(2)), None


def _projected(
    self: Any,
    hidden_states: torch.Tensor,
    key_value_states: torch.Tensor | None = None,
    past_key_values: Any = None,
    attention_mask: Any = None,
    **others: Any,
) -> Any:
    """TrOCR: its own attention and that to an encoder in one class."""
    batch = hidden_states.shape[0]

    def heads(states: torch.Tensor) -> torch.Tensor:
        return states.reshape(batch, -1, self.num_heads, self.head_dim).transpose(1, 2)

    key, value = kept(self, hidden_states, key_value_states, past_key_values, heads, self.k_proj, self.v_proj)
    result, _ = attend(self, heads(self.q_proj(hidden_states)), key, value, None, scaling=self.scaling)
    return self.out_proj(result.flatten(2)), None


def _by_key(
    self: Any,
    hidden_states: torch.Tensor,
    attention_mask: Any = None,
    encoder_hidden_states: torch.Tensor | None = None,
    encoder_attention_mask: Any = None,
    past_key_values: Any = None,
    **others: Any,
) -> Any:
    """BLIP's text: as BERT's, and as a cross-attention where an encoder's states come with it."""

    def heads(states: torch.Tensor) -> torch.Tensor:
        return states.reshape(*states.shape[:2], -1, self.attention_head_size).transpose(1, 2)

    if past_key_values is None:
        return type(self).forward(self, hidden_states, attention_mask, encoder_hidden_states, encoder_attention_mask)
    key, value = kept(self, hidden_states, encoder_hidden_states, past_key_values, heads, self.key, self.value)
    result, _ = attend(self, heads(self.query(hidden_states)), key, value, None)
    return result.flatten(2), None


def kept(
    self: Any,
    hidden_states: torch.Tensor,
    theirs: torch.Tensor | None,
    cache: Any,
    heads: Callable[[torch.Tensor], torch.Tensor],
    to_key: Callable[[torch.Tensor], torch.Tensor],
    to_value: Callable[[torch.Tensor], torch.Tensor],
) -> tuple[torch.Tensor, torch.Tensor]:
    """Keys and values from transformers' kind of cache, with those of an encoder where there are some."""
    place = self.layer_idx
    if theirs is not None and cache.is_updated.get(place):
        layer = cache.cross_attention_cache.layers[place]
        return layer.keys, layer.values
    states, own = (
        (hidden_states, cache.self_attention_cache) if theirs is None else (theirs, cache.cross_attention_cache)
    )
    key, value = own.update(heads(to_key(states)), heads(to_value(states)), place)
    return key, value


def _projected_too(self: Any, *given: Any, **named: Any) -> Any:
    """LED, which answers with its cache as well."""
    return (*_projected(self, *given, **named), named.get("past_key_values"))


# "Class.method" -> what stands for it; the names are those of `rewrite.rewritten`.
OLDER: Mapping[str, Callable[..., Any]] = {
    "BlipTextSelfAttention.forward": _by_key,
    "BloomAttention.forward": _bloom,
    "BloomGelu.forward": gelu,
    "CodeGenAttention._attn": _plain,
    "FalconAttention.forward": _falcon,
    "GPTJAttention._attn": _plain,
    "GPTNeoSelfAttention._attn": _gpt_neo,
    "ImageGPTAttention._attn": _image_gpt,
    "ImageGPTAttention._upcast_and_reordered_attn": _image_gpt,
    "LEDDecoderAttention.forward": _projected_too,
    "MptAttention.forward": _mpt,
    "TrOCRAttention.forward": _projected,
}
