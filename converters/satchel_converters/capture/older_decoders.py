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

__all__ = ["OLDER"]


def _plain(self: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: Any = None) -> Any:
    """GPT-J and CodeGen."""
    return _attended(self, query, key, value, 1 / float(self.scale_attn), None)


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

    query, place = heads(self.q_proj(hidden_states) * self.scaling), self.layer_idx
    if key_value_states is not None and past_key_values.is_updated.get(place):
        layer = past_key_values.cross_attention_cache.layers[place]
        key, value = layer.keys, layer.values
    else:
        own = key_value_states is None
        cache = past_key_values.self_attention_cache if own else past_key_values.cross_attention_cache
        states = hidden_states if own else key_value_states
        key, value = cache.update(heads(self.k_proj(states)), heads(self.v_proj(states)), place)
    result, _ = attend(self, query, key, value, None, scaling=1.0)
    return self.out_proj(result.flatten(2)), None


# "Class.method" -> what stands for it; the names are those of `rewrite.rewritten`.
OLDER: Mapping[str, Callable[..., Any]] = {
    "BloomAttention.forward": _bloom,
    "BloomGelu.forward": gelu,
    "CodeGenAttention._attn": _plain,
    "FalconAttention.forward": _falcon,
    "GPTJAttention._attn": _plain,
    "GPTNeoSelfAttention._attn": _gpt_neo,
    "MptAttention.forward": _mpt,
    "TrOCRAttention.forward": _projected,
}
