"""LED: Longformer's windows in its encoder, by blocks at any length, without tokens that all others see.

transformers' pipelines ask for no such tokens; those of `generate(global_attention_mask=…)` are not carried.
https://github.com/huggingface/transformers/blob/main/src/transformers/models/led/modeling_led.py
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from transformers.models.led.modeling_led import LEDEncoderBaseModelOutput

from .longformer import attended_locally

__all__ = ["LED"]


def _encoder(self: Any, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None, **others: Any) -> Any:
    valid = (
        torch.ones(input_ids.shape, device=input_ids.device)
        if attention_mask is None
        else attention_mask.to(torch.float32)
    )
    places = torch.arange(input_ids.shape[1], device=input_ids.device)
    states = self.layernorm_embedding(self.embed_tokens(input_ids) + self.embed_positions.weight[places])
    for layer in self.layers:
        found = attended_locally(layer.self_attn.longformer_self_attn, states, valid) * valid[:, :, None]
        states = layer.self_attn_layer_norm(states + layer.self_attn.output(found))
        wide = layer.fc2(layer.activation_fn(layer.fc1(states)))
        states = layer.final_layer_norm(states + wide)
    return LEDEncoderBaseModelOutput(last_hidden_state=states)


# "Class.method" -> what stands for it; the names are those of `rewrite.rewritten`.
LED: Mapping[str, Callable[..., Any]] = {"LEDEncoder.forward": _encoder}
