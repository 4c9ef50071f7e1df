"""`satchel.convert` of a tiny BERT, gates and all, against its exporter alone, in each format.

What the exporter does is what its own manual says: load the checkpoint, export with a dynamic batch and length (LiteRT: with
the lengths that satchel's bundle has), write one file. No tokenizer, no comparison, no measurement. Rounds in turn, each in processes of their own and
from an empty stage cache.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np

from matrix.cell import model_of
from matrix.rows import ROWS
from satchel_runtimes.measure import ratio
from setting import CONVERT, MADE, Cost, Figure, arguments, figure_of, run, tell

_LOAD = """import sys, torch, transformers
model = transformers.AutoModelForSequenceClassification.from_pretrained(sys.argv[1]).eval()
ids = torch.ones((2, 11), dtype=torch.long)
"""
EXPORTERS = {
    "onnx": _LOAD
    + """batch, length = torch.export.Dim("batch"), torch.export.Dim("length", max=128)
shapes = {name: {0: batch, 1: length} for name in ("input_ids", "attention_mask")}
inputs = {"input_ids": ids, "attention_mask": ids}
torch.onnx.export(model, kwargs=inputs, f=sys.argv[2], dynamo=True, dynamic_shapes=shapes, opset_version=20)
""",
    "torchscript": _LOAD
    + """torch.jit.save(torch.jit.trace(model, (ids, ids), strict=False), sys.argv[2])
""",
    "tflite": _LOAD
    + """import litert_torch
made = litert_torch
for length in (16, 32, 64, 128):  # the buckets of the profile, in one file as satchel writes them
    ids = torch.ones((1, length), dtype=torch.long)
    made = made.signature(f"length_{length}", model, (ids, ids))
made.convert().export(sys.argv[2])
""",
}


def main() -> None:
    asked = arguments(__doc__ or "", rounds=5)
    row = next(row for row in ROWS if row.name == "bert text-classification")
    model = model_of(row, MADE)
    before = os.getloadavg()
    costs: dict[str, list[tuple[Cost, Cost]]] = {name: [] for name in EXPORTERS}
    for turn in range(asked.rounds + 1):
        for format, code in EXPORTERS.items():
            folder = Path(tempfile.mkdtemp(prefix="satchel-bench-"))
            try:
                ours = run(
                    [sys.executable, "-c", CONVERT, str(model), "fp32", str(folder / "tiny.satchel"), format],
                    {"SATCHEL_CACHE": str(folder / "cache")},
                )
                theirs = run([sys.executable, "-c", code, str(model), str(folder / "raw")])
            finally:
                shutil.rmtree(folder, ignore_errors=True)
            if turn:  # the first round brings the toolchains into the system's cache
                costs[format].append((ours, theirs))
    figures: list[Figure] = []
    for format, pairs in costs.items():
        ours_s, theirs_s = (np.array([pair[side].wall_s for pair in pairs]) for side in (0, 1))
        figures.append(
            figure_of(f"{format}: satchel / the exporter alone, wall time", ratio(ours_s, theirs_s), target=1.3)
        )
        figures += [
            figure_of(f"{format}: {name}", values, "s")
            for name, values in (("satchel", ours_s), ("exporter", theirs_s))
        ]
    tell(
        "Converting a tiny BERT against its exporter alone",
        figures,
        before,
        asked.json,
        "as many threads as each likes",
    )


if __name__ == "__main__":
    main()
