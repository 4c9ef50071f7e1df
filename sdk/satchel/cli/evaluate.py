"""satchel evaluate"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .show import as_json, columns, progress_on_stderr, table

if TYPE_CHECKING:
    from satchel_benchmarks.accuracy import Accuracy

    from ..evaluate import Evaluation

__all__ = ["evaluate"]


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--data", required=True, type=click.Path(path_type=Path), help="Labelled rows: a file or a folder.")
@click.option("--reference", help="The model to compare with, a folder or Hub id.  [default: what the bundle names]")
@click.option("--split", default="evaluation", show_default=True, help="train, calibration, evaluation or all.")
@click.option("--columns", callback=columns, metavar="A=B,…", help="Columns of the data, e.g. text=review,label=stars.")
@click.option("--limit", type=int, help="At most this many rows, drawn with a fixed seed.")
@click.option("--max-drop", type=float, help="Refuse (exit 11) a bundle that loses more points than this, e.g. 1.0.")
@click.option("--task", help="Another of the bundle's tasks than its first.")
@click.option("--threads", type=int, help="Threads of the engine; the bundle's own preference by default.")
@click.option(
    "--trust", is_flag=True, help="Load a bundle whose graphs are code (torchscript), from a source you trust."
)
@click.option("--no-cache", is_flag=True, help="Ask the reference again, even if an earlier run did.")
@click.option("--json", "json_", is_flag=True, help="The figures on stdout, as JSON.")
@click.option("-q", "--quiet", is_flag=True, help="No progress on stderr.")
def evaluate(bundle: Path, no_cache: bool, json_: bool, quiet: bool, **given: Any) -> None:
    """Judge the answers of BUNDLE on labelled data, beside those of the model that it was made of, on the same rows.

    \b
    satchel evaluate minilm.satchel --data test.jsonl --max-drop 1.0
    satchel evaluate minilm.satchel --data reviews.csv --columns text=review,label=stars --reference ./my-model
    """
    from ..evaluate import evaluate as judged

    with progress_on_stderr(quiet=quiet) as progress:
        found = judged(bundle, cache=not no_cache, progress=progress, **given)
    if json_:
        as_json(found.to_plain())
    else:
        _show(found)
    if found.error is not None:
        raise found.error


def _show(found: Evaluation) -> None:
    rows = [_row(each) for each in found.metrics]
    head = ("metric", found.bundle, "reference", "drop", "chance", "rows", "unit")
    table(f"{found.task} on {found.data}, {found.split}", head, rows)
    if found.reference is None:
        click.echo(f"\nno reference: {found.why_no_reference}")
    else:
        click.echo(f"\nreference: {found.reference}; every interval holds 95 % of 1000 resamples of the rows")
    if found.metrics[0].reference_at_chance:
        click.echo(f"the reference is no better than a constant answer: {found.verdict.why}")


def _row(each: Accuracy) -> tuple[str, ...]:
    return (
        f"{each.metric} {'↑' if each.higher_is_better else '↓'}",
        _with(each.value, each.value_low, each.value_high),
        _with(each.reference, each.reference_low, each.reference_high),
        _with(each.drop, each.low, each.high, ".2f"),
        f"{each.chance:.4g}",
        str(each.n),
        each.unit,
    )


def _with(value: float | None, low: float | None, high: float | None, form: str = ".4f") -> str:
    if value is None or low is None or high is None:
        return "-"
    return f"{value:{form}} ({low:{form}} to {high:{form}})"
