"""What both ways of visual-question-answering share: a picture and a question about it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from ..errors import UsageError
from .image import ImageTask
from .task import Input, ModelFacts, Row, Task
from .text import TextTask

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["AskedPicture"]


class AskedPicture(TextTask, ImageTask):
    name = "visual-question-answering"
    modality = "image+text"
    text_kind = picture_kind = "{'image', 'question'}"
    other_steps: ClassVar[tuple[str, ...]] = ("tokenize",)
    processors = ("tokenizer", "image_processor")
    columns = {
        "image": ("image", "file", "path", "picture", "image_path", "file_name"),
        "question": ("question",),
        "answer": ("answer", "answers", "label"),
    }
    optional = frozenset({"answer"})
    target = "answer"
    shape, size = Task.shape, Task.size  # inputs have a length

    @classmethod
    def sample(cls, text: Any, index: int, facts: ModelFacts) -> tuple[Input, dict[str, Any]]:
        return {"image": {"file": text[0]}, "question": text[1] if text[1].strip() else "What is it?"}, {}

    def is_single(self, inputs: Input) -> bool:
        return isinstance(inputs, Mapping)

    def seen(self, item: Input) -> Image.Image:
        return self.picture(item["image"])

    def texts(self, item: Input, options: Mapping[str, Any]) -> Sequence[str]:
        return (item["question"],)

    def header(self, item: Input) -> str:
        return str(item["question"]) if self._header is not None else ""

    def check(self, item: Input) -> None:
        """Raises: UsageError where the picture or the question is missing."""
        if not isinstance(item, Mapping) or set(item) != {"image", "question"}:
            raise self._wrong(type(item).__name__, str(item)[:40])
        if not isinstance(item["question"], str) or not item["question"].strip():
            raise UsageError("Cannot answer.", why="there is no question", fix='give a text as "question"')
        if item["image"] is None:
            raise UsageError("Cannot answer.", why="there is no picture", fix='give one as "image"')

    def asked(self, item: Input) -> Row:
        """Question and picture as the graph reads them.

        Raises:
            UsageError: as of `check`.
        """
        self.check(item)
        seen = self.looked(item)
        if self._header is not None:  # the question is a part of the picture
            return Row(seen, len(next(iter(seen.values()))))
        row = self.row(self.encoding(item["question"]))
        return Row({**row.tensors, **seen}, row.length)
