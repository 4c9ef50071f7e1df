"""EfficientNet-Lite0 in TFLite int8-static: does it name the same things as float32, and how much faster than ONNX float32.

The pictures are Tux Paint's stamps on white (`examples/real_data.py`), prepared as the checkpoint was trained: the shorter edge
to 256, the middle 224, -1 to 1. Ranges and rounding come from some of them, the agreement is judged on all others. Speed is one
thread, runs in turn, each after three of its own that are not counted.
"""

from __future__ import annotations

import os
import runpy
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from ai_edge_litert.interpreter import Interpreter
from ai_edge_quantizer import quantizer, recipe
from PIL import Image
from transformers import EfficientNetForImageClassification

from satchel_converters.capture.efficientnet import simplify
from satchel_converters.component import Component, Input, Output
from satchel_converters.format import format_of, silent
from satchel_device_profiles import load_profile
from satchel_runtimes.measure import interleave, ratio
from setting import ROOT, Figure, arguments, figure_of, tell

Answer = Callable[[np.ndarray], np.ndarray]
_ENDS = (recipe.TFLOperationName.INPUT, recipe.TFLOperationName.OUTPUT)


def pixels(file: Path) -> np.ndarray:
    with Image.open(file) as opened:
        drawn = opened.convert("RGBA")
    ground = Image.new("RGBA", drawn.size, "white")
    ground.alpha_composite(drawn)
    scale = 256 / min(drawn.size)
    width, height = (max(256, round(side * scale)) for side in drawn.size)
    whole = ground.convert("RGB").resize((width, height), Image.Resampling.BICUBIC)
    left, top = (width - 224) // 2, (height - 224) // 2
    values = np.asarray(whole.crop((left, top, left + 224, top + 224)), np.float32)
    return ((values - 127) / 128).transpose(2, 0, 1)[None].copy()


def captured(example: np.ndarray) -> Component:
    folder = runpy.run_path(str(ROOT / "examples" / "real_models.py"))["efficientnet"]()
    model = simplify(EfficientNetForImageClassification.from_pretrained(folder).eval())

    class Logits(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model, self.config = model, model.config

        def forward(self, pixel_values: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"logits": self.model(pixel_values=pixel_values).logits}

    return Component(
        "model",
        Logits().eval(),
        (Input("pixel_values", "float32", (1, 3, 224, 224)),),
        (Output("logits", "float32", (1, 1000)),),
        {"pixel_values": torch.from_numpy(example)},
    )


def made(component: Component, format: str, scheme: str, samples: Sequence[np.ndarray], folder: Path) -> Path:
    """The file of one format and scheme, as `satchel convert` makes it."""
    writer = format_of(format)
    profile = load_profile("generic-x86-64")
    twin, out = folder / format, folder / f"{format}-{scheme}"
    out.mkdir()
    twin.mkdir(exist_ok=True)
    exported = writer.export([component], writer.plan(writer.scheme("fp32"), profile, {}), twin)
    plan = writer.plan(writer.scheme(scheme), profile, {})
    artifact = writer.apply(exported, plan, out, lambda _: ({"pixel_values": each} for each in samples), silent)
    if artifact.notes:
        print({name: value for name, value in artifact.notes.items() if name != "sensitivity"}, file=sys.stderr)
    return out / artifact.files[0]


def stock(file: Path, samples: Sequence[np.ndarray], out: Path) -> Path:
    """ai-edge-quantizer's own recipe, with float ends and the same samples."""
    plain = quantizer.Quantizer(str(file), recipe.static_wi8_ai8())
    for end in _ENDS:
        plain.update_quantization_recipe(".*", end, None, recipe.AlgorithmName.NO_QUANTIZE)
    ranges = plain.calibrate({"batch_1": [{"pixel_values": each} for each in samples]}, num_threads=1)
    plain.quantize(ranges).export_model(str(out))
    return out


def on_litert(file: Path) -> Answer:
    runner = Interpreter(str(file), num_threads=1).get_signature_runner()
    return lambda values: np.asarray(runner(pixel_values=values)["logits"])


def on_onnxruntime(file: Path) -> Answer:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    engine = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    return lambda values: np.asarray(engine.run(["logits"], {"pixel_values": values})[0])


def agreement(what: str, ours: np.ndarray, reference: np.ndarray, target: float | None = None) -> Figure:
    same = ours.argmax(1) == reference.argmax(1)
    draws = np.random.default_rng(0).choice(same, (2000, len(same))).mean(1)
    low, high = np.quantile(draws, (0.025, 0.975))
    return Figure(what, float(same.mean()), float(low), float(high), len(same), "", target, "below")


def main() -> None:
    asked = arguments(__doc__ or "", calibration=64, seconds=20.0)
    sys.path.insert(0, str(ROOT / "examples"))  # real_data.py reads its neighbour
    files = runpy.run_path(str(ROOT / "examples" / "real_data.py"))["stamps"]()
    order = np.random.default_rng(0).permutation(len(files))
    pictures = [pixels(files[place]) for place in order]
    samples, rest = pictures[: asked.calibration], pictures[asked.calibration :]
    component = captured(pictures[0])
    with tempfile.TemporaryDirectory(prefix="satchel-efficientnet-") as temporary:
        folder = Path(temporary)
        engines = {
            "onnx fp32": on_onnxruntime(made(component, "onnx", "fp32", samples, folder)),
            "tflite fp32": on_litert(made(component, "tflite", "fp32", samples, folder)),
            "tflite int8-static": on_litert(made(component, "tflite", "int8-static", samples, folder)),
            "tflite int8, stock recipe": on_litert(
                stock(folder / "tflite-fp32/model.tflite", samples, folder / "stock.tflite")
            ),
        }
        before = os.getloadavg()
        with torch.inference_mode():
            reference = np.concatenate([component.module(torch.from_numpy(each))["logits"].numpy() for each in rest])
        figures = []
        for name in list(engines)[1:]:
            found = np.concatenate([engines[name](each) for each in rest])
            target = 0.9 if name == "tflite int8-static" else None
            figures.append(agreement(f"top-1 agreement of {name} with torch fp32", found, reference, target))
        calls = {name: (lambda run=run: run(pictures[0])) for name, run in engines.items()}
        times = interleave(calls, warmup=10, max_runs=3000, max_seconds=asked.seconds, settle=3)
        for other, target in (("onnx fp32", 2.0), ("tflite fp32", None)):
            found = ratio(times[other], times["tflite int8-static"])
            figures.append(figure_of(f"tflite int8-static / {other}, speed", found, target=target, worse="below"))
        figures += [figure_of(name, seconds * 1e3, "ms") for name, seconds in times.items()]
    tell("EfficientNet-Lite0 in int8 on LiteRT", figures, before, asked.json, "1 thread")


if __name__ == "__main__":
    main()
