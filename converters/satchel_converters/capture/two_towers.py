"""Models of two towers, one graph each: pictures and texts come at different times, and often in different numbers."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

import torch

from satchel_runtimes.tasks.image import image_size, image_steps

from ..component import Axis, Component, Input, Output
from .encoder import TEXT_INPUTS, padding, text_example
from .image import pixels

if TYPE_CHECKING:
    from . import Loaded

__all__ = ["capture"]


class _Tower(torch.nn.Module):
    """One method of the model, from named tensors to the vector that is compared."""

    def __init__(self, model: Any, method: str, output: str) -> None:
        super().__init__()
        self.model, self.method, self.output = model, method, output
        self.config = model.config  # transformers' exporter looks for it

    def forward(self, **inputs: torch.Tensor) -> dict[str, torch.Tensor]:
        return {self.output: getattr(self.model, self.method)(**inputs, return_dict=True).pooler_output}


def capture(loaded: Loaded) -> tuple[Component, ...]:
    facts = loaded.processors.facts()
    size = image_size(image_steps(facts.image_processor))
    assert size is not None  # else the steps were refused
    batch = Axis("batch")
    picture = (Input("pixel_values", "float32", (batch, 3, *size)),)
    images = _component(loaded, "image", picture, {"pixel_values": pixels(size)})
    model: Any = loaded.model
    accepted = inspect.signature(model.get_text_features).parameters
    wanted = [name for name in TEXT_INPUTS if name in loaded.tokenizer.model_input_names and name in accepted]
    steps = loaded.task.entry(loaded.facts()).preprocess
    filled = next((step.options["length"] for step in steps if step.step == "fill"), None)
    sequence = filled or Axis("sequence", maximum=facts.max_length)
    texts = tuple(Input(name, "int64", (batch, sequence), padding(loaded, name)) for name in wanted)
    return (images, _component(loaded, "text", texts, text_example(loaded, wanted, filled or 11)))


def _component(loaded: Loaded, kind: str, inputs: tuple[Input, ...], example: dict[str, torch.Tensor]) -> Component:
    name = f"{kind}_embeds"
    module = _Tower(loaded.model, f"get_{kind}_features", name).eval()
    with torch.no_grad():
        width = module(**example)[name].shape[1]
    outputs = (Output(name, "float32", (inputs[0].axes[0], width)),)
    return Component(f"{kind}_encoder", module, inputs, outputs, example, reference=module)
