"""Run the matrix: `python -m benchmarks.matrix [--only REGEX] [--formats onnx,tflite] [--fast] [--again]`.

What it finds goes into measured.json beside this file, and docs/support.md is made of that: a run of some rows renews these.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import json
import multiprocessing
import os
import re
import resource
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from .cell import FAILED, Cell, measure, to_plain
from .row import Row
from .rows import ROWS
from .support import write_support

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / ".cache" / "matrix"
RECORD = Path(__file__).with_name("measured.json")
FORMATS = ("onnx", "torchscript", "tflite")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.matrix", description=__doc__)
    parser.add_argument("--only", default="", metavar="REGEX", help="rows whose 'architecture task' matches")
    parser.add_argument("--formats", default=",".join(FORMATS))
    parser.add_argument("--fast", action="store_true", help="the rows that make test runs")
    parser.add_argument("--again", choices=["failed", "all"], help="measure cells that an earlier run has measured")
    parser.add_argument("--jobs", type=int, default=2, help="cells at a time")
    parser.add_argument("--seconds", type=float, default=600, help="of one cell, at most")
    parser.add_argument("--memory-gb", type=float, default=24, help="of address space of one cell, at most")
    parser.add_argument("--results", type=Path, default=FOLDER / "results.json")
    parser.add_argument("--support", type=Path, help="a table of this run alone, which leaves the record as it is")
    asked = parser.parse_args()
    rows = [row for row in ROWS if re.search(asked.only, row.name) and (row.fast or not asked.fast)]
    formats = asked.formats.split(",")
    known = _read(asked.results)
    left = [
        (row, format) for row in rows for format in formats if _wanted(known.get(f"{row.name} {format}"), asked.again)
    ]
    print(f"{len(left)} cells of {len(rows)} rows in {len(formats)} formats", file=sys.stderr)
    for number, cell in enumerate(_run(left, asked.jobs, asked.seconds, asked.memory_gb), 1):
        cell = dataclasses.replace(cell, when=datetime.date.today().isoformat())
        known[cell.key] = cell
        _write(asked.results, known)
        print(
            f"[{number}/{len(left)}] {cell.key}: {cell.status}, {cell.seconds:.0f} s {cell.why[:300]}", file=sys.stderr
        )
    found = [known[key] for row in rows for format in formats if (key := f"{row.name} {format}") in known]
    if asked.support:
        write_support(found, formats, asked.support)
    else:
        _renew(found)
    failed = [cell for cell in found if cell.status == FAILED]
    print(f"{len(found) - len(failed)} of {len(found)} cells are as they should be", file=sys.stderr)
    return 1 if failed else 0


def _renew(found: Sequence[Cell]) -> None:
    """The record, and the page that is made of it; rows that are no more leave both."""
    kept = {**_read(RECORD), **{cell.key: dataclasses.replace(cell, parity={}, seconds=0.0) for cell in found}}
    cells = {key: kept[key] for row in ROWS for format in FORMATS if (key := f"{row.name} {format}") in kept}
    _write(RECORD, cells)
    write_support(list(cells.values()), FORMATS, ROOT / "docs" / "support.md")


def _wanted(cell: Cell | None, again: str | None) -> bool:
    return cell is None or again == "all" or (again == "failed" and cell.status == FAILED)


def _read(file: Path) -> dict[str, Cell]:
    found = json.loads(file.read_text("utf-8")) if file.is_file() else []
    cells = [Cell(**each) for each in found]
    return {cell.key: cell for cell in cells}


def _write(file: Path, cells: dict[str, Cell]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    half = file.with_suffix(".part")
    lines = ",\n".join(json.dumps(to_plain(each)) for each in cells.values())  # a line a cell: what a run changes shows
    half.write_text(f"[\n{lines}\n]\n", "utf-8")
    half.replace(file)


def _run(left: Sequence[tuple[Row, str]], jobs: int, seconds: float, memory_gb: float) -> Any:
    """Each cell in a forked process: torch and transformers are imported once, and a crash is one cell's."""
    context = multiprocessing.get_context("fork")
    waiting, running = list(left), {}
    while waiting or running:
        while waiting and len(running) < jobs:
            row, format = waiting.pop(0)
            receive, send = context.Pipe(duplex=False)
            process = context.Process(target=_work, args=(row, format, send, memory_gb))
            process.start()
            send.close()
            running[process] = (row, format, receive, time.monotonic())
        for process, (row, format, receive, began) in list(running.items()):
            took = time.monotonic() - began
            said = ""
            if receive.poll():
                try:
                    yield receive.recv()
                except EOFError:
                    process.join()
                    said = f"its process ended with {process.exitcode}"
            elif took > seconds:
                os.killpg(process.pid or 0, signal.SIGKILL)
                said = f"not finished after {seconds:.0f} s"
            else:
                continue
            if said:
                yield Cell(row.architecture, row.task, format, FAILED, said, round(took, 1))
            process.join()
            del running[process]
        time.sleep(0.05)


def _work(row: Row, format: str, send: Any, memory_gb: float) -> None:
    os.setsid()  # so that what it starts ends with it
    limit = int(memory_gb * 2**30)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    for quiet in (1, 2):
        os.dup2(os.open(os.devnull, os.O_WRONLY), quiet)
    torch.set_num_threads(1)
    try:
        cell = measure(row, format, FOLDER)
    except Exception as error:  # noqa: BLE001  # a cell shows whatever went wrong
        lines = str(error).strip().splitlines() or [""]
        cell = Cell(row.architecture, row.task, format, FAILED, f"{type(error).__name__}: {lines[0][:300]}")
    send.send(cell)


if __name__ == "__main__":
    sys.exit(main())
