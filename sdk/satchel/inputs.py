"""Inputs of a task from a file or a stream: a text per line, or a JSON value per line where the task takes more."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from satchel_runtimes.errors import UsageError

__all__ = ["as_text", "read_inputs"]


def read_inputs(file: Path | None) -> Iterator[Any]:
    """The inputs in a file, or on standard input for None, one by one.

    Raises:
        UsageError: the file cannot be read, or a line is not valid UTF-8.
    """
    try:
        stream = file.open("rb") if file is not None else sys.stdin.buffer
    except OSError as error:
        raise UsageError(f"Cannot read {file}.", why=str(error.strerror), fix="check the path") from None
    with stream:
        for number, line in enumerate(stream, 1):
            yield _json_or_text(as_text(line.rstrip(b"\r\n"), f"line {number} of {file or 'standard input'}"))


def _json_or_text(text: str) -> Any:
    if text[:1] in ("{", "[", '"'):
        try:
            return json.loads(text)
        except ValueError:
            pass  # a text may well start with a quotation mark
    return text


def as_text(data: bytes | str, where: str) -> str:
    """Raises: UsageError for what is not UTF-8."""
    try:
        # Arguments that were no UTF-8 arrive with surrogates in place of their bytes.
        return data.decode("utf-8") if isinstance(data, bytes) else data.encode("utf-8").decode("utf-8")
    except UnicodeError:
        raise UsageError(
            f"Cannot read {where}.", why="it is not valid UTF-8", fix="convert the text to UTF-8 first, e.g. with iconv"
        ) from None
