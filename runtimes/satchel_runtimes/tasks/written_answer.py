"""visual-question-answering by writing: one graph reads the picture and the question, and another writes the answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from ..errors import SupportError
from ..manifest import TaskEntry
from .asked_picture import AskedPicture
from .image import ImageTask, image_steps
from .image_steps import FONT_FILE
from .picture_writers import own_settings, writes_apart
from .rewriting import RewritingTask
from .task import Files, Input, ModelFacts, Row
from .text import tokenize_step

__all__ = ["WrittenAnswer"]


class WrittenAnswer(AskedPicture, RewritingTask):
    """`predict({"image": "picture.jpg", "question": "…"})` is `[{"answer"}]`, as the pipeline of transformers 4.57 gave it.

    Options: every setting of `GenerationConfig` by its name, and `decoder_input_ids`, tokens that the answer begins with.
    """

    auto_model = "architecture"
    architectures: ClassVar[tuple[str, ...]] = (
        "BlipForQuestionAnswering",
        "Blip2ForConditionalGeneration",
        "Pix2StructForConditionalGeneration",
    )
    answer_key = "answer"
    metrics: ClassVar[tuple[str, ...]] = ("chrf",)

    def __init__(self, entry: TaskEntry, files: Files) -> None:
        ImageTask.__init__(self, entry, files)
        RewritingTask.__init__(self, entry, files)

    @property
    def size(self) -> int:  # as of a picture, where the question is a part of it
        return 1 if self._header is not None else 0

    @classmethod
    def fits(cls, facts: ModelFacts) -> bool:
        asked = facts.config.get("model_type") != "pix2struct" or bool(facts.config.get("is_vqa"))
        return cls.named(facts.config) and writes_apart(facts.config) and asked

    @classmethod
    def entry(cls, facts: ModelFacts) -> TaskEntry:
        """Raises: SupportError for a model that takes no questions, or where there is nothing to draw them with."""
        steps = (*image_steps(facts.image_processor), tokenize_step(facts))
        if facts.config.get("model_type") == "pix2struct":
            _check_pages(facts)
        return TaskEntry(cls.name, steps, (cls.generate_step(facts, **own_settings(facts.config)),))

    def texts(self, item: Input, options: Mapping[str, Any]) -> Sequence[str]:
        return () if self._header is not None else super().texts(item, options)

    def encode(self, item: Input, options: Mapping[str, Any]) -> list[Row]:
        row = self.asked(item)
        start: np.ndarray = np.array(self.start(options), dtype=np.int64)
        return [Row({**row.tensors, "decoder_input_ids": start}, row.length, component="encoder")]

    def repeated(self, value: np.ndarray, tokens: int) -> np.ndarray:
        drawn = value.ndim > 1 or self._header is not None
        repeated: np.ndarray = value if drawn else np.resize(value, tokens)
        return repeated


def _check_pages(facts: ModelFacts) -> None:
    if not facts.image_processor.get("is_vqa"):
        raise SupportError(
            "Cannot ask this model.",
            why="preprocessor_config.json says is_vqa: false, so it was trained to describe pictures",
            fix="convert it with --task image-to-text",
        )
    if not facts.font:
        raise SupportError(
            "Cannot draw questions for this model.",
            why=f"it reads them above the picture, and its folder has no {FONT_FILE}; transformers draws them in Arial, whose "
            "licence does not let it be passed on",
            fix=f"put a font as {FONT_FILE} into the model's folder: Arial where you may, or Liberation Sans, which is free and as wide",
        )
