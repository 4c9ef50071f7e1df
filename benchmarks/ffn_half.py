"""MiniLM with half of its feed-forward neurons, after a short distillation: cosine on held-out text, and speed in onnxruntime.

    python benchmarks/ffn_half.py [--minutes 2]

It learns from the texts of Reuters R8's train split, without labels, and is judged on texts of the test split, cut at 64 words as a
sentence encoder meets them. satchel's own golden texts (many languages, code, emoji) stand beside that: they are nothing like what it
learned from. Float32 and int8-dynamic are timed in turn, so the last rows show whether the two multiply. One thread.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path

import numpy as np

sys.path.append(os.path.join(os.path.dirname(__file__), "..", "examples"))

from real_data import reuters

from satchel.trial import call_of, first_rows
from satchel_converters.compress import Compression, compress, parse_distill
from satchel_converters.samples import TEXTS
from satchel_converters.source import find_source
from satchel_runtimes import load
from satchel_runtimes.examples import Example
from satchel_runtimes.measure import interleave, ratio
from setting import CONVERT, MADE, MODEL, arguments, figure_of, run, tell

_WORDS = 64
SCHEMES = ("fp32", "int8-dynamic")


def texts(split: str) -> list[str]:
    rows = (json.loads(line)["text"] for line in (reuters() / f"{split}.jsonl").read_text("utf-8").splitlines())
    return [" ".join(row.split()[:_WORDS]) for row in rows]


def embeddings(folder: Path, items: list[str]) -> np.ndarray:
    with load(folder, threads=1) as model:
        found = np.array([model.predict(text) for text in items])
    unit: np.ndarray = found / np.linalg.norm(found, axis=1, keepdims=True)
    return unit


def main() -> None:
    asked = arguments(__doc__ or "", minutes=2.0, seconds=15.0)
    out = MADE / "ffn-half"
    shutil.rmtree(out, ignore_errors=True)
    before = os.getloadavg()
    os.environ["OMP_NUM_THREADS"] = "1"  # of the worker: minutes of training are then minutes of one core
    compress(
        find_source(MODEL),
        "sentence-embedding",
        Compression(None, parse_distill(f"ffn=0.5,minutes={asked.minutes},learning_rate=3e-4,batch=16")),
        [Example(text) for text in texts("train")],
        (),
        out,
        lambda stage, message, step, total: print(stage, message, file=sys.stderr) if message else None,
    )
    made = {}
    for name, model in (("whole", MODEL), ("half", out)):
        for scheme in SCHEMES:
            made[name, scheme] = MADE / f"ffn-{name}-{scheme}.satchel"
            run([sys.executable, "-c", CONVERT, str(model), scheme, str(made[name, scheme]), "onnx"])
    figures = []
    held_out = {"held-out text": texts("test")[:200], "golden texts": [each for each in TEXTS if each.strip()]}
    for name, items in held_out.items():
        whole = embeddings(made["whole", "fp32"], items)
        for scheme in SCHEMES:
            near = (whole * embeddings(made["half", scheme], items)).sum(1)
            target = 0.85 if name == "held-out text" else None
            figures.append(figure_of(f"cosine of half in {scheme}, {name}", near, "", target=target, worse="below"))
    loaded = {key: load(folder, threads=1) for key, folder in made.items()}
    rows = first_rows(loaded["whole", "fp32"])
    for tokens in (16, 64, 128):
        times = interleave(
            {" ".join(key): call_of(each, rows, tokens) for key, each in loaded.items()},
            warmup=10,
            max_runs=2000,
            max_seconds=asked.seconds,
        )
        for one, other, target in (
            ("half fp32", "whole fp32", 1.35),
            ("half int8-dynamic", "whole int8-dynamic", None),
            ("half int8-dynamic", "whole fp32", None),
        ):
            found = ratio(times[other], times[one])
            figures.append(figure_of(f"{one} / {other}, speed, {tokens} tokens", found, target=target, worse="below"))
    tell("FFN 50 % of MiniLM", figures, before, asked.json, "1 thread")


if __name__ == "__main__":
    main()
