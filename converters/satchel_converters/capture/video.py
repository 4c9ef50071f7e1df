"""Models that see videos: one graph from the pixels of a fixed number of frames, any batch."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from satchel_runtimes.tasks.image import image_size

from ..component import Axis, Component, Input, Output
from .image import Vision, pixels

if TYPE_CHECKING:
    from . import Loaded

__all__ = ["capture"]


def capture(loaded: Loaded) -> tuple[Component, ...]:
    entry = loaded.task.entry(loaded.processors.facts())
    frames, size = entry.option("frames", "count"), image_size(entry.preprocess)
    assert size is not None  # else the steps were refused
    module = Vision(loaded.model, loaded.task.outputs).eval()
    example = {"pixel_values": torch.stack([pixels(size, seed) for seed in range(frames)], dim=1)}
    with torch.no_grad():
        results = module(**example)
    batch = Axis("batch")
    inputs = (Input("pixel_values", "float32", (batch, frames, 3, *size)),)
    outputs = tuple(Output(name, "float32", (batch, *value.shape[1:])) for name, value in results.items())
    return (Component("model", module, inputs, outputs, example),)
