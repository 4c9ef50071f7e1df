"""Reuters R8 on MiniLM: a compressed int8 bundle against the torch pipeline of its teacher, in speed, size and accuracy.

    python benchmarks/reuters.py [--epochs 2] [--rows 300] [--steps 20]

The teacher is MiniLM trained on the official split with `satchel train`; it is kept, and a second run takes it as it is. The
student has the vocabulary of the training texts and three of the six layers, learns from the teacher while it is converted, and is
judged on all test texts. Speed is one text at a time on one thread: for each text the runs of all go in turn, and the ratio's
spread is over the texts. `--rows` and `--steps` make a short run, which shows that everything fits and misses its targets.
Exits 1 when a target is missed. Training takes some minutes of two cores for the teacher, and again for the student.
"""

from __future__ import annotations

import json
import os
import random
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

sys.path.append(os.path.join(os.path.dirname(__file__), "..", "examples"))

import torch
import transformers
from real_data import reuters

import satchel
from satchel.cli.show import progress_on_stderr
from satchel.compressing import train_model
from satchel.progress import Callback, Reporter
from satchel_converters.compress import FineTune
from satchel_runtimes.errors import SatchelError
from satchel_runtimes.measure import interleave, ratio
from setting import MADE, MODEL, Figure, arguments, figure_of, tell

TASK, TOKENS = "text-classification", 128
FORMATS = ("tflite", "onnx")
FASTER, SMALLER, POINTS = 6.0, 6.0, 1.0
_RUNS = 3  # of each text; their median is what the text took


def some_rows(data: Path, rows: int, out: Path) -> Path:
    """A few rows of both splits, for a run that is no more than a rehearsal."""
    out.mkdir(parents=True, exist_ok=True)
    for split in ("train", "test"):
        lines = (data / f"{split}.jsonl").read_text("utf-8").splitlines()
        (out / f"{split}.jsonl").write_text("\n".join(random.Random(0).sample(lines, rows)) + "\n", "utf-8")
    return out


def trained(data: Path, steps: int, out: Path, progress: Callback | None) -> Path:
    """satchel train MODEL --data DATA --drop-overlaps --task text-classification --epochs 2 --sequence-length 128 -o OUT"""
    if not out.is_dir():
        wanted = FineTune(epochs=None if steps else 2.0, steps=steps or None, max_length=TOKENS)
        train_model(str(MODEL), out, wanted, data, TASK, None, True, Reporter(progress, None))
    return out


def converted(
    teacher: Path, format: str, data: Path, length: str, limit: float, out: Path, progress: Callback | None
) -> tuple[Path, dict[str, Any]]:
    """The bundle of one format, and what its report says of it; the second format takes the student of the first."""
    report = out.with_suffix(".json")
    folder = satchel.convert(
        teacher,
        device="generic-x86-64",
        format=format,
        quantize="int8-dynamic",
        data=data,
        drop_overlaps=True,
        max_drop=limit,
        sequence_length=TOKENS,
        prune="vocabulary",
        distill=f"layers=3,{length},learning_rate=3e-4,lambda=0.7",
        threads=1,
        out=out,
        replace=True,
        report=report,
        progress=progress,
    )
    return folder, json.loads(report.read_text("utf-8"))["candidates"][-1]


def pipeline(teacher: Path) -> Callable[[str], object]:
    transformers.logging.set_verbosity_error()
    made = transformers.pipeline(TASK, model=str(teacher), device="cpu")
    return lambda text: made(text, truncation=True, max_length=TOKENS)


def seconds_of(calls: dict[str, Callable[[str], object]], texts: list[str]) -> dict[str, np.ndarray]:
    """What each text took in each of the calls."""
    found: dict[str, list[float]] = {name: [] for name in calls}
    for text in texts:
        now = {name: (lambda call=call, text=text: call(text)) for name, call in calls.items()}
        times = interleave(now, warmup=1, min_runs=_RUNS, max_runs=_RUNS, settle=1)
        for name, each in times.items():
            found[name].append(float(np.median(each)))
    return {name: np.array(each) for name, each in found.items()}


def megabytes(folder: Path, *names: str) -> float:
    files = [folder / name for name in names] or [each for each in folder.rglob("*") if each.is_file()]
    return sum(file.stat().st_size for file in files) / 2**20


def missed(figure: Figure) -> bool:
    """By the value itself, also where the spread says that it is not certain."""
    if figure.target is None:
        return False
    return not (figure.value <= figure.target if figure.worse == "above" else figure.value >= figure.target)


def main() -> None:
    asked = arguments(__doc__ or "", epochs=2.0, rows=0, steps=0, texts=60)
    torch.set_num_threads(1)
    data = reuters()
    place = MADE / "reuters-r8"
    if asked.rows:
        place = MADE / f"reuters-r8-{asked.rows}"
        data = some_rows(data, asked.rows, place / "data")
    before, bundles, found = os.getloadavg(), {}, {}
    try:
        with progress_on_stderr() as progress:
            teacher = trained(data, asked.steps, place / "teacher", progress)
            length = f"steps={asked.steps}" if asked.steps else f"epochs={asked.epochs:g}"
            limit = 100.0 if asked.steps else POINTS  # a rehearsal learns nothing that could be lost
            for format in FORMATS:
                out = place / f"{format}.satchel"
                bundles[format], found[format] = converted(teacher, format, data, length, limit, out, progress)
    except SatchelError as error:
        sys.exit(str(error))
    rows = [json.loads(line)["text"] for line in (data / "test.jsonl").read_text("utf-8").splitlines()]
    texts = random.Random(0).sample(rows, asked.texts)
    calls = {"torch": pipeline(teacher)}
    calls |= {format: satchel.load(folder, threads=1).predict for format, folder in bundles.items()}
    times = seconds_of(calls, texts)
    figures, whole = [], megabytes(teacher, "model.safetensors", "tokenizer.json")
    for format in FORMATS:
        faster = ratio(times["torch"], times[format])
        figures.append(
            figure_of(
                f"{format}: predict / torch pipeline, speed", faster, target=FASTER, worse="below", note="by text"
            )
        )
        size = megabytes(bundles[format])
        note = f"{whole:.1f} MiB of weights and tokenizer, {size:.1f} MiB of bundle"
        figures.append(
            Figure(f"{format}: size", whole / size, whole / size, whole / size, 1, "x", SMALLER, "below", note)
        )
        seen = found[format]["accuracy"]["accuracy"]
        note = f"{100 * seen['value']:.2f} %, teacher in torch {100 * seen['reference']:.2f} %"
        figures.append(
            Figure(
                f"{format}: accuracy lost",
                seen["drop"],
                seen["low"],
                seen["high"],
                seen["n"],
                "points",
                POINTS,
                note=note,
            )
        )
    figures += [figure_of(f"{name}, one text", each * 1e3, "ms") for name, each in times.items()]
    tell("Reuters R8: MiniLM, three layers, int8-dynamic", figures, before, asked.json, "1 thread")
    if any(map(missed, figures)):
        sys.exit(1)


if __name__ == "__main__":
    main()
