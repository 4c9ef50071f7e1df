"""The generic way of a sound's model: one graph from samples of any length, or from features of one size, to the outputs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch

from satchel_runtimes.tasks.audio import audio_steps, receptive_field

from ..component import Axis, Component, Input, Output
from .speech import of_any_length

if TYPE_CHECKING:
    from . import Loaded

__all__ = ["SECONDS", "capture"]

SECONDS = (1, 5, 15)  # of graphs with static shapes


class _Features(torch.nn.Module):
    """Takes and returns plain named tensors."""

    def __init__(self, model: torch.nn.Module, outputs: tuple[str, ...]) -> None:
        super().__init__()
        self.model, self.outputs = model, outputs
        self.config = model.config  # transformers' exporter looks for it

    def forward(self, **inputs: torch.Tensor) -> dict[str, torch.Tensor]:
        result = self.model(**inputs, return_dict=True)
        return {name: result[name] for name in self.outputs}


def capture(loaded: Loaded) -> tuple[Component, ...]:
    steps = {step.step: step.options for step in audio_steps(loaded.processors.facts())}
    return (_of_samples if "frames" in steps else _of_features)(loaded, steps)


def _of_features(loaded: Loaded, steps: Mapping[str, Mapping[str, Any]]) -> tuple[Component, ...]:
    shape = (steps["kaldi_fbank"]["frames"], steps["kaldi_fbank"]["bins"])
    # Two sounds that differ, so that an output that mixes rows shows.
    example = {"input_values": torch.randn((2, *shape), generator=torch.Generator().manual_seed(0))}
    module = _Features(loaded.model, loaded.task.outputs).eval()
    with torch.no_grad():
        results = module(**example)
    batch = Axis("batch")
    outputs = tuple(Output(name, "float32", (batch, *results[name].shape[1:])) for name in loaded.task.outputs)
    return (Component("model", module, (Input("input_values", "float32", (batch, *shape)),), outputs, example),)


def _of_samples(loaded: Loaded, steps: Mapping[str, Mapping[str, Any]]) -> tuple[Component, ...]:
    frames = steps["frames"]
    kernels, strides, least = frames["kernels"], frames["strides"], frames["least"]
    longest = getattr(loaded.model.config, "max_source_positions", None)
    relative = getattr(loaded.model.config, "position_embeddings_type", None) == "relative"
    rate = steps["resample"]["rate"]
    samples = Axis(
        "samples",
        receptive_field(least, kernels, strides),
        # A conformer's table of positions ends there; what transformers would add to it, a graph cannot.
        receptive_field(longest, kernels, strides) if relative and longest else None,
        buckets=tuple(seconds * rate for seconds in SECONDS),
    )
    batch = Axis("batch")
    module = _Features(of_any_length(loaded.model, kernels, strides), loaded.task.outputs).eval()
    # Two sounds of different length, so that the mask matters, and no size equal to another by accident.
    length = receptive_field(19, kernels, strides) + 7
    values = torch.randn((2, length), generator=torch.Generator().manual_seed(0))
    mask = torch.ones((2, length), dtype=torch.int64)
    cut = receptive_field(12, kernels, strides) + 3
    values[1, cut:], mask[1, cut:] = 0, 0
    example = {"input_values": values, "attention_mask": mask}
    with torch.no_grad():
        results = module(**example)
    inputs = (Input("input_values", "float32", (batch, samples)), Input("attention_mask", "int64", (batch, samples)))
    outputs = []
    for name in loaded.task.outputs:
        axes: list[Axis | int] = [batch, *results[name].shape[1:]]
        if results[name].dim() == 3:  # an answer for every frame, else one for the whole
            axes[1] = Axis("frames")
        outputs.append(Output(name, "float32", tuple(axes)))
    return (Component("model", module, inputs, tuple(outputs), example),)
