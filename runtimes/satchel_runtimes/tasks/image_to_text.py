"""image-to-text: what a picture shows, or what is written on it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..manifest import TaskEntry
from .image import ImageTask, image_steps
from .rewriting import RewritingTask
from .task import Files, Input, ModelFacts, Row
from .text import tokenize_step

__all__ = ["TASK"]


class ImageToText(RewritingTask, ImageTask):
    """`predict("picture.jpg")` is `[{"generated_text"}]`, as `transformers.pipeline` of 4.57 had it.

    Options: `decoder_input_ids`, tokens that the text begins with (of a model that was trained for several jobs, the one that names
    the job), and every setting of `GenerationConfig` by its name.
    """

    name = "image-to-text"
    modality = "image"
    processors = ("image_processor", "tokenizer")
    auto_model = "architecture"
    architectures = ("VisionEncoderDecoderModel",)
    other_steps = ("tokenize",)
    columns = {"image": ("image", "file", "path", "picture"), "text": ("text", "caption", "transcription")}
    target = "text"
    metrics = ("chrf",)

    def __init__(self, entry: TaskEntry, files: Files) -> None:
        RewritingTask.__init__(self, entry, files)
        ImageTask.__init__(self, entry, files)

    @classmethod
    def entry(cls, facts: ModelFacts) -> TaskEntry:
        return TaskEntry(
            cls.name, (*image_steps(facts.image_processor), tokenize_step(facts)), (cls.generate_step(facts),)
        )

    @classmethod
    def sample(cls, text: str, index: int, facts: ModelFacts) -> tuple[Input, dict[str, Any]]:
        return {"file": text}, {}

    def is_single(self, inputs: Input) -> bool:
        return ImageTask.is_single(self, inputs)

    def texts(self, item: Input, options: Mapping[str, Any]) -> Sequence[str]:
        return ()

    def encode(self, item: Input, options: Mapping[str, Any]) -> list[Row]:
        start: np.ndarray = np.array(self.start(options), dtype=np.int64)
        return [Row({**self.tensors(self.picture(item)), "decoder_input_ids": start}, 1, component="encoder")]


TASK = ImageToText
