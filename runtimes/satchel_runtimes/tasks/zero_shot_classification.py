"""zero-shot-classification: labels that are chosen when it is asked, by what the text entails."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Optional

import numpy as np

from ..errors import SupportError, UsageError
from ..manifest import Step, TaskEntry
from ..sessions import Session, Tensors
from .task import DISTRIBUTION, LABEL_COLUMNS, TEXT_COLUMNS, Answer, Files, Input, ModelFacts, Row, softmax
from .text import TextTask, labels_of, tokenize_step, wrong_type

__all__ = ["TASK", "chosen_labels", "hypotheses"]

_SAMPLE_LABELS = ("shopping", "travel", "technology")


class ZeroShotClassification(TextTask):
    """`predict("text", candidate_labels=["travel", "food"])` is `{"sequence", "labels", "scores"}`, the likeliest first.

    Options as in the pipeline: `candidate_labels`, a list or a string with commas; `hypothesis_template`, a sentence
    with {} for the label; `multi_label`, whether each label is judged alone, so that any number may be true.
    """

    name = "zero-shot-classification"
    judged = {"scores": DISTRIBUTION}
    options = {"candidate_labels": None, "hypothesis_template": "This example is {}.", "multi_label": False}
    auto_model = "AutoModelForSequenceClassification"
    architectures = ("ForSequenceClassification",)
    outputs = ("logits",)
    columns = {"text": TEXT_COLUMNS, "label": LABEL_COLUMNS}
    target = "label"
    metrics = ("accuracy", "f1_micro", "f1_macro", "top_5")

    def __init__(self, entry: TaskEntry, files: Files) -> None:
        super().__init__(entry, files)
        self._entailment = int(entry.option("entailment", "label"))

    @classmethod
    def fits(cls, facts: ModelFacts) -> bool:
        return _entailment(facts) is not None

    @classmethod
    def entry(cls, facts: ModelFacts) -> TaskEntry:
        label = _entailment(facts)
        if label is None:
            raise SupportError(
                f"Cannot convert to {cls.name}.",
                why=f"no label of the model is an entailment: it has {', '.join(labels_of(facts)[:8])}",
                fix="take a model trained on natural language inference, or convert with --task text-classification",
            )
        return TaskEntry(
            cls.name,
            (tokenize_step(facts, policy="only_first"),),
            (Step("softmax"), Step("entailment", {"label": label})),
        )

    @classmethod
    def sample(cls, text: str, index: int, facts: ModelFacts) -> tuple[Input, dict[str, Any]]:
        return text or ".", {"candidate_labels": list(_SAMPLE_LABELS)}

    def encode(self, item: Input, options: Mapping[str, Any]) -> list[Row]:
        if not isinstance(item, str):
            raise wrong_type(self, item)
        if not item:
            raise UsageError("Cannot classify the text.", why="it is empty", fix="give a text that is not empty")
        return [self.row(self.encoding(item, hypothesis)) for hypothesis in hypotheses(options)]

    def score(self, outputs: Tensors, row: Row) -> Tensors:
        return {"scores": softmax(outputs["logits"]), "logits": outputs["logits"]}

    def answer(self, item: Input, rows: Sequence[Row], scores: Sequence[Tensors], options: Mapping[str, Any]) -> Answer:
        labels = chosen_labels(options)
        logits = np.stack([each["logits"] for each in scores])
        if options["multi_label"] or len(labels) == 1:
            contradiction = -1 if self._entailment == 0 else 0
            values = softmax(logits[:, [contradiction, self._entailment]])[:, 1]
        else:
            values = softmax(logits[:, self._entailment])
        order = np.argsort(values, kind="stable")[::-1]
        return {"sequence": item, "labels": [labels[i] for i in order], "scores": values[order].tolist()}

    def reply(
        self, graphs: Mapping[str, Session], inputs: Sequence[Input], labels: Sequence[str] = (), batch_size: int = 0
    ) -> list[Any]:
        """Which of the data's labels each text entails, the likeliest first."""
        found = self.run(graphs, inputs, self.check_options({"candidate_labels": list(labels)}), batch_size)
        return [each["labels"][:5] for each in found]


def _entailment(facts: ModelFacts) -> Optional[int]:
    """The output that means entailment, by `label2id`, else by `id2label`."""
    named = facts.config.get("label2id") or {label: i for i, label in enumerate(labels_of(facts))}
    for label, index in named.items():
        if str(label).lower().startswith("entail"):
            return int(index)
    return None


def chosen_labels(options: Mapping[str, Any]) -> Sequence[str]:
    labels = options["candidate_labels"]
    if isinstance(labels, str):
        labels = [label.strip() for label in labels.split(",") if label.strip()]
    if not isinstance(labels, (list, tuple)) or not labels or not all(isinstance(label, str) for label in labels):
        raise UsageError(
            f"Cannot choose among candidate_labels={options['candidate_labels']!r}.",
            why="this task needs the labels to choose from: a list of strings, or one string with commas",
            fix='pass candidate_labels=["travel", "food"]',
        )
    return labels


def hypotheses(options: Mapping[str, Any]) -> list[str]:
    template, labels = options["hypothesis_template"], chosen_labels(options)
    try:
        found = [template.format(label) for label in labels]
    except (AttributeError, IndexError, KeyError, ValueError):  # no string; {1}; {name}; a lone brace
        found = [template]
    if found[0] == template:
        raise UsageError(
            f"Cannot use hypothesis_template={template!r}.",
            why="it has no {} in which the label can stand",
            fix="pass a sentence such as 'This example is {}.'",
        )
    return found


TASK = ZeroShotClassification
