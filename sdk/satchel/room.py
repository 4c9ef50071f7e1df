"""Where a format is converted: in this environment, or in its toolchain's own where this one lacks its packages."""

from __future__ import annotations

import importlib.metadata
import importlib.util
from collections.abc import Sequence

from satchel_converters.format import Format
from satchel_converters.process import Room, can_watch_memory
from satchel_converters.toolchains import find_installed, serving, toolchain_of
from satchel_runtimes.errors import ToolchainError, UsageError
from satchel_runtimes.toolchain import satisfies

__all__ = ["check_room", "room_for"]


def check_room(toolchain: str | None, memory_mb: float | None, formats: Sequence[str]) -> None:
    """Raises: UsageError for a toolchain that does not exist or serves no such format; for a limit that cannot be kept."""
    if toolchain is not None and not set(toolchain_of(toolchain).formats) & set(formats):
        raise UsageError(
            f"Cannot use --toolchain {toolchain}.",
            why=f"it converts to {', '.join(toolchain_of(toolchain).formats)}; this conversion makes {', '.join(formats)}",
            fix="leave --toolchain out, or name another --format",
        )
    if memory_mb is not None and not can_watch_memory():
        raise UsageError(
            f"Cannot use --max-convert-memory-mb {memory_mb:g}.",
            why="this system has no /proc, from which the memory of a process is read",
            fix="leave it out, or limit a container",
        )


def room_for(
    writer: Format, toolchain: str | None, *, memory_mb: float | None = None, seconds: float | None = None
) -> tuple[Room, ToolchainError | None]:
    """The room that a format gets, and what it lacks.

    This environment does where it has all packages, unless `toolchain` names another that serves the format. What is
    missing stops a conversion when the format's turn comes, not before: a format that comes earlier may pass.
    """
    here = Room(None, memory_mb, seconds)
    named = toolchain_of(toolchain) if toolchain is not None else None
    forced = named is not None and writer.name in named.formats
    missing = _missing(writer.packages, writer)
    if missing is None and not forced:
        return here, None
    own = named if forced else serving(writer.name)
    installed = find_installed(own) if own is not None else None
    if installed is None:
        extra = f"pip install 'satchel[{writer.extra}]'"
        if writer.recipe is not None:
            extra = "add --kit: that writes a compile kit, to be finished on a machine that has it"
        install = f"satchel toolchain install {own.name}" if own is not None else ""
        if forced or missing is None:
            return here, _problem(writer, f"the toolchain {toolchain} is not installed", install)
        return here, _problem(writer, missing, f"{extra}, or apart from this environment: {install}" if own else extra)
    # The proof is made here, through the runtime that the device uses; that engine is small.
    lacks = _missing((writer.engine.replace("-", "_"),))
    if lacks:
        return here, _problem(
            writer, f"{lacks}, and runs what is made", f"pip install 'satchel-runtimes[{writer.name}]'"
        )
    return Room(installed, memory_mb, seconds), None


def _missing(packages: Sequence[str], writer: Format | None = None) -> str | None:
    """Why these packages do not do, found without importing them; most stubs show only when they are imported."""
    for package in packages:
        spec = importlib.util.find_spec(package)
        if spec is None:
            return f"the package '{package}' is not installed"
        wanted = writer.needs.get(package) if writer else None
        try:
            version = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            version = None
        if spec.origin is None or version is None:  # a leftover folder, or a file that happens to have the name
            return f"what is importable as '{package}' is not the package of that name"
        if wanted and not satisfies(version, wanted):
            return f"it needs {package} {wanted}; {version} is installed"
    return None


def _problem(writer: Format, why: str, fix: str) -> ToolchainError:
    return ToolchainError(f"Cannot convert to {writer.name}.", why=why, fix=fix)
