"""The generic way of a time series' model: one graph from as many past steps as it reads to the future ones, any batch."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from ..component import Axis, Component, Input, Output

if TYPE_CHECKING:
    from . import Loaded

__all__ = ["capture"]


class _Forecast(torch.nn.Module):
    """Takes and returns plain named tensors."""

    def __init__(self, model: torch.nn.Module, outputs: tuple[str, ...]) -> None:
        super().__init__()
        self.model, self.outputs = model, outputs
        self.config = model.config  # transformers' exporter looks for it

    def forward(self, past_values: torch.Tensor) -> dict[str, torch.Tensor]:
        result = self.model(past_values=past_values, return_dict=True)
        return {name: result[name] for name in self.outputs}


def capture(loaded: Loaded) -> tuple[Component, ...]:
    loaded.task.entry(loaded.processors.facts())  # refuses a model that does not answer values
    shape = (loaded.model.config.context_length, loaded.model.config.num_input_channels)
    # Two pasts that differ, so that an output that mixes rows shows.
    example = {"past_values": torch.randn((2, *shape), generator=torch.Generator().manual_seed(0))}
    module = _Forecast(loaded.model, loaded.task.outputs).eval()
    with torch.no_grad():
        results = module(**example)
    batch = Axis("batch")
    outputs = tuple(Output(name, "float32", (batch, *results[name].shape[1:])) for name in loaded.task.outputs)
    return (Component("model", module, (Input("past_values", "float32", (batch, *shape)),), outputs, example),)
