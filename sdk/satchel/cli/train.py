"""satchel train, satchel compress"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from .show import as_json, progress_on_stderr
from .show import columns as show_columns

__all__ = ["compress", "train"]


@click.command()
@click.argument("model")
@click.option("--data", type=click.Path(path_type=Path), required=True, help="Labelled rows; docs/data.md.")
@click.option(
    "--columns", callback=show_columns, metavar="A=B,…", help="Columns of the data, e.g. text=review,label=stars."
)
@click.option("--drop-overlaps", is_flag=True, help="Leave rows out of training that evaluation has as well.")
@click.option("--task", required=True, help="What it learns (satchel tasks).")
@click.option("-o", "--out", type=click.Path(path_type=Path), required=True, help="The folder of the trained model.")
@click.option("--head-only", is_flag=True, help="Leave the body as it is: seconds to minutes instead of hours.")
@click.option("--epochs", type=float, help="Times through the data.  [default: 3, of a head alone 60]")
@click.option("--steps", type=int, help="Batches, in place of epochs.")
@click.option("--minutes", type=float, help="End after so many minutes of training.")
@click.option("--learning-rate", type=float, help="[default: 1e-4, of a new head 1e-3]")
@click.option("--batch", type=int, default=16, show_default=True, help="Rows of a step.")
@click.option("--patience", type=int, default=3, show_default=True, help="Evaluations without a better one.")
@click.option("--seed", type=int, default=0, show_default=True, help="The same seed gives the same weights.")
@click.option("--sequence-length", "max_length", type=int, help="Cut texts at this many tokens, also on the device.")
@click.option("--json", "json_", is_flag=True, help="What was learned on stdout, as JSON.")
@click.option("-q", "--quiet", is_flag=True, help="No progress on stderr.")
def train(
    model: str,
    data: Path,
    columns: dict[str, str] | None,
    drop_overlaps: bool,
    task: str,
    out: Path,
    json_: bool,
    quiet: bool,
    **given: Any,
) -> None:
    """Train MODEL, or a new head on it, on labelled data; write a Hugging Face folder that convert takes.

    \b
    satchel train ./all-MiniLM-L6-v2 --data reviews.csv --task text-classification --head-only -o reviews
    """
    from satchel_converters.compress import FineTune

    from ..compressing import train_model
    from ..progress import Reporter

    wanted = FineTune(**given)
    with progress_on_stderr(quiet=quiet) as progress:
        made = train_model(model, out, wanted, data, task, columns, drop_overlaps, Reporter(progress, None))
    _show(made, json_)


@click.command()
@click.argument("model")
@click.option("--prune", help="What goes, e.g. vocabulary,ffn=0.5,layers=0.5 (docs/pruning.md).")
@click.option("--distill", help="How it learns back, e.g. layers=3,epochs=3 (docs/distillation.md).")
@click.option("--data", type=click.Path(path_type=Path), help="Rows that it learns from.")
@click.option(
    "--columns", callback=show_columns, metavar="A=B,…", help="Columns of the data, e.g. text=review,label=stars."
)
@click.option("--drop-overlaps", is_flag=True, help="Leave rows out of training that evaluation has as well.")
@click.option("--task", help="The main task; inferred from the model by default.")
@click.option("-o", "--out", type=click.Path(path_type=Path), required=True, help="The folder of the smaller model.")
@click.option("--seed", type=int, default=0, show_default=True, help="The same seed gives the same weights.")
@click.option("--sequence-length", type=int, help="Cut texts at this many tokens, also on the device.")
@click.option("--json", "json_", is_flag=True, help="What was done on stdout, as JSON.")
@click.option("-q", "--quiet", is_flag=True, help="No progress on stderr.")
def compress(
    model: str,
    prune: str | None,
    distill: str | None,
    data: Path | None,
    columns: dict[str, str] | None,
    drop_overlaps: bool,
    task: str | None,
    out: Path,
    seed: int,
    sequence_length: int | None,
    json_: bool,
    quiet: bool,
) -> None:
    """Make MODEL smaller: trim its vocabulary, prune it, and let it learn from what it was.

    \b
    satchel compress ./reviews --prune vocabulary --distill layers=3,epochs=3 --data reviews.csv -o reviews-small
    """
    from satchel_runtimes.errors import UsageError

    from ..compressing import compress_model, wanted_of
    from ..progress import Reporter

    wanted = wanted_of(prune, distill, seed=seed, sequence_length=sequence_length)
    if wanted is None:
        raise UsageError("There is nothing to compress.", why="neither --prune nor --distill is given", fix="add one")
    with progress_on_stderr(quiet=quiet) as progress:
        made = compress_model(model, out, wanted, data, task, columns, drop_overlaps, Reporter(progress, None))
    _show(made, json_)


def _show(made: Path, json_: bool) -> None:
    about = json.loads((made / "compression.json").read_text("utf-8"))
    if json_:
        as_json({"folder": str(made), **about})
        return
    counts = about["parameters"]
    if counts["before"] != counts["after"]:
        click.echo(f"parameters   {counts['before']:,} before, {counts['after']:,} after")
    if "training" in about:
        found = about["training"]
        first, best = found["points"][0], found["best"]
        click.echo(
            f"held-out {found['metric']}   {first['metric']:.4f} before, {best['metric']:.4f} after {best['step']} steps; "
            f"ended by {found['stopped']}, {found['seconds']:.0f} s"
        )
    for note in about.get("notes", ()):
        click.echo(note)
    click.echo(made)
