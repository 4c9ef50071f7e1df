"""A fresh process that loads an int8 bundle and predicts once, against the same by hand; the whole process each, in two formats.

Hashes were checked in an earlier process (`verify="once"`), and the files are in the system's cache for both.
"""

from __future__ import annotations

import argparse
import os
import sys

import numpy as np

from satchel_runtimes import load
from satchel_runtimes.measure import ratio
from setting import SENTENCE, Cost, arguments, bundle, figure_of, run, tell

# The peak is read inside the child: what wait4 says of a child includes what its parent held before the exec.
_PEAK = """
for line in open("/proc/self/status"):
    if line.startswith("VmHWM:"):
        print(int(line.split()[1]) / 1024)
"""

SATCHEL = f"""
import sys
from satchel_runtimes import load
load(sys.argv[1], threads=1, verify="once").predict({SENTENCE!r})
{_PEAK}"""

BARE = {}
BARE["onnx"] = f"""
import sys
import numpy as np
import onnxruntime
import tokenizers
tokenizer = tokenizers.Tokenizer.from_file(sys.argv[1] + "/tokenizer.json")
tokenizer.no_padding()
tokenizer.enable_truncation(256)
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = 1
options.add_session_config_entry("optimization.disable_specified_optimizers", "SkipLayerNormFusion")
session = onnxruntime.InferenceSession(sys.argv[1] + "/model.onnx", options, providers=["CPUExecutionProvider"])
encoding = tokenizer.encode({SENTENCE!r})
mask = np.array([encoding.attention_mask], dtype=np.int64)
ids, kinds = np.array([encoding.ids], dtype=np.int64), np.array([encoding.type_ids], dtype=np.int64)
(states,) = session.run(None, {{"input_ids": ids, "attention_mask": mask, "token_type_ids": kinds}})
weights = mask[:, :, None].astype(np.float32)
pooled = (states * weights).sum(axis=1) / weights.sum(axis=1)
vector = pooled[0] / np.linalg.norm(pooled[0])
{_PEAK}"""

BARE["tflite"] = f"""
import sys
import numpy as np
import tokenizers
from ai_edge_litert.interpreter import Interpreter
tokenizer = tokenizers.Tokenizer.from_file(sys.argv[1] + "/tokenizer.json")
tokenizer.no_padding()
tokenizer.enable_truncation(128)
runner = Interpreter(sys.argv[1] + "/model.tflite", num_threads=1).get_signature_runner("sequence_16")
encoding = tokenizer.encode({SENTENCE!r})
ids, mask, kinds = (np.zeros((1, 16), dtype=np.int32) for _ in range(3))
count = len(encoding.ids)
ids[0, :count], mask[0, :count], kinds[0, :count] = encoding.ids, encoding.attention_mask, encoding.type_ids
states = runner(input_ids=ids, attention_mask=mask, token_type_ids=kinds)["last_hidden_state"]
weights = mask[:, :, None].astype(np.float32)
pooled = (states * weights).sum(axis=1) / weights.sum(axis=1)
vector = pooled[0] / np.linalg.norm(pooled[0])
{_PEAK}"""
TARGETS = {"onnx": 1.15, "tflite": 1.1}


def main() -> None:
    asked = arguments(__doc__ or "", pairs=25)
    for format in BARE:
        measure(format, asked)


def measure(format: str, asked: argparse.Namespace) -> None:
    folder, target = str(bundle("int8-dynamic", format)), TARGETS[format]
    load(folder, verify="once")
    scripts = {
        "satchel": [sys.executable, "-c", SATCHEL, folder],
        "bare": [sys.executable, "-c", BARE[format], folder],
        "numpy": [sys.executable, "-c", "import numpy"],
        "runtimes": [sys.executable, "-c", "import satchel_runtimes"],
    }
    for command in scripts.values():
        run(command)
    before = os.getloadavg()
    costs: dict[str, list[Cost]] = {name: [] for name in scripts}
    for _ in range(asked.pairs):
        for name, command in scripts.items():
            costs[name].append(run(command))

    def column(name: str, field: str) -> np.ndarray:
        return np.array([getattr(cost, field) for cost in costs[name]])

    peaks = {name: np.array([float(cost.out) for cost in costs[name]]) for name in ("satchel", "bare")}
    figures = [
        figure_of(f"{words}: satchel / bare", ratio(column("satchel", field), column("bare", field)), target=target)
        for field, words in (("wall_s", "wall time"), ("cpu_s", "CPU time"))
    ]
    figures.append(figure_of("peak RSS: satchel / bare", ratio(peaks["satchel"], peaks["bare"]), target=target))
    for name in ("satchel", "bare"):
        figures.append(figure_of(f"{name}: wall time", column(name, "wall_s") * 1e3, "ms"))
        figures.append(figure_of(f"{name}: CPU time", column(name, "cpu_s") * 1e3, "ms"))
        figures.append(figure_of(f"{name}: peak RSS", peaks[name], "MiB"))
    more = (column("runtimes", "wall_s") - column("numpy", "wall_s")) * 1e3
    figures.append(figure_of("import satchel_runtimes beyond import numpy", more, "ms", target=30.0))
    tell(f"A cold start of int8 MiniLM in {format}, whole process", figures, before, asked.json, "1 thread")


if __name__ == "__main__":
    main()
