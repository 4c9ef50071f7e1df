"""What the first part of a model of two takes: a text, a picture, or one of the forms that a sound has."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from satchel_runtimes.tasks.audio import audio_steps, receptive_field

from ..component import Axis, Input
from .audio import SECONDS
from .encoder import padding, text_example
from .image import patch_inputs, picture_input

if TYPE_CHECKING:
    from . import Loaded

__all__ = ["inputs_of"]

_FRAMES = 100  # of a filter bank, in a second


def inputs_of(loaded: Loaded) -> dict[Input, torch.Tensor]:
    """What the encoder takes, with an example of two rows."""
    steps = loaded.task.entry(loaded.facts()).preprocess
    named = {step.step for step in steps}
    if "patches" in named:
        return patch_inputs(steps)
    pictures = dict([picture_input(steps)]) if "image" in loaded.task.modality else {}
    if pictures and ("question" in named or (loaded.task.modality == "image" and "prompt" not in named)):
        return pictures  # the decoder reads the text
    if loaded.task.modality == "audio":
        heard = {step.step: step.options for step in audio_steps(loaded.facts())}
        if "frames" in heard:
            kernels, strides = heard["frames"]["kernels"], heard["frames"]["strides"]
            least = receptive_field(1, kernels, strides)
            made = torch.randn(
                (2, receptive_field(19, kernels, strides) + 7), generator=torch.Generator().manual_seed(0)
            )
            rate = int(loaded.processors.feature_extractor.sampling_rate)
            length = Axis("samples", least, buckets=tuple(seconds * rate for seconds in SECONDS))
            return {Input("input_values", "float32", (Axis("batch"), length)): made}
        if "speech_fbank" in heard:
            return _spoken(loaded, heard["speech_fbank"]["bins"])
        shape = (heard["log_mel"]["bins"], heard["log_mel"]["frames"])
        made = torch.randn((2, *shape), generator=torch.Generator().manual_seed(0))
        return {Input("input_features", "float32", (Axis("batch"), *shape)): made}
    sequence = Axis("sequence", maximum=loaded.source.facts.max_length)
    wanted = ["input_ids", "attention_mask"]
    texts = {
        Input(name, "int64", (Axis("batch"), sequence), padding(loaded, name)): made
        for name, made in text_example(loaded, wanted).items()
    }
    return {**pictures, **texts}


def _spoken(loaded: Loaded, bins: int) -> dict[Input, torch.Tensor]:
    """Frames of a filter bank, as many as there are up to the table of positions."""
    config: Any = loaded.model.config
    longest = config.max_source_positions * 2**config.num_conv_layers
    frames = Axis("frames", maximum=longest, buckets=tuple(seconds * _FRAMES for seconds in SECONDS))
    made = torch.randn((2, 41, bins), generator=torch.Generator().manual_seed(0))
    return {
        Input("input_features", "float32", (Axis("batch"), frames, bins)): made,
        Input("attention_mask", "int64", (Axis("batch"), frames)): torch.ones(2, 41, dtype=torch.int64),
    }
