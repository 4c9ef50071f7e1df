"""image-classification: the labels of a picture, best first."""

from __future__ import annotations

from typing import ClassVar

from ..manifest import TaskEntry
from .image import ImageTask, image_steps
from .ranked_labels import RankedLabels, label_steps
from .task import ModelFacts
from .text import labels_of

__all__ = ["TASK"]


class ImageClassification(RankedLabels, ImageTask):
    """`predict("picture.jpg")` is `[{"label", "score"}, …]`, best first; for a list one such list per picture.

    Options as in the pipeline: `top_k` (a number, or None for all labels); `function_to_apply` is "softmax", "sigmoid"
    or "none".
    """

    name = "image-classification"
    options = {"top_k": 5, "function_to_apply": None}
    auto_model = "AutoModelForImageClassification"
    architectures: ClassVar[tuple[str, ...]] = ("ForImageClassification", "ForImageClassificationWithTeacher")
    columns = {
        "image": ("image", "file", "path", "picture", "image_path", "file_name"),
        "label": ("label", "labels", "category", "class"),
    }

    @classmethod
    def entry(cls, facts: ModelFacts) -> TaskEntry:
        labels = labels_of(facts)
        several = facts.config.get("problem_type") == "multi_label_classification" or len(labels) == 1
        function = "sigmoid" if several else "softmax"
        return TaskEntry(cls.name, image_steps(facts.image_processor), label_steps(function, labels))


TASK = ImageClassification
