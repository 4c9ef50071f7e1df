"""What measuring adds to what is measured: the agent's loop against a bare one, and a board over ssh against this machine.

The board is this machine too, behind a real sshd on its loopback: whatever the way there costs would show in the second table.
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from satchel.on_devices import bench_on
from satchel_benchmarks.transports.agent_file import agent_bytes
from satchel_runtimes import load
from satchel_runtimes.bench import caller
from satchel_runtimes.measure import ratio, sample
from setting import ROOT, Figure, arguments, bundle, figure_of, tell

_CALLS = 10  # of one block
_OPTIONS: dict[str, Any] = {"threads": 1, "lengths": [16, 64, 128], "max_seconds": 3.0, "cold_starts": 0}


def bare(call: Callable[[], object]) -> float:
    """Seconds of a call, by a clock around ten of them."""
    start = time.perf_counter()
    for _ in range(_CALLS):
        call()
    return (time.perf_counter() - start) / _CALLS


def agents(call: Callable[[], object]) -> tuple[float, float]:
    """Seconds of a call as the agent's loop says, and as they went by around it."""
    start = time.perf_counter()
    told = sample(call, warmup=0, min_runs=_CALLS, max_runs=_CALLS, max_seconds=0.0)
    return float(told.mean()), (time.perf_counter() - start) / _CALLS


def loops(folder: Path, pairs: int) -> list[Figure]:
    figures = []
    for length in (16, 64):
        with load(folder, threads=1) as model:
            call, tokens = caller(model, [length])
            for _ in range(50):
                call()
            found = []
            for turn in range(pairs):
                if turn % 2:  # each goes first as often as the other
                    one = bare(call)
                    told, whole = agents(call)
                else:
                    told, whole = agents(call)
                    one = bare(call)
                found.append((one, told, whole))
        alone, told_s, whole_s = np.array(found).T
        figures.append(figure_of(f"{tokens} tokens: the agent's figure / bare", ratio(told_s, alone), target=1.01))
        figures.append(figure_of(f"{tokens} tokens: wall time of its loop / bare", ratio(whole_s, alone), target=1.01))
        figures.append(figure_of(f"{tokens} tokens: bare", alone * 1e3, "ms"))
    figures.append(Figure("the agent's file", len(agent_bytes()) / 2**20, 0, 0, 1, "MiB", target=1.0))
    return figures


def devices(folder: Path, rounds: int) -> list[Figure]:
    """Each length's median of the medians of several runs, in turn: this machine, and the same over ssh."""
    from tests.boards import start_board

    with tempfile.TemporaryDirectory() as scratch:
        board = start_board(Path(scratch, "board"))
        os.environ["SATCHEL_SSH"] = board.client
        try:
            found: dict[str, list[dict[str, float]]] = {"local": [], board.target: []}
            for turn in range(rounds):
                for target in sorted(found, reverse=bool(turn % 2)):
                    (result,) = bench_on([target], [folder], _OPTIONS)
                    found[target].append({n: each["p50_ms"] for n, each in result["run"]["latency"].items()})
        finally:
            board.stop()
    figures = []
    for tokens in map(str, _OPTIONS["lengths"]):
        here, there = ([each[tokens] for each in found[target]] for target in ("local", board.target))
        apart = abs(statistics.median(there) / statistics.median(here) - 1)
        note = f"local {min(here):.2f}–{max(here):.2f} ms, ssh {min(there):.2f}–{max(there):.2f} ms"
        figures.append(
            Figure(f"{tokens} tokens: ssh and local apart", apart, apart, apart, rounds, "", 0.05, note=note)
        )
    return figures


def main() -> None:
    asked = arguments(__doc__ or "", pairs=300, rounds=5)
    sys.path.insert(0, str(ROOT))
    folder = bundle("int8-dynamic")
    before = os.getloadavg()
    tell("The agent's loop against a bare one", loops(folder, asked.pairs), before, asked.json, "1 thread")
    before = os.getloadavg()
    tell(
        "`bench --on ssh` on the loopback against `--on local`",
        devices(folder, asked.rounds),
        before,
        asked.json,
        "1 thread",
    )


if __name__ == "__main__":
    main()
