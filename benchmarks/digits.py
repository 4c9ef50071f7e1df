"""Handwritten digits: a ViT teaches a small MobileNetV2, which is compared with the same student trained on labels alone.

    python benchmarks/digits.py [--pictures 300] [--epochs 30] [--seeds 3]

The recipe is that of Hugging Face's vision guide (temperature 5, lambda 0.5). The teacher learns from all 4,000 training pictures; both
students from the same few hundred of them, by the same number of steps, because with all of them both are nearly perfect.
The best student is then converted to int8-static, which is judged on the 1,000 test pictures and timed against its float twin; onnxruntime
is shown beside LiteRT without a target: so small a convnet in its int8 is slower than in float, and the latency gate says so. Exits 1 when a target is missed.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import sys
from pathlib import Path

import numpy as np

sys.path.append(os.path.join(os.path.dirname(__file__), "..", "examples"))

import torch
from real_data import digits

import satchel
from satchel.data import read_data
from satchel_converters.compress import Compression, FineTune, compress, fine_tune, parse_distill
from satchel_converters.source import find_source
from satchel_runtimes.errors import SatchelError
from satchel_runtimes.examples import Example
from satchel_runtimes.tasks import task_class
from setting import MADE, Figure, arguments, tell

TASK = "image-classification"
PLACE = MADE / "digits"


def blank(name: str, seed: int = 0) -> Path:
    """An untrained model of the two, as a Hugging Face folder."""
    import transformers

    labels = {i: str(i) for i in range(10)}
    named = {"id2label": labels, "label2id": {v: k for k, v in labels.items()}}
    torch.manual_seed(seed)
    made: transformers.PreTrainedModel
    if name == "vit":
        sizes = {"hidden_size": 96, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 192}
        made = transformers.ViTForImageClassification(
            transformers.ViTConfig(image_size=32, patch_size=4, **sizes, **named)
        )
    else:
        made = transformers.MobileNetV2ForImageClassification(
            transformers.MobileNetV2Config(image_size=32, depth_multiplier=0.35, output_stride=8, **named)
        )
    folder = PLACE / f"{name}-{seed}"
    shutil.rmtree(folder, ignore_errors=True)
    made.save_pretrained(folder)
    # Of a class of its own: all sizes are said, so nothing hangs on a model's defaults.
    about = {"image_processor_type": "ViTImageProcessor", "do_resize": True, "size": {"height": 32, "width": 32}}
    about |= {"do_rescale": True, "do_normalize": True, "image_mean": [0.5] * 3, "image_std": [0.5] * 3, "resample": 2}
    about |= {"do_convert_rgb": True, "rescale_factor": 1 / 255}
    (folder / "preprocessor_config.json").write_text(json.dumps(about), "utf-8")
    return folder


def quiet(stage: str, message: str, step: int, total: int) -> None:
    if not step:
        print(stage, message, file=sys.stderr)


def right(folder: Path, rows: list[Example]) -> float:
    """The share of right answers of a model in torch."""
    import transformers
    from PIL import Image

    model = transformers.AutoModelForImageClassification.from_pretrained(folder).eval()
    processor = transformers.AutoImageProcessor.from_pretrained(folder, backend="pil")
    hits = 0
    with torch.inference_mode():
        for start in range(0, len(rows), 100):
            some = rows[start : start + 100]
            pixels = processor([Image.open(each.input).convert("RGB") for each in some], return_tensors="pt")
            found = model(**pixels).logits.argmax(1).tolist()
            hits += sum(model.config.id2label[i] == each.target for i, each in zip(found, some, strict=True))
    return hits / len(rows)


def main() -> None:
    asked = arguments(__doc__ or "", pictures=300, seeds=3, epochs=30)
    torch.set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = "1"  # of the workers
    PLACE.mkdir(parents=True, exist_ok=True)
    data = read_data(digits(), task_class(TASK), drop_overlaps=True)
    test, train = list(data.evaluation), [*data.train, *data.calibration]
    few = random.Random(0).sample(train, asked.pictures)
    before, figures = os.getloadavg(), []
    teacher = PLACE / "teacher"
    if not teacher.is_dir():
        fine_tune(
            find_source(blank("vit")),
            TASK,
            FineTune(epochs=12, learning_rate=1e-3, batch=64),
            train,
            (),
            teacher,
            quiet,
        )
    figures.append(_share("teacher, ViT", [right(teacher, test)]))
    accuracy: dict[str, list[float]] = {"labels": [], "distilled": []}
    for seed in range(asked.seeds):
        student = blank("student", seed)
        for name, lambda_ in (("labels", 0.0), ("distilled", 0.5)):
            words = f"student={student},temperature=5,lambda={lambda_},epochs={asked.epochs},learning_rate=3e-3,batch=32,patience=100"
            out = PLACE / f"{name}-{seed}"
            shutil.rmtree(out, ignore_errors=True)
            wanted = Compression(None, parse_distill(words), seed)
            compress(find_source(teacher), TASK, wanted, few, (), out, quiet)
            accuracy[name].append(right(out, test))
    figures += [_share(f"student, {name}", each) for name, each in accuracy.items()]
    gains = 100 * (np.array(accuracy["distilled"]) - np.array(accuracy["labels"]))
    figures.append(
        Figure(
            "distilled beats labels alone",
            float(gains.mean()),
            float(gains.min()),
            float(gains.max()),
            len(gains),
            "points",
            0.0,
            "below",
        )
    )
    best = PLACE / f"distilled-{int(np.argmax(accuracy['distilled']))}"
    for format in ("tflite", "onnx"):
        report = PLACE / f"{format}.json"
        try:
            satchel.convert(
                best,
                device="generic-x86-64",
                format=format,
                quantize="int8-static",
                data=digits(),
                drop_overlaps=True,
                max_drop=0.5,
                threads=1,
                out=PLACE / f"{format}.satchel",
                replace=True,
                report=report,
            )
        except SatchelError as error:
            print(f"{error.what} {error.why}", file=sys.stderr)
        found = json.loads(report.read_text("utf-8"))["candidates"][-1]
        if found.get("accuracy"):
            seen = found["accuracy"]["accuracy"]
            figures.append(
                Figure(
                    f"{format} int8-static: accuracy lost",
                    seen["drop"],
                    seen["low"],
                    seen["high"],
                    seen["n"],
                    "points",
                    0.5,
                )
            )
        for size, each in found.get("speedup", {}).items():
            figures.append(
                Figure(
                    f"{format} int8-static / fp32, speed at {size}",
                    each["value"],
                    each["low"],
                    each["high"],
                    0,
                    "x",
                    1.0 if format == "tflite" else None,
                    "below",
                )
            )
    tell("Digits: ViT teaches MobileNetV2", figures, before, asked.json, "1 thread")
    if any(each.met == "**no**" for each in figures):
        sys.exit(1)


def _share(what: str, found: list[float]) -> Figure:
    return Figure(f"{what}: accuracy", float(np.mean(found)), min(found), max(found), len(found), "")


if __name__ == "__main__":
    main()
