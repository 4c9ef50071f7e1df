"""The generic way of a picture's model: one graph from pixels of one size to the task's outputs, any batch."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from satchel_runtimes.errors import SupportError
from satchel_runtimes.tasks.image import image_size, image_steps

from ..component import Axis, Component, Input, Output

if TYPE_CHECKING:
    from . import Loaded

__all__ = ["capture"]


class _Vision(torch.nn.Module):
    """Takes and returns plain named tensors."""

    def __init__(self, model: torch.nn.Module, outputs: tuple[str, ...]) -> None:
        super().__init__()
        self.model, self.outputs = model, outputs
        self.config = model.config  # transformers' exporter looks for it

    def forward(self, pixel_values: torch.Tensor) -> dict[str, torch.Tensor]:
        result = self.model(pixel_values=pixel_values, return_dict=True)
        return {name: result[name] for name in self.outputs}


def capture(loaded: Loaded) -> tuple[Component, ...]:
    # Of what the processor gives, whatever it is given.
    height, width = image_size(image_steps(loaded.processors.facts().image_processor))
    # Two pictures that differ, so that an output that mixes rows shows; every channel has values of both signs.
    seed = torch.Generator().manual_seed(0)
    example = {"pixel_values": torch.randn((2, 3, height, width), generator=seed)}
    module = _Vision(loaded.model, loaded.task.outputs).eval()
    try:
        with torch.no_grad():
            results = module(**example)
    except (RuntimeError, ValueError) as error:
        raise SupportError(
            f"Cannot run {loaded.source.id} on pictures of {height}x{width}.",
            why=str(error).strip().splitlines()[0][:300],
            fix="take the preprocessor_config.json that belongs to this model",
        ) from None
    batch = Axis("batch")
    inputs = (Input("pixel_values", "float32", (batch, 3, height, width)),)
    outputs = tuple(Output(name, "float32", (batch, *results[name].shape[1:])) for name in loaded.task.outputs)
    return (Component("model", module, inputs, outputs, example),)
