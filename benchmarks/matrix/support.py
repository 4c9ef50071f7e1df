"""The matrix as a page that people read."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Sequence
from pathlib import Path

from .cell import OK, PINNED, Cell

__all__ = ["write_support"]

_HEAD = """# What is supported, as measured

Each row is a small model of the architecture with random weights as large as trained ones, and real processors. A cell is ok when `satchel
convert --quantize fp32` passes every gate (numbers within 1e-4 of torch for 64 inputs or more, alone and in batches, at other lengths or sizes
than the traced ones) and the answers of `satchel_runtimes` are those of `transformers.pipeline`. "one shape" is a graph that is right at the shape it
was traced at; the session pads to it and refuses more. `make matrix` measures all of it again, `python -m benchmarks.matrix --only REGEX`
some rows. {when}
"""


def write_support(cells: Sequence[Cell], formats: Sequence[str], out: Path) -> None:
    """Write the table; reasons are numbered below it."""
    versions = ", ".join(
        f"{name} {importlib.metadata.version(name)}"
        for name in ("torch", "transformers", "onnxruntime", "ai-edge-litert", "litert-torch")
    )
    by_row: dict[tuple[str, str], dict[str, Cell]] = {}
    for cell in cells:
        by_row.setdefault((cell.architecture, cell.task), {})[cell.format] = cell
    reasons: list[str] = []
    days = sorted({cell.when for cell in cells if cell.when})
    measured = (
        f"Measured {' to '.join(dict.fromkeys((days[0], days[-1])))} with {versions}." if days else f"With {versions}."
    )
    lines = [_HEAD.format(when=measured), ""]
    for format in formats:
        own = [each[format] for each in by_row.values() if format in each]
        good = sum(each.status in (OK, PINNED) for each in own)
        lines.append(f"- {format}: {good} of {len(own)} rows")
    architectures = len({architecture.partition(",")[0] for architecture, _ in by_row})
    lines += [f"- {architectures} architectures, {len({task for _, task in by_row})} tasks", ""]
    lines += [f"| architecture | task | {' | '.join(formats)} |", f"|---|---|{'---|' * len(formats)}"]
    for (architecture, task), row in by_row.items():
        shown = [_shown(row.get(format), reasons) for format in formats]
        lines.append(f"| {architecture} | {task} | {' | '.join(shown)} |")
    if reasons:
        lines += ["", "## Reasons", "", *(f"{number}. {reason}" for number, reason in enumerate(reasons, 1))]
    out.write_text("\n".join(lines) + "\n", "utf-8")


def _shown(cell: Cell | None, reasons: list[str]) -> str:
    if cell is None:
        return "not run"
    if cell.status in (OK, PINNED):
        return "ok" if cell.status == OK else "ok, one shape"
    if cell.why not in reasons:
        reasons.append(cell.why)
    return f"no ({reasons.index(cell.why) + 1})"
