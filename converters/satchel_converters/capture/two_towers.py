"""Models of two towers, one graph each: pictures and texts come at different times, and often in different numbers."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from ..component import Axis, Component, Input, Output
from .encoder import LENGTH, TEXT_INPUTS, padding, text_example
from .image import picture_input

if TYPE_CHECKING:
    from . import Loaded

__all__ = ["capture", "two_graphs"]


class _Tower(torch.nn.Module):
    """One method of the model, from named tensors to the vector that is compared."""

    def __init__(self, model: Any, method: str, output: str) -> None:
        super().__init__()
        self.model, self.method, self.output = model, method, output
        self.config = model.config  # transformers' exporter looks for it

    def forward(self, **inputs: torch.Tensor) -> dict[str, torch.Tensor]:
        return {self.output: getattr(self.model, self.method)(**inputs, return_dict=True).pooler_output}


def capture(loaded: Loaded) -> tuple[Component, ...]:
    model: Any = loaded.model
    accepted = inspect.signature(model.get_text_features).parameters
    pictures, words = (_Tower(model, f"get_{kind}_features", f"{kind}_embeds") for kind in ("image", "text"))
    return two_graphs(loaded, pictures, words, [name for name in TEXT_INPUTS if name in accepted])


def two_graphs(
    loaded: Loaded, pictures: torch.nn.Module, words: torch.nn.Module, accepted: Sequence[str]
) -> tuple[Component, ...]:
    """A graph of each tower: modules that give `image_embeds` and `text_embeds`, [batch, width]."""
    entry = loaded.task.entry(loaded.facts())
    spec, picture = picture_input(entry.preprocess)
    images = _component("image", pictures, (spec,), {"pixel_values": picture})
    wanted = [name for name in accepted if name in loaded.tokenizer.model_input_names]
    filled = entry.option("fill", "length")
    sequence = filled or Axis("sequence", maximum=loaded.processors.facts().max_length)
    texts = tuple(Input(name, "int64", (spec.axes[0], sequence), padding(loaded, name)) for name in wanted)
    return (images, _component("text", words, texts, text_example(loaded, wanted, filled or LENGTH)))


def _component(
    kind: str, module: torch.nn.Module, inputs: tuple[Input, ...], example: dict[str, torch.Tensor]
) -> Component:
    name = f"{kind}_embeds"
    with torch.no_grad():
        width = module.eval()(**example)[name].shape[1]
    outputs = (Output(name, "float32", (inputs[0].axes[0], width)),)
    return Component(f"{kind}_encoder", module, inputs, outputs, example, reference=module)
