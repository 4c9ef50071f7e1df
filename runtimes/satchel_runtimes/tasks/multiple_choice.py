"""multiple-choice: which of some continuations or answers fits a text best."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..errors import UsageError
from ..manifest import TaskEntry
from ..sessions import Tensors
from .task import NUMBER, Answer, Input, ModelFacts, Row, softmax
from .text import TextTask, tokenize_step, wrong_type

__all__ = ["TASK"]

_SAMPLE = ("It is so.", "Nobody knows why.", "The train had already left.")


class MultipleChoice(TextTask):
    """`predict({"text": "…", "choices": ["…", "…"]})` is `[{"label": choice, "score": …}, …]`, the likeliest first.

    The scores are the softmax over the choices, as of `AutoModelForMultipleChoice`; transformers has no pipeline for it.
    """

    name = "multiple-choice"
    text_kind = "{'text', 'choices'}"
    judged = {"logits": NUMBER}
    auto_model = "AutoModelForMultipleChoice"
    architectures = ("ForMultipleChoice",)
    outputs = ("logits",)
    rows_are_inputs = True

    @classmethod
    def entry(cls, facts: ModelFacts) -> TaskEntry:
        return TaskEntry(cls.name, (tokenize_step(facts),), ())

    @classmethod
    def sample(cls, text: str, index: int, facts: ModelFacts) -> tuple[Input, dict[str, Any]]:
        return {"text": text, "choices": list(_SAMPLE[: 2 + index % 2])}, {}

    def encode(self, item: Input, options: Mapping[str, Any]) -> list[Row]:
        if not isinstance(item, Mapping) or set(item) != {"text", "choices"} or not isinstance(item["text"], str):
            raise wrong_type(self, item)
        choices = item["choices"]
        if (
            not isinstance(choices, (list, tuple))
            or not choices
            or not all(isinstance(choice, str) for choice in choices)
        ):
            raise UsageError(
                f"Cannot choose among {str(choices)[:60]}.",
                why="choices are a list of strings, at least one",
                fix='pass {"text": "…", "choices": ["…", "…"]}',
            )
        return [self.row(self.encoding(item["text"], choice)) for choice in choices]

    def score(self, outputs: Tensors, row: Row) -> Tensors:
        return {"logits": outputs["logits"].astype(np.float32)}

    def answer(self, item: Input, rows: Sequence[Row], scores: Sequence[Tensors], options: Mapping[str, Any]) -> Answer:
        values = softmax(np.concatenate([each["logits"] for each in scores]))
        order = np.argsort(-values, kind="stable")
        return [{"label": item["choices"][i], "score": float(values[i])} for i in order]


TASK = MultipleChoice
