"""image-classification: the labels of a picture, best first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from ..manifest import Step, TaskEntry
from ..sessions import Session, Tensors
from .image import ImageTask, image_steps
from .task import DISTRIBUTION, INDEPENDENT, Answer, Files, Input, ModelFacts, Row, sigmoid, softmax
from .text import choice, labels_of, whole_number

__all__ = ["TASK"]


def _as_they_are(logits: np.ndarray) -> np.ndarray:
    return logits.astype(np.float32)


_FUNCTIONS = {"softmax": softmax, "sigmoid": sigmoid, "none": _as_they_are}


class ImageClassification(ImageTask):
    """`predict("picture.jpg")` is `[{"label", "score"}, …]`, best first; for a list one such list per picture.

    Options as in the pipeline: `top_k` (a number, or None for all labels); `function_to_apply` is "softmax", "sigmoid"
    or "none".
    """

    name = "image-classification"
    judged = {"scores": DISTRIBUTION}
    options = {"top_k": 5, "function_to_apply": None}
    auto_model = "AutoModelForImageClassification"
    architectures: ClassVar[tuple[str, ...]] = ("ForImageClassification", "ForImageClassificationWithTeacher")
    outputs = ("logits",)
    columns = {
        "image": ("image", "file", "path", "picture", "image_path", "file_name"),
        "label": ("label", "labels", "category", "class"),
    }
    optional = frozenset({"label"})
    target = "label"
    metrics = ("accuracy", "f1_micro", "f1_macro", "top_5")
    reply_options = {"top_k": None}

    def __init__(self, entry: TaskEntry, files: Files) -> None:
        super().__init__(entry, files)
        self.judged = {"scores": INDEPENDENT if self._function() == "sigmoid" else DISTRIBUTION}

    @classmethod
    def entry(cls, facts: ModelFacts) -> TaskEntry:
        labels = labels_of(facts)
        several = facts.config.get("problem_type") == "multi_label_classification" or len(labels) == 1
        function = "sigmoid" if several else "softmax"
        return TaskEntry(
            cls.name, image_steps(facts.image_processor), (Step(function), Step("labels", {"labels": labels}))
        )

    def _function(self) -> str:
        return self.entry_.postprocess[0].step

    def score(self, outputs: Tensors, row: Row) -> Tensors:
        return {"scores": _FUNCTIONS[self._function()](outputs["logits"]), "logits": outputs["logits"]}

    def answer(self, item: Input, rows: Sequence[Row], scores: Sequence[Tensors], options: Mapping[str, Any]) -> Answer:
        values = scores[0]["scores"]
        if options["function_to_apply"] is not None:
            values = _FUNCTIONS[choice(options, "function_to_apply", list(_FUNCTIONS))](scores[0]["logits"])
        labels = self.entry_.option("labels", "labels", ())
        found = [{"label": labels[i], "score": float(values[i])} for i in np.argsort(-values, kind="stable")]
        return found if options["top_k"] is None else found[: whole_number(options, "top_k")]

    def reply(
        self, graphs: Mapping[str, Session], inputs: Sequence[Input], labels: Sequence[str] = (), batch_size: int = 0
    ) -> list[Any]:
        """Labels, the likeliest first; of independent ones those that are likelier than not."""
        found = self.run(graphs, inputs, self.check_options(self.reply_options), batch_size)
        if self._function() == "sigmoid":
            return [{"labels": [each["label"] for each in ranked if each["score"] > 0.5]} for ranked in found]
        return [[each["label"] for each in ranked[:5]] for ranked in found]


TASK = ImageClassification
