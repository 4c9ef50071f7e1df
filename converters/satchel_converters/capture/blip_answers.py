"""BLIP that answers questions: a picture and a question in one encoder, and the decoder of `blip_captions`.

transformers has no one call for both; the steps are those of `BlipForQuestionAnswering.generate`, but that padding of a question
is not seen.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import torch
from transformers.modeling_outputs import BaseModelOutput

from ..component import Component
from . import encoder_decoder
from .blip_captions import Pair

if TYPE_CHECKING:
    from . import Loaded

__all__ = ["capture"]


class _Answering(Pair):
    def __init__(self, model: Any) -> None:
        super().__init__(model)
        self.reads = model.text_encoder

    def get_encoder(self) -> Any:
        return self.reads

    def found(self, pixel_values: torch.Tensor, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> Any:
        seen = self.sees(pixel_values=pixel_values).last_hidden_state
        states = self.reads(
            input_ids=input_ids, attention_mask=attention_mask, encoder_hidden_states=seen, return_dict=True
        ).last_hidden_state
        return BaseModelOutput(last_hidden_state=states)

    def forward(
        self,
        pixel_values: torch.Tensor | None = None,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        decoder_position_ids: torch.Tensor | None = None,
        encoder_outputs: BaseModelOutput | None = None,
        **others: Any,
    ) -> Any:
        if encoder_outputs is None:
            assert pixel_values is not None and input_ids is not None and attention_mask is not None
            encoder_outputs = self.found(pixel_values, input_ids, attention_mask)
        return self.written(encoder_outputs, decoder_position_ids, attention_mask, **others)


def capture(loaded: Loaded) -> tuple[Component, ...]:
    pair: Any = _Answering(loaded.model).eval()
    return encoder_decoder.capture(dataclasses.replace(loaded, model=pair))
