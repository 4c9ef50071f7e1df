"""text-classification: a label per text (softmax), any number of labels (sigmoid), or a number (regression)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..manifest import TaskEntry
from ..sessions import Session, Tensors
from .ranked_labels import RankedLabels, label_steps
from .task import LABEL_COLUMNS, TEXT_COLUMNS, Answer, Input, ModelFacts, Row
from .text import TextTask, labels_of, tokenize_step, wrong_type

__all__ = ["TASK"]


class TextClassification(RankedLabels, TextTask):
    """`predict("text")` is `[{"label", "score"}]`, for a list one such dict per text.

    Options as in the pipeline: `top_k` (a number, or None for all labels) makes each result a list of labels, best
    first; `function_to_apply` is "softmax", "sigmoid" or "none". A pair is `{"text": …, "text_pair": …}`.
    """

    name = "text-classification"
    text_kind = "a string or {'text', 'text_pair'}"
    options = {"top_k": "", "function_to_apply": None}  # "" is the pipeline's own default: the best, not in a list
    auto_model = "AutoModelForSequenceClassification"
    architectures = ("ForSequenceClassification",)
    columns = {
        "text": ("text", "sentence1", "premise", "question1", "question", *TEXT_COLUMNS),
        "text_pair": ("text_pair", "sentence2", "hypothesis", "question2", "sentence"),  # QNLI asks of a sentence
        "label": (*LABEL_COLUMNS, "score", "stars"),
    }
    optional = frozenset({"text_pair", "label"})
    metrics = (*RankedLabels.metrics, "spearman")
    rows_are_inputs = True

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
        return TaskEntry(cls.name, (tokenize_step(facts),), label_steps(function, labels))

    def encode(self, item: Input, options: Mapping[str, Any]) -> list[Row]:
        if isinstance(item, Mapping) and set(item) <= {"text", "text_pair"} and isinstance(item.get("text"), str):
            pair = item.get("text_pair")
            if pair is None or isinstance(pair, str):
                return [self.row(self.encoding(item["text"], pair))]
        if not isinstance(item, str):
            raise wrong_type(self, item)
        return [self.row(self.encoding(item))]

    def answer(self, item: Input, rows: Sequence[Row], scores: Sequence[Tensors], options: Mapping[str, Any]) -> Answer:
        if options["top_k"] == "":
            return super().answer(item, rows, scores, {**options, "top_k": 1})[0]
        return super().answer(item, rows, scores, options)

    def reply(
        self, graphs: Mapping[str, Session], inputs: Sequence[Input], labels: Sequence[str] = (), batch_size: int = 0
    ) -> list[Any]:
        """As of `RankedLabels`; of a regression its number."""
        if self.function != "none":
            return super().reply(graphs, inputs, labels, batch_size)
        return [each["score"] for each in self.run(graphs, inputs, self.check_options({}), batch_size)]

    def wrap_single(self, answer: Answer, options: Mapping[str, Any]) -> Answer:
        return [answer] if options["top_k"] == "" else answer


TASK = TextClassification
