"""image-text-retrieval: which of some texts belongs to a picture, or which of some pictures to a text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..errors import UsageError
from ..manifest import TaskEntry
from ..sessions import Tensors
from .image import image_steps
from .label_towers import IMAGES
from .task import INDEPENDENT, Answer, Files, Input, ModelFacts, Row
from .zero_shot_image_classification import ZeroShotImageClassification

__all__ = ["TASK"]

_SAMPLE_TEXTS = ("a chart", "two dogs in the snow", "the sea at night", "noise")


class ImageTextRetrieval(ZeroShotImageClassification):
    """`predict({"image": "picture.jpg", "texts": ["a cat", "a dog"]})` is `[{"index", "text", "score"}, …]`, the nearest first;
    `predict({"images": ["one.jpg", "two.jpg"], "text": "a cat"})` is `[{"index", "score"}, …]`.

    The score is the cosine of the two vectors. transformers has no pipeline for it.
    """

    name = "image-text-retrieval"
    picture_kind = "{'image', 'texts'} or {'images', 'text'}"
    options = {}
    architectures = ("BlipForImageTextRetrieval", "FlavaModel", "FlavaForPreTraining")
    columns = {}
    target = None
    metrics = ()

    def __init__(self, entry: TaskEntry, files: Files) -> None:
        super().__init__(entry, files)
        self.judged = {**self.judged, "scores": INDEPENDENT}

    @classmethod
    def head(cls, config: Mapping[str, Any]) -> tuple[str, tuple[str, ...]]:
        by_type = {"blip": "architecture", "groupvit": "architecture", "flava": "AutoModel"}
        return by_type.get(str(config.get("model_type")), cls.auto_model), cls.outputs

    @classmethod
    def fits(cls, facts: ModelFacts) -> bool:
        return facts.config.get("model_type") in ("blip", "flava")  # others serve it when they are asked to

    @classmethod
    def entry(cls, facts: ModelFacts) -> TaskEntry:
        return TaskEntry(cls.name, (*image_steps(facts.image_processor), *cls.text_steps(facts)), ())

    @classmethod
    def sample(cls, text: str, index: int, facts: ModelFacts) -> tuple[Input, dict[str, Any]]:
        texts = [_SAMPLE_TEXTS[(index + step) % len(_SAMPLE_TEXTS)] for step in (0, 1, 2)]
        return {"image": {"file": text}, "texts": texts}, {}

    def is_single(self, inputs: Input) -> bool:
        return not isinstance(inputs, (list, tuple))

    def seen(self, item: Input) -> Any:
        return self.picture(item["image"])

    def texts(self, item: Input, options: Mapping[str, Any]) -> Sequence[str]:
        return _one_or_many(item, "text")

    def encode(self, item: Input, options: Mapping[str, Any]) -> list[Row]:
        if not isinstance(item, Mapping) or set(item) not in ({"image", "texts"}, {"images", "text"}):
            raise self._wrong(type(item).__name__, str(item)[:40])
        pictures = [Row(self.tensors(self.picture(each)), 1, component=IMAGES) for each in _one_or_many(item, "image")]
        return [*pictures, *(self.text_row(text) for text in self.texts(item, options))]

    def join(self, rows: Sequence[Row], scores: Sequence[Tensors]) -> Tensors:
        """Cosines [pictures, texts]."""
        pictures = [each["image_embeds"] for each in scores if "image_embeds" in each]
        texts = [each["text_embeds"] for each in scores if "text_embeds" in each]
        return {"scores": np.stack(pictures) @ np.stack(texts).T}

    def answer(self, item: Input, rows: Sequence[Row], scores: Sequence[Tensors], options: Mapping[str, Any]) -> Answer:
        cosines = self.join(rows, scores)["scores"].ravel()
        order = np.argsort(-cosines, kind="stable").tolist()
        if "images" in item:
            return [{"index": i, "score": float(cosines[i])} for i in order]
        return [{"index": i, "text": item["texts"][i], "score": float(cosines[i])} for i in order]


def _one_or_many(item: Mapping[str, Any], name: str) -> list[Any]:
    """What is given under the name, or as a list under its plural."""
    found = [item[name]] if name in item else item[f"{name}s"]
    texts = name == "text"
    if not isinstance(found, (list, tuple)) or not found or (texts and not all(isinstance(e, str) for e in found)):
        raise UsageError(
            f"Cannot compare with {str(found)[:60]}.",
            why=f"{name}s are a list of {'strings' if texts else 'pictures'}, at least one",
            fix='pass {"image": picture, "texts": ["…", "…"]} or {"images": [picture, picture], "text": "…"}',
        )
    return list(found)


TASK = ImageTextRetrieval
