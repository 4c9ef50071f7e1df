"""Heavy packages arrive late, and say what is missing."""

from __future__ import annotations

import importlib
import operator
import re
from types import ModuleType
from typing import Callable

from .errors import ToolchainError

__all__ = ["need", "require_version", "satisfies"]

# What the stubs on the public index say when imported; the vendor keeps the real package on its own index.
_STUB_WORDS = ("WRONG PACKAGE", "wrong package", "placeholder package", "dummy package")


def need(module: str, *, extra: str, to: str, of: str = "satchel-runtimes") -> ModuleType:
    """Import an optional dependency at the moment it is needed.

    Args:
        module: what to import.
        extra: the extra of distribution `of` that brings it.
        to: what it is needed for, to finish the sentence "Cannot …".

    Raises:
        ToolchainError: the package is missing, or it is a stub that stands in for one.
    """
    top = module.partition(".")[0]
    try:
        found = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name != top:
            raise  # installed, but broken inside: do not hide that
        raise ToolchainError(
            f"Cannot {to}.", why=f"the package '{top}' is not installed", fix=f"pip install '{of}[{extra}]'"
        ) from None
    except (RuntimeError, ImportError) as error:
        if not any(word in str(error) for word in _STUB_WORDS):
            raise
        raise _stub(top, to, of, extra) from None
    if getattr(found, "__file__", None) is None:  # a leftover folder imports as an empty namespace
        raise _stub(top, to, of, extra)
    return found


def _stub(top: str, to: str, of: str, extra: str) -> ToolchainError:
    return ToolchainError(
        f"Cannot {to}.",
        why=f"the installed package '{top}' is a stub: it has the name, not the code",
        fix=f"pip uninstall {top}, then install the real one: pip install '{of}[{extra}]' or, for an SDK that its "
        "vendor distributes, from the vendor's own index",
    )


_COMPARE: dict[str, Callable[[tuple[int, ...], tuple[int, ...]], bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    "==": operator.eq,
    "!=": operator.ne,
    ">": operator.gt,
    "<": operator.lt,
}


def satisfies(version: str, wanted: str) -> bool:
    """Whether a release number lies in a range such as `>=1.17,<2`. Pre-releases count as their release.

    `packaging` knows all of PEP 440; the device side stays without it, and the ranges in a bundle are of this plain form.
    """
    for clause in filter(None, (part.strip() for part in wanted.split(","))):
        match = re.fullmatch(r"(>=|<=|==|!=|>|<)\s*(\d+(?:\.\d+)*)", clause)
        if match is None:
            raise ValueError(f"{clause!r} is not a version range")
        ours, theirs = _release(version), _release(match.group(2))
        width = max(len(ours), len(theirs))
        if not _COMPARE[match.group(1)](ours + (0,) * (width - len(ours)), theirs + (0,) * (width - len(theirs))):
            return False
    return True


def _release(version: str) -> tuple[int, ...]:
    match = re.match(r"\d+(?:\.\d+)*", version)
    return tuple(int(part) for part in match.group().split(".")) if match else (0,)


def require_version(package: str, version: str, wanted: str, *, to: str) -> None:
    """Refuse an engine outside the range that the artifact was made for.

    Raises:
        ToolchainError: `version` does not lie in `wanted`.
    """
    if not satisfies(version, wanted):
        raise ToolchainError(
            f"Cannot {to}.",
            why=f"it needs {package} {wanted}; {version} is installed",
            fix=f"pip install '{package}{wanted}'",
        )
