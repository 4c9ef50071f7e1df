"""zero-shot-object-detection: where in a picture things are that are named when it is asked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..manifest import Step, TaskEntry
from ..sessions import Tensors
from .image import ImageTask, image_steps
from .label_towers import IMAGES, TEXTS
from .object_detection import box_of, corners_of, share
from .task import INDEPENDENT, NUMBER, Answer, Files, Input, ModelFacts, Row, sigmoid
from .text import TextTask, tokenize_step, whole_number
from .zero_shot_classification import chosen_labels

__all__ = ["TASK"]

_SAMPLE_LABELS = ("a disc", "red shapes", "a line", "a text", "a dark corner")


class ZeroShotObjectDetection(ImageTask, TextTask):
    """`predict("picture.jpg", candidate_labels=["a cat", "a remote"])` is
    `[{"score", "label", "box": {"xmin", "ymin", "xmax", "ymax"}}, …]` in pixels of the picture, the surest first.

    Options as in the pipeline: `candidate_labels`, a list or a string with commas; `threshold`, the score that a detection
    must exceed; `top_k`, how many there are at most (None: all).
    """

    name = "zero-shot-object-detection"
    judged = {"scores": INDEPENDENT, "boxes": NUMBER}
    joint = ("scores", "boxes")
    other_steps = ("tokenize",)
    options = {"candidate_labels": None, "threshold": 0.1, "top_k": None}
    auto_model = "AutoModelForZeroShotObjectDetection"
    architectures = ("OwlViTForObjectDetection",)
    outputs = ("class_embeds", "logit_shift", "logit_scale", "pred_boxes", "text_embeds")
    processors = ("image_processor", "tokenizer")
    columns = {"image": ("image", "file", "path", "picture", "image_path", "file_name")}

    def __init__(self, entry: TaskEntry, files: Files) -> None:
        ImageTask.__init__(self, entry, files)
        TextTask.__init__(self, entry, files)

    @classmethod
    def entry(cls, facts: ModelFacts) -> TaskEntry:
        steps = (*image_steps(facts.image_processor), tokenize_step(facts))
        return TaskEntry(cls.name, steps, (Step("sigmoid"),))

    @classmethod
    def sample(cls, text: str, index: int, facts: ModelFacts) -> tuple[Input, dict[str, Any]]:
        labels = [_SAMPLE_LABELS[(index + step) % len(_SAMPLE_LABELS)] for step in (0, 2)]
        return {"file": text}, {"candidate_labels": labels}

    def texts(self, item: Input, options: Mapping[str, Any]) -> Sequence[str]:
        return chosen_labels(options)

    def encode(self, item: Input, options: Mapping[str, Any]) -> list[Row]:
        picture = self.picture(item)
        made = [Row(self.tensors(picture), 1, (picture.height, picture.width), IMAGES)]
        for text in self.texts(item, options):
            row = self.row(self.encoding(text))
            made.append(Row(row.tensors, row.length, component=TEXTS))
        return made

    def score(self, outputs: Tensors, row: Row) -> Tensors:
        return outputs

    def join(self, rows: Sequence[Row], scores: Sequence[Tensors]) -> Tensors:
        """Scores [labels, places], and boxes, which count as much as what is surest there."""
        places, names = scores[0], np.stack([each["text_embeds"] for each in scores[1:]])
        logits = _unit(_unit(names, 0.0)) @ _unit(places["class_embeds"]).T
        found = sigmoid((logits + places["logit_shift"][:, 0]) * places["logit_scale"][:, 0])
        return {"scores": found, "boxes": places["pred_boxes"] * found.max(axis=0)[:, None]}

    def answer(self, item: Input, rows: Sequence[Row], scores: Sequence[Tensors], options: Mapping[str, Any]) -> Answer:
        labels, threshold = chosen_labels(options), share(options, "threshold")
        corners = corners_of(scores[0]["pred_boxes"], *rows[0].extra)
        values = self.join(rows, scores)["scores"]
        found = [
            {"score": float(values[label, place]), "label": labels[label], "box": box_of(corners[place])}
            for label, place in np.argwhere(values > threshold)
        ]
        found.sort(key=lambda each: -each["score"])
        return found if options["top_k"] is None else found[: whole_number(options, "top_k")]


def _unit(vectors: np.ndarray, least: float = 1e-6) -> np.ndarray:
    result: np.ndarray = vectors / (np.linalg.norm(vectors, axis=-1, keepdims=True) + np.float32(least))
    return result


TASK = ZeroShotObjectDetection
