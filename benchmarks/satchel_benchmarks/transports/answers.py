"""What the agent says, line by line, and its errors as this side's own."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from satchel_runtimes import errors
from satchel_runtimes.errors import SatchelError

from .device import Tell

__all__ = ["error_of", "is_out_of_memory", "read_answer"]

# How an engine's own code complains that it got none; numpy's and Python's complaint is an answer of the agent.
_NO_MEMORY = ("bad_alloc", "Failed to allocate memory", "Cannot allocate memory")


def is_out_of_memory(complaint: str) -> bool:
    return any(words in complaint for words in _NO_MEMORY)


def read_answer(lines: Iterable[bytes], tell: Tell) -> Any | None:  # Any: the agent's result
    """The result, or None where none came. What a login shell prints besides is passed over.

    Raises:
        SatchelError: the one that the agent met, of the same kind.
    """
    result = None
    for line in lines:
        try:
            said = json.loads(line)
        except ValueError:
            continue
        if not isinstance(said, dict):
            continue
        if "step" in said:
            tell(str(said["step"]))
        elif "error" in said:
            raise error_of(said["error"])
        elif "result" in said:
            result = said["result"]
    return result


def error_of(said: Mapping[str, Any]) -> SatchelError:
    """What a device met, as an error of the kind that it names, or whose exit code it gives."""
    kinds = {
        name: each for name, each in vars(errors).items() if isinstance(each, type) and issubclass(each, SatchelError)
    }
    codes = {each.exit_code: each for each in kinds.values()}
    kind = kinds.get(str(said.get("kind", ""))) or codes.get(said.get("code", SatchelError.exit_code), SatchelError)
    made: SatchelError = kind(
        str(said.get("what", "It failed there.")), why=str(said.get("why", "")), fix=str(said.get("fix", ""))
    )
    return made
