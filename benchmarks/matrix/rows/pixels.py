"""Models that make a picture pixel by pixel."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from PIL import Image

from satchel_converters.pictures import draw

from ..row import Row, lively, save

__all__ = ["ROWS", "SIDE", "imagegpt"]

SIDE, COLORS = 8, 32


def imagegpt(folder: Path, *, seed: int = 0, **own: Any) -> None:
    """An ImageGPT of small pictures in a few colours."""
    sizes = {"vocab_size": COLORS + 1, "n_positions": SIDE * SIDE, "n_embd": 32, "n_layer": 2, "n_head": 4}
    model = transformers.ImageGPTForCausalImageModeling(transformers.ImageGPTConfig(**sizes, **own))
    clusters = np.random.default_rng(seed).uniform(-1, 1, (COLORS, 3)).round(4)
    looks = transformers.ImageGPTImageProcessorPil(clusters=clusters, size={"height": SIDE, "width": SIDE})
    save(folder, lively(model, seed, 2.0), looks)


def _paints(model: Path, inputs: Sequence[Any], options: Mapping[str, Any]) -> list[Any]:
    """The pictures that `generate` goes on with, in the colours of the checkpoint's clusters."""
    looks: Any = transformers.AutoImageProcessor.from_pretrained(model, backend="pil")
    painter: Any = transformers.ImageGPTForCausalImageModeling.from_pretrained(model).eval()
    settings = dict(options)
    keep = settings.pop("keep", 0.5)
    found = []
    for picture in inputs:
        seen = looks(picture, return_tensors="pt")["input_ids"][:, : int(SIDE * keep) * SIDE]
        begun = torch.cat([torch.full((1, 1), COLORS), seen], dim=1)
        with torch.inference_mode():
            ids = painter.generate(begun, max_length=SIDE * SIDE + 1, **settings)[0, 1:].numpy()
        colors = np.rint(127.5 * (np.array(looks.clusters)[ids] + 1.0)).astype(np.uint8)
        found.append(Image.fromarray(colors.reshape(SIDE, SIDE, 3)))
    return [*found, *found]


ROWS: tuple[Row, ...] = tuple(
    Row(
        f"imagegpt{name}",
        "unconditional-image-generation",
        functools.partial(imagegpt, **own),
        tuple(draw(6000 + number) for number in range(3)),
        {"keep": 0.25, "do_sample": False},
        oracle=_paints,
    )
    for name, own in (
        ("", {}),
        (", scaled by layer", {"scale_attn_by_inverse_layer_idx": True, "reorder_and_upcast_attn": True}),
    )
)
