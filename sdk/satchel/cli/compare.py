"""satchel compare"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .show import as_json, columns, names, numbers, progress_on_stderr, table

if TYPE_CHECKING:
    from ..compared import Compared

__all__ = ["compare"]


@click.command()
@click.argument("model")
@click.option("--device", required=True, help="A device profile (satchel devices), or the path of one in TOML.")
@click.option("--formats", callback=names, metavar="A,B", help="Only these formats.  [default: all of the device]")
@click.option("--schemes", callback=names, metavar="A,B", help="Only these schemes.  [default: all of the device]")
@click.option("-o", "--out", type=click.Path(path_type=Path), help="A folder that keeps the bundles.  [default: none]")
@click.option("--task", help="The main task (satchel tasks); inferred from the model by default.")
@click.option("--revision", help="Branch, tag or commit of a Hub id.")
@click.option("--trust-remote-code", is_flag=True, help="Run the repository's own modelling code.")
@click.option("--opset", type=int, help="An older ONNX opset than the device's engine reads.")
@click.option("--sequence-length", type=int, help="Cut texts at this many tokens.")
@click.option("--threads", type=int, help="Threads of the engine on the device.")
@click.option("--data", type=click.Path(path_type=Path), help="Labelled rows that candidates are judged on.")
@click.option("--columns", callback=columns, metavar="A=B,…", help="Columns of the data, e.g. text=review,label=stars.")
@click.option("--drop-overlaps", is_flag=True, help="Leave rows out of training that evaluation has as well.")
@click.option("--max-drop", type=float, help="Refuse what loses more points on the data than this.")
@click.option("--max-latency-ms", type=float, help="Refuse above this, at the longest input that the gate measures.")
@click.option("--max-size-mb", type=float, help="Refuse a larger bundle, in MiB.")
@click.option("--max-memory-mb", type=float, help="Refuse a higher peak of a fresh process, in MiB.")
@click.option("--prefer", default="latency", show_default=True, help="latency, or size to keep a slower small scheme.")
@click.option("--require", multiple=True, metavar="GATE", help="Refuse where this gate cannot be judged here.")
@click.option("--lengths", default="16,64,128", show_default=True, help="Tokens of the inputs to measure with.")
@click.option("--seconds", type=float, default=1.0, show_default=True, help="Time limit per length, for all together.")
@click.option("--cold-starts", type=int, default=3, show_default=True, help="Fresh processes to start of each.")
@click.option("--replace", is_flag=True, help="Exchange bundles that are in the folder already.")
@click.option("--no-cache", is_flag=True, help="Capture and export again, even if an earlier run did.")
@click.option("--html", type=click.Path(path_type=Path, dir_okay=False), help="Write a page that opens offline.")
@click.option("--json", "json_", is_flag=True, help="The comparison on stdout, as JSON.")
@click.option("-q", "--quiet", is_flag=True, help="No progress on stderr.")
def compare(
    model: str, lengths: str, html: Path | None, no_cache: bool, json_: bool, quiet: bool, **given: Any
) -> None:
    """Make MODEL in every format and scheme of a device, measure all of them in turn, and say which one would ship.

    A candidate that a gate refuses keeps its row. The exit code is that of `satchel convert` with the same options: 0
    where something would ship.

    \b
    satchel compare sentence-transformers/all-MiniLM-L6-v2 --device raspberry-pi-5 --html compare.html
    satchel compare ./my-model --device generic-x86-64 --formats onnx,tflite --schemes int8-dynamic,fp32 --json
    """
    from .. import compare as made_by
    from ..compare_page import page_of
    from ..page import check_page, write_page

    if html is not None:
        check_page(html)
    with progress_on_stderr(quiet=quiet) as progress:
        found = made_by(model, lengths=numbers(lengths), cache=not no_cache, progress=progress, **given)
    plain = found.to_plain()
    if html is not None:
        write_page(page_of(plain), html)
    if json_:
        as_json(plain)
    else:
        _show(found)
        if html is not None:
            click.echo(f"\n{html}")
    if found.error is not None:
        raise found.error


def _show(found: Compared) -> None:
    from ..compared import table_of

    head, *rows = table_of(found)
    about = found.machine
    table(f"{found.model} for {found.device}, on {about['processor']}, {about['cores']} cores", head, rows)
    click.echo(f"\n{found.summary}")
    refused = [f"{row.label}: {row.words()}" for row in found.rows if not row.passed]
    for line in (*refused, *found.notes):
        click.echo(f"  {line}")
