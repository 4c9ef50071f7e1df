"""MiniLM with half of its feed-forward neurons, after a short distillation: cosine on held-out text, and speed.

    python benchmarks/ffn_half.py [--minutes 2]

It learns from the texts of Reuters R8's train split, without labels, and is judged on texts of the test split and on
satchel's own golden texts, cut at 64 words as a sentence encoder meets them.
"""

from __future__ import annotations

import os
import shutil
import sys

import numpy as np

sys.path.append(os.path.join(os.path.dirname(__file__), "..", "examples"))

import torch
from real_data import reuters

from satchel_converters.compress import Compression, compress, parse_distill
from satchel_converters.samples import TEXTS
from satchel_converters.source import find_source
from satchel_runtimes.examples import Example
from satchel_runtimes.measure import interleave, ratio
from setting import MADE, MODEL, arguments, figure_of, tell

_WORDS = 64


def texts(split: str) -> list[str]:
    import json

    rows = (json.loads(line)["text"] for line in (reuters() / f"{split}.jsonl").read_text("utf-8").splitlines())
    return [" ".join(row.split()[:_WORDS]) for row in rows]


def embeddings(folder: os.PathLike[str], items: list[str]) -> np.ndarray:
    from transformers import AutoModel, AutoTokenizer

    model, tokenizer = AutoModel.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    found = []
    with torch.no_grad():
        for text in items:
            said = model(**tokenizer(text, return_tensors="pt", truncation=True, max_length=256)).last_hidden_state
            found.append(torch.nn.functional.normalize(said[0].mean(0), dim=0).numpy())
    return np.stack(found)


def main() -> None:
    asked = arguments(__doc__ or "", minutes=2.0, seconds=20.0)
    torch.set_num_threads(1)
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
        lambda stage, message, step, total: print(stage, message, file=sys.stderr) if not step else None,
    )
    figures = []
    for name, items in (("R8 test", texts("test")[:200]), ("golden texts", [each for each in TEXTS if each.strip()])):
        near = (embeddings(MODEL, items) * embeddings(out, items)).sum(1)
        figures.append(figure_of(f"cosine, {name}", near, "", target=0.85, worse="below"))
    from transformers import AutoModel

    models = {"whole": AutoModel.from_pretrained(MODEL).eval(), "half": AutoModel.from_pretrained(out).eval()}
    for tokens in (16, 128):
        ids = torch.arange(tokens)[None] * 7 + 1000
        with torch.no_grad():
            times = interleave(
                {name: lambda model=model, ids=ids: model(input_ids=ids) for name, model in models.items()},
                warmup=5,
                max_seconds=asked.seconds,
            )
        found = ratio(times["whole"], times["half"])
        figures.append(figure_of(f"torch fp32 speed, {tokens} tokens", found, target=1.35, worse="below"))
    tell("FFN 50 % of MiniLM", figures, before, asked.json, "1 thread")


if __name__ == "__main__":
    main()
