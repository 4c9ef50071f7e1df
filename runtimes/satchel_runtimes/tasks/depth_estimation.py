"""depth-estimation: how far away each pixel of a picture is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from ..manifest import TaskEntry
from ..sessions import Tensors
from .image import ImageTask
from .image_steps import image_steps
from .maps import BICUBIC, resized
from .task import VECTOR, Answer, Input, ModelFacts, Row

__all__ = ["TASK"]


class DepthEstimation(ImageTask):
    """`predict("picture.jpg")` is a mapping, for a list one for each picture:

    - "predicted_depth": float32 [height, width] of the picture, in the model's own unit (metres, or an inverse).
    - "depth": the same as a Pillow image of grey values, the smallest black and the largest white.
    """

    name = "depth-estimation"
    judged = {"depth": VECTOR}
    auto_model = "AutoModelForDepthEstimation"
    architectures = ("ForDepthEstimation",)
    outputs = ("predicted_depth",)
    any_size = True

    @classmethod
    def entry(cls, facts: ModelFacts) -> TaskEntry:
        return TaskEntry(cls.name, image_steps(facts.image_processor, any_size=True), ())

    def score(self, outputs: Tensors, row: Row) -> Tensors:
        depth = outputs["predicted_depth"].astype(np.float32)
        # About its mean: a far wall is all that two pictures may have in common, and it would hide what differs.
        return {"depth": depth - depth.mean(), "whole": depth}

    def answer(
        self, item: Input, rows: Sequence[Row], scores: Sequence[Tensors], options: Mapping[str, object]
    ) -> Answer:
        height, width = rows[0].extra
        depth = resized(scores[0]["whole"], height, width, BICUBIC)
        least, most = depth.min(), depth.max()
        grey = (depth - least) / ((most - least) or 1)
        return {"predicted_depth": depth, "depth": self._image.fromarray((grey * 255).astype(np.uint8))}


TASK = DepthEstimation
