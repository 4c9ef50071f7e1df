"""image-to-image: a picture made of a picture, for instance a larger one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from ..manifest import TaskEntry
from ..sessions import Tensors
from .image import ImageTask
from .image_steps import image_steps
from .task import VECTOR, Answer, Input, ModelFacts, Row

__all__ = ["TASK"]


class ImageToImage(ImageTask):
    """`predict("picture.jpg")` is a Pillow image; for a list, a list of them.

    As in the pipeline of transformers 4, a picture that was padded for the model stays padded: Swin2SR's answer has up to
    one window more below and to the right.
    """

    name = "image-to-image"
    judged = {"picture": VECTOR}
    auto_model = "AutoModelForImageToImage"
    architectures = ("ForImageSuperResolution",)
    outputs = ("reconstruction",)
    any_size = True
    max_pixels = 2**22  # each becomes 180 channels of 4 bytes in a small Swin2SR, several times over

    @classmethod
    def entry(cls, facts: ModelFacts) -> TaskEntry:
        return TaskEntry(cls.name, image_steps(facts.image_processor, any_size=True), ())

    def score(self, outputs: Tensors, row: Row) -> Tensors:
        values = outputs["reconstruction"].astype(np.float32).clip(0, 1)
        return {"picture": values - np.float32(0.5), "values": values}  # about grey, or all pictures are alike

    def answer(
        self, item: Input, rows: Sequence[Row], scores: Sequence[Tensors], options: Mapping[str, object]
    ) -> Answer:
        values = np.moveaxis(scores[0]["values"], 0, -1) * np.float32(255)
        return self._image.fromarray(np.ascontiguousarray(values.round().astype(np.uint8)))


TASK = ImageToImage
