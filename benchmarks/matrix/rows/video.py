"""Models that see videos."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

from satchel_converters.pictures import draw

from ..row import LABELS, Row, lively, named_labels, save

__all__ = ["ROWS"]

_FRAMES, _SIZE = 8, 64
_SIZES: Mapping[str, Any] = {
    "image_size": _SIZE,
    "num_frames": _FRAMES,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
}


def _clip(number: int, height: int, width: int) -> np.ndarray:
    """A view of a picture that moves, uint8 [frames, height, width, 3]."""
    picture = np.asarray(draw(number).convert("RGB").resize((width + 2 * _FRAMES, height)))
    return np.stack([picture[:, 2 * place : 2 * place + width] for place in range(_FRAMES)])


_CLIPS = (_clip(4001, 80, 96), _clip(4002, 64, 128), _clip(4003, 112, 80))


def _build(config: Callable[..., Any], sizes: Mapping[str, Any], folder: Path) -> None:
    made = config(**{**_SIZES, **sizes})
    named_labels(made)
    steps = transformers.VideoMAEImageProcessorPil(
        size={"shortest_edge": _SIZE}, crop_size={"height": _SIZE, "width": _SIZE}
    )
    save(folder, lively(transformers.AutoModelForVideoClassification.from_config(made)), steps)


def _pipeline(model: Path, inputs: Sequence[Any], options: Mapping[str, Any]) -> list[Any]:
    """The pipeline behind its decoder: it reads files only."""
    steps = transformers.AutoImageProcessor.from_pretrained(model, backend="pil")
    ask: Any = transformers.pipeline("video-classification", model=str(model), image_processor=steps)
    with torch.no_grad():
        found = [
            ask.postprocess(ask._forward(steps(list(frames), return_tensors="pt")), **options) for frames in inputs
        ]
    return [*found, *found]


def _row(name: str, config: Callable[..., Any], **sizes: Any) -> Row:
    build = functools.partial(_build, config, sizes)
    return Row(name, "video-classification", build, _CLIPS, {"top_k": len(LABELS)}, _pipeline)


ROWS: tuple[Row, ...] = (
    _row("timesformer", transformers.TimesformerConfig, patch_size=16),
    _row("videomae", transformers.VideoMAEConfig, patch_size=16, tubelet_size=2),
    _row("vivit", transformers.VivitConfig, tubelet_size=[2, 16, 16]),
)
