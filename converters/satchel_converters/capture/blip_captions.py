"""BLIP that writes: its picture encoder and its decoder of text, as the two parts that `encoder_decoder` takes.

transformers has no one call for both; the steps are those of `BlipForConditionalGeneration.generate`.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import torch
from transformers.modeling_outputs import BaseModelOutput

from ..component import Component
from . import encoder_decoder

if TYPE_CHECKING:
    from . import Loaded

__all__ = ["Pair", "capture"]


class Pair(torch.nn.Module):
    """A model of which one part sees and another writes."""

    def __init__(self, model: Any, writes: Any = None) -> None:
        super().__init__()
        self.sees, self.writes, self.config = model.vision_model, writes or model.text_decoder, model.config

    def get_encoder(self) -> Any:
        return self.sees

    def get_decoder(self) -> Any:
        return self.writes

    def get_output_embeddings(self) -> Any:
        return self.writes.get_output_embeddings()

    def set_output_embeddings(self, head: Any) -> None:
        self.writes.set_output_embeddings(head)

    def set_attn_implementation(self, name: str) -> None:
        """Its classes know one way only; `older_decoders` has the other."""

    def set_experts_implementation(self, name: str) -> None:
        """It has none."""

    def written(
        self,
        found: BaseModelOutput,
        positions: torch.Tensor | None,
        seen: torch.Tensor | None = None,
        *,
        decoder_input_ids: torch.Tensor,
        decoder_attention_mask: torch.Tensor | None = None,
        past_key_values: Any = None,
        use_cache: bool = True,
        return_dict: bool = True,
    ) -> Any:
        return self.writes(
            input_ids=decoder_input_ids,
            attention_mask=decoder_attention_mask,
            position_ids=positions,
            encoder_hidden_states=found.last_hidden_state,
            encoder_attention_mask=seen,
            past_key_values=past_key_values,
            use_cache=use_cache,
        )


class _Captions(Pair):
    def forward(
        self,
        pixel_values: torch.Tensor | None = None,
        decoder_position_ids: torch.Tensor | None = None,
        encoder_outputs: BaseModelOutput | None = None,
        **others: Any,
    ) -> Any:
        found: Any = self.sees(pixel_values=pixel_values) if encoder_outputs is None else encoder_outputs
        return self.written(found, decoder_position_ids, **others)


def capture(loaded: Loaded) -> tuple[Component, ...]:
    pair: Any = _Captions(loaded.model).eval()
    return encoder_decoder.capture(dataclasses.replace(loaded, model=pair))
