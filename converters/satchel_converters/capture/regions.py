"""Models that are told what a detector saw: a text beside features of at most so many regions, and which of them there are."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from satchel_runtimes.tasks.region_question_answering import MASK, MOST_REGIONS, region_inputs

from ..component import Axis, Component, Input
from . import encoder

if TYPE_CHECKING:
    from . import Loaded

__all__ = ["capture"]


def capture(loaded: Loaded) -> tuple[Component, ...]:
    batch, numbers = Axis("batch"), torch.Generator().manual_seed(0)
    beside: dict[str, tuple[Input, torch.Tensor]] = {
        name: (
            Input(name, "float32", (batch, MOST_REGIONS, size)),
            torch.rand((2, MOST_REGIONS, size), generator=numbers),
        )
        for name, size in region_inputs(loaded.source.facts.config).items()
    }
    there = (torch.arange(MOST_REGIONS) < torch.tensor([[MOST_REGIONS], [MOST_REGIONS // 2]])).long()
    beside[MASK] = Input(MASK, "int64", (batch, MOST_REGIONS)), there
    return encoder.capture(loaded, beside)
