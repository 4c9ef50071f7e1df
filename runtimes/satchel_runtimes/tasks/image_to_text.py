"""image-to-text: what a picture shows, or what is written on it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..manifest import Step, TaskEntry
from .image import ImageTask, image_steps
from .rewriting import RewritingTask
from .task import Files, Input, ModelFacts, Row
from .text import tokenize_step

__all__ = ["TASK"]


class ImageToText(RewritingTask, ImageTask):
    """`predict("picture.jpg")` is `[{"generated_text"}]`, as `transformers.pipeline` of 4.57 had it.

    Options: `prompt`, what the text begins with, as a string, or `decoder_input_ids`, as tokens (of a model that was trained for
    several jobs, the one that names the job), and every setting of `GenerationConfig` by its name.
    """

    name = "image-to-text"
    modality = "image"
    processors = ("image_processor", "tokenizer")
    auto_model = "architecture"
    architectures = ("VisionEncoderDecoderModel", "BlipForConditionalGeneration", "GitForCausalLM")
    options = {**RewritingTask.options, "prompt": ""}
    other_steps = ("tokenize",)
    columns = {"image": ("image", "file", "path", "picture"), "text": ("text", "caption", "transcription")}
    target = "text"
    metrics = ("chrf",)

    def __init__(self, entry: TaskEntry, files: Files) -> None:
        RewritingTask.__init__(self, entry, files)
        ImageTask.__init__(self, entry, files)
        # Donut's texts begin with the name of their job alone, and transformers puts nothing before it.
        self._bare: bool = entry.option("generate", "bare", False)

    @classmethod
    def entry(cls, facts: ModelFacts) -> TaskEntry:
        steps = (*image_steps(facts.image_processor), tokenize_step(facts))
        step = cls.generate_step(facts, **_settings(facts.config))
        if str((facts.config.get("encoder") or {}).get("model_type")).startswith("donut"):
            step = Step(step.step, {**step.options, "bare": True})
        return TaskEntry(cls.name, steps, (step,))

    @classmethod
    def sample(cls, text: str, index: int, facts: ModelFacts) -> tuple[Input, dict[str, Any]]:
        return {"file": text}, {}

    def is_single(self, inputs: Input) -> bool:
        return ImageTask.is_single(self, inputs)

    def texts(self, item: Input, options: Mapping[str, Any]) -> Sequence[str]:
        return ()

    def encode(self, item: Input, options: Mapping[str, Any]) -> list[Row]:
        said = self.encoding(options["prompt"], special=False).ids if options["prompt"] else []
        begun = [*self.start(options), *said]
        if self._bare and len(begun) > 1:
            del begun[0]
        start: np.ndarray = np.array(begun, dtype=np.int64)
        return [Row({**self.tensors(self.picture(item)), "decoder_input_ids": start}, 1, component="encoder")]


def _settings(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """What a model's own `generate` sets."""
    if config.get("model_type") == "git":
        return {"decoder_start_token_id": config["bos_token_id"]}
    if config.get("model_type") != "blip":
        return {}
    text = config["text_config"]
    first, last = text["bos_token_id"], text["sep_token_id"]
    return {"decoder_start_token_id": first, "eos_token_id": last, "pad_token_id": text["pad_token_id"]}


TASK = ImageToText
