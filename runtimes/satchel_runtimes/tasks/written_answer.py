"""visual-question-answering by writing: one graph reads the picture and the question, and another writes the answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import UsageError
from ..manifest import TaskEntry
from .image import ImageTask, image_steps
from .rewriting import RewritingTask
from .task import Files, Input, ModelFacts, Row, Task
from .text import tokenize_step

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["WrittenAnswer"]


class WrittenAnswer(RewritingTask, ImageTask):
    """`predict({"image": "picture.jpg", "question": "…"})` is `[{"answer"}]`, as the pipeline of transformers 4.57 gave it.

    Options: every setting of `GenerationConfig` by its name, and `decoder_input_ids`, tokens that the answer begins with.
    """

    name = "visual-question-answering"
    modality = "image+text"
    text_kind = picture_kind = "{'image', 'question'}"
    other_steps = ("tokenize",)
    auto_model = "architecture"
    architectures = ("BlipForQuestionAnswering",)
    processors = ("tokenizer", "image_processor")
    answer_key = "answer"
    columns = {
        "image": ("image", "file", "path", "picture", "image_path", "file_name"),
        "question": ("question",),
        "answer": ("answer", "answers", "label"),
    }
    optional = frozenset({"answer"})
    target = "answer"
    metrics = ("chrf",)
    shape, size = Task.shape, Task.size  # inputs have a length

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

    @classmethod
    def sample(cls, text: Any, index: int, facts: ModelFacts) -> tuple[Input, dict[str, Any]]:
        return {"image": {"file": text[0]}, "question": text[1] if text[1].strip() else "What is it?"}, {}

    def is_single(self, inputs: Input) -> bool:
        return isinstance(inputs, Mapping)

    def seen(self, item: Input) -> Image.Image:
        return self.picture(item["image"])

    def texts(self, item: Input, options: Mapping[str, Any]) -> Sequence[str]:
        return (item["question"],)

    def encode(self, item: Input, options: Mapping[str, Any]) -> list[Row]:
        if not isinstance(item, Mapping) or set(item) != {"image", "question"}:
            raise self._wrong(type(item).__name__, str(item)[:40])
        if not isinstance(item["question"], str) or not item["question"].strip():
            raise UsageError("Cannot answer.", why="there is no question", fix='give a text as "question"')
        row = self.row(self.encoding(item["question"]))
        start: np.ndarray = np.array(self.start(options), dtype=np.int64)
        tensors = {**row.tensors, **self.tensors(self.seen(item)), "decoder_input_ids": start}
        return [Row(tensors, row.length, component="encoder")]

    def repeated(self, value: np.ndarray, tokens: int) -> np.ndarray:
        repeated: np.ndarray = np.resize(value, tokens) if value.ndim == 1 else value
        return repeated
