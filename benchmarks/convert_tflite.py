"""`satchel.convert` of MiniLM to TFLite, from an empty stage cache, against `litert_torch.convert` alone with the same signatures.

Whole processes in turn, imports included on both sides. satchel's also holds 72 golden samples through torch and through the artifact, alone and in
batches, a cold start, and the latency at two lengths.
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
from setting import CONVERT, MODEL, Cost, arguments, figure_of, run, tell

ALONE = """import sys, torch, transformers, litert_torch
model = transformers.AutoModel.from_pretrained(sys.argv[1]).eval()
class Encoder(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.model = model
    def forward(self, input_ids, attention_mask, token_type_ids):
        mask = (1.0 - attention_mask[:, None, None, :].to(torch.float32)) * torch.finfo(torch.float32).min
        found = self.model(input_ids=input_ids, attention_mask=mask, token_type_ids=token_type_ids)
        return {"last_hidden_state": found.last_hidden_state}
made = litert_torch
for length in (16, 32, 64, 128):
    inputs = {name: torch.ones(1, length, dtype=torch.int32) for name in ("input_ids", "attention_mask", "token_type_ids")}
    made = made.signature(f"sequence_{length}", Encoder().eval(), sample_kwargs=inputs)
made.convert().export(sys.argv[2])"""


def satchel(folder: Path) -> tuple[Cost, dict[str, float]]:
    out = folder / "fp32.satchel"
    cost = run(
        [sys.executable, "-c", CONVERT, str(MODEL), "fp32", str(out), "tflite"],
        {"SATCHEL_CACHE": str(folder / "cache")},
    )
    seconds: dict[str, float] = json.loads((folder / "fp32.report.json").read_text())["seconds"]
    return cost, seconds


def main() -> None:
    asked = arguments(__doc__ or "", rounds=3)
    before = os.getloadavg()
    costs: dict[str, list[Cost]] = {"satchel": [], "alone": []}
    stages: list[dict[str, float]] = []
    for turn in range(asked.rounds + 1):
        folder = Path(tempfile.mkdtemp(prefix="satchel-bench-"))
        try:
            whole, seconds = satchel(folder)
            alone = run([sys.executable, "-c", ALONE, str(MODEL), str(folder / "alone.tflite")])
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        if turn:  # the first round brings the toolchain into the system's cache
            stages.append(seconds)
            costs["satchel"].append(whole)
            costs["alone"].append(alone)

    def column(name: str, field: str) -> np.ndarray:
        return np.array([getattr(cost, field) for cost in costs[name]])

    figures = [
        figure_of(
            "wall time: satchel / litert_torch alone",
            ratio(column("satchel", "wall_s"), column("alone", "wall_s")),
            target=1.1,
        ),
        figure_of("satchel: peak RSS of the largest process", column("satchel", "peak_mb"), "MiB", target=1536.0),
    ]
    for name, words in (("satchel", "satchel, fp32"), ("alone", "litert_torch alone")):
        figures.append(figure_of(f"{words}: wall time", column(name, "wall_s"), "s"))
        figures.append(figure_of(f"{words}: CPU time", column(name, "cpu_s"), "s"))
        figures.append(figure_of(f"{words}: peak RSS", column(name, "peak_mb"), "MiB"))
    for stage in stages[0]:
        figures.append(figure_of(f"satchel: of which {stage}", np.array([each[stage] for each in stages]), "s"))
    tell("Converting MiniLM to TFLite", figures, before, asked.json, "as many threads as each likes")


if __name__ == "__main__":
    main()
