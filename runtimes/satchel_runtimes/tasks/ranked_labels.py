"""What classifiers of texts, sounds, pictures and videos share: labels by their scores, best first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from ..manifest import Step, TaskEntry
from ..sessions import Session, Tensors
from .task import DISTRIBUTION, INDEPENDENT, NUMBER, Answer, Files, Input, Row, Task, sigmoid, softmax
from .text import choice, whole_number

__all__ = ["RankedLabels", "label_steps"]


def _as_they_are(logits: np.ndarray) -> np.ndarray:
    return logits.astype(np.float32)


_FUNCTIONS = {"softmax": softmax, "sigmoid": sigmoid, "none": _as_they_are}
_KINDS = {"softmax": DISTRIBUTION, "sigmoid": INDEPENDENT, "none": NUMBER}


def label_steps(function: str, labels: Sequence[str]) -> tuple[Step, ...]:
    """Behind a graph: the function that makes scores of its logits, and the labels in their order."""
    return Step(function), Step("labels", {"labels": list(labels)})


class RankedLabels(Task):
    """Options as in the pipeline: `top_k` (a number, or None for all labels); `function_to_apply` is "softmax", "sigmoid" or "none"."""

    judged = {"scores": DISTRIBUTION}
    outputs = ("logits",)
    optional = frozenset({"label"})
    target = "label"
    metrics: ClassVar[tuple[str, ...]] = ("accuracy", "f1_micro", "f1_macro", "top_5")
    reply_options = {"top_k": None}

    def __init__(self, entry: TaskEntry, files: Files) -> None:
        super().__init__(entry, files)  # type: ignore[safe-super]  # of the class beside this one
        self.function = entry.postprocess[0].step
        self._labels: Sequence[str] = entry.option("labels", "labels", ())
        self.judged = {"scores": _KINDS[self.function]}

    def score(self, outputs: Tensors, row: Row) -> Tensors:
        return {"scores": _FUNCTIONS[self.function](outputs["logits"]), "logits": outputs["logits"]}

    def answer(self, item: Input, rows: Sequence[Row], scores: Sequence[Tensors], options: Mapping[str, Any]) -> Answer:
        values = scores[0]["scores"]
        if options["function_to_apply"] is not None:
            values = _FUNCTIONS[choice(options, "function_to_apply", list(_FUNCTIONS))](scores[0]["logits"])
        found = [{"label": self._labels[i], "score": float(values[i])} for i in np.argsort(-values, kind="stable")]
        return found if options["top_k"] is None else found[: whole_number(options, "top_k")]

    def reply(
        self, graphs: Mapping[str, Session], inputs: Sequence[Input], labels: Sequence[str] = (), batch_size: int = 0
    ) -> list[Any]:
        """Labels, the likeliest first; of independent ones those that are likelier than not."""
        found = self.run(graphs, inputs, self.check_options(self.reply_options), batch_size)
        if self.function == "sigmoid":
            return [{"labels": [each["label"] for each in ranked if each["score"] > 0.5]} for ranked in found]
        return [[each["label"] for each in ranked[:5]] for ranked in found]
