"""unconditional-image-generation: a picture pixel by pixel, each a colour by number, from nothing or from its upper part."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from ..errors import SupportError, UsageError
from ..generation import GenerationConfig, Prompt, generate
from ..manifest import Step, TaskEntry
from ..sessions import Session
from .generative import DecoderAlone
from .image import ImageTask, image_size, image_steps
from .task import Answer, Files, Input, ModelFacts, Row

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["TASK"]

_GOLDEN = 0.25  # of a golden picture that is judged


class UnconditionalImageGeneration(DecoderAlone, ImageTask):
    """`predict(None, seed=1)` is a Pillow image of the model's own size, and `predict("picture.jpg", keep=0.5)` one whose upper half is
    that of the picture, as the model sees it.

    Options: `keep`, how much of a picture stays, from its first row on; `seed`, and every setting of `GenerationConfig` by its name but
    for lengths, which are the picture's. Where nobody says otherwise colours are drawn; `do_sample=False` takes the likeliest.
    With `num_return_sequences` each answer is a list.
    """

    name = "unconditional-image-generation"
    auto_model = "architecture"
    architectures = ("ImageGPTForCausalImageModeling",)
    needs_input = False
    brief = {"keep": 0.99}  # the last row
    options: ClassVar[Mapping[str, Any]] = {"keep": 0.5}
    picture_kind = "None, or the picture that it goes on with: a path, bytes, a Pillow image, or a uint8 array"

    def __init__(self, entry: TaskEntry, files: Files) -> None:
        super().__init__(entry, files)
        assert self.fixed is not None and self._clusters is not None  # `entry` refused others
        self.config = GenerationConfig.read(entry.option("generate", "config", {}))
        self._first: int = entry.option("generate", "first", 0)  # the token that stands before a picture
        self._colors = _colors(self._clusters, entry.preprocess)

    @classmethod
    def entry(cls, facts: ModelFacts) -> TaskEntry:
        steps = image_steps(facts.image_processor)
        size, names = image_size(steps), {step.step for step in steps}
        pixels = int(facts.config["n_positions"])
        if "quantize_colors" not in names or size is None or size[0] * size[1] != pixels:
            raise SupportError(
                "Cannot carry the image processor of this model.",
                why=f"the model has {pixels} pixels, each a colour by number, and the processor "
                + (f"gives {size[0]}x{size[1]}" if size else "gives pictures of any size")
                + ("" if "quantize_colors" in names else ", without numbers"),
                fix="take the preprocessor_config.json that belongs to the checkpoint",
            )
        drawn = {} if facts.generation.get("do_sample") is not None else {"do_sample": True}
        lengths = {"max_length": pixels + 1, "max_new_tokens": None, "eos_token_id": ()}
        step = cls.generate_step(facts, **drawn, **lengths)
        return TaskEntry(
            cls.name, steps, (Step(step.step, {**step.options, "first": int(facts.config["vocab_size"]) - 1}),)
        )

    @classmethod
    def sample(cls, text: str, index: int, facts: ModelFacts) -> tuple[Input, dict[str, Any]]:
        return {"file": text}, {"keep": _GOLDEN}

    def check_options(self, given: Mapping[str, Any]) -> Mapping[str, Any]:
        odd = next(
            (name for name in ("max_length", "max_new_tokens", "stop_strings", "eos_token_id") if name in given), None
        )
        if odd:
            raise UsageError(
                f"Cannot use {odd}={given[odd]!r}.", why="a picture has all of its pixels", fix="leave it out"
            )
        found = super().check_options(given)
        keep = found["keep"]
        if not isinstance(keep, (int, float)) or isinstance(keep, bool) or not 0 <= keep < 1:
            raise UsageError(
                f"Cannot use keep={keep!r}.",
                why="it is the part of a picture that stays, from 0 up and below 1",
                fix="pass 0.5",
            )
        return found

    def encode(self, item: Input, options: Mapping[str, Any]) -> list[Row]:
        ids: np.ndarray = np.array([self._first], dtype=np.int64)
        if item is not None:
            height, width = self.fixed or (0, 0)
            rows = int(height * options["keep"])
            ids = np.append(ids, self.tensors(self.picture(item))["input_ids"][: rows * width])
        return [Row({"input_ids": ids}, len(ids))]

    def prompts(
        self, graphs: Mapping[str, Session], items: Sequence[Input], options: Mapping[str, Any]
    ) -> list[Prompt]:
        most = options["config"].max_length
        return [Prompt(self.encode(item, options)[0].tensors["input_ids"].tolist(), most) for item in items]

    def run(
        self, graphs: Mapping[str, Session], inputs: Sequence[Input], options: Mapping[str, Any], batch_size: int = 0
    ) -> list[Answer]:
        answers: list[Answer] = []
        size = batch_size or self.batch_size
        for start in range(0, len(inputs), size):
            prompts = self.prompts(graphs, inputs[start : start + size], options)
            for prompt, found in zip(prompts, generate(graphs[self.component], prompts, options["config"])):
                pictures = [self.shown([*prompt.ids[1:], *ids]) for ids in found]
                answers.append(pictures[0] if len(pictures) == 1 else pictures)
        return answers

    def shown(self, ids: Sequence[int]) -> Image.Image:
        """The picture of all its pixels."""
        height, width = self.fixed or (0, 0)
        made: Image.Image = self._image.fromarray(self._colors[np.array(ids)].reshape(height, width, 3))
        return made

    def answer(self, item: Input, rows: Any, scores: Any, options: Mapping[str, Any]) -> Answer:
        raise NotImplementedError  # `run` generates


def _colors(clusters: np.ndarray, steps: Sequence[Step]) -> np.ndarray:
    """The colour of each number as a screen has it, uint8 [colours, 3]: what the steps did to pixels, taken back."""
    values = clusters
    for step in reversed(steps):
        if step.step == "normalize":
            values = values * np.array(step.options["std"]) + np.array(step.options["mean"])
        elif step.step == "rescale":
            values = (values - step.options.get("offset", 0.0)) / step.options["factor"]
    made: np.ndarray = np.rint(values).clip(0, 255).astype(np.uint8)
    return made


TASK = UnconditionalImageGeneration
