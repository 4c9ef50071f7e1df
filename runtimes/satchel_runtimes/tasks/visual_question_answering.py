"""visual-question-answering: a question about a picture, answered with one of the answers that the model knows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import UsageError
from ..manifest import Step, TaskEntry
from ..sessions import Session, Tensors
from .image import ImageTask, image_steps
from .task import INDEPENDENT, Answer, Files, Input, ModelFacts, Row, Task, sigmoid
from .text import TextTask, labels_of, tokenize_step, whole_number

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["TASK"]


class VisualQuestionAnswering(TextTask, ImageTask):
    """`predict({"image": "picture.jpg", "question": "…"})` is `[{"score", "answer"}, …]`, the surest first, as the pipeline of
    transformers 4.57 gave it; for a list one such list per question.

    Options as in the pipeline: `top_k`, how many answers.
    """

    name = "visual-question-answering"
    modality = "image+text"
    text_kind = picture_kind = "{'image', 'question'}"
    other_steps = ("tokenize",)
    judged = {"scores": INDEPENDENT}
    options = {"top_k": 5}
    auto_model = "AutoModelForVisualQuestionAnswering"
    architectures = ("ForQuestionAnswering",)
    outputs = ("logits",)
    processors = ("tokenizer", "image_processor")
    any_size = True
    columns = {
        "image": ("image", "file", "path", "picture", "image_path", "file_name"),
        "question": ("question",),
        "answer": ("answer", "answers", "label"),
    }
    optional = frozenset({"answer"})
    target = "answer"
    metrics = ("accuracy",)
    shape, size = Task.shape, Task.size  # inputs have a length

    def __init__(self, entry: TaskEntry, files: Files) -> None:
        ImageTask.__init__(self, entry, files)
        TextTask.__init__(self, entry, files)

    @classmethod
    def fits(cls, facts: ModelFacts) -> bool:
        return facts.config.get("model_type") == "vilt"

    @classmethod
    def entry(cls, facts: ModelFacts) -> TaskEntry:
        steps = (*image_steps(facts.image_processor, any_size=True), tokenize_step(facts))
        return TaskEntry(cls.name, steps, (Step("sigmoid"), Step("labels", {"labels": labels_of(facts)})))

    @classmethod
    def sample(cls, text: Any, index: int, facts: ModelFacts) -> tuple[Input, dict[str, Any]]:
        return {"image": {"file": text[0]}, "question": text[1] if text[1].strip() else "What is it?"}, {}

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
        return [Row({**row.tensors, **self.tensors(self.seen(item))}, row.length)]

    def score(self, outputs: Tensors, row: Row) -> Tensors:
        return {"scores": sigmoid(outputs["logits"])}

    def answer(self, item: Input, rows: Sequence[Row], scores: Sequence[Tensors], options: Mapping[str, Any]) -> Answer:
        values, names = scores[0]["scores"], self.labels()
        best = np.argsort(-values, kind="stable")[: whole_number(options, "top_k")]
        return [{"score": float(values[i]), "answer": names[i]} for i in best]

    def reply(
        self, graphs: Mapping[str, Session], inputs: Sequence[Input], labels: Sequence[str] = (), batch_size: int = 0
    ) -> list[Any]:
        """The surest answer to each question."""
        return [[each["answer"] for each in found] for found in super().reply(graphs, inputs, labels, batch_size)]


TASK = VisualQuestionAnswering
