"""Tables on stdout, progress on stderr: bars on a terminal, plain lines in a log."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import click

from ..progress import Progress

__all__ = ["as_json", "columns", "key_values", "names", "numbers", "progress_on_stderr", "size", "table"]

_WIDE = 160  # columns where stdout is no terminal: a log cuts nothing


def as_json(value: Any) -> None:  # Any: JSON
    click.echo(json.dumps(value, indent=1, ensure_ascii=False, default=_plain))


def _plain(value: Any) -> Any:
    """numpy's arrays and numbers as JSON knows them."""
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} is not JSON")


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    from rich.console import Console
    from rich.table import Table

    made = Table(title=title, title_justify="left", title_style="bold", header_style="bold", box=None, pad_edge=False)
    for place, column in enumerate(columns):
        made.add_column(column, overflow="fold", no_wrap=place == 0)
    for row in rows:
        made.add_row(*row)
    Console(width=None if sys.stdout.isatty() else _WIDE, markup=False, highlight=False).print(made)


def size(count: int | None) -> str:
    if count is None:
        return "not known"
    return f"{count / 2**20:.1f} MiB" if count >= 2**20 else f"{count / 1024:.1f} KiB"


@contextmanager
def progress_on_stderr(*, quiet: bool = False) -> Iterator[Callable[[Progress], None] | None]:
    """A callback for the library: a bar per stage on a terminal, a line per stage otherwise."""
    if quiet:
        yield None
    elif sys.stderr.isatty() and "CI" not in os.environ:
        with _bars() as callback:
            yield callback
    else:
        yield _lines()


@contextmanager
def _bars() -> Iterator[Callable[[Progress], None]]:
    from rich.console import Console
    from rich.progress import BarColumn, SpinnerColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bars

    bars = Bars(
        SpinnerColumn(),
        TextColumn("{task.fields[stage]:<9}"),
        BarColumn(bar_width=24),
        TextColumn("{task.fields[count]:>9}"),
        TimeElapsedColumn(),
        TextColumn("{task.description}"),
        console=Console(stderr=True),
    )
    current: dict[str, Any] = {"stage": "", "bar": None}

    def close() -> None:
        if current["bar"] is not None:
            total = bars.tasks[-1].total or 1
            bars.update(current["bar"], total=total, completed=total)
            bars.stop_task(current["bar"])

    def show(news: Progress) -> None:
        if news.stage != current["stage"]:
            close()
            current["stage"] = news.stage
            current["bar"] = bars.add_task(news.message, stage=news.stage, count="", total=news.total or None)
        count = f"{news.done}/{news.total}" if news.total else ""
        message = f"{news.message} ({news.detail})" if news.detail else news.message
        bars.update(current["bar"], description=message, count=count, completed=news.done, total=news.total or None)

    with bars:
        yield show
        close()


def _lines() -> Callable[[Progress], None]:
    last = ("", "")

    def show(news: Progress) -> None:
        nonlocal last
        if (news.stage, news.message) != last:
            last = (news.stage, news.message)
            click.echo(f"{news.stage}: {news.message}", err=True)

    return show


def key_values(title: str, values: Mapping[str, str]) -> None:
    """A two-column table of what is known."""
    table(title, ("", ""), [(key, value) for key, value in values.items()])


def columns(ctx: click.Context, param: click.Parameter, given: str | None) -> Mapping[str, str] | None:
    """`--columns text=review,label=stars`."""
    from ..data import parse_columns

    return parse_columns(given) if given is not None else None


def numbers(given: str) -> tuple[int, ...]:
    """The lengths of `--lengths 16,64,128`."""
    from satchel_runtimes.errors import UsageError

    try:
        found = tuple(int(each) for each in given.split(","))
    except ValueError:
        found = ()
    if not found or min(found) < 1:
        raise UsageError(
            f"Cannot use --lengths {given}.", why="it is not a list of numbers", fix="write e.g. 16,64,128"
        )
    return found


def names(ctx: click.Context, param: click.Parameter, given: str | None) -> tuple[str, ...]:
    """The names of `--formats onnx,tflite`."""
    return tuple(each.strip() for each in given.split(",") if each.strip()) if given else ()
