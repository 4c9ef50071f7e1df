"""visual-question-answering: a question about a picture, answered with one of the answers that the model knows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..manifest import Step, TaskEntry
from ..sessions import Tensors
from .asked_picture import AskedPicture
from .chosen_answer import ChosenAnswer
from .image import ImageTask, image_steps
from .task import INDEPENDENT, Files, Input, ModelFacts, Row, Task, sigmoid
from .text import labels_of, tokenize_step
from .written_answer import WrittenAnswer

__all__ = ["TASK"]

_WRITING = ("blip", "blip-2", "pix2struct")


class VisualQuestionAnswering(AskedPicture, ChosenAnswer):
    """`predict({"image": "picture.jpg", "question": "…"})` is `[{"score", "answer"}, …]`, the surest first, as the pipeline of
    transformers 4.57 gave it; for a list one such list per question.

    Options as in the pipeline: `top_k`, how many answers.
    """

    judged = {"scores": INDEPENDENT}
    auto_model = "AutoModelForVisualQuestionAnswering"
    architectures = ("ForQuestionAnswering",)
    outputs = ("logits",)
    any_size = True
    metrics = ("accuracy",)

    def __init__(self, entry: TaskEntry, files: Files) -> None:
        ImageTask.__init__(self, entry, files)
        ChosenAnswer.__init__(self, entry, files)

    @classmethod
    def for_model(cls, config: Mapping[str, Any]) -> type[Task]:
        return WrittenAnswer if config.get("model_type") in _WRITING else cls

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

    def encode(self, item: Input, options: Mapping[str, Any]) -> list[Row]:
        return [self.asked(item)]

    def score(self, outputs: Tensors, row: Row) -> Tensors:
        return {"scores": sigmoid(outputs["logits"])}


TASK = VisualQuestionAnswering
