"""Models that see and read at once: one graph over a text and what lies beside it, a picture or the boxes of words."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING

import torch

from ..component import Axis, Component, Input
from . import encoder
from .image import picture_input

if TYPE_CHECKING:
    from . import Loaded

__all__ = ["capture"]


def capture(loaded: Loaded) -> tuple[Component, ...]:
    accepted = inspect.signature(loaded.model.forward).parameters
    beside: dict[str, tuple[Input, torch.Tensor]] = {}
    batch = Axis("batch")
    if "bbox" in accepted:
        sequence = Axis("sequence", maximum=loaded.source.facts.max_length)
        beside["bbox"] = Input("bbox", "int64", (batch, sequence, 4)), _boxes(encoder.LENGTH)
    steps = loaded.task.entry(loaded.facts()).preprocess
    if any(step.step == "rgb" for step in steps):
        beside["pixel_values"] = picture_input(steps)
    return encoder.capture(loaded, beside)


def _boxes(length: int) -> torch.Tensor:
    """Boxes of two texts in thousandths of a page, left and top before right and bottom."""
    corners = torch.arange(2 * length * 4).reshape(2, length, 2, 2) * 67 % 1000
    return corners.sort(dim=2).values.reshape(2, length, 4)
