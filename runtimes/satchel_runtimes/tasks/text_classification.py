"""text-classification: a label per text (softmax), any number of labels (sigmoid), or a number (regression)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..manifest import Step, TaskEntry
from ..sessions import Session, Tensors
from .task import (
    DISTRIBUTION,
    INDEPENDENT,
    LABEL_COLUMNS,
    NUMBER,
    TEXT_COLUMNS,
    Answer,
    Files,
    Input,
    ModelFacts,
    Row,
    sigmoid,
    softmax,
)
from .text import TextTask, choice, labels_of, tokenize_step, whole_number, wrong_type

__all__ = ["TASK"]


def _as_they_are(logits: np.ndarray) -> np.ndarray:
    return logits.astype(np.float32)


_FUNCTIONS = {"softmax": softmax, "sigmoid": sigmoid, "none": _as_they_are}
_KINDS = {"softmax": DISTRIBUTION, "sigmoid": INDEPENDENT, "none": NUMBER}


class TextClassification(TextTask):
    """`predict("text")` is `[{"label", "score"}]`, for a list one such dict per text.

    Options as in the pipeline: `top_k` (a number, or None for all labels) makes each result a list of labels, best
    first; `function_to_apply` is "softmax", "sigmoid" or "none". A pair is `{"text": …, "text_pair": …}`.
    """

    name = "text-classification"
    text_kind = "a string or {'text', 'text_pair'}"
    judged = {"scores": DISTRIBUTION}
    options = {"top_k": "", "function_to_apply": None}  # "" is the pipeline's own default: the best, not in a list
    auto_model = "AutoModelForSequenceClassification"
    architectures = ("ForSequenceClassification",)
    outputs = ("logits",)
    columns = {
        "text": ("text", "sentence1", "premise", "question1", "question", *TEXT_COLUMNS),
        "text_pair": ("text_pair", "sentence2", "hypothesis", "question2", "sentence"),  # QNLI asks of a sentence
        "label": (*LABEL_COLUMNS, "score", "stars"),
    }
    optional = frozenset({"text_pair", "label"})
    target = "label"
    metrics = ("accuracy", "f1_micro", "f1_macro", "top_5", "spearman")
    rows_are_inputs = True
    reply_options = {"top_k": None}

    def __init__(self, entry: TaskEntry, files: Files) -> None:
        super().__init__(entry, files)
        self.judged = {"scores": _KINDS[self._function()]}

    @classmethod
    def entry(cls, facts: ModelFacts) -> TaskEntry:
        labels = labels_of(facts)
        problem = facts.config.get("problem_type")
        if problem == "regression":
            function = "none"
        elif problem == "multi_label_classification" or len(labels) == 1:
            function = "sigmoid"
        else:
            function = "softmax"  # the pipeline reads config.function_to_apply only of a model without labels
        return TaskEntry(cls.name, (tokenize_step(facts),), (Step(function), Step("labels", {"labels": labels})))

    def encode(self, item: Input, options: Mapping[str, Any]) -> list[Row]:
        if isinstance(item, Mapping) and set(item) <= {"text", "text_pair"} and isinstance(item.get("text"), str):
            pair = item.get("text_pair")
            if pair is None or isinstance(pair, str):
                return [self.row(self.encoding(item["text"], pair))]
        if not isinstance(item, str):
            raise wrong_type(self, item)
        return [self.row(self.encoding(item))]

    def _function(self) -> str:
        return self.entry_.postprocess[0].step

    def score(self, outputs: Tensors, row: Row) -> Tensors:
        return {"scores": _FUNCTIONS[self._function()](outputs["logits"]), "logits": outputs["logits"]}

    def answer(self, item: Input, rows: Sequence[Row], scores: Sequence[Tensors], options: Mapping[str, Any]) -> Answer:
        values = scores[0]["scores"]
        if options["function_to_apply"] is not None:
            values = _FUNCTIONS[choice(options, "function_to_apply", list(_FUNCTIONS))](scores[0]["logits"])
        labels = self.labels()
        found = [{"label": labels[i], "score": float(values[i])} for i in np.argsort(-values, kind="stable")]
        if options["top_k"] == "":
            return found[0]
        return found if options["top_k"] is None else found[: whole_number(options, "top_k")]

    def reply(
        self, graphs: Mapping[str, Session], inputs: Sequence[Input], labels: Sequence[str] = (), batch_size: int = 0
    ) -> list[Any]:
        """Labels, the likeliest first; of independent ones those that are likelier than not; of a regression its number."""
        found = super().reply(graphs, inputs, labels, batch_size)
        if self._function() == "none":
            return [ranked[0]["score"] for ranked in found]
        sigmoid = self._function() == "sigmoid"
        return [
            {"labels": [each["label"] for each in ranked if each["score"] > 0.5]}
            if sigmoid
            else [each["label"] for each in ranked[:5]]
            for ranked in found
        ]

    def wrap_single(self, answer: Answer, options: Mapping[str, Any]) -> Answer:
        return [answer] if options["top_k"] == "" else answer


TASK = TextClassification
