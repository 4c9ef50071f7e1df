"""`satchel.convert` of MiniLM to int8, float twin and verification included, against optimum's export and quantize.

Rounds in turn, each satchel round from an empty stage cache. Then another scheme of the same model from the cache that
the first left. Optimum's environment is made by `benchmarks/peers/make_env.sh optimum`.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np

from satchel_runtimes.measure import ratio
from setting import CONVERT, MADE, MODEL, ROOT, Cost, arguments, figure_of, run, tell

CLI = ROOT / ".cache/peers/optimum/bin/optimum-cli"


def satchel(folder: Path, scheme: str) -> tuple[Cost, dict[str, float]]:
    """One conversion in a process of its own, and the seconds of its stages."""
    out = folder / f"{scheme}.satchel"
    cost = run(
        [sys.executable, "-c", CONVERT, str(MODEL), scheme, str(out), "onnx"], {"SATCHEL_CACHE": str(folder / "cache")}
    )
    seconds: dict[str, float] = json.loads((folder / f"{scheme}.report.json").read_text())["seconds"]
    return cost, seconds


def optimum(folder: Path) -> Cost:
    shutil.rmtree(folder, ignore_errors=True)
    float32, int8 = folder / "FP32", folder / "INT8"
    quiet = {"HF_HUB_OFFLINE": "1"}
    export = run(
        [str(CLI), "export", "onnx", "--model", str(MODEL), "--task", "feature-extraction", str(float32)], quiet
    )
    quantize = [
        "onnxruntime",
        "quantize",
        "--avx512_vnni",
        "--per_channel",
        "--onnx_model",
        str(float32),
        "-o",
        str(int8),
    ]
    second = run([str(CLI), *quantize], quiet)
    return Cost(export.wall_s + second.wall_s, export.cpu_s + second.cpu_s, max(export.peak_mb, second.peak_mb), "")


def main() -> None:
    asked = arguments(__doc__ or "", rounds=5)
    if not CLI.is_file():
        sys.exit("make the peer's environment first: benchmarks/peers/make_env.sh optimum")
    before = os.getloadavg()
    costs: dict[str, list[Cost]] = {"satchel": [], "optimum": [], "second": []}
    stages: dict[str, list[dict[str, float]]] = {"satchel": [], "second": []}
    for turn in range(asked.rounds + 1):
        folder = Path(tempfile.mkdtemp(prefix="satchel-bench-"))
        try:
            first, seconds = satchel(folder, "int8-dynamic")
            peer = optimum(MADE / "optimum")
            second, more = satchel(folder, "fp32")
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        if turn:  # the first round brings both toolchains into the system's cache
            stages["satchel"].append(seconds)
            stages["second"].append(more)
            for name, cost in (("satchel", first), ("optimum", peer), ("second", second)):
                costs[name].append(cost)

    def column(name: str, field: str) -> np.ndarray:
        return np.array([getattr(cost, field) for cost in costs[name]])

    figures = [
        figure_of(
            "wall time: satchel / optimum", ratio(column("satchel", "wall_s"), column("optimum", "wall_s")), target=1.3
        ),
        figure_of(
            "peak RSS: satchel / optimum", ratio(column("satchel", "peak_mb"), column("optimum", "peak_mb")), target=1.1
        ),
        figure_of(
            "a second scheme (fp32) / the first",
            ratio(column("second", "wall_s"), column("satchel", "wall_s")),
            target=0.4,
        ),
    ]
    names = {
        "satchel": "satchel, int8-dynamic",
        "optimum": "optimum, export and quantize",
        "second": "satchel, then fp32",
    }
    for name, words in names.items():
        figures.append(figure_of(f"{words}: wall time", column(name, "wall_s"), "s"))
        figures.append(figure_of(f"{words}: CPU time", column(name, "cpu_s"), "s"))
        figures.append(figure_of(f"{words}: peak RSS of the largest process", column(name, "peak_mb"), "MiB"))
    for name, found in stages.items():
        for stage in found[0]:
            spent = np.array([each[stage] for each in found])
            figures.append(figure_of(f"{names[name]}: of which {stage}", spent, "s"))
    tell("Converting MiniLM to int8 against optimum-cli", figures, before, asked.json, "as many threads as each likes")


if __name__ == "__main__":
    main()
