"""Tokens per second of SmolLM2-135M-Instruct: bundles of satchel beside transformers' generate, in one interleaved run.

    python benchmarks/generation_speed.py [--threads 1] [--rounds 7] [--json]

Each round every contender writes the same number of tokens behind the same prompt, once unmeasured and once measured, since the
others have filled the caches. Decoding is what comes behind the first token: the time of all less that of the first. The limit is
the time that reading the weights of a token once takes at the rate at which torch multiplies a large matrix with a vector here.
"""

from __future__ import annotations

import os
import runpy
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import satchel
from satchel_runtimes import Predictor, load
from satchel_runtimes.generation.texts import Texts
from satchel_runtimes.measure import interleave, ratio
from satchel_runtimes.sessions import Session
from setting import MADE, ROOT, Figure, arguments, figure_of, run, tell

PROMPT = "The history of the city begins with a small village at the river, where"
TOKENS = 32
# Bytes of an embedding that are looked up, and not read with the other weights: those of a table beside the head's own.
SCHEMES = {"fp32": 0, "int8-weights": 0, "int4-weights": 1}
TARGETS = {"fp32": 2.3, "int8-weights": 5.0, "int4-weights": 5.0}  # times transformers at one thread
PEAK = """import sys
from satchel_runtimes import load
from satchel_runtimes.measure import peak_rss_bytes
load(sys.argv[1], threads=1).predict(sys.argv[2], max_new_tokens=32)
print(peak_rss_bytes())"""  # of itself: a large parent's own peak goes on to a child in what the system counts


def bandwidth(threads: int) -> float:
    """Bytes a second of a matrix-vector product, float32."""
    import torch

    torch.set_num_threads(threads)
    matrix, vector = torch.ones(32768, 4096), torch.ones(4096)
    best = 0.0
    for _ in range(9):
        start = time.perf_counter()
        torch.mv(matrix, vector)
        best = max(best, matrix.numel() * 4 / (time.perf_counter() - start))
    return best


def bundle(scheme: str, source: Path) -> Path:
    out = MADE / f"smollm2-{scheme}.satchel"
    return satchel.convert(
        source, device="generic-x86-64", format="onnx", quantize=scheme, prefer="size", out=out, replace=True
    )


def transformers_of(source: Path) -> tuple[Callable[[int], Callable[[], object]], np.ndarray, int]:
    """What writes so many tokens, the ids of the prompt, and the number of weights in the embedding table."""
    import torch
    import transformers

    reader = transformers.AutoTokenizer.from_pretrained(source)
    model = transformers.AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32).eval()
    given = reader(PROMPT, return_tensors="pt")

    def write(tokens: int) -> None:
        with torch.inference_mode():
            model.generate(**given, max_new_tokens=tokens, min_new_tokens=tokens, do_sample=False)

    table: Any = model.get_input_embeddings()  # Any: of one of many classes
    return lambda tokens: lambda: write(tokens), given["input_ids"][0].numpy(), table.weight.numel()


def writes(opened: Predictor) -> Callable[[], object]:
    return lambda: opened.predict(PROMPT, max_new_tokens=TOKENS, min_new_tokens=TOKENS)


def steps(session: Session, ids: np.ndarray) -> Callable[[], object]:
    """The calls of the engine that greedy search makes, and nothing else."""

    def run() -> None:
        texts = Texts(session, 1, len(ids) + TOKENS)
        texts.read([ids])
        for number in range(TOKENS - 1):
            texts.step(ids[number % len(ids)][None])

    return run


def begins(opened: Predictor) -> Callable[[], object]:
    """Up to the first token of a prompt that was not seen before."""
    return lambda: opened.predict(PROMPT, max_new_tokens=1)


def main() -> None:
    asked = arguments(__doc__ or "", threads=1, rounds=7)
    before = os.getloadavg()
    source = runpy.run_path(str(ROOT / "examples" / "real_models.py"))["smollm2"]()
    theirs, ids, table = transformers_of(source)
    calls = {"theirs": theirs(TOKENS), "first theirs": theirs(1)}
    sizes, paths = {}, {}
    for scheme, width in SCHEMES.items():
        path = paths[scheme] = bundle(scheme, source)
        opened = load(path, threads=asked.threads)
        calls[scheme], calls[f"bare {scheme}"] = writes(opened), steps(opened.graphs["model"], ids)
        sizes[scheme] = (path / "model.onnx").stat().st_size - table * width
        calls[f"first {scheme}"] = begins(opened)
    peaks = {
        name: int(run([sys.executable, "-c", PEAK, str(path), PROMPT]).out) / 2**20 for name, path in paths.items()
    }
    rate = bandwidth(asked.threads)
    times = interleave(calls, warmup=1, min_runs=asked.rounds, max_runs=asked.rounds, settle=1)

    def decoding(name: str) -> np.ndarray:
        """Seconds of all tokens but the first."""
        found: np.ndarray = times[name] - times[f"first {name}"]
        return found

    figures: list[Figure] = [Figure("bandwidth", rate / 1e9, rate / 1e9, rate / 1e9, 9, "GB/s")]
    for name in ("theirs", *SCHEMES):
        said = "transformers' generate, torch fp32" if name == "theirs" else f"satchel {name}"
        figures.append(figure_of(said, (TOKENS - 1) / decoding(name), "tokens/s"))
    for scheme, size in sizes.items():
        target = TARGETS[scheme] if asked.threads == 1 else None
        found = ratio(decoding("theirs"), decoding(scheme))
        figures.append(figure_of(f"{scheme}: decoding, times transformers", found, target=target, worse="below"))
        figures.append(figure_of(f"{scheme}: with the prompt", ratio(times["theirs"], times[scheme])))
        added = ratio(times[scheme], times[f"bare {scheme}"])
        figures.append(figure_of(f"{scheme}: predict / its bare calls", added, target=1.05))
        figures.append(figure_of(f"{scheme}: to the first token", times[f"first {scheme}"] * 1e3, "ms"))
        peak = peaks[scheme]
        figures.append(Figure(f"{scheme}: peak memory of a fresh process", peak, peak, peak, 1, "MB"))
        least = size / rate * TOKENS
        limit = 0.7 if scheme == "fp32" else None
        figures.append(
            figure_of(f"{scheme}: of the bandwidth limit", least / times[f"bare {scheme}"], target=limit, worse="below")
        )
    tell(f"SmolLM2-135M-Instruct, {TOKENS} tokens", figures, before, asked.json, f"{asked.threads} threads")


if __name__ == "__main__":
    main()
