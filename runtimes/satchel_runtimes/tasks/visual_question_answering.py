"""visual-question-answering: a question about a picture, answered with one of the answers that the model knows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..errors import UsageError
from ..manifest import Step, TaskEntry
from ..sessions import Tensors
from .chosen_answer import ChosenAnswer
from .image import ImageTask, image_steps
from .task import INDEPENDENT, Files, Input, ModelFacts, Row, Task, sigmoid
from .text import labels_of, tokenize_step
from .written_answer import WrittenAnswer

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["TASK"]


class VisualQuestionAnswering(ChosenAnswer, ImageTask):
    """`predict({"image": "picture.jpg", "question": "…"})` is `[{"score", "answer"}, …]`, the surest first, as the pipeline of
    transformers 4.57 gave it; for a list one such list per question.

    Options as in the pipeline: `top_k`, how many answers.
    """

    name = "visual-question-answering"
    modality = "image+text"
    text_kind = picture_kind = "{'image', 'question'}"
    other_steps = ("tokenize",)
    judged = {"scores": INDEPENDENT}
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
        ChosenAnswer.__init__(self, entry, files)

    @classmethod
    def for_model(cls, config: Mapping[str, Any]) -> type[Task]:
        return WrittenAnswer if config.get("model_type") == "blip" else cls

    @classmethod
    def for_entry(cls, entry: TaskEntry) -> type[Task]:
        return WrittenAnswer if any(step.step == "generate" for step in entry.postprocess) else cls

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


TASK = VisualQuestionAnswering
