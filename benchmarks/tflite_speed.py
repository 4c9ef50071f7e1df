"""MiniLM on LiteRT against the best float32 session of onnxruntime, one thread, runs in turn.

Each run comes after ten of its own that are not counted, as in `int8_speed.py`. LiteRT's calls are those of satchel's session: the
signature that fits exactly, nothing to pad.
"""

from __future__ import annotations

import os
from collections.abc import Callable

import numpy as np

from satchel_runtimes import Predictor, load
from satchel_runtimes.measure import interleave, ratio
from setting import arguments, bundle, figure_of, tell

LENGTHS = (16, 64, 128)
TARGETS = {("int8-dynamic", 128): 3.0, ("fp32", 128): 1.1}
_SETTLE = 10


def call(predictor: Predictor, tokens: int) -> Callable[[], object]:
    session = predictor.graphs["model"]
    ids = ((np.arange(tokens) * 7 + 5) % 20_000 + 1000)[None]
    values = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
    inputs = {spec.name: values[spec.name].astype(spec.dtype) for spec in session.inputs}
    return lambda: session.run(inputs)


def main() -> None:
    asked = arguments(__doc__ or "", seconds=20.0)
    loaded = {
        f"{format} {scheme}": load(bundle(scheme, format), threads=1)
        for format in ("onnx", "tflite")
        for scheme in ("fp32", "int8-dynamic")
    }
    before, figures = os.getloadavg(), []
    for tokens in LENGTHS:
        calls = {name: call(predictor, tokens) for name, predictor in loaded.items()}
        times = interleave(calls, warmup=10, max_runs=3000, max_seconds=asked.seconds, settle=_SETTLE)
        for scheme in ("int8-dynamic", "fp32"):
            found = ratio(times["onnx fp32"], times[f"tflite {scheme}"])
            target = TARGETS.get((scheme, tokens))
            figures.append(
                figure_of(f"tflite {scheme} / onnx fp32, {tokens} tokens", found, target=target, worse="below")
            )
        found = ratio(times["onnx int8-dynamic"], times["tflite int8-dynamic"])
        figures.append(figure_of(f"tflite int8-dynamic / onnx int8-dynamic, {tokens} tokens", found))
        for name, seconds in times.items():
            figures.append(figure_of(f"{name}, {tokens} tokens", seconds * 1e3, "ms"))
    tell("MiniLM on LiteRT against onnxruntime", figures, before, asked.json, "1 thread")


if __name__ == "__main__":
    main()
