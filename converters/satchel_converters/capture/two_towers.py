"""Models of two towers, one graph each: pictures and texts come at different times, and often in different numbers."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from satchel_runtimes.manifest import TaskEntry

from ..component import Axis, Component, Input, Output
from .encoder import LENGTH, TEXT_INPUTS, padding, text_example
from .image import picture_input

if TYPE_CHECKING:
    from . import Loaded

__all__ = ["FirstToken", "capture", "two_graphs"]


class _Tower(torch.nn.Module):
    """One method of the model, from named tensors to the vector that is compared."""

    def __init__(self, model: Any, method: str, output: str) -> None:
        super().__init__()
        self.model, self.method, self.output = model, method, output
        self.config = model.config  # transformers' exporter looks for it

    def forward(self, **inputs: torch.Tensor) -> dict[str, torch.Tensor]:
        return {self.output: getattr(self.model, self.method)(**inputs, return_dict=True).pooler_output}


class FirstToken(torch.nn.Module):
    """The projection of an encoder's first token, of a model that has no method for it."""

    def __init__(self, body: Any, projection: torch.nn.Module, output: str) -> None:
        super().__init__()
        self.body, self.projection, self.output, self.config = body, projection, output, body.config

    def forward(self, **inputs: torch.Tensor) -> dict[str, torch.Tensor]:
        return {self.output: self.projection(self.body(**inputs, return_dict=True).last_hidden_state[:, 0])}


def capture(loaded: Loaded) -> tuple[Component, ...]:
    model: Any = loaded.model
    accepted = inspect.signature(model.get_text_features).parameters
    given, words = (_Tower(model, f"get_{name.removesuffix('_embeds')}_features", name) for name in loaded.task.outputs)
    return two_graphs(loaded, given, words, [name for name in TEXT_INPUTS if name in accepted])


def two_graphs(
    loaded: Loaded, given: torch.nn.Module, words: torch.nn.Module, accepted: Sequence[str]
) -> tuple[Component, ...]:
    """A graph of each tower: modules that give vectors [batch, width], named as the task's outputs."""
    entry = loaded.task.entry(loaded.facts())
    spec, example = _given(entry)
    first = _component(loaded.task.outputs[0], given, (spec,), {spec.name: example})
    wanted = [name for name in accepted if name in loaded.tokenizer.model_input_names]
    filled = entry.option("fill", "length")
    sequence = filled or Axis("sequence", maximum=loaded.processors.facts().max_length)
    texts = tuple(Input(name, "int64", (spec.axes[0], sequence), padding(loaded, name)) for name in wanted)
    return (first, _component(loaded.task.outputs[1], words, texts, text_example(loaded, wanted, filled or LENGTH)))


def _given(entry: TaskEntry) -> tuple[Input, torch.Tensor]:
    """What the tower takes that is not of texts: a picture, or the spectrogram of a sound."""
    mel = next((step.options for step in entry.preprocess if step.step == "decibel_mel"), None)
    if mel is None:
        return picture_input(entry.preprocess)
    shape = (1, mel["frames"], mel["bins"])
    example = 20 * torch.randn((2, *shape), generator=torch.Generator().manual_seed(0)) - 40  # decibels
    return Input("input_features", "float32", (Axis("batch"), *shape)), example


def _component(
    name: str, module: torch.nn.Module, inputs: tuple[Input, ...], example: dict[str, torch.Tensor]
) -> Component:
    with torch.no_grad():
        width = module.eval()(**example)[name].shape[1]
    outputs = (Output(name, "float32", (inputs[0].axes[0], width)),)
    return Component(name.replace("_embeds", "_encoder"), module, inputs, outputs, example, reference=module)
