"""BLIP-2 with a T5: what its Q-Former makes of a picture stands before the text in the T5's encoder, as the two parts that
`encoder_decoder` takes.

transformers puts it there at marks in the text; here there are none, and it comes first, as `Blip2Processor` has it:
https://github.com/huggingface/transformers/blob/main/src/transformers/models/blip_2/modeling_blip_2.py
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


class _Seeing(Pair):
    def __init__(self, model: Any) -> None:  # Any: without types
        super().__init__(model, writes=model.language_model)
        self.model = model

    def get_encoder(self) -> Any:
        return self.writes.get_encoder()

    def get_decoder(self) -> Any:
        return self.writes.get_decoder()

    def forward(
        self,
        pixel_values: torch.Tensor | None = None,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        encoder_outputs: BaseModelOutput | None = None,
        **others: Any,
    ) -> Any:
        if encoder_outputs is not None:
            return self.writes(encoder_outputs=encoder_outputs, **others)
        assert input_ids is not None and attention_mask is not None
        seen = self.model.get_image_features(pixel_values=pixel_values, return_dict=True).pooler_output
        embedded = torch.cat([seen, self.writes.get_input_embeddings()(input_ids)], dim=1)
        mask = torch.cat([torch.ones(seen.shape[:2], dtype=attention_mask.dtype), attention_mask], dim=1)
        return self.writes(inputs_embeds=embedded, attention_mask=mask, **others)


def capture(loaded: Loaded) -> tuple[Component, ...]:
    pair: Any = _Seeing(loaded.model).eval()
    return encoder_decoder.capture(dataclasses.replace(loaded, model=pair))
