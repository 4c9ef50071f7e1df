"""satchel tune"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .show import as_json, columns, names, progress_on_stderr, size, table

if TYPE_CHECKING:
    from ..tuned import Tuned

__all__ = ["tune"]


@click.command()
@click.argument("model")
@click.option("--device", required=True, help="A device profile (satchel devices), or the path of one in TOML.")
@click.option("--data", type=click.Path(path_type=Path), help="Labelled rows; without them nothing is pruned.")
@click.option("--columns", callback=columns, metavar="A=B,…", help="Columns of the data, e.g. text=review,label=stars.")
@click.option("--drop-overlaps", is_flag=True, help="Leave out training rows that evaluation has as well.")
@click.option("-o", "--out", type=click.Path(path_type=Path), help="The bundle's folder.  [default: <model>.satchel]")
@click.option("--max-drop", type=float, help="Points of accuracy that may be lost.")
@click.option("--max-latency-ms", type=float, help="Budget, at the longest measured input.")
@click.option("--max-size-mb", type=float, help="Budget of the bundle, in MiB.")
@click.option("--max-memory-mb", type=float, help="Budget of a fresh process at its peak, in MiB.")
@click.option("--minutes", type=float, default=30.0, show_default=True, help="No trial begins after these.")
@click.option("--trials", type=int, help="Stop when the study has as many.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of the optimiser.")
@click.option("--formats", callback=names, metavar="A,B", help="Only these formats.  [default: all of the device]")
@click.option("--schemes", callback=names, metavar="A,B", help="Only these schemes.  [default: all of the device]")
@click.option("--task", help="The main task (satchel tasks); inferred from the model by default.")
@click.option("--revision", help="Branch, tag or commit of a Hub id.")
@click.option("--trust-remote-code", is_flag=True, help="Run the repository's own modelling code.")
@click.option("--sequence-length", type=int, help="Cut texts at this many tokens.")
@click.option("--threads", type=int, help="Only this number of threads; several are tried by default.")
@click.option("--prefer", default="latency", show_default=True, help="latency, or size for the smallest that fits.")
@click.option("--study", type=click.Path(path_type=Path, dir_okay=False), help="The file that remembers the trials.")
@click.option(
    "--recipe-out", type=click.Path(path_type=Path), help="Where the recipe goes.  [default: beside the bundle]"
)
@click.option("--plot", type=click.Path(path_type=Path, dir_okay=False), help="Draw the trials: a .svg, .png or .pdf.")
@click.option("--replace", is_flag=True, help="Exchange an existing bundle of that name, in one step.")
@click.option("--no-cache", is_flag=True, help="Capture and export again, even if an earlier run did.")
@click.option("--json", "json_", is_flag=True, help="The search on stdout, as JSON.")
@click.option("-q", "--quiet", is_flag=True, help="No progress on stderr.")
def tune(
    model: str, columns: str | None, plot: Path | None, no_cache: bool, json_: bool, quiet: bool, **given: Any
) -> None:
    """Search for the fastest bundle of MODEL that meets the budgets, and write the recipe that makes it again.

    Tries formats, schemes, pruning with distillation, and threads. Run it again and it goes on where it was. The exit code
    is 11, 12 or 13 where nothing meets the budgets, and the nearest trial is named.

    \b
    satchel tune ./my-model --device raspberry-pi-5 --data reviews.csv --max-drop 1.0 --plot tune.svg
    satchel tune ./my-model --device generic-x86-64 --formats onnx --max-size-mb 20 --prefer size --json
    """
    from .. import tune as search
    from ..tune_chart import check_chart, write_chart

    if plot is not None:
        check_chart(plot)
    with progress_on_stderr(quiet=quiet) as progress:
        found = search(model, cache=not no_cache, progress=progress, **given)
    if plot is not None:
        write_chart(found, plot)
    if json_:
        as_json(found.to_plain())
    else:
        _show(found)
        if plot is not None:
            click.echo(str(plot))
    if found.error is not None:
        raise found.error


def _show(found: Tuned) -> None:
    from ..search_space import words_of
    from ..tuned import table_of

    head, *rows = table_of(found)
    if rows:
        table(f"{found.model} for {found.device}: of {len(found.tried)} trials, no other beats these", head, rows)
        click.echo(f"\nThe drop is that on {found.judged_on}.")
    refused = [each for each in found.tried if not each.passed]
    click.echo(f"The search ended {found.ended}, {len(refused)} of {len(found.tried)} trials refused.")
    for each in refused:
        click.echo(f"  trial {each.number}, {words_of(each.point)}: {each.why}")
    for reason in found.left_out:
        click.echo(f"  not tried: {reason}")
    for number, report in found.finals:
        accuracy = next(iter((report.get("accuracy") or {}).values()), None)
        said = f", {accuracy['metric']} {accuracy['value']:.4f}, drop {accuracy['drop']:.2f} points" if accuracy else ""
        ends = f"refused: {report['error']['why']}" if report["error"] else "passed"
        click.echo(f"\ntrial {number} made again under all budgets, {size(report.get('size_bytes'))}{said}: {ends}")
    if found.bundle is not None:
        click.echo(f"\n{found.bundle}\n{found.recipe}")
