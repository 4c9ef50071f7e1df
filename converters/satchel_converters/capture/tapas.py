"""TAPAS without scatter: its own code gathers tokens into cells by `scatter_reduce` over every cell that a table could have,
which LiteRT lacks and which takes the batch as a constant. Here a token is compared with the others of its text, and a
column is one of a fixed number; the sums are the same.

https://github.com/huggingface/transformers/blob/main/src/transformers/models/tapas/modeling_tapas.py,
`TapasForQuestionAnswering.forward`, `TapasEmbeddings.forward`, `compute_column_logits`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from satchel_runtimes.errors import SupportError

from ..component import Axis, Input
from .encoder import LENGTH
from .rewrite import capture_rewritten

if TYPE_CHECKING:
    from ..component import Component
    from . import Loaded

__all__ = ["capture"]

_NEVER = -10000.0  # what transformers adds to the logit of what may not be chosen
_TINY = 1e-10


def _forward(
    self: Any, input_ids: torch.Tensor, attention_mask: torch.Tensor, token_type_ids: torch.Tensor, **_: Any
) -> dict[str, torch.Tensor]:
    config = self.config
    columns, rows = token_type_ids[:, :, 1], token_type_ids[:, :, 2]
    positions = _positions(columns, rows, config) if config.reset_position_index_per_cell else None
    found = self.tapas(input_ids, attention_mask, token_type_ids, positions, return_dict=True)
    hidden = found.last_hidden_state

    rows, columns = rows.clamp(max=config.max_num_rows - 1), columns.clamp(max=config.max_num_columns - 1)
    together = _same_cell(columns, rows, config.max_num_columns).float()
    size = together.sum(-1)  # of each token's cell, in tokens

    def mean(values: torch.Tensor) -> torch.Tensor:
        return (together * values[:, None, :]).sum(-1) / size

    present = mean(attention_mask.float())
    logits = mean((hidden @ self.output_weights + self.output_bias) / config.temperature)

    numbers = torch.arange(config.max_num_columns)
    within = (columns[:, :, None] == numbers).float()  # [batch, sequence, columns]
    share = present / size  # each cell counts once, however many tokens it has
    of_cells = mean(hidden @ self.column_output_weights + self.column_output_bias)
    cells = (within * share[:, :, None]).sum(1)
    of_columns = (within * (of_cells * share)[:, :, None]).sum(1) / (cells + _TINY)
    barred = ((cells < 0.5) & (numbers != 0)).float()
    if not config.allow_empty_column_selection:
        barred = barred + (numbers == 0).float()
    chosen = (of_columns + _NEVER * barred).argmax(-1)

    inside = ((columns == chosen[:, None]) & (columns != 0)).float()
    result = {"logits": logits + _NEVER * (1.0 - present * inside)}
    if config.num_aggregation_labels > 0:
        result["logits_aggregation"] = self.aggregation_classifier(found.pooler_output)
    return result


def _positions(columns: torch.Tensor, rows: torch.Tensor, config: Any) -> torch.Tensor:
    """The place of each token in its cell."""
    places = torch.arange(columns.shape[1])
    together = _same_cell(columns, rows, config.type_vocab_sizes[1])
    first = torch.where(together, places, columns.shape[1]).amin(-1)
    return (places - first).clamp(max=config.max_position_embeddings - 1)


def _same_cell(columns: torch.Tensor, rows: torch.Tensor, width: int) -> torch.Tensor:
    cells = rows * width + columns
    return cells[:, :, None] == cells[:, None, :]


def capture(loaded: Loaded) -> tuple[Component, ...]:
    if loaded.task.name != "table-question-answering" or not loaded.model.config.select_one_column:
        raise SupportError(
            f"Cannot convert {loaded.source.id} for {loaded.task.name}.",
            why="of TAPAS, satchel serves table-question-answering with select_one_column, the only way in which "
            "transformers answers",
            fix="use a checkpoint of TapasForQuestionAnswering",
        )
    axes = (Axis("batch"), Axis("sequence", maximum=loaded.source.facts.max_length), 7)
    types = Input("token_type_ids", "int64", axes)
    return capture_rewritten(
        loaded, {"TapasForQuestionAnswering": _forward}, beside={"token_type_ids": (types, _types())}
    )


def _types() -> torch.Tensor:
    """Of two texts with a table of two columns, the second shorter: int64 [2, length, 7]."""
    types = torch.zeros(2, LENGTH, 7, dtype=torch.int64)
    for text, length in enumerate((LENGTH, LENGTH * 2 // 3)):
        for place in range(3, length):
            row, column = divmod(place - 3, 2)
            ranks = (row, 4 - row) if row else (0, 0)
            types[text, place] = torch.tensor([1, column + 1, row // (2 - text), 0, *ranks, row % 3])
    return types
