"""What the scripts beside this file share: the model, its bundles, processes that are timed, and how figures are told."""

from __future__ import annotations

import argparse
import dataclasses
import importlib.metadata
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from satchel_runtimes.measure import Ratio, machine, median_interval

__all__ = ["CONVERT", "MODEL", "ROOT", "SENTENCE", "Cost", "Figure", "arguments", "bundle", "figure_of", "run", "tell"]

ROOT = Path(__file__).resolve().parents[1]
MODEL = ROOT / ".cache/models/all-MiniLM-L6-v2"  # where `make quickstart` fetches it
# What `satchel convert MODEL --device generic-x86-64 --quantize SCHEME --format FORMAT --prefer size --out OUT --replace` does.
CONVERT = """import sys, satchel
satchel.convert(
    sys.argv[1], device="generic-x86-64", quantize=sys.argv[2], format=sys.argv[4], prefer="size", out=sys.argv[3], replace=True
)"""
MADE = ROOT / ".cache/benchmarks"
SENTENCE = "Where is my order?"
# A source tree may be told to keep no bytecode; an installed wheel has it, so the processes that are timed write theirs.
_COMPILED = {"PYTHONDONTWRITEBYTECODE": ""}
_VERSIONS = ("onnxruntime", "ai-edge-litert", "tokenizers", "numpy", "transformers", "torch")


@dataclass(frozen=True)
class Figure:
    """A median with its 95 % bounds. `target` is in the same unit, and `worse` says on which side of it to miss is."""

    what: str
    value: float
    low: float
    high: float
    n: int
    unit: str = "x"
    target: float | None = None
    worse: str = "above"
    note: str = ""

    @property
    def met(self) -> str:
        """Whether the target was reached: "unclear" where it lies within the spread, whatever the median says."""
        if self.target is None:
            return ""
        if self.low <= self.target <= self.high and self.low < self.high:
            return "unclear"
        return "yes" if (self.value <= self.target) == (self.worse == "above") else "**no**"


@dataclass(frozen=True)
class Cost:
    """What one process cost, with the processes that it waited for; memory is of the largest of them."""

    wall_s: float
    cpu_s: float
    peak_mb: float
    out: str


def arguments(about: str, **defaults: float) -> argparse.Namespace:
    """The options of a script: `--json`, and a number for each of `defaults`."""
    parser = argparse.ArgumentParser(description=about.strip().splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print JSON after the table")
    for name, value in defaults.items():
        parser.add_argument(f"--{name}", type=type(value), default=value, help=f"default {value}")
    return parser.parse_args()


def bundle(scheme: str, format: str = "onnx") -> Path:
    """A bundle of MiniLM for generic-x86-64, made now by this tree.

    In a process of its own: what a conversion leaves in the heap, 200 MiB of it, would hide a leak and swell every peak.
    """
    if not MODEL.is_dir():
        sys.exit(f"the model is not at {MODEL}; make quickstart fetches it")
    out = MADE / f"{format}-{scheme}.satchel"
    run([sys.executable, "-c", CONVERT, str(MODEL), scheme, str(out), format])
    return out


def run(command: Sequence[str], env: dict[str, str] | None = None) -> Cost:
    """Run a command to its end. The parent must stay small: Linux hands its own peak on to the child over exec."""
    start = time.perf_counter()
    with tempfile.TemporaryFile("w+") as complaints:  # a pipe that nobody reads yet would stop who complains at length
        process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=complaints,
            env={**os.environ, **_COMPILED, **(env or {})},
            text=True,
        )
        assert process.stdout is not None  # PIPE above
        said = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        complaints.seek(0)
        wrong = complaints.read()
    wall = time.perf_counter() - start
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"{' '.join(command)[:200]} failed:\n{wrong[-2000:]}")
    return Cost(wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024, said)


def figure_of(what: str, found: Ratio | np.ndarray, unit: str = "x", **more: object) -> Figure:
    """A figure from a ratio, or from samples whose median it is."""
    if isinstance(found, Ratio):
        return Figure(what, found.value, found.low, found.high, found.n, unit, **more)  # type: ignore[arg-type]  # passed on
    low, high = median_interval(found)
    return Figure(what, float(np.median(found)), low, high, len(found), unit, **more)  # type: ignore[arg-type]  # passed on


def tell(title: str, figures: Sequence[Figure], before: Sequence[float], as_json: bool, threads: str) -> None:
    """Print a Markdown table, with what the figures must be read with, and JSON if it is wanted."""
    about, after = machine(), os.getloadavg()
    versions = {name: importlib.metadata.version(name) for name in _VERSIONS}
    print(f"### {title}\n")
    print("| | median | 95 % | n | target | met |\n|---|---|---|---|---|---|")
    for each in figures:
        target = "" if each.target is None else f"{'≤' if each.worse == 'above' else '≥'} {each.target:g}"
        what = each.what + (f" ({each.note})" if each.note else "")
        print(
            f"| {what} | {_number(each.value)} {each.unit} | {_number(each.low)}–{_number(each.high)} | {each.n} | {target} | {each.met} |"
        )
    words = ", ".join(f"{name} {version}" for name, version in versions.items())
    load = f"load {before[0]:.2f} before, {after[0]:.2f} after"
    print(f"\n{about['processor']}, {about['cores']} cores; {threads}; {load}; Python {about['python']}, {words}\n")
    if as_json:
        made = {
            "title": title,
            "figures": [{**dataclasses.asdict(each), "met": each.met} for each in figures],
            "machine": about,
            "threads": threads,
            "load": [list(before), list(after)],
            "versions": versions,
        }
        print(json.dumps(made, indent=1))


def _number(value: float) -> str:
    return f"{value:.1f}" if abs(value) >= 100 else f"{value:.3g}"
