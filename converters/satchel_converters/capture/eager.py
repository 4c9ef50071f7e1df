"""Models with a sliding window, with plain attention.

A padded token beyond the window has nothing to look at: minus infinity everywhere. torch's fused attention answers zero there, LiteRT's
softmax NaN, and NaN times a weight of zero is NaN for all tokens of the next layer. The mask of plain attention is finite:
https://github.com/huggingface/transformers/blob/main/src/transformers/masking_utils.py, `eager_mask`.
"""

from __future__ import annotations

import copy
import dataclasses
from typing import TYPE_CHECKING, Any

from . import encoder

if TYPE_CHECKING:
    from ..component import Component
    from . import Loaded

__all__ = ["capture"]


def capture(loaded: Loaded) -> tuple[Component, ...]:
    made: Any = copy.deepcopy(loaded.model)
    made.set_attn_implementation("eager")
    return encoder.capture(dataclasses.replace(loaded, model=made))
