"""What tasks share that answer a question with one of the answers that the model knows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from ..sessions import Session, Tensors
from .task import Answer, Input, Row
from .text import TextTask, whole_number

__all__ = ["ChosenAnswer"]


class ChosenAnswer(TextTask):
    """`[{"score", "answer"}, …]`, the likeliest first; the option `top_k` says how many. `score` gives "scores", one for each
    of the labels."""

    options: ClassVar[Mapping[str, Any]] = {"top_k": 5}

    def answer(self, item: Input, rows: Sequence[Row], scores: Sequence[Tensors], options: Mapping[str, Any]) -> Answer:
        values, names = scores[0]["scores"], self.labels()
        best = np.argsort(-values, kind="stable")[: whole_number(options, "top_k")]
        return [{"score": float(values[i]), "answer": names[i]} for i in best]

    def reply(
        self, graphs: Mapping[str, Session], inputs: Sequence[Input], labels: Sequence[str] = (), batch_size: int = 0
    ) -> list[Any]:
        """The answers to each question, the likeliest first."""
        return [[each["answer"] for each in found] for found in super().reply(graphs, inputs, labels, batch_size)]
