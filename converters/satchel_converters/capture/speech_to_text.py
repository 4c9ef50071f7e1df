"""Speech2Text: an encoder that answers to a padded sound exactly as to the sound alone.

transformers' attention mask keeps padding out of the attention; its second convolution reads what the first made of padding. Here that is
zero, as behind the end of a sound alone.
https://github.com/huggingface/transformers/blob/main/src/transformers/models/speech_to_text/modeling_speech_to_text.py
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from transformers.modeling_outputs import BaseModelOutput

__all__ = ["SPEECH_TO_TEXT"]


def _inside(lengths: torch.Tensor, count: int) -> torch.Tensor:
    return torch.arange(count)[None] < lengths[:, None]


def _halved(lengths: torch.Tensor) -> torch.Tensor:
    """By a convolution with steps of two."""
    return torch.div(lengths - 1, 2, rounding_mode="floor") + 1


def _encoder(self: Any, input_features: torch.Tensor, attention_mask: torch.Tensor, **others: Any) -> Any:
    states, lengths = input_features.transpose(1, 2), attention_mask.sum(-1)
    for layer in self.conv.conv_layers:
        states, lengths = torch.nn.functional.glu(layer(states), dim=1), _halved(lengths)
        states = states * _inside(lengths, states.shape[2])[:, None].to(states.dtype)
    states = self.embed_scale * states.transpose(1, 2)
    count = states.shape[1]
    inside = _inside(lengths, count)
    places = torch.arange(self.padding_idx + 1, self.padding_idx + 1 + count)
    states = states + self.embed_positions.weights[places] * inside[..., None].to(states.dtype)
    mask = torch.where(inside, 0.0, torch.finfo(torch.float32).min)[:, None, None]
    for layer in self.layers:
        states = layer(states, mask)
    return BaseModelOutput(last_hidden_state=self.layer_norm(states))


def _seen(self: Any, count: int, attention_mask: torch.Tensor) -> torch.Tensor:
    """Which of the encoder's places are of the sound, [batch, count]."""
    lengths = attention_mask.sum(-1)
    for _ in range(self.config.num_conv_layers):
        lengths = _halved(lengths)
    return _inside(lengths, count).to(torch.int64)


# "Class.method" -> what stands for it; the names are those of `rewrite.rewritten`.
SPEECH_TO_TEXT: Mapping[str, Callable[..., Any]] = {
    "Speech2TextEncoder.forward": _encoder,
    "Speech2TextModel._get_feature_vector_attention_mask": _seen,
}
