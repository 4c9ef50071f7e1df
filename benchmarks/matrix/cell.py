"""One cell: a row in one format, converted, replayed and compared."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import transformers

import satchel
from satchel_converters.format import format_of
from satchel_converters.processors import load_processors
from satchel_converters.source import find_source
from satchel_runtimes import load
from satchel_runtimes.errors import SatchelError
from satchel_runtimes.tasks import task_class

from .agree import difference
from .row import Row

__all__ = ["OK", "PINNED", "Cell", "measure", "model_of"]

OK, PINNED, ABSENT, FAILED = "ok", "pinned", "absent", "failed"

DEVICE = "generic-x86-64"


@dataclass(frozen=True)
class Cell:
    """What became of a row in a format."""

    architecture: str
    task: str
    format: str
    status: str  # ok; pinned: right at one shape, others are refused; absent: the engine cannot; failed
    why: str = ""
    seconds: float = 0.0
    parity: dict[str, Any] = field(default_factory=dict)  # of golden samples, as the report has it
    when: str = ""  # the day of the run

    @property
    def key(self) -> str:
        return f"{self.architecture} {self.task} {self.format}"


def model_of(row: Row, folder: Path) -> Path:
    """The row's model, built where it is not there yet."""
    out = folder / "models" / row.name.replace(" ", "-")
    if not (out / "config.json").is_file():
        stage = out.with_name(f".{out.name}-{os.getpid()}")
        shutil.rmtree(stage, ignore_errors=True)
        stage.mkdir(parents=True)
        row.write(stage)
        try:
            stage.rename(out)
        except OSError:  # another worker was faster
            shutil.rmtree(stage)
    return out


def measure(row: Row, format: str, folder: Path) -> Cell:
    """Convert, replay, compare. Whatever goes wrong is the cell's reason."""
    began = time.monotonic()

    def cell(status: str, why: str = "", parity: Any = None) -> Cell:
        seconds = round(time.monotonic() - began, 1)
        return Cell(row.architecture, row.task, format, status, why, seconds, parity or {})

    model = model_of(row, folder)
    out = folder / "bundles" / f"{row.name}-{format}.satchel".replace(" ", "-")
    report = out.with_suffix(".json")
    out.parent.mkdir(parents=True, exist_ok=True)
    try:
        satchel.convert(
            model,
            device=DEVICE,
            format=format,
            quantize="fp32",
            task=row.task,
            out=out,
            replace=True,
            report=report,
            prefer="size",  # a toy model's speed says nothing
        )
        ours, pinned = _answers(row, format, out)
    except SatchelError as error:
        said = f"{error.what} {error.why}".replace(f"{folder}{os.sep}", "")  # the page is for every machine
        if error.exit_code == 14 and format in row.absent:
            return cell(ABSENT, f"{row.absent[format]} satchel says: {said}")
        return cell(FAILED, f"exit {error.exit_code}: {said}")
    finally:
        shutil.rmtree(out, ignore_errors=True)
    if format in row.absent:
        return cell(FAILED, "it works, so its reason for being absent is out of date")
    found = json.loads(report.read_text("utf-8"))["candidates"][-1]
    wrong = difference(ours, _expected(row, model))
    if wrong:
        return cell(FAILED, f"other answers than the pipeline: {wrong}", found.get("parity"))
    return cell(PINNED if pinned else OK, "", found.get("parity"))


def _answers(row: Row, format: str, bundle: Path) -> tuple[list[Any], bool]:
    """Single answers, then those of a list; and whether a graph that could have dynamic axes has none."""
    with load(bundle, threads=1, trust=True) as model:
        alone = [model.predict(each, **row.options) for each in row.inputs]
        together = model.predict(list(row.inputs), **row.options)
        bound = any(graph.bind for graph in model.manifest.graphs)
    return [*alone, *together], bound and format_of(format).shapes == "dynamic"


def _expected(row: Row, model: Path) -> list[Any]:
    """The same by the model in torch."""
    if row.oracle is not None:
        return row.oracle(model, row.inputs, row.options)
    source = find_source(model)
    processors = load_processors(source, task_class(row.task, source.facts.config).needs(source.facts.config)).by_name
    ask = transformers.pipeline(row.task, model=str(model), **processors)  # type: ignore[call-overload]  # names of tasks
    alone = [ask(each, **row.options) for each in row.inputs]
    together: Sequence[Any] = ask(list(row.inputs), **row.options)
    return [*alone, *together]


def to_plain(cell: Cell) -> dict[str, Any]:
    return asdict(cell)
