"""image-segmentation: which pixels of a picture belong to what."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..errors import UsageError
from ..manifest import Step, TaskEntry
from ..sessions import Tensors
from .image import ImageTask
from .image_steps import image_steps, processor_kind
from .maps import best_of, resized
from .object_detection import share
from .task import DISTRIBUTION, INDEPENDENT, Answer, Files, Input, ModelFacts, Row, sigmoid, softmax
from .text import labels_of

__all__ = ["TASK"]

PANOPTIC, INSTANCE, SEMANTIC = "panoptic", "instance", "semantic"

# What a model gives: scores of classes for each pixel, or masks with a class each, by names of their own.
_CLASSES = ("logits",)
_MASKS = {"ForSegmentation": ("logits", "pred_masks")}
_QUERIES = ("class_queries_logits", "masks_queries_logits")
_MASK2FORMER_SIZE = 384  # to which its processor brings masks first, whatever the model saw


class ImageSegmentation(ImageTask):
    """`predict("picture.jpg")` is `[{"score", "label", "mask"}, …]`; a mask is a Pillow image of the picture's size, 255 where
    the label is; for a list one such list per picture. Of a semantic model the scores are None.

    Options as in the pipeline: `subtask` is "panoptic", "instance" or "semantic", by default the first of these that the
    model has; of masks `threshold`, `mask_threshold` and `overlap_mask_area_threshold`.
    """

    name = "image-segmentation"
    options = {"subtask": None, "threshold": 0.9, "mask_threshold": 0.5, "overlap_mask_area_threshold": 0.5}
    auto_model = "AutoModelForSemanticSegmentation"
    architectures = (
        "ForSemanticSegmentation",
        "ForUniversalSegmentation",
        "ForInstanceSegmentation",
        "ForSegmentation",
    )
    outputs = _CLASSES
    any_size = True

    def __init__(self, entry: TaskEntry, files: Files) -> None:
        super().__init__(entry, files)
        self._semantic = entry.postprocess[0].step == "classes"
        self._scale = int(entry.option("masks", "size", 0))
        self.judged = {"classes": DISTRIBUTION} if self._semantic else {"classes": DISTRIBUTION, "masks": INDEPENDENT}

    @classmethod
    def head(cls, config: Mapping[str, Any]) -> tuple[str, tuple[str, ...]]:
        names = config.get("architectures") or [""]
        if names[0].endswith("ForSemanticSegmentation"):
            return cls.auto_model, _CLASSES
        return "AutoModelForUniversalSegmentation", next(
            (fields for end, fields in _MASKS.items() if names[0].endswith(end)), _QUERIES
        )

    @classmethod
    def entry(cls, facts: ModelFacts) -> TaskEntry:
        steps = image_steps(facts.image_processor, any_size=True)
        kind = processor_kind(facts.image_processor)
        options: dict[str, Any] = {"size": _MASK2FORMER_SIZE} if kind == "Mask2Former" else {}
        options["instances_overlap"] = kind != "Detr"
        made = Step("classes") if cls.head(facts.config)[1] == _CLASSES else Step("masks", options)
        return TaskEntry(cls.name, steps, (made, Step("labels", {"labels": labels_of(facts)})))

    def score(self, outputs: Tensors, row: Row) -> Tensors:
        if self._semantic:
            logits = outputs["logits"].astype(np.float32)
            return {"classes": softmax(np.moveaxis(logits, 0, -1)), "logits": logits}
        names = _QUERIES if _QUERIES[0] in outputs else _MASKS["ForSegmentation"]
        masks = outputs[names[1]].astype(np.float32)
        return {"classes": softmax(outputs[names[0]]), "masks": sigmoid(masks), "logits": masks}

    def answer(self, item: Input, rows: Sequence[Row], scores: Sequence[Tensors], options: Mapping[str, Any]) -> Answer:
        subtask = self._subtask(options)
        size = rows[0].extra
        if self._semantic:
            return self._by_label(best_of(scores[0]["logits"], *size)[0])
        classes, masks = scores[0]["classes"], scores[0]["logits"]
        if self._scale:
            masks = resized(masks, self._scale, self._scale)
        if subtask == SEMANTIC:
            likely = np.einsum("qc,qhw->chw", classes[:, :-1], sigmoid(masks))
            return self._by_label(best_of(likely, *size)[0])
        if subtask == INSTANCE and self._apart:
            return self._instances(classes, masks, size, share(options, "threshold"))
        return self._segments(classes, sigmoid(masks), size, options)

    @property
    def _apart(self) -> bool:
        """Whether instances may overlap and are found in another way than segments; DETR's are found alike."""
        return bool(self.entry_.option("masks", "instances_overlap", True))

    def _subtask(self, options: Mapping[str, Any]) -> str:
        has = (SEMANTIC,) if self._semantic else (PANOPTIC, INSTANCE, SEMANTIC)
        asked = options["subtask"] or has[0]
        if asked not in has:
            raise UsageError(
                f"Cannot do the subtask {asked!r}.", why=f"this model has {', '.join(has)}", fix="name one of these"
            )
        return str(asked)

    def _by_label(self, found: np.ndarray) -> Answer:
        names = self.entry_.option("labels", "labels", ())
        return [
            {"score": None, "label": names[label], "mask": self._mask(found == label)} for label in np.unique(found)
        ]

    def _mask(self, where: np.ndarray) -> Any:  # Any: an image of Pillow
        return self._image.fromarray(where.astype(np.uint8) * 255)

    def _segments(
        self, classes: np.ndarray, masks: np.ndarray, size: tuple[int, int], options: Mapping[str, Any]
    ) -> Answer:
        """Each pixel belongs to the mask that is surest of it; masks of which too little is left are none."""
        labels, found = classes.argmax(axis=1), classes.max(axis=1)
        kept = np.flatnonzero((labels != classes.shape[1] - 1) & (found > share(options, "threshold")))
        if not len(kept):
            return []
        weighed = masks[kept] * found[kept, None, None]
        owner, reached = best_of(weighed, *size, share(options, "mask_threshold"))
        least = share(options, "overlap_mask_area_threshold")
        names = self.entry_.option("labels", "labels", ())
        made = []
        for place, query in enumerate(kept):
            mine = owner == place
            area = int(mine.sum())
            if area and reached[place] and area / reached[place] > least:
                score = round(float(found[query]), 6)
                made.append({"score": score, "label": names[labels[query]], "mask": self._mask(mine)})
        return made

    def _instances(self, classes: np.ndarray, masks: np.ndarray, size: tuple[int, int], threshold: float) -> Answer:
        """The best pairs of mask and label, as many as there are masks; where they overlap the later one lies above.

        transformers takes them in the order of an unsorted `topk`; here the best lies at the bottom, as in its own order
        wherever that is sorted.
        """
        queries, labels = classes.shape[0], classes.shape[1] - 1
        flat = classes[:, :-1].ravel()
        best = np.argsort(-flat, kind="stable")[:queries]
        names = self.entry_.option("labels", "labels", ())
        owner: np.ndarray = np.full(size, -1, np.int64)
        found: list[tuple[float, str]] = []
        for place in best:
            mask = masks[place // labels]
            inside = mask > 0
            sure = float((sigmoid(mask) * inside).sum() / (inside.sum() + np.float32(1e-6)))
            score = float(flat[place]) * sure
            seen = inside[np.ix_(*(_nearest(old, new) for old, new in zip(mask.shape, size)))]
            if score >= threshold and seen.any():
                owner[seen] = len(found)
                found.append((round(score, 6), names[place % labels]))
        return [
            {"score": score, "label": label, "mask": self._mask(owner == number)}
            for number, (score, label) in enumerate(found)
        ]


def _nearest(old: int, new: int) -> np.ndarray:
    """Which place each of `new` ones is taken from, as torch's "nearest" has it."""
    places = np.floor(np.arange(new, dtype=np.float32) * np.float32(old / new)).astype(np.int64)
    result: np.ndarray = np.minimum(places, old - 1)
    return result


TASK = ImageSegmentation
