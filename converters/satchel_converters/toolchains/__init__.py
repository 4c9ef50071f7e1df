"""Toolchains that live in an environment of their own, as data, and those of them that are installed.

NAME.txt is a pip requirement file with exact pins; the comments at its head say which formats it serves, the range of
Python versions, and about how much room it takes.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from satchel_runtimes.bundle import cache_folder
from satchel_runtimes.errors import SatchelError, ToolchainError, unknown_name

try:
    import fcntl
except ImportError:  # Windows: two installs of one toolchain are not kept apart there
    fcntl = None  # type: ignore[assignment]  # a module elsewhere

__all__ = [
    "Installed",
    "Toolchain",
    "find_installed",
    "folders_of",
    "list_toolchains",
    "locked",
    "serving",
    "toolchain_of",
    "toolchains_folder",
    "using",
]

MARKER = "satchel-toolchain.json"  # written last and removed first: a folder without it is half made, and never used
DATA = Path(__file__).parent


@dataclass(frozen=True)
class Toolchain:
    """Packages that convert to some formats, each pinned."""

    name: str
    formats: tuple[str, ...]
    python: str  # a range
    disk_mb: int
    about: str
    requirements: Path
    pins: tuple[str, ...]

    @property
    def folder(self) -> Path:
        """Other pins are another folder: an update of satchel never runs what an older one installed."""
        digest = hashlib.sha256("\n".join(sorted(self.pins)).encode()).hexdigest()
        return toolchains_folder() / f"{self.name}-{digest[:12]}"


@dataclass(frozen=True)
class Installed:
    """A toolchain whose environment is complete."""

    name: str
    folder: Path
    python_version: str
    versions: dict[str, str]
    bytes: int

    @property
    def python(self) -> Path:
        return python_in(self.folder)


def python_in(folder: Path) -> Path:
    return folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def toolchains_folder() -> Path:
    return cache_folder() / "toolchains"


def list_toolchains() -> tuple[str, ...]:
    return tuple(sorted(file.stem for file in DATA.glob("*.txt")))


def toolchain_of(name: str) -> Toolchain:
    """Raises: UsageError when no toolchain has this name."""
    if name not in list_toolchains():
        raise unknown_name("toolchain", name, list_toolchains())
    file = DATA / f"{name}.txt"
    lines = [line.strip() for line in file.read_text("utf-8").splitlines()]
    head = dict(line[2:].split(": ", 1) for line in lines if line.startswith("# ") and ": " in line)
    pins = tuple(line for line in lines if line and not line.startswith("#"))
    formats = tuple(each.strip() for each in head["formats"].split(","))
    return Toolchain(name, formats, head["python"], int(head["disk_mb"]), head["about"], file, pins)


def serving(format: str) -> Toolchain | None:
    """The toolchain that converts to this format."""
    return next((each for each in map(toolchain_of, list_toolchains()) if format in each.formats), None)


def find_installed(toolchain: Toolchain) -> Installed | None:
    """What is complete and has the pins of this satchel. One whose Python has gone from the system does not count."""
    folder = toolchain.folder
    try:
        raw = json.loads((folder / MARKER).read_text())
        found = Installed(toolchain.name, folder, raw["python"], raw["versions"], raw["bytes"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return found if found.python.exists() else None


def folders_of(name: str) -> list[Path]:
    """All that lies in the cache of this toolchain: with these pins or others, complete or not."""
    return sorted(each for each in toolchains_folder().glob(f"{name}-*") if each.name.rpartition("-")[0] == name)


@contextlib.contextmanager
def locked(name: str, *, exclusive: bool) -> Iterator[None]:
    """Keep an install or a removal (exclusive) apart from another, and from conversions that use the toolchain.

    Raises:
        SatchelError: somebody else holds it.
    """
    if fcntl is None:
        yield
        return
    # The file stays for good: one that is removed can be locked by two, under one name.
    file = toolchains_folder() / f".{name}.lock"
    file.parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(file, os.O_CREAT | (os.O_RDWR if exclusive else os.O_RDONLY), 0o644)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_NB | (fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH))
        except BlockingIOError:
            raise SatchelError(
                f"Cannot {'change' if exclusive else 'use'} the toolchain {name}.",
                why="it is being installed or removed" + (", or a conversion is using it" if exclusive else ""),
                fix="wait until that has ended, and run this again",
            ) from None
        yield
    finally:
        os.close(handle)


@contextlib.contextmanager
def using(installed: Installed) -> Iterator[None]:
    """Hold a toolchain while a worker runs in it.

    Raises:
        ToolchainError: it was removed since it was found.
    """
    with locked(installed.name, exclusive=False):
        if not (installed.folder / MARKER).is_file():
            raise ToolchainError(
                f"Cannot use the toolchain {installed.name}.",
                why="it was removed meanwhile",
                fix=f"satchel toolchain install {installed.name}",
            )
        yield
