"""The golden rows of a kit: encoded inputs, and what the model's raw outputs are, so that no tokenizer is needed to judge.

`rows.safetensors` has one tensor per value, named `row/input/name`, `row/values/name` and, where only a part of an output
travels, `row/positions/name`. A row of a model that writes is several calls, whose inputs are `row/call/number/name`.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from satchel_runtimes.golden import records_from_bytes
from satchel_runtimes.manifest import Graph
from satchel_runtimes.tasks import Row
from satchel_runtimes.tensors import pack_tensors

from ..stage import REFERENCE_FULL, Stage, open_tasks
from .calls import read_calls

__all__ = ["GoldenRows", "examples", "golden_rows"]


@dataclass(frozen=True)
class GoldenRows:
    """What `rows.safetensors` holds, and what kit.json says of it."""

    rows: tuple[Row, ...]
    about: tuple[dict[str, Any], ...]  # per row: its component, its length, and per output its shape and peak
    samples: tuple[tuple[int, ...], ...]  # per golden sample: the places of its rows
    tensors: bytes


def golden_rows(stage: Stage) -> GoldenRows:
    """Every row of every golden sample once; tasks of one model share most of them."""
    tasks = open_tasks(stage.entries, stage.folder)
    reference = records_from_bytes((stage.folder / REFERENCE_FULL).read_bytes(), REFERENCE_FULL)
    places: dict[tuple[str, bytes], int] = {}
    rows: list[Row] = []
    about: list[dict[str, Any]] = []
    samples: list[tuple[int, ...]] = []
    calls, tensors = read_calls(stage.folder)
    for item, records in zip(stage.items, reference, strict=True):
        task = tasks[item.task]
        mine = []
        for place, row in enumerate(task.encode(item.input, task.check_options(item.options))):
            key = row.key
            mine.append(places.setdefault(key, len(rows)))
            if mine[-1] < len(rows):
                continue
            at = f"{len(rows):05}"
            rows.append(row)
            if not calls:
                tensors.update({f"{at}/input/{name}": value for name, value in row.tensors.items()})
            prefix = f"{place}/raw/"
            raw = {name.removeprefix(prefix): each for name, each in records.items() if name.startswith(prefix)}
            for name, each in raw.items():
                tensors[f"{at}/values/{name}"] = each.values.astype(np.float32)
                if each.positions is not None:
                    tensors[f"{at}/positions/{name}"] = each.positions.astype(np.int32)
            outputs = {name: {"shape": list(each.shape), "peak": each.peak} for name, each in raw.items()}
            about.append({"component": row.component, "length": row.length, "outputs": outputs})
            if calls:
                about[-1]["calls"] = calls[mine[-1]]
        samples.append(tuple(mine))
    return GoldenRows(tuple(rows), tuple(about), tuple(samples), pack_tensors(tensors))


def examples(graphs: Sequence[Graph], rows: GoldenRows) -> bytes:
    """Inputs to trace each graph with, named `place/name`: the longest golden row that it holds, padded to its shape. A graph with a
    cache has none: it computes the same whatever it is given."""
    tensors = {}
    for place, graph in enumerate(graphs):
        if graph.state:
            continue
        length = graph.bind.get("sequence", sys.maxsize)
        fitting = [
            row
            for row, about in zip(rows.rows, rows.about, strict=True)
            if about["component"] == graph.component and row.length <= length
        ]
        row = max(fitting, key=lambda each: each.length) if fitting else rows.rows[0]
        for spec in graph.inputs:
            value = row.tensors[spec.name][:length]
            shape = [graph.bind.get(axis, 1) if isinstance(axis, str) else axis for axis in spec.shape]
            padded: np.ndarray = np.full(shape, spec.padding or 0, dtype=spec.dtype)
            padded[(slice(None), *(slice(0, size) for size in value.shape))] = value
            tensors[f"{place}/{spec.name}"] = padded
    return pack_tensors(tensors)
