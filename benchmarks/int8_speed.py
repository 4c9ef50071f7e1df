"""int8-dynamic MiniLM against the best float32 session, and against a `transformers` pipeline in torch.

One thread, runs in turn, each after ten of its own that are not counted: float32 is as fast as it gets from
the eighth or so on, after another session has had the processor's caches. The best float32 session is the fastest, length by length, of satchel's float32 file with and
without onnxruntime's SkipLayerNormFusion, and of optimum's export where `convert_vs_optimum.py` left one.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import onnxruntime

from satchel_runtimes import load
from satchel_runtimes.measure import interleave, ratio
from setting import MADE, MODEL, SENTENCE, arguments, bundle, figure_of, tell

LENGTHS = {16: 2.9, 64: None, 128: 2.4}
_SETTLE = 10
INT8 = "int8-dynamic"


def session(file: Path, options: Mapping[str, str]) -> onnxruntime.InferenceSession:
    chosen = onnxruntime.SessionOptions()
    chosen.intra_op_num_threads = 1
    chosen.log_severity_level = 3
    for key, value in options.items():
        chosen.add_session_config_entry(key, value)
    return onnxruntime.InferenceSession(file, chosen, providers=["CPUExecutionProvider"])


def call(engine: onnxruntime.InferenceSession, tokens: int) -> Callable[[], object]:
    ids = ((np.arange(tokens, dtype=np.int64) * 7 + 5) % 20_000 + 1000)[None]
    inputs = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
    return lambda: engine.run(None, inputs)


def pipeline() -> Callable[[], object]:
    import torch
    import transformers

    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = transformers.pipeline("feature-extraction", model=str(MODEL), device="cpu")
    return lambda: made(SENTENCE, return_tensors=True)  # without it the pipeline also makes lists of floats


def main() -> None:
    asked = arguments(__doc__ or "", seconds=30.0)
    folders = {scheme: bundle(scheme) for scheme in (INT8, "fp32")}
    int8 = load(folders[INT8], threads=1)
    files = {
        INT8: session(folders[INT8] / "model.onnx", int8.manifest.target.engine.options),
        "fp32, default session": session(folders["fp32"] / "model.onnx", {}),
        "fp32 without SkipLayerNormFusion": session(
            folders["fp32"] / "model.onnx", {"optimization.disable_specified_optimizers": "SkipLayerNormFusion"}
        ),
    }
    shipped = load(folders["fp32"]).manifest.target.engine.options
    if shipped:
        files["fp32 as shipped"] = session(folders["fp32"] / "model.onnx", shipped)
    peer = MADE / "optimum/FP32/model.onnx"
    if peer.is_file():
        files["fp32 of optimum"] = session(peer, {})
    before, figures = os.getloadavg(), []
    for tokens, target in LENGTHS.items():
        calls = {name: call(engine, tokens) for name, engine in files.items()}
        times = interleave(calls, warmup=10, max_runs=5000, max_seconds=asked.seconds, settle=_SETTLE)
        best = min((name for name in times if name != INT8), key=lambda name: float(np.median(times[name])))
        found = ratio(times[best], times[INT8])
        figures.append(
            figure_of(f"int8 / best fp32, {tokens} tokens", found, target=target, worse="below", note=f"best: {best}")
        )
        for name, seconds in times.items():
            figures.append(figure_of(f"{name}, {tokens} tokens", seconds * 1e3, "ms"))
    torch_call = pipeline()
    calls = {
        "torch": torch_call,
        "embedding": lambda: int8.predict(SENTENCE),
        "features": lambda: int8.predict(SENTENCE, task="feature-extraction"),
    }
    times = interleave(calls, warmup=10, max_runs=5000, max_seconds=asked.seconds, settle=_SETTLE)
    for name, words in (("features", "feature-extraction"), ("embedding", "sentence-embedding")):
        found = ratio(times["torch"], times[name])
        figures.append(
            figure_of(f"predict ({words}) / transformers pipeline in torch", found, target=5.5, worse="below")
        )
    figures.append(figure_of("transformers pipeline in torch", times["torch"] * 1e3, "ms"))
    figures.append(figure_of("predict (feature-extraction)", times["features"] * 1e3, "ms"))
    tell("int8-dynamic MiniLM against float32", figures, before, asked.json, "1 thread")


if __name__ == "__main__":
    main()
