"""Detectors of things that are named when they are asked: what a picture has at each place, and what a name means, a graph each.

Both are compared by the task: OWL-ViT (Minderer et al., 2022, https://arxiv.org/abs/2205.06230),
https://github.com/huggingface/transformers/blob/main/src/transformers/models/owlvit/modeling_owlvit.py,
`OwlViTClassPredictionHead.forward`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from ..component import Axis, Component, Input, Output
from .encoder import TEXT_INPUTS, padding, text_example
from .image import picture_input

if TYPE_CHECKING:
    from . import Loaded

__all__ = ["capture"]


class _Places(torch.nn.Module):
    """From a picture to each place's class vector, its shift and scale of a logit, and its box."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model, self.config = model, model.config

    def forward(self, pixel_values: torch.Tensor) -> dict[str, torch.Tensor]:
        grid = self.model.image_embedder(pixel_values=pixel_values)[0]
        places = grid.flatten(1, 2)
        head = self.model.class_head
        return {
            "class_embeds": head.dense0(places),
            "logit_shift": head.logit_shift(places),
            "logit_scale": head.elu(head.logit_scale(places)) + 1,
            "pred_boxes": self.model.box_predictor(places, grid),
        }


class _Names(torch.nn.Module):
    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model, self.config = model.owlvit if hasattr(model, "owlvit") else model.owlv2, model.config

    def forward(self, **inputs: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"text_embeds": self.model.get_text_features(**inputs, return_dict=True).pooler_output}


def capture(loaded: Loaded) -> tuple[Component, ...]:
    facts = loaded.facts()
    spec, picture = picture_input(loaded.task.entry(facts).preprocess)
    wanted = [name for name in TEXT_INPUTS[:2] if name in loaded.tokenizer.model_input_names]
    sequence = Axis("sequence", maximum=facts.max_length)
    texts = tuple(Input(name, "int64", (Axis("batch"), sequence), padding(loaded, name)) for name in wanted)
    return (
        _component("image_encoder", _Places(loaded.model), (spec,), {"pixel_values": picture}),
        _component("text_encoder", _Names(loaded.model), texts, text_example(loaded, wanted)),
    )


def _component(
    name: str, module: torch.nn.Module, inputs: tuple[Input, ...], example: dict[str, torch.Tensor]
) -> Component:
    with torch.no_grad():
        results = module.eval()(**example)
    outputs = tuple(Output(each, "float32", (inputs[0].axes[0], *value.shape[1:])) for each, value in results.items())
    return Component(name, module, inputs, outputs, example, reference=module)
