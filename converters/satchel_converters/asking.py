"""Rows of a user's data answered by the model itself, in a worker, for metrics to compare an artifact with."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from satchel_runtimes.examples import Example, write_examples
from satchel_runtimes.sessions import Session
from satchel_runtimes.tasks import Task

from .process import Room, Tell, run_process
from .source import SourceModel

__all__ = ["ANSWERS", "ASK", "ROWS", "Ask", "answer_rows", "ask", "read_ask"]

ASK, ROWS, ANSWERS = "ask.json", "rows.jsonl", "answers.json"
_CHUNK = 64  # rows between two pieces of news


@dataclass(frozen=True)
class Ask:
    """Which model answers, as which task."""

    source: SourceModel
    task: str
    labels: tuple[str, ...] = ()  # of all rows, as `Task.reply` takes them


def ask(
    asked: Ask, rows: Sequence[Example], folder: Path, tell: Tell, cancel: threading.Event | None, room: Room
) -> list[Any]:
    """The answers of the model in float32, in torch.

    Raises:
        SatchelError, RuntimeError: as `run_process`.
    """
    write_examples(folder / ROWS, rows)
    about = {"source": asked.source.to_job(), "task": asked.task, "labels": asked.labels}
    (folder / ASK).write_text(json.dumps(about))
    run_process("reference", folder, tell, cancel, room)
    answers: list[Any] = json.loads((folder / ANSWERS).read_text("utf-8"))
    return answers


def read_ask(folder: Path) -> Ask:
    raw = json.loads((folder / ASK).read_text())
    return Ask(SourceModel.from_job(raw["source"]), raw["task"], tuple(raw["labels"]))


def answer_rows(
    task: Task,
    graphs: Mapping[str, Session],
    inputs: Sequence[Any],
    labels: Sequence[str] = (),
    *,
    batch_size: int = 0,
    on_rows: Callable[[int], None] | None = None,
) -> list[Any]:
    """Answers in the order of the inputs; they are run in the order of their size, so that batches have little padding."""
    order = sorted(range(len(inputs)), key=lambda i: len(str(inputs[i])))
    answers: list[Any] = [None] * len(inputs)
    for start in range(0, len(order), _CHUNK):
        chunk = order[start : start + _CHUNK]
        for i, answer in zip(chunk, task.reply(graphs, [inputs[i] for i in chunk], labels, batch_size), strict=True):
            answers[i] = answer
        if on_rows is not None:
            on_rows(len(chunk))
    return answers
