"""What measuring adds to what is measured: the agent's loop against a bare one, and a board over ssh against this machine.

The board is this machine too, behind a real sshd on its loopback: whatever the way there costs would show in the second table.
"""

from __future__ import annotations

import os
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
_OPTIONS: dict[str, Any] = {"threads": 1, "lengths": [16, 64, 128], "max_seconds": 1.5, "cold_starts": 0}
_STEADY = 1.15  # of a run's median its 90th percentile, where nothing else used the processor; 1.04 is usual then


def bare(call: Callable[[], object]) -> tuple[float, float]:
    """Seconds of a call, by a clock around ten of them; and of the processor."""
    start, used = time.perf_counter(), time.process_time()
    for _ in range(_CALLS):
        call()
    return (time.perf_counter() - start) / _CALLS, (time.process_time() - used) / _CALLS


def agents(call: Callable[[], object]) -> tuple[float, float]:
    """Seconds of a call as the agent's loop says; and of the processor, with all that the loop does besides."""
    used = time.process_time()
    told = sample(call, warmup=0, min_runs=_CALLS, max_runs=_CALLS, max_seconds=0.0)
    return float(told.mean()), (time.process_time() - used) / _CALLS


def loops(folder: Path, pairs: int) -> list[Figure]:
    figures = []
    for length in (16, 64):
        with load(folder, threads=1) as model:
            call, tokens = caller(model, [length])
            for _ in range(50):
                call()
            found = []
            for turn in range(pairs):
                # Each goes first as often as the other.
                pair = (bare(call), agents(call)) if turn % 2 else (agents(call), bare(call))[::-1]
                found.append((*pair[0], *pair[1]))
        alone, alone_used, told, used = np.array(found).T
        figures.append(figure_of(f"{tokens} tokens: the agent's figure / bare", ratio(told, alone), target=1.01))
        figures.append(figure_of(f"{tokens} tokens: CPU time of its loop / bare", ratio(used, alone_used), target=1.01))
        figures.append(figure_of(f"{tokens} tokens: bare", alone * 1e3, "ms"))
    figures.append(Figure("the agent's file", len(agent_bytes()) / 2**20, 0, 0, 1, "MiB", target=1.0))
    return figures


def devices(folder: Path, rounds: int, tries: int) -> list[Figure]:
    """Each length's median of the medians of several runs, in turn: this machine, and the same over ssh.

    A round in which something else took the processor is known by its spread, whatever its median is, and is not counted.
    """
    from tests.boards import start_board

    with tempfile.TemporaryDirectory() as scratch:
        board = start_board(Path(scratch, "board"))
        os.environ["SATCHEL_SSH"] = board.client
        kept: dict[str, list[tuple[float, float]]] = {str(length): [] for length in _OPTIONS["lengths"]}
        tried = 0
        try:
            while tried < tries and any(len(each) < rounds for each in kept.values()):
                tried += 1
                targets = ["local", board.target][:: 1 if tried % 2 else -1]
                found = {each["on"]: each["run"]["latency"] for each in bench_on(targets, [folder], _OPTIONS)}
                for tokens, pairs in kept.items():
                    here, there = found["local"][tokens], found[board.target][tokens]
                    if (
                        all(each["p90_ms"] <= _STEADY * each["p50_ms"] for each in (here, there))
                        and len(pairs) < rounds
                    ):
                        pairs.append((here["p50_ms"], there["p50_ms"]))
        finally:
            board.stop()
    figures = []
    for tokens, pairs in kept.items():
        if not pairs:
            print(f"{tokens} tokens: no steady round in {tried}", file=sys.stderr)
            continue
        here, there = (np.array(each) for each in zip(*pairs, strict=True))
        apart = abs(float(np.median(there) / np.median(here)) - 1)
        spread = [abs(b / a - 1) for a, b in pairs]
        note = f"{np.median(here):.2f} and {np.median(there):.2f} ms; bounds are the rounds', {tried} were tried"
        figures.append(
            Figure(
                f"{tokens} tokens: ssh and local apart",
                apart,
                min(spread),
                max(spread),
                len(pairs),
                "",
                0.05,
                note=note,
            )
        )
    return figures


def main() -> None:
    asked = arguments(__doc__ or "", pairs=300, rounds=5, tries=16)
    sys.path.insert(0, str(ROOT))
    folder = bundle("int8-dynamic")
    before = os.getloadavg()
    tell("The agent's loop against a bare one", loops(folder, asked.pairs), before, asked.json, "1 thread")
    before = os.getloadavg()
    tell(
        "`bench --on ssh` on the loopback against `--on local`",
        devices(folder, asked.rounds, asked.tries),
        before,
        asked.json,
        "1 thread",
    )


if __name__ == "__main__":
    main()
