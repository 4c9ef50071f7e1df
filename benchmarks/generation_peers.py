"""SmolLM2-135M-Instruct on a CPU: satchel's bundles, transformers, optimum and onnxruntime-genai, asked in turn.

    sh benchmarks/peers/make_env.sh optimum && sh benchmarks/peers/make_env.sh genai
    python benchmarks/generation_peers.py [--threads 1] [--rounds 5] [--json]

Each writes in a process of its own, in the environment of its own, the likeliest tokens behind the same ids. All stay open and are
asked one after the other, so that a machine that slows down slows all of them. A token's rate is that behind the first one. The
same quantization is four bits in blocks of 32, or eight in blocks of 128; both run onnxruntime's products. genai's four bits have no
zero points (with them, its builder 0.18 writes a graph that does not load) and are those of every product; satchel keeps an eighth in eight.
"""

from __future__ import annotations

import json
import os
import runpy
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

import satchel
from satchel_runtimes.measure import ratio
from setting import MADE, ROOT, Figure, arguments, figure_of, run, tell

PROMPT = "The history of the city begins with a small village at the river, where"
TOKENS = 32
PEERS = ROOT / ".cache/peers"
WRITER = ROOT / "benchmarks/peers/writer.py"
# What a satchel bundle is compared with, and at least how many times as fast it is to be.
PAIRS = {
    ("satchel fp32", "transformers fp32"): 2.3,
    ("satchel int8-weights", "transformers fp32"): 5.0,
    ("satchel int4-weights", "transformers fp32"): 5.0,
    ("satchel fp32", "optimum fp32"): 1.0,
    ("satchel fp32", "genai fp32"): 1 / 1.2,
    ("satchel int8-weights", "genai int8"): 1 / 1.2,
    ("satchel int4-weights", "genai int4"): 1 / 1.2,
}


@dataclass
class Writer:
    """A process that writes when it is asked, and what it said so far."""

    process: subprocess.Popen[str]
    first: list[float] = field(default_factory=list)
    each: list[float] = field(default_factory=list)  # seconds of a token behind the first
    ids: list[int] = field(default_factory=list)
    peak_mb: float = 0.0

    def ask(self, ids: list[int], tokens: int, *, counts: bool = True) -> None:
        assert self.process.stdin is not None  # a pipe
        self.process.stdin.write(json.dumps({"ids": ids, "tokens": tokens}) + "\n")
        self.process.stdin.flush()
        said = self.answer()
        self.ids, self.peak_mb = said["ids"], said["peak_mb"]
        if counts:
            self.first.append(said["first"])
            self.each.append((said["last"] - said["first"]) / (tokens - 1))

    def answer(self) -> Any:  # Any: JSON
        assert self.process.stdout is not None  # a pipe
        line = self.process.stdout.readline()
        if not line:
            sys.exit(f"{' '.join(map(str, self.process.args))[:200]} ended")  # type: ignore[arg-type]  # a list of strings
        return json.loads(line)


def started(python: Path | str, kind: str, model: Path, threads: int) -> Writer:
    env = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    command = [str(python), str(WRITER), kind, str(model), str(threads)]
    made = Writer(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env))
    made.answer()
    return made


def bundle(scheme: str, source: Path) -> Path:
    out = MADE / f"smollm2-{scheme}.satchel"
    return satchel.convert(
        source, device="generic-x86-64", format="onnx", quantize=scheme, prefer="size", out=out, replace=True
    )


def of_optimum(source: Path) -> Path:
    """As `optimum-cli export onnx` writes it, kept between runs."""
    out = MADE / "smollm2-optimum"
    if not (out / "model.onnx").is_file():
        tool = PEERS / "optimum/bin/optimum-cli"
        run([str(tool), "export", "onnx", "--model", str(source), "--task", "text-generation-with-past", str(out)])
    return out


def of_genai(source: Path, precision: str) -> Path:
    """As onnxruntime-genai's own builder writes it, with the settings of satchel's scheme; kept between runs. The builder is a
    script that needs torch and transformers, so it runs here."""
    out = MADE / f"smollm2-genai-{precision}"
    if not (out / "genai_config.json").is_file():
        (builder,) = (PEERS / "genai").glob("lib/python3*/site-packages/onnxruntime_genai/models/builder.py")
        block = {"int4": ["block_size=32"], "int8": ["block_size=128"]}.get(precision, [])
        extra = ["--extra_options", "accuracy_level=4", *block] if block else []
        cache = str(MADE / "genai-cache")
        run(
            [
                sys.executable,
                str(builder),
                "-i",
                str(source),
                "-o",
                str(out),
                "-p",
                precision,
                "-e",
                "cpu",
                "-c",
                cache,
                *extra,
            ]
        )
    return out


def contenders(source: Path, threads: int) -> dict[str, Writer]:
    found = {"transformers fp32": started(sys.executable, "transformers", source, threads)}
    for scheme in ("fp32", "int8-weights", "int4-weights"):
        found[f"satchel {scheme}"] = started(sys.executable, "satchel", bundle(scheme, source), threads)
    for peer in ("optimum", "genai"):
        if not (PEERS / peer / "requirements.txt").is_file():
            print(f"without {peer}: sh benchmarks/peers/make_env.sh {peer}", file=sys.stderr)
            continue
        python = PEERS / peer / "bin/python"
        if peer == "optimum":
            found["optimum fp32"] = started(python, peer, of_optimum(source), threads)
        for precision in ("fp32", "int8", "int4") if peer == "genai" else ():
            found[f"genai {precision}"] = started(python, peer, of_genai(source, precision), threads)
    return found


def main() -> None:
    asked = arguments(__doc__ or "", threads=1, rounds=5)
    before = os.getloadavg()
    source = runpy.run_path(str(ROOT / "examples" / "real_models.py"))["smollm2"]()
    import tokenizers

    ids = tokenizers.Tokenizer.from_file(str(source / "tokenizer.json")).encode(PROMPT).ids
    writers = contenders(source, asked.threads)
    for turn in range(asked.rounds + 1):
        for writer in writers.values():
            writer.ask(ids, TOKENS, counts=turn > 0)
    figures: list[Figure] = []
    exact = writers["transformers fp32"].ids
    for name, writer in writers.items():
        same = next((i for i, (a, b) in enumerate(zip(writer.ids, exact)) if a != b), TOKENS)
        note = f"{same} of {TOKENS} tokens as transformers"
        figures.append(figure_of(name, 1 / np.array(writer.each), "tokens/s", note=note))
        figures.append(figure_of(f"{name}: to the first token", np.array(writer.first) * 1e3, "ms"))
        figures.append(Figure(f"{name}: peak memory", writer.peak_mb, writer.peak_mb, writer.peak_mb, 1, "MB"))
    for (ours, theirs), least in PAIRS.items():
        if theirs in writers:
            found = ratio(np.array(writers[theirs].each), np.array(writers[ours].each))
            target = least if asked.threads == 1 or "transformers" not in theirs else None
            figures.append(figure_of(f"{ours} / {theirs}", found, target=target, worse="below"))
    for writer in writers.values():
        writer.process.terminate()
    tell(f"SmolLM2-135M-Instruct and peers, {TOKENS} tokens", figures, before, asked.json, f"{asked.threads} threads")


if __name__ == "__main__":
    main()
