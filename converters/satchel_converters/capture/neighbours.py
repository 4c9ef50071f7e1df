"""MobileBERT, ConvBERT and Nystromformer with padding that changes nothing.

They look at each token's neighbours by a convolution, or by shifting the embeddings, and no mask stands before it: the last token of a text
sees the padding beside it, where alone it sees zeros. So transformers gives a padded text another answer than alone. Here what stands
beyond a text is zero there:
https://github.com/huggingface/transformers/blob/main/src/transformers/models/convbert/modeling_convbert.py, `ConvBertSelfAttention.forward`;
https://github.com/huggingface/transformers/blob/main/src/transformers/models/nystromformer/modeling_nystromformer.py, `NystromformerSelfAttention.forward`;
https://github.com/huggingface/transformers/blob/main/src/transformers/models/mobilebert/modeling_mobilebert.py, `MobileBertEmbeddings.forward`.
"""

from __future__ import annotations

import copy
import dataclasses
from typing import TYPE_CHECKING, Any

import torch

from . import encoder

if TYPE_CHECKING:
    from ..component import Component
    from . import Loaded

__all__ = ["capture", "without_padding"]

_BODIES = ("MobileBertModel", "ConvBertModel", "NystromformerModel")


class _Valid:
    """What is valid in the batch that a model is reading: [batch, tokens], 1.0 or 0.0."""

    valid: torch.Tensor

    def read(self, body: Any, given: Any, named: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        mask = named["attention_mask"]
        # The generic capture gives a ready 4-D mask, where 0 is valid, to models that take one.
        self.valid = (mask if mask.dim() == 2 else mask[:, 0, 0, :] == 0).to(torch.float32)
        if type(body).__name__ == "MobileBertModel":
            ids = given[0] if given else named["input_ids"]
            words = body.get_input_embeddings()(ids) * self.valid[..., None]
            given, named = (), {**named, "input_ids": None, "inputs_embeds": words}
        return given, named

    def channels_first(self, _: Any, given: tuple[torch.Tensor]) -> tuple[torch.Tensor]:
        return (given[0] * self.valid[:, None, :],)

    def heads(self, _: Any, given: tuple[torch.Tensor]) -> tuple[torch.Tensor]:
        return (given[0] * self.valid[:, None, :, None],)

    def result(self, _: Any, __: Any, states: torch.Tensor) -> torch.Tensor:
        return states * self.valid.reshape(states.shape[:-1])[..., None]


def without_padding(model: torch.nn.Module) -> torch.nn.Module:
    """A copy; the model that was given remains the reference."""
    made = copy.deepcopy(model)
    valid = _Valid()
    for module in made.modules():
        kind = type(module).__name__
        if kind in _BODIES:
            module.register_forward_pre_hook(valid.read, with_kwargs=True)
        elif kind == "ConvBertSelfAttention":
            module.key_conv_attn_layer.register_forward_pre_hook(valid.channels_first)  # type: ignore[union-attr]
            module.conv_out_layer.register_forward_hook(valid.result)  # type: ignore[union-attr]
        elif kind == "NystromformerSelfAttention" and hasattr(module, "conv"):
            module.conv.register_forward_pre_hook(valid.heads)  # type: ignore[union-attr]
    return made


def capture(loaded: Loaded) -> tuple[Component, ...]:
    made: Any = without_padding(loaded.model)
    return encoder.capture(dataclasses.replace(loaded, model=made))
