"""MiniLM in every ONNX scheme: what the bundle weighs, how near its embeddings are to float32, how fast it is.

200 texts: the first of Reuters R8's test file, and the built-in golden ones. Calibrated on the built-in calibration texts, which are
others. "Plain int8-dynamic" is onnxruntime's quantizer alone, per channel, with int8 embeddings, in the same session options. One
thread, runs in turn.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np

from int8_speed import call, session
from satchel_converters import onnx as onnx_format
from satchel_converters.format import Artifact
from satchel_converters.samples import TEXTS
from satchel_device_profiles import load_profile
from satchel_runtimes import load
from satchel_runtimes.manifest import Graph
from satchel_runtimes.measure import interleave, ratio
from setting import MADE, ROOT, Figure, arguments, bundle, figure_of, tell

SCHEMES = ("int8-dynamic", "int8-static", "int8-mixed", "int8-weights", "int4-weights", "fp16")
LENGTHS = (16, 128)
COUNT = 200
LEAST_COSINE = {"int8-dynamic": 0.99}  # and what must hold of the mean:
MEAN_COSINE = {"int8-static": 0.98}
SIZE_MIB, SLOWER = 24.0, 1.1


def texts() -> list[str]:
    lines = (ROOT / ".cache/data/reuters-r8/test.jsonl").read_text("utf-8").splitlines()
    return [json.loads(line)["text"] for line in lines[: COUNT - len(TEXTS)]] + list(TEXTS)


def plain(folder: Path, twin: Path) -> Path:
    """int8-dynamic without samples: nothing but the quantizer."""
    folder.mkdir(parents=True, exist_ok=True)
    writer = onnx_format.FORMAT
    plan = writer.plan(writer.scheme("int8-dynamic"), load_profile("generic-x86-64"), {})
    graph = Graph("model", "model.onnx", (), ())
    writer.apply(Artifact(twin, (graph,), ("model.onnx",)), plan, folder, lambda _: iter(()), lambda *news: None)
    return folder / "model.onnx"


def embeddings(folder: Path, wanted: list[str]) -> np.ndarray:
    predictor = load(folder, threads=1)
    found = np.array([np.asarray(predictor.predict(each), np.float32) for each in wanted])
    unit: np.ndarray = found / np.linalg.norm(found, axis=1, keepdims=True)
    return unit


def main() -> None:
    asked = arguments(__doc__ or "", seconds=20.0)
    folders = {"fp32": bundle("fp32")}
    for scheme in SCHEMES:
        folders[scheme] = bundle(scheme)
    options = load(folders["int8-dynamic"]).manifest.target.engine.options
    before, figures = os.getloadavg(), []
    wanted = texts()
    reference = embeddings(folders["fp32"], wanted)
    for scheme in SCHEMES:
        weight = sum(file.stat().st_size for file in folders[scheme].rglob("*") if file.is_file()) / 2**20
        target = SIZE_MIB if scheme in LEAST_COSINE else None
        figures.append(Figure(f"{scheme}: bundle", weight, weight, weight, 1, "MiB", target))
        cosines = (embeddings(folders[scheme], wanted) * reference).sum(axis=1)
        mean, least = float(cosines.mean()), float(cosines.min())
        for name, value, goal in (("mean", mean, MEAN_COSINE), ("least", least, LEAST_COSINE)):
            figures.append(
                Figure(f"{scheme}: {name} cosine", value, value, value, COUNT, "", goal.get(scheme), "below")
            )
    sessions = {
        scheme: session(folder / "model.onnx", load(folder).manifest.target.engine.options)
        for scheme, folder in folders.items()
    }
    sessions["plain"] = session(plain(MADE / "plain-int8", folders["fp32"]), options)
    for tokens in LENGTHS:
        calls = {name: call(engine, tokens) for name, engine in sessions.items()}
        times = interleave(calls, warmup=10, max_runs=5000, max_seconds=asked.seconds, settle=10)
        for scheme in SCHEMES:
            target = 1.0 if scheme in MEAN_COSINE else None
            found = ratio(times["fp32"], times[scheme])
            figures.append(figure_of(f"{scheme} / fp32 speed, {tokens} tokens", found, target=target, worse="below"))
            found = ratio(times[scheme], times["plain"])
            target = SLOWER if scheme in LEAST_COSINE else None
            figures.append(figure_of(f"{scheme} / plain int8-dynamic time, {tokens} tokens", found, target=target))
    tell("MiniLM in every ONNX scheme", figures, before, asked.json, "1 thread")


if __name__ == "__main__":
    main()
