"""image-to-text: what a picture shows, or what is written on it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Optional

import numpy as np

from ..errors import SupportError, UsageError
from ..manifest import Step, TaskEntry
from .image import ImageTask, image_steps
from .picture_writers import is_donut, own_settings, writes_apart
from .rewriting import RewritingTask
from .task import Files, Input, ModelFacts, Row
from .text import tokenize_step

__all__ = ["TASK"]


class ImageToText(RewritingTask, ImageTask):
    """`predict("picture.jpg")` is `[{"generated_text"}]`, as `transformers.pipeline` of 4.57 had it.

    Options: `prompt`, what the text begins with, as a string, or `decoder_input_ids`, as tokens (of a model that was trained for
    several jobs, the one that names the job; of BLIP-2 with a T5 `prompt` is what it is asked), and every setting of
    `GenerationConfig` by its name.
    """

    name = "image-to-text"
    modality = "image"
    processors = ("tokenizer", "image_processor")
    auto_model = "architecture"
    architectures = (
        "VisionEncoderDecoderModel",
        "BlipForConditionalGeneration",
        "GitForCausalLM",
        "Pix2StructForConditionalGeneration",
        "Blip2ForConditionalGeneration",
    )
    options = {**RewritingTask.options, "prompt": ""}
    other_steps = ("tokenize", "prompt")
    columns = {"image": ("image", "file", "path", "picture"), "text": ("text", "caption", "transcription")}
    target = "text"
    metrics = ("chrf",)

    def __init__(self, entry: TaskEntry, files: Files) -> None:
        RewritingTask.__init__(self, entry, files)
        ImageTask.__init__(self, entry, files)
        # Donut's texts begin with the name of their job alone, and transformers puts nothing before it.
        self._bare: bool = entry.option("generate", "bare", False)
        self._prompt = next((step.options for step in entry.preprocess if step.step == "prompt"), None)

    @classmethod
    def fits(cls, facts: ModelFacts) -> bool:
        return cls.named(facts.config) and not facts.config.get("is_vqa") and writes_apart(facts.config)

    @classmethod
    def entry(cls, facts: ModelFacts) -> TaskEntry:
        """Raises: SupportError for a model that wants a question."""
        if facts.image_processor.get("is_vqa"):
            raise SupportError(
                "Cannot ask this model for captions.",
                why="preprocessor_config.json says is_vqa: true, so it was trained to answer questions",
                fix="convert it with --task visual-question-answering",
            )
        steps = (*image_steps(facts.image_processor), tokenize_step(facts))
        if facts.config.get("model_type") == "blip-2":
            steps = (*steps, Step("prompt", {"empty": facts.config["text_config"].get("bos_token_id")}))
        step = cls.generate_step(facts, **own_settings(facts.config))
        if is_donut(facts.config):
            step = Step(step.step, {**step.options, "bare": True})
        return TaskEntry(cls.name, steps, (step,))

    @classmethod
    def sample(cls, text: str, index: int, facts: ModelFacts) -> tuple[Input, dict[str, Any]]:
        wordless = (
            facts.config.get("model_type") != "blip-2" or facts.config["text_config"].get("bos_token_id") is not None
        )
        return {"file": text}, {} if wordless else {"prompt": "a photo of"}

    def is_single(self, inputs: Input) -> bool:
        return ImageTask.is_single(self, inputs)

    def texts(self, item: Input, options: Mapping[str, Any]) -> Sequence[str]:
        return ()

    def encode(self, item: Input, options: Mapping[str, Any]) -> list[Row]:
        said, begun, row = options["prompt"], self.start(options), Row({}, 1)
        if self._prompt is not None:  # the encoder reads it
            row = self.row(self.encoding(said)) if said else self._alone(self._prompt["empty"])
        elif said:
            begun += self.encoding(said, special=False).ids
        if self._bare and len(begun) > 1:
            del begun[0]
        start: np.ndarray = np.array(begun, dtype=np.int64)
        tensors = {**row.tensors, **self.looked(item), "decoder_input_ids": start}
        return [Row(tensors, row.length, component="encoder")]

    def _alone(self, token: Optional[int]) -> Row:
        """What the encoder reads where nobody says anything."""
        if token is None:
            raise UsageError(
                "Cannot describe a picture without a prompt.",
                why="config.json has no bos_token_id, which would stand for one",
                fix='say how the text begins or what is asked: prompt="a photo of"',
            )
        ids: np.ndarray = np.array([token], dtype=np.int64)
        return self.row_of_ids(ids, np.zeros_like(ids), None)

    def repeated(self, value: np.ndarray, tokens: int) -> np.ndarray:
        repeated: np.ndarray = np.resize(value, tokens) if value.ndim == 1 and self._prompt is not None else value
        return repeated


TASK = ImageToText
