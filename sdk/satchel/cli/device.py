"""satchel push, satchel run: what is done on a device besides measuring."""

from __future__ import annotations

import json
from pathlib import Path

import click

from .predict import option_of, show_answer
from .show import progress_on_stderr

__all__ = ["push", "run"]

_ON = click.option("--on", "target", required=True, metavar="TARGET", help="ssh://[user@]host[:port].")
_PYTHON = click.option("--python", help="The interpreter on the device; python3 by default.")


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path), required=False)
@_ON
@_PYTHON
@click.option("--remove", is_flag=True, help="Take BUNDLE back from the device, or all that satchel has put there.")
@click.option("-q", "--quiet", is_flag=True, help="No progress on stderr.")
def push(bundle: Path | None, target: str, python: str | None, remove: bool, quiet: bool) -> None:
    """Copy BUNDLE to a device: only files whose hashes differ. Prints its path there.

    \b
    satchel push minilm.satchel --on ssh://pi@raspberrypi.local
    satchel push --remove --on ssh://pi@raspberrypi.local
    """
    from satchel_runtimes.errors import UsageError

    from ..on_devices import device_at
    from ..progress import Reporter

    if bundle is None and not remove:
        raise UsageError("Nothing to push.", why="no BUNDLE is named", fix="name one, or --remove to take all back")
    with progress_on_stderr(quiet=quiet) as progress, device_at(target, python) as device:
        if remove:
            click.echo(f"removed {device.remove(bundle)}")
            return
        assert bundle is not None  # else it was refused
        reporter = Reporter(progress, None)
        click.echo(device.push(bundle, lambda words: reporter.tell("push", words)))


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.argument("inputs", nargs=-1, required=True)
@_ON
@_PYTHON
@click.option("--option", "options", multiple=True, metavar="NAME=JSON", help="An option of the task, e.g. top_k=3.")
@click.option("--json", "json_", is_flag=True, help="One JSON value per line.")
@click.option("-q", "--quiet", is_flag=True, help="No progress on stderr.")
def run(
    bundle: Path,
    inputs: tuple[str, ...],
    target: str,
    python: str | None,
    options: tuple[str, ...],
    json_: bool,
    quiet: bool,
) -> None:
    """Answer INPUTS with BUNDLE on a device, for a look.

    \b
    satchel run minilm.satchel "Where is my order?" --on ssh://pi@raspberrypi.local
    """
    from ..inputs import as_text
    from ..on_devices import device_at
    from ..progress import Reporter

    items = [as_text(each, "an argument") for each in inputs]
    with progress_on_stderr(quiet=quiet) as progress, device_at(target, python) as device:
        reporter = Reporter(progress, None)
        given = dict(option_of(each) for each in options)
        answers = device.predict(bundle, items, given, lambda words: reporter.tell("run", words))
    for item, answer in zip(items, answers, strict=True):
        if json_:
            click.echo(json.dumps(answer, ensure_ascii=False))
        else:
            show_answer(item, answer)
