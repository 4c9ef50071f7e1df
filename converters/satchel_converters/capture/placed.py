"""What a token's position becomes in a decoder: transformers counts from one number for the whole batch, and here each row has its own.

Each function stands for a method of transformers 5.23: https://github.com/huggingface/transformers/tree/main/src/transformers/models
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

from .attention import held_capacity, held_positions

__all__ = ["PLACED"]


def _learned(self: Any, *given: Any, **named: Any) -> Any:
    """BART and its kin: a table, most of them with some rows before the first position."""
    positions = held_positions()
    if positions is None:
        return type(self).forward(self, *given, **named)
    return torch.nn.functional.embedding(positions + getattr(self, "offset", 0), self.weight)


def _waves(self: Any, input_ids: torch.Tensor, *given: Any, **named: Any) -> Any:
    """M2M-100 and its kin: a table that begins behind the row of padding."""
    positions = held_positions()
    if positions is None:
        return type(self).forward(self, input_ids, *given, **named)
    rows = torch.where(input_ids == self.padding_idx, self.padding_idx, positions + self.padding_idx + 1)
    return torch.nn.functional.embedding(rows, self.weights)


def _distances(self: Any, query_length: int, key_length: int, *given: Any, **named: Any) -> Any:
    """T5 and its kin: what is added to the scores of all places of the cache, [batch, heads, sequence, capacity]."""
    positions = held_positions()
    if positions is None:
        return type(self).compute_bias(self, query_length, key_length, *given, **named)
    distances = torch.arange(held_capacity(), device=positions.device) - positions[:, :, None]
    buckets = self._relative_position_bucket(
        distances, False, self.relative_attention_num_buckets, self.relative_attention_max_distance
    )
    return self.relative_attention_bias(buckets).permute(0, 3, 1, 2)


# "Class.method" -> what stands for it; the names are those of `rewrite.rewritten`.
PLACED: Mapping[str, Callable[..., Any]] = {
    **{
        f"{name}LearnedPositionalEmbedding.forward": _learned
        for name in ("Bart", "LED", "MBart", "Mvp", "PLBart", "TrOCR")
    },
    **{
        f"{name}SinusoidalPositionalEmbedding.forward": _waves for name in ("M2M100", "NllbMoe", "Speech2Text", "TrOCR")
    },
    **{f"{name}Attention.compute_bias": _distances for name in ("LongT5", "MT5", "T5", "UMT5", "Pix2StructText")},
}
