"""Heavy packages arrive late, and say what is missing."""

from __future__ import annotations

import importlib
import importlib.util
import operator
import re
from pathlib import Path
from types import ModuleType
from typing import Callable, Optional

from .errors import ToolchainError

__all__ = ["is_stub", "need", "require_version", "satisfies", "stub_error"]

# What the stubs on the public index say when imported; the vendor keeps the real package on its own index.
_STUB_WORDS = ("WRONG PACKAGE", "wrong package", "placeholder package", "dummy package")


def need(
    module: str, *, extra: str = "", to: str, of: str = "satchel-runtimes", install: Optional[str] = None
) -> ModuleType:
    """Import an optional dependency at the moment it is needed.

    Args:
        module: what to import.
        extra: the extra of distribution `of` that brings it.
        to: what it is needed for, to finish the sentence "Cannot …".
        install: how to get a package that no extra brings, such as a vendor's.

    Raises:
        ToolchainError: the package is missing, or it is a stub that stands in for one.
    """
    top = module.partition(".")[0]
    command = install or f"pip install '{of}[{extra}]'"
    try:
        found = importlib.import_module(module)
    except (RuntimeError, ImportError) as error:
        absent = error.name if isinstance(error, ModuleNotFoundError) else None
        if absent == top:
            raise ToolchainError(f"Cannot {to}.", why=f"the package '{top}' is not installed", fix=command) from None
        if absent and f"{module}.".startswith(f"{absent}."):
            raise stub_error(top, to, command, f" '{absent}'") from None
        if any(word in str(error) for word in _STUB_WORDS):
            raise stub_error(top, to, command) from None
        raise  # installed, but broken inside: do not hide that
    if getattr(found, "__file__", None) is None:  # a leftover folder imports as an empty namespace
        raise stub_error(top, to, command)
    return found


def stub_error(top: str, to: str, command: str, what: str = "") -> ToolchainError:
    """What is said of a package that has the name of another, and not its code."""
    return ToolchainError(
        f"Cannot {to}.",
        why=f"the installed package '{top}' is a stub: it has the name, not the code{what}",
        fix=f"pip uninstall {top}, then install the real one: {command} or, for an SDK that its "
        "vendor distributes, from the vendor's own index"
        if command.startswith("pip ")
        else f"pip uninstall {top}, then {command}",
    )


def is_stub(module: str) -> bool:
    """Whether an installed package only has the name of another, found without importing it."""
    found = importlib.util.find_spec(module)
    if found is None or not found.origin:
        return found is not None  # an empty folder imports as a namespace
    start = Path(found.origin)
    if not start.name.startswith("__init__"):
        return False
    text = start.read_bytes()[:4096].decode("utf-8", "replace")
    alone = not any(each.name not in (start.name, "__pycache__", "py.typed") for each in start.parent.iterdir())
    return any(word in text for word in _STUB_WORDS) or alone and "import" not in text


_COMPARE: dict[str, Callable[[tuple[int, ...], tuple[int, ...]], bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    "==": operator.eq,
    "!=": operator.ne,
    ">": operator.gt,
    "<": operator.lt,
}
_CLAUSE = re.compile(r"(>=|<=|==|!=|~=|>|<)\s*(\d{1,9}(?:\.\d{1,9})*)(\.\*)?")


def satisfies(version: str, wanted: str) -> bool:
    """Whether a release number lies in a range such as `>=1.17,<2`. Pre-releases count as their release.

    `packaging` knows all of PEP 440; the device side stays without it, and takes its ranges over plain releases.

    Raises:
        ValueError: `wanted` is not such a range.
    """
    clauses = [clause.strip() for clause in wanted.split(",") if clause.strip()]
    # Every clause is read, also after one that fails: a range is a range or it is not, whatever the version.
    fits = [_lies_in(_release(version), clause) for clause in clauses]
    return all(fits)


def _lies_in(ours: tuple[int, ...], clause: str) -> bool:
    match = _CLAUSE.fullmatch(clause)
    if match is None:
        raise ValueError(f"{clause!r} is not a version range")
    sign, theirs, starred = match.group(1), _release(match.group(2)), match.group(3)
    if starred and sign not in ("==", "!=") or sign == "~=" and len(theirs) < 2:
        raise ValueError(f"{clause!r} is not a version range")
    if sign == "~=":  # ~=1.4.2 is >=1.4.2,==1.4.*
        return _padded(ours, len(theirs)) >= theirs and _padded(ours, len(theirs))[: len(theirs) - 1] == theirs[:-1]
    if starred:
        return _COMPARE[sign](_padded(ours, len(theirs))[: len(theirs)], theirs)
    width = max(len(ours), len(theirs))
    return _COMPARE[sign](_padded(ours, width), _padded(theirs, width))


def _padded(release: tuple[int, ...], width: int) -> tuple[int, ...]:
    return release + (0,) * (width - len(release))


def _release(version: str) -> tuple[int, ...]:
    match = re.match(r"\d+(?:\.\d+)*", version)
    return tuple(int(part) for part in match.group().split(".")) if match else (0,)


def require_version(package: str, version: str, wanted: str, *, to: str, install: Optional[str] = None) -> None:
    """Refuse an engine outside the range that the artifact was made for.

    Raises:
        ToolchainError: `version` does not lie in `wanted`.
    """
    if not satisfies(version, wanted):
        raise ToolchainError(
            f"Cannot {to}.",
            why=f"it needs {package} {wanted}; {version} is installed",
            fix=install or f"pip install '{package}{wanted}'",
        )
