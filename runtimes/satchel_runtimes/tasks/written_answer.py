"""visual-question-answering by writing: one graph reads the picture and the question, and another writes the answer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ..manifest import TaskEntry
from .asked_picture import AskedPicture
from .image import ImageTask, image_steps
from .rewriting import RewritingTask
from .task import Files, Input, ModelFacts, Row
from .text import tokenize_step

__all__ = ["WrittenAnswer"]


class WrittenAnswer(AskedPicture, RewritingTask):
    """`predict({"image": "picture.jpg", "question": "…"})` is `[{"answer"}]`, as the pipeline of transformers 4.57 gave it.

    Options: every setting of `GenerationConfig` by its name, and `decoder_input_ids`, tokens that the answer begins with.
    """

    auto_model = "architecture"
    architectures = ("BlipForQuestionAnswering",)
    answer_key = "answer"
    metrics = ("chrf",)

    def __init__(self, entry: TaskEntry, files: Files) -> None:
        ImageTask.__init__(self, entry, files)
        RewritingTask.__init__(self, entry, files)

    @classmethod
    def entry(cls, facts: ModelFacts) -> TaskEntry:
        text = facts.config["text_config"]
        # As BLIP's own `generate` sets them.
        own = {"decoder_start_token_id": text["bos_token_id"], "eos_token_id": text["sep_token_id"]}
        step = cls.generate_step(facts, **own, pad_token_id=text["pad_token_id"])
        return TaskEntry(cls.name, (*image_steps(facts.image_processor), tokenize_step(facts)), (step,))

    def encode(self, item: Input, options: Mapping[str, Any]) -> list[Row]:
        row = self.asked(item)
        start: np.ndarray = np.array(self.start(options), dtype=np.int64)
        return [Row({**row.tensors, "decoder_input_ids": start}, row.length, component="encoder")]

    def repeated(self, value: np.ndarray, tokens: int) -> np.ndarray:
        repeated: np.ndarray = np.resize(value, tokens) if value.ndim == 1 else value
        return repeated
