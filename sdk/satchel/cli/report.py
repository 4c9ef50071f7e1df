"""satchel report"""

from __future__ import annotations

from pathlib import Path

import click

__all__ = ["report"]


@click.command()
@click.argument("runs", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("-o", "--out", type=click.Path(path_type=Path), help="The page: a file that ends with .html or .md.")
@click.option(
    "--json", "json_", is_flag=True, help="The runs of all files as one on stdout, by satchel/runs.schema.json."
)
def report(runs: tuple[Path, ...], out: Path | None, json_: bool) -> None:
    """Make a report of RUNS, files that `satchel bench --out` wrote: a page, or Markdown for a build log.

    \b
    satchel bench minilm.satchel --on local --on ssh://pi@raspberrypi.local -o runs.json
    satchel report runs.json -o report.html
    satchel report runs.json >> $GITHUB_STEP_SUMMARY
    """
    from satchel_runtimes.errors import UsageError

    from ..device_page import markdown_of, page_of
    from ..on_devices import SCHEMA, read_runs
    from ..page import check_page, write_page
    from .show import as_json

    if out is not None and out.suffix not in (".html", ".md"):
        raise UsageError(f"Cannot write {out}.", why="its name does not say how", fix="end it with .html or .md")
    if out is not None and out.suffix == ".html":
        check_page(out)
    results = [each for file in runs for each in read_runs(file)]
    if json_:
        as_json({"schema": SCHEMA, "results": results})
    if out is not None:
        write_page(page_of(results) if out.suffix == ".html" else markdown_of(results), out)
    elif not json_:
        click.echo(markdown_of(results), nl=False)
