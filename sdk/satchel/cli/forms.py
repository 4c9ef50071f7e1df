"""Options of commands that write text: what the text must be."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

__all__ = ["form_of", "form_options", "json_file"]


def form_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """`--json-schema`, `--regex` and `--grammar`, which `form_of` turns into options of the task."""
    for option in (
        click.option("--grammar", type=click.Path(path_type=Path), help="A file: the text follows this Lark grammar."),
        click.option("--regex", help="The text matches this regular expression."),
        click.option("--json-schema", type=click.Path(path_type=Path), help="A file: the text is JSON of this schema."),
    ):
        command = option(command)
    return command


def form_of(json_schema: Path | None, regex: str | None, grammar: Path | None) -> dict[str, Any]:
    """Raises: UsageError for a file that is none, or no JSON."""
    found: dict[str, Any] = {}
    if json_schema is not None:
        found["json_schema"] = json_file(json_schema, "JSON schema")
    if regex is not None:
        found["regex"] = regex
    if grammar is not None:
        found["grammar"] = _text_of(grammar, "grammar")
    return found


def json_file(path: Path, what: str) -> Any:  # Any: JSON
    """Raises: UsageError as of `form_of`."""
    from satchel_runtimes.errors import UsageError

    try:
        return json.loads(_text_of(path, what))
    except ValueError as error:
        raise UsageError(
            f"Cannot read the {what} {path}.", why=f"it is no JSON: {error}", fix="mend the file"
        ) from None


def _text_of(path: Path, what: str) -> str:
    from satchel_runtimes.errors import UsageError

    try:
        return path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(
            f"Cannot read the {what} {path}.", why=f"{error}", fix="name a file of text, in UTF-8"
        ) from None
