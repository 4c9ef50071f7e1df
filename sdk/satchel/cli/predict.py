"""satchel predict"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import click
import numpy as np

from .forms import form_of, form_options
from .show import as_json

__all__ = ["option_of", "predict", "show_answer"]

_BLOCK = 512  # inputs of a stream that are answered together
_MANY = 16  # numbers in a list that nobody reads one by one


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.argument("inputs", nargs=-1)
@click.option("--task", help="One of the bundle's tasks; the first by default.")
@click.option("--file", "file", type=click.Path(path_type=Path), help="Read inputs from a file, one per line.")
@click.option("--option", "options", multiple=True, metavar="NAME=JSON", help="An option of the task, e.g. top_k=3.")
@form_options
@click.option("--threads", type=int, help="Threads of the engine.")
@click.option("--verify", type=click.Choice(["always", "once"]), default="once", show_default=True)
@click.option("--delegate", help="An accelerator of the engine, by name or by the path of its library.")
@click.option("--cores", help="NeuronCores of a Neuron bundle: 4, 7-15 or 0,2-3.")
@click.option(
    "--trust", is_flag=True, help="Load a bundle whose graphs are code (torchscript), from a source you trust."
)
@click.option("--allow-failed", is_flag=True, help="Load a bundle that its gates refused.")
@click.option("--stream", is_flag=True, help="Show a text as it is written.")
@click.option(
    "-o",
    "--out",
    type=click.Path(path_type=Path),
    help="Where pictures and sounds go: a file; further ones get numbers.",
)
@click.option("--json", "json_", is_flag=True, help="One JSON value per line.")
def predict(
    bundle: Path,
    inputs: tuple[str, ...],
    task: str | None,
    file: Path | None,
    options: tuple[str, ...],
    json_schema: Path | None,
    regex: str | None,
    grammar: Path | None,
    threads: int | None,
    verify: str,
    delegate: str | None,
    cores: str | None,
    trust: bool,
    allow_failed: bool,
    stream: bool,
    out: Path | None,
    json_: bool,
) -> None:
    """Answer INPUTS with BUNDLE: texts or paths of pictures as arguments, a file of them, or standard input.

    In a file and on standard input each line is a text, or a JSON value (JSON lines) where the task takes more than
    text: {"question": "…", "context": "…"}.

    \b
    satchel predict mobilenet.satchel picture.jpg
    satchel predict minilm.satchel "Where is my order?" "My parcel is late."
    satchel predict voice.satchel "Your order is on its way." -o order.wav
    satchel predict reviews.satchel --file reviews.txt --json > answers.jsonl
    satchel predict whisper.satchel meeting.wav --stream
    satchel predict imagegpt.satchel half.png --out whole.png
    echo '{"question": "Who?", "context": "Ada wrote it."}' | satchel predict qa.satchel
    """
    from satchel_runtimes import load
    from satchel_runtimes.errors import UsageError

    from ..inputs import as_text, read_inputs
    from .answer_files import AnswerFiles

    if inputs and file is not None:
        raise UsageError("Cannot take both inputs and --file.", why="one of them would be ignored", fix="leave one out")
    given = {**dict(option_of(each) for each in options), **form_of(json_schema, regex, grammar)}
    with load(
        bundle,
        task=task,
        threads=threads,
        verify=verify,
        delegate=delegate,
        cores=cores,
        trust=trust,
        allow_failed=allow_failed,
    ) as predictor:
        items: Iterator[Any] = iter(as_text(each, "an argument") for each in inputs)
        if not inputs:
            of_nothing = file is None and not predictor.open_task(task or predictor.tasks[0]).needs_input
            if file is None and not of_nothing and sys.stdin.isatty():
                raise UsageError(
                    "There is nothing to predict.",
                    why="no INPUTS, no --file, and nothing on stdin",
                    fix="name a text, or a picture",
                )
            items = iter([None]) if of_nothing else read_inputs(file)
        if stream:
            for item in items:
                _show_pieces(predictor.stream(item, **given), json_)
            return
        files = AnswerFiles(out)
        # Sounds are large, and each is written before the next is made.
        size = 1 if predictor.open_task(task or predictor.tasks[0]).speaks else _BLOCK
        while block := list(islice(items, size)):
            for item, answer in zip(block, predictor.predict(block, **given), strict=True):
                _show(item, files.written(answer), json_)


def _show_pieces(pieces: Iterator[str], json_: bool) -> None:
    for piece in pieces:
        click.echo(json.dumps(piece, ensure_ascii=False) if json_ else piece, nl=json_)
        sys.stdout.flush()
    if not json_:
        click.echo()


def _show(item: Any, answer: Any, json_: bool) -> None:
    if json_:
        from .show import _plain

        click.echo(json.dumps(answer, ensure_ascii=False, default=_plain))
    else:
        show_answer(item, answer)


def show_answer(item: Any, answer: Any) -> None:
    """An input and its answer for people: of an array, or of a list of numbers, the beginning."""
    if isinstance(answer, list) and len(answer) > _MANY and all(isinstance(each, float) for each in answer):
        answer = np.array(answer, np.float32)
    if hasattr(answer, "shape"):
        flat = answer.ravel()
        head = ", ".join(f"{value:.4f}" for value in flat[:6])
        more = ", …" if flat.size > 6 else ""
        click.echo(f"{_short(item)}\n  float32 {list(answer.shape)}: {head}{more}")
    else:
        if item is not None:
            click.echo(_short(item))
        as_json(answer)


def _short(item: Any) -> str:
    text = item if isinstance(item, str) else json.dumps(item, ensure_ascii=False)
    return text if len(text) <= 100 else f"{text[:100]}…"


def option_of(given: str) -> tuple[str, Any]:
    """A name and its value, from NAME=VALUE."""
    from satchel_runtimes.errors import UsageError

    name, equals, value = given.partition("=")
    if not equals:
        raise UsageError(f"Cannot read --option {given}.", why="it has no '='", fix="write NAME=VALUE, e.g. top_k=3")
    try:
        return name.replace("-", "_"), json.loads(value)
    except ValueError:
        return name.replace("-", "_"), value  # a plain word is a string
