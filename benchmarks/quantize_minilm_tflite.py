"""MiniLM's int8 schemes in TFLite: cosine of pooled embeddings to float32 over 200 news texts, size, and speed in turn, one thread."""

from __future__ import annotations

import json
import os
import runpy
import sys

import numpy as np

from satchel_runtimes import load
from satchel_runtimes.measure import interleave, ratio
from setting import ROOT, Figure, arguments, bundle, figure_of, tell
from tflite_speed import call

SCHEMES = ("int8-dynamic", "int8-static")
MEAN_TARGETS = {"int8-static": 0.98}
MIN_TARGETS = {"int8-dynamic": 0.99}


def main() -> None:
    asked = arguments(__doc__ or "", texts=200, tokens=128, seconds=20.0)
    sys.path.insert(0, str(ROOT / "examples"))  # real_data.py reads its neighbour
    folder = runpy.run_path(str(ROOT / "examples" / "real_data.py"))["reuters"]()
    lines = (folder / "test.jsonl").read_text("utf-8").splitlines()[: asked.texts]
    texts = [json.loads(line)["text"] for line in lines]
    folders = {scheme: bundle(scheme, "tflite") for scheme in ("fp32", *SCHEMES)}
    loaded = {scheme: load(folder, threads=1) for scheme, folder in folders.items()}
    before, figures = os.getloadavg(), []
    reference = np.stack([np.asarray(loaded["fp32"].predict(text)) for text in texts])
    for scheme in SCHEMES:
        found = np.stack([np.asarray(loaded[scheme].predict(text)) for text in texts])
        cosines = (reference * found).sum(1) / np.linalg.norm(reference, axis=1) / np.linalg.norm(found, axis=1)
        draws = np.random.default_rng(0).choice(cosines, (2000, len(cosines))).mean(1)
        low, high = (float(each) for each in np.quantile(draws, (0.025, 0.975)))
        mean, worst = float(cosines.mean()), float(cosines.min())
        n = len(cosines)
        figures.append(Figure(f"{scheme}, mean cosine", mean, low, high, n, "", MEAN_TARGETS.get(scheme), "below"))
        figures.append(Figure(f"{scheme}, least cosine", worst, worst, worst, n, "", MIN_TARGETS.get(scheme), "below"))
        size = (folders[scheme] / "model.tflite").stat().st_size / 1e6
        target = 24.0 if scheme == "int8-dynamic" else None
        kept = str(loaded[scheme].manifest.measured.notes.get("kept", ""))
        figures.append(Figure(f"{scheme}, model.tflite", size, size, size, 1, "MB", target, note=kept))
    times = interleave(
        {scheme: call(predictor, asked.tokens) for scheme, predictor in loaded.items()},
        warmup=10,
        max_runs=3000,
        max_seconds=asked.seconds,
        settle=10,
    )
    for scheme in SCHEMES:
        figures.append(figure_of(f"{scheme} / fp32, {asked.tokens} tokens", ratio(times["fp32"], times[scheme])))
    static = ratio(times["int8-dynamic"], times["int8-static"])
    figures.append(figure_of(f"int8-static / int8-dynamic, {asked.tokens} tokens", static))
    tell("MiniLM in int8 on LiteRT", figures, before, asked.json, "1 thread")


if __name__ == "__main__":
    main()
