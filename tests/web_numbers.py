"""Numbers of the Python runtime, for the TypeScript runtime to be compared with.

    python -m tests.web_numbers FILE

writes one JSON file: limits of parity, spread positions, draws by seed, pictures resized by Pillow and through the steps of a
processor, sounds resampled, and PNG files of every kind with what Pillow reads in them.
"""

from __future__ import annotations

import base64
import io
import json
import sys
from dataclasses import astuple
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from satchel_converters.pictures import draw
from satchel_runtimes.manifest import Step, TaskEntry
from satchel_runtimes.parity import CLASSES, SAME_ARTIFACT, spread_positions
from satchel_runtimes.sound import sound_of
from satchel_runtimes.tasks.image_classification import ImageClassification
from satchel_runtimes.tasks.image_steps import FILTERS, resized_size

__all__ = ["numbers"]

_SIZES = ((64, 64), (31, 90), (200, 20), (7, 7), (90, 110))
_RESIZES: tuple[dict[str, Any], ...] = (
    {"height": 32, "width": 48},
    {"shortest_edge": 64},
    {"shortest_edge": 64, "longest_edge": 100},
    {"shortest_edge": 64, "longest_edge": 100, "multiple": 16, "round": "down"},
    {"shortest_edge": 64, "longest_edge": 100, "multiple": 32, "round": "up"},
    {"shortest_edge": 64, "longest_edge": 100, "multiple": 32, "round": "half up"},
    {"height": 50, "width": 70, "keep_aspect": True, "multiple": 14},
    {"multiple": 32},
    {"least": 3136, "most": 50176, "multiple": 28},
)
_STEPS: tuple[tuple[Step, ...], ...] = (
    (Step("resize", {"height": 40, "width": 30, "filter": "bicubic"}), Step("rescale", {"factor": 1 / 255})),
    (
        Step("resize", {"shortest_edge": 48, "filter": "lanczos"}),
        Step("center_crop", {"height": 64, "width": 40}),
        Step("flip_channels"),
        Step("rescale", {"factor": 1 / 127.5, "offset": -1.0}),
    ),
    (
        Step("align_long_axis", {"height": 60, "width": 80}),
        Step("resize", {"shortest_edge": 60, "filter": "bilinear"}),
        Step("thumbnail", {"height": 60, "width": 80, "filter": "bilinear"}),
        Step("frame", {"height": 60, "width": 120}),
        Step("rescale", {"factor": 1 / 255}),
        Step("normalize", {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}),
    ),
    (Step("rescale", {"factor": 1 / 255}), Step("pad", {"multiple": 8})),
)


class _NoFiles:
    path = Path("nowhere")

    def read(self, name: str) -> bytes:
        raise KeyError(name)


def _bytes(array: np.ndarray) -> str:
    return base64.b64encode(np.ascontiguousarray(array).tobytes()).decode()


def _png(image: Image.Image, **how: Any) -> dict[str, Any]:
    file = io.BytesIO()
    image.save(file, "PNG", **how)
    data = file.getvalue()
    with Image.open(io.BytesIO(data)) as opened:
        rgb = np.asarray(opened.convert("RGB"))
        return {"mode": opened.mode, "file": base64.b64encode(data).decode(), "shape": rgb.shape, "rgb": _bytes(rgb)}


def _pictures() -> list[dict[str, Any]]:
    found = []
    for number in (3001, 3006, 3004):
        image = draw(number).convert("RGB")
        made: dict[str, Any] = {"width": image.width, "height": image.height, "data": _bytes(np.asarray(image))}
        made["resized"] = [
            {
                "filter": each,
                "width": width,
                "height": height,
                "data": _bytes(np.asarray(image.resize((width, height), place))),
            }
            for place, each in enumerate(FILTERS)
            for width, height in _SIZES
        ]
        made["steps"] = []
        for steps in _STEPS:
            entry = TaskEntry("image-classification", steps, (Step("softmax"), Step("labels", {"labels": ["a"]})))
            values = ImageClassification(entry, _NoFiles()).pixels(image)
            plain = [{"step": step.step, "options": step.options} for step in steps]
            made["steps"].append({"preprocess": plain, "shape": values.shape, "values": _bytes(values)})
        found.append(made)
    return found


def _sounds() -> list[dict[str, Any]]:
    drawn = np.random.default_rng(5)
    found = []
    for rate, wanted in ((8000, 16000), (44100, 16000), (48000, 16000), (22050, 16000), (16000, 16000)):
        wave = (drawn.standard_normal(2000) * 0.2).astype(np.float32)
        sound = sound_of(wave, rate)
        length = sound.length_at(wanted)
        parts = [(0, length), (37, min(500, length)), (length - 20, length)]
        found.append(
            {
                "rate": rate,
                "wanted": wanted,
                "wave": _bytes(wave),
                "parts": [[start, stop, _bytes(sound.samples(wanted, start, stop))] for start, stop in parts],
            }
        )
    return found


def numbers() -> dict[str, Any]:
    sizes = [(1, 1, 0), (10, 3, 1), (65_537, 65_536, 0), (10_000_000, 65_536, 0), (384_000, 311, 71)]
    noisy = draw(3001).convert("RGB").resize((37, 23))
    alpha = noisy.copy()
    alpha.putalpha(noisy.convert("L"))
    gray = noisy.convert("L")
    return {
        "limits": {name: {kind: astuple(each) for kind, each in table.items()} for name, table in
                   (("classes", CLASSES), ("same", SAME_ARTIFACT))},
        "positions": [[*each, spread_positions(*each).tolist()[:2000]] for each in sizes],
        "draws": [[seed, np.random.default_rng(seed).random(8).tolist()] for seed in (0, 1, 7, 2**32, 2**40 + 1, 2**53 - 1)],
        "pictures": _pictures(),
        "sizes": [
            [size, height, width, resized_size(size, height, width)]
            for size in _RESIZES
            for height, width in ((480, 640), (640, 480), (100, 37), (64, 64), (33, 500), (224, 225))
        ],
        "sounds": _sounds(),
        "png": [
            _png(noisy), _png(alpha), _png(gray), _png(noisy.convert("P")), _png(gray.convert("1")),
            _png(noisy.quantize(4), bits=2), _png(noisy.quantize(14), bits=4), _png(alpha.convert("LA")),
        ],
    }  # fmt: skip


if __name__ == "__main__":
    out = Path(sys.argv[1])
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(numbers()), "utf-8")
