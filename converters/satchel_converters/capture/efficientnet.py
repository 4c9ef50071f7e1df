"""EfficientNet without what costs time for nothing; every answer stays what it was.

transformers pools the last map with a window of `hidden_dim` x `hidden_dim` (1280 x 1280) over 7 x 7 values, which LiteRT really pads to:
170 times the time of the whole model. And the Lite models have no squeeze-and-excitation: in transformers' class its gates are
held at 1 by zero weights and a large bias, which in int8 overflows.
"""

from __future__ import annotations

import copy
import dataclasses
import importlib
from typing import TYPE_CHECKING

import torch

from ..component import Component

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from . import Loaded

__all__ = ["capture", "simplify"]


def capture(loaded: Loaded) -> tuple[Component, ...]:
    simple = dataclasses.replace(loaded, model=simplify(loaded.model))
    components: tuple[Component, ...] = importlib.import_module(".image", __package__).capture(simple)
    return components


def simplify(model: PreTrainedModel) -> PreTrainedModel:
    """A copy; the model that was given remains the reference."""
    made = copy.deepcopy(model)
    for module in made.modules():
        pooler, gate = getattr(module, "pooler", None), getattr(module, "squeeze_excite", None)
        if isinstance(pooler, torch.nn.AvgPool2d) and _window(pooler) >= model.config.image_size:
            module.pooler = _Mean()
        if gate is not None and _is_open(gate):
            module.squeeze_excite = torch.nn.Identity()
    return made


class _Mean(torch.nn.Module):
    def forward(self, values: torch.Tensor) -> torch.Tensor:
        return values.mean((2, 3), keepdim=True)


def _window(pooler: torch.nn.AvgPool2d) -> int:
    size = pooler.kernel_size
    return size if isinstance(size, int) else min(size)


def _is_open(gate: torch.nn.Module) -> bool:
    """Whether the gate lets everything pass, whatever its input."""
    last = gate.expand
    assert isinstance(last, torch.nn.Conv2d)
    return not last.weight.any() and last.bias is not None and bool((torch.sigmoid(last.bias) == 1).all())
