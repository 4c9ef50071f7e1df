"""image-feature-extraction: the last hidden states of a model that sees pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from ..manifest import TaskEntry
from ..sessions import Tensors
from .image import ImageTask
from .image_steps import image_steps
from .task import VECTOR, Answer, Input, ModelFacts, Row

__all__ = ["TASK"]


class ImageFeatureExtraction(ImageTask):
    """`predict("picture.jpg")` is a float32 array of shape [1, patches, hidden], or [1, channels, rows, columns] of a convnet;
    for a list, a list of such arrays."""

    name = "image-feature-extraction"
    judged = {"features": VECTOR}
    auto_model = "AutoModel"
    architectures = ("Model",)
    outputs = ("last_hidden_state",)

    @classmethod
    def fits(cls, facts: ModelFacts) -> bool:
        return "num_channels" in facts.config  # what the configs of models that see have, and no others

    @classmethod
    def entry(cls, facts: ModelFacts) -> TaskEntry:
        return TaskEntry(cls.name, image_steps(facts.image_processor), ())

    def score(self, outputs: Tensors, row: Row) -> Tensors:
        return {"features": outputs["last_hidden_state"]}

    def answer(
        self, item: Input, rows: Sequence[Row], scores: Sequence[Tensors], options: Mapping[str, object]
    ) -> Answer:
        # A row of a batch is a view of it: a copy lets the rest of the batch go.
        return np.array(scores[0]["features"][None], dtype=np.float32)


TASK = ImageFeatureExtraction
