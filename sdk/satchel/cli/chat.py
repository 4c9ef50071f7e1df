"""satchel chat"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .forms import form_of, form_options, json_file
from .predict import option_of

if TYPE_CHECKING:
    from satchel_runtimes import Predictor

__all__ = ["chat"]

_HELP = "/reset forgets the conversation, /exit or Ctrl-D ends it; Ctrl-C stops an answer"


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--system", help="What the model is told before the conversation.")
@click.option(
    "--tools", type=click.Path(path_type=Path), help="A file: a JSON list of functions that the model may call."
)
@form_options
@click.option("--max-new-tokens", type=int, default=512, show_default=True, help="The longest answer.")
@click.option("--option", "options", multiple=True, metavar="NAME=JSON", help="Of generation, e.g. do_sample=true.")
@click.option(
    "--overflow",
    type=click.Choice(["forget", "refuse"]),
    default="forget",
    show_default=True,
    help="Where the conversation outgrows the model: forget its oldest turns, or stop.",
)
@click.option("--threads", type=int, help="Threads of the engine.")
@click.option("--cores", help="NeuronCores of a Neuron bundle: 4, 7-15 or 0,2-3.")
@click.option("--trust", is_flag=True, help="Load a bundle whose graphs are code, from a source you trust.")
@click.option("--json", "json_", is_flag=True, help="One message per line, in and out.")
def chat(
    bundle: Path,
    system: str | None,
    tools: Path | None,
    json_schema: Path | None,
    regex: str | None,
    grammar: Path | None,
    max_new_tokens: int,
    options: tuple[str, ...],
    overflow: str,
    threads: int | None,
    cores: str | None,
    trust: bool,
    json_: bool,
) -> None:
    """Talk with the language model in BUNDLE.

    Each line on standard input is a message; the answer appears as it is made.

    \b
    satchel chat smollm2.satchel
    echo "What is the capital of France?" | satchel chat smollm2.satchel --max-new-tokens 40
    """
    from satchel_runtimes import load
    from satchel_runtimes.errors import SatchelError

    given = {"max_new_tokens": max_new_tokens, **dict(option_of(each) for each in options)}
    given.update(form_of(json_schema, regex, grammar))
    if tools is not None:
        given["tools"] = _functions(tools)
    asks = _asks()
    placed: Any = {"threads": threads, "cores": cores, "trust": trust}
    with load(bundle, task="text-generation", verify="once", **placed) as predictor:
        task: Any = predictor.open_task("text-generation")
        task.check_options(given)  # a wrong one shows before a question is asked
        if asks:
            click.echo(f"{predictor.manifest.name}; {_HELP}", err=True)
        start = [{"role": "system", "content": system}] if system else []
        messages = list(start)
        while True:
            line = _line(asks)
            if line is None or line.strip() == "/exit":
                return
            if line.strip() == "/reset":
                messages = list(start)
                continue
            if not line.strip():
                continue
            try:
                asked = [*messages, _message(line) if json_ else {"role": "user", "content": line}]
                if overflow == "forget":
                    asked = _shortened(predictor, asked, len(start), given)
                said = _answer(predictor, asked, given, quiet=json_)
            except SatchelError as error:
                if not asks:
                    raise
                click.echo(error, err=True)  # and the conversation goes on as it was
                continue
            messages = [*asked, {"role": "assistant", "content": said}]
            if json_:
                click.echo(json.dumps(messages[-1], ensure_ascii=False))


def _functions(file: Path) -> list[Any]:
    from satchel_runtimes.errors import UsageError

    found = json_file(file, "list of functions")
    if not isinstance(found, list):
        raise UsageError(
            f"Cannot use the functions of {file}.",
            why=f"it holds a {type(found).__name__}",
            fix='write a list: [{"type": "function", "function": {"name": …, "parameters": …}}]',
        )
    return found


def _message(line: str) -> Any:  # Any: JSON
    from satchel_runtimes.chat import check_messages
    from satchel_runtimes.errors import UsageError

    try:
        found = json.loads(line)
    except ValueError as error:
        raise UsageError(
            f"Cannot read the message {line[:60]!r}.",
            why=f"it is no JSON: {error}",
            fix='give {"role": "user", "content": …} on one line, or leave --json out',
        ) from None
    check_messages([found])
    return found


def _asks() -> bool:
    return sys.stdin.isatty()


def _line(asks: bool) -> str | None:
    try:
        if asks:
            return input("> ")
    except (EOFError, KeyboardInterrupt):
        click.echo()
        return None
    line = sys.stdin.readline()
    return line.rstrip("\n") if line else None


def _answer(predictor: Predictor, messages: list[dict[str, Any]], given: dict[str, Any], *, quiet: bool) -> str:
    said = ""
    try:
        for piece in predictor.stream(messages, **given):
            said += piece
            if not quiet:
                click.echo(piece, nl=False)
    except KeyboardInterrupt:
        pass  # what was said so far stays in the conversation
    finally:
        if not quiet and said:
            click.echo()
    return said


def _shortened(
    predictor: Predictor, messages: list[dict[str, Any]], fixed: int, given: dict[str, Any]
) -> list[dict[str, Any]]:
    """Without its oldest turns, as many as leave room for an answer; what the model is told before them stays."""
    task: Any = predictor.open_task("text-generation")
    room = task.max_length - min(int(given["max_new_tokens"]), task.max_length // 2)
    forgotten = 0
    while len(messages) > fixed + 1 and len(task.ids_of(messages, given)) > room:
        count = 2 if len(messages) > fixed + 2 else 1  # a question goes with its answer
        messages = messages[:fixed] + messages[fixed + count :]
        forgotten += count
    if forgotten:
        click.echo(f"(the oldest {forgotten} messages no longer fit and are forgotten)", err=True)
    return messages
