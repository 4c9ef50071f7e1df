"""Rows of a user's data: what a task takes and what it should answer, as training, calibration and evaluation share them."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["Example", "read_examples", "write_examples"]


@dataclass(frozen=True)
class Example:
    """One row, as JSON can hold it: pictures and sounds are paths."""

    input: Any  # what `predict` takes for the task
    target: Any = None  # the right answer, in the form that the task's data has; None: the row is not labelled


def write_examples(file: Path, examples: Iterable[Example]) -> None:
    """One JSON object per line, for a worker process."""
    lines = (json.dumps({"input": each.input, "target": each.target}, ensure_ascii=False) for each in examples)
    file.write_text("".join(f"{line}\n" for line in lines), "utf-8")


def read_examples(file: Path) -> tuple[Example, ...]:
    # Not splitlines: a text may hold the other line ends of Unicode, which JSON leaves as they are.
    return tuple(Example(**json.loads(line)) for line in file.read_text("utf-8").split("\n") if line)
