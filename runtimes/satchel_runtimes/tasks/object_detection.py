"""object-detection: what is in a picture, and where."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..errors import SupportError, UsageError
from ..manifest import Step, TaskEntry
from ..sessions import Tensors
from .image import ImageTask
from .image_steps import image_steps, processor_kind
from .task import DISTRIBUTION, INDEPENDENT, NUMBER, Answer, Files, Input, ModelFacts, Row, sigmoid, softmax
from .text import labels_of

__all__ = ["TASK", "box_of", "corners_of", "share"]

# How each family scores: classes against each other, the last of them "no object"; or each class by itself, and then
# at most so many of all queries and classes together, where it is not as many as there are queries.
_SCORES = {
    "Detr": Step("softmax"),
    "Yolos": Step("softmax"),
    "RTDetr": Step("sigmoid"),
    "ConditionalDetr": Step("sigmoid", {"most": 100}),
    "DeformableDetr": Step("sigmoid", {"most": 100}),
}


class ObjectDetection(ImageTask):
    """`predict("picture.jpg")` is `[{"score", "label", "box": {"xmin", "ymin", "xmax", "ymax"}}, …]` in pixels of the
    picture; for a list one such list per picture.

    Options as in the pipeline: `threshold`, the score that a detection must exceed.
    """

    name = "object-detection"
    options = {"threshold": 0.5}
    auto_model = "AutoModelForObjectDetection"
    architectures = ("ForObjectDetection",)
    outputs = ("logits", "pred_boxes")
    any_size = True

    def __init__(self, entry: TaskEntry, files: Files) -> None:
        super().__init__(entry, files)
        self._alone = entry.postprocess[0].step == "sigmoid"
        self.judged = {"scores": INDEPENDENT if self._alone else DISTRIBUTION, "boxes": NUMBER}

    @classmethod
    def entry(cls, facts: ModelFacts) -> TaskEntry:
        kind = processor_kind(facts.image_processor)
        if kind not in _SCORES:
            raise SupportError(
                f"Cannot detect objects with a model whose processor is {kind or 'not known'}.",
                why=f"the scores of {', '.join(_SCORES)} are served",
                fix="convert one of these, or report the checkpoint",
            )
        steps = image_steps(facts.image_processor, any_size=True)
        return TaskEntry(cls.name, steps, (_SCORES[kind], Step("labels", {"labels": labels_of(facts)})))

    def score(self, outputs: Tensors, row: Row) -> Tensors:
        scores = sigmoid(outputs["logits"]) if self._alone else softmax(outputs["logits"])
        likely = scores if self._alone else scores[:, :-1]
        # A box counts as much as its score: where nothing is seen it lies anywhere.
        boxes = outputs["pred_boxes"].astype(np.float32)
        return {"scores": scores, "boxes": boxes * likely.max(axis=1, keepdims=True), "places": boxes}

    def answer(self, item: Input, rows: Sequence[Row], scores: Sequence[Tensors], options: Mapping[str, Any]) -> Answer:
        threshold = share(options, "threshold")
        if self._alone:  # of all queries and labels together, best first
            flat = scores[0]["scores"].ravel()
            count, classes = scores[0]["scores"].shape
            best = np.argsort(-flat, kind="stable")[: self.entry_.postprocess[0].options.get("most", count)]
            found, queries, labels = flat[best], best // classes, best % classes
        else:
            likely = scores[0]["scores"][:, :-1]
            queries, labels, found = np.arange(len(likely)), likely.argmax(axis=1), likely.max(axis=1)
        corners = corners_of(scores[0]["places"][queries], *rows[0].extra)
        names = self.entry_.option("labels", "labels", ())
        return [
            {"score": float(found[i]), "label": names[labels[i]], "box": box_of(corners[i])}
            for i in np.flatnonzero(found > threshold)
        ]


def corners_of(boxes: np.ndarray, height: int, width: int) -> np.ndarray:
    """From centre and size, as parts of the picture, to float32 left, top, right and bottom in pixels."""
    x, y, wide, high = boxes.T
    half = np.float32(0.5)
    corners = np.stack([x - half * wide, y - half * high, x + half * wide, y + half * high], axis=1)
    result: np.ndarray = corners * np.array([width, height, width, height], np.float32)
    return result


def box_of(corners: np.ndarray) -> dict[str, int]:
    return dict(zip(("xmin", "ymin", "xmax", "ymax"), map(int, corners)))


def share(options: Mapping[str, Any], name: str) -> float:
    value = options[name]
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 1:
        raise UsageError(f"Cannot use {name} {value!r}.", why="it takes a number from 0 to 1", fix="pass one")
    return float(value)


TASK = ObjectDetection
