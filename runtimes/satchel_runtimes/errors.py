"""What can go wrong, in words a user can act on, and the exit code that a build pipeline sees.

Every error that a user can mend is a `SatchelError` with what, why and fix. A bug stays its own exception.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = [
    "AccuracyError",
    "Cancelled",
    "IntegrityError",
    "LatencyError",
    "ParityError",
    "SatchelError",
    "SizeError",
    "SupportError",
    "ToolchainError",
    "UsageError",
    "unknown_name",
]


class SatchelError(Exception):
    """Something a user can mend. `exit_code` is the same for the library's kind and the command's exit status."""

    exit_code = 1

    def __init__(self, what: str, *, why: str, fix: str) -> None:
        super().__init__(what, why, fix)
        self.what, self.why, self.fix = what, why, fix

    def __str__(self) -> str:
        return f"{self.what}\n  why: {self.why}\n  fix: {self.fix}"

    def __reduce__(self) -> tuple[object, ...]:
        # Keyword-only arguments do not survive the default pickling, and workers send errors to their parents.
        return _rebuild, (type(self), self.what, self.why, self.fix)


def _rebuild(kind: type[SatchelError], what: str, why: str, fix: str) -> SatchelError:
    return kind(what, why=why, fix=fix)


class UsageError(SatchelError):
    """A bad option, an unknown name, an input of the wrong type, or a target that exists already."""

    exit_code = 2


class ParityError(SatchelError):
    """The artifact answers further from the reference than its class allows."""

    exit_code = 10


class AccuracyError(SatchelError):
    """A task metric on the user's data is below its budget."""

    exit_code = 11


class LatencyError(SatchelError):
    """Over the latency budget, or a scheme meant for speed that is slower than its float twin."""

    exit_code = 12


class SizeError(SatchelError):
    """Over the size or memory budget, or more than the device has."""

    exit_code = 13


class SupportError(SatchelError):
    """A known architecture, task, operator, dtype, opset or IR that the format or the device's engine cannot run."""

    exit_code = 14


class ToolchainError(SatchelError):
    """A package that is missing, a stub, or of a wrong version. The fix is the install command."""

    exit_code = 15


class IntegrityError(SatchelError):
    """A hash, signature or schema mismatch, a path that leaves the bundle, unsafe weights, remote code not allowed."""

    exit_code = 16


class Cancelled(SatchelError):
    """The user stopped it: Ctrl-C, or a set `cancel` event."""

    exit_code = 130


def unknown_name(kind: str, name: str, known: Iterable[str]) -> UsageError:
    """The error for a name that nothing has: what there is, and what was probably meant."""
    names = list(known)
    near = difflib.get_close_matches(name, names, n=1)
    return UsageError(
        f"Cannot find the {kind} {name!r}.",
        why=f"satchel knows {', '.join(names)}",
        fix=f"did you mean {near[0]!r}?" if near else "name one of these",
    )
