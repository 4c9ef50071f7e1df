"""Write a folder whole or not at all: stage beside the target, then one rename.

`Target` holds a lock on the target's name, sweeps what a killed run left, and exchanges folders when it replaces one.
"""

from __future__ import annotations

import ctypes
import errno
import os
import re
import shutil
import sys
from pathlib import Path
from types import TracebackType
from typing import Self

from satchel_runtimes.errors import SatchelError, UsageError
from satchel_runtimes.manifest import KIT_NAME, MANIFEST_NAME

try:
    import fcntl
except ImportError:  # Windows: renames are whole there too, but two conversions to one target are not kept apart
    fcntl = None  # type: ignore[assignment]  # a module elsewhere

__all__ = ["Target"]

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2


class Target:
    """A folder that will appear at `path` in one step.

    Raises:
        UsageError: there is one already and `replace` is false, or it is a folder of something else than a bundle, or
            the parent is not a folder.
        SatchelError: another conversion holds the target.
    """

    def __init__(self, path: Path, *, replace: bool) -> None:
        self.path = path.absolute()
        self.replace = replace
        self._lock_file = self.path.parent / f".{self.path.name}.lock"
        self._old = self.path.parent / f".{self.path.name}.old"
        self._prefix = f".{self.path.name}.staging-"
        self._lock: int | None = None
        self.folder = self.path.parent / f"{self._prefix}{os.getpid()}"

    def __enter__(self) -> Self:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError):
            raise UsageError(
                f"Cannot write {self.path}.", why=f"{self.path.parent} is not a folder", fix="choose another --out"
            ) from None
        self._lock = self._acquire()
        try:
            self._sweep()
            if os.path.lexists(self.path) and not self.replace:
                raise UsageError(
                    f"Will not overwrite {self.path}.",
                    why="it exists already",
                    fix="add --replace, or choose another --out",
                )
            if _holds_something_else(self.path):
                raise UsageError(
                    f"Will not replace {self.path}.",
                    why=f"it is a folder without {MANIFEST_NAME}, so it is not a bundle",
                    fix="choose another --out, or remove the folder yourself",
                )
            self.folder.mkdir()
        except BaseException:
            self._release()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if os.path.lexists(self.folder):
                _remove(self.folder)
        except OSError:
            pass  # what it held is published or refused by now; the next run sweeps it
        finally:
            self._release()

    def publish(self) -> None:
        """Make the staged folder the target. After this the staging folder is gone, or holds what was replaced."""
        if not os.path.lexists(self.path):
            os.rename(self.folder, self.path)
        elif not _exchange(self.folder, self.path):
            # Two renames: between them the target is missing, and `_sweep` of the next run puts the old one back.
            os.rename(self.path, self._old)
            try:
                os.rename(self.folder, self.path)
            except BaseException:
                os.rename(self._old, self.path)
                raise
            _remove(self._old)

    def _sweep(self) -> None:
        """We hold the lock, so every staging folder of this name is of a run that was killed."""
        stale = re.compile(re.escape(self._prefix) + r"\d+")
        for name in os.listdir(self.path.parent):
            if stale.fullmatch(name):
                _remove(self.path.parent / name)
        if os.path.lexists(self._old):
            if os.path.lexists(self.path):
                _remove(self._old)
            else:
                os.rename(self._old, self.path)

    def _acquire(self) -> int | None:
        if fcntl is None:
            return None
        while True:
            handle = os.open(self._lock_file, os.O_RDWR | os.O_CREAT, 0o644)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                os.close(handle)
                if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                    raise
                raise SatchelError(
                    f"Cannot write {self.path}.",
                    why="another conversion is writing to it",
                    fix="wait for that one, or choose another --out",
                ) from None
            try:
                # The holder before us may have removed the file between our open and our lock.
                if os.fstat(handle).st_ino == os.stat(self._lock_file).st_ino:
                    return handle
            except FileNotFoundError:
                pass
            os.close(handle)

    def _release(self) -> None:
        if self._lock is not None:
            self._lock_file.unlink(missing_ok=True)
            os.close(self._lock)
            self._lock = None


def _exchange(one: Path, other: Path) -> bool:
    """Swap two names in one step where Linux can (`renameat2`); neither is missing for a moment."""
    if not sys.platform.startswith("linux"):
        return False
    libc = ctypes.CDLL(None, use_errno=True)
    if not hasattr(libc, "renameat2"):
        return False
    done = libc.renameat2(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE)
    if done != 0 and ctypes.get_errno() not in (errno.ENOSYS, errno.EINVAL, errno.EPERM):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), str(other))
    return bool(done == 0)


def _holds_something_else(path: Path) -> bool:
    """Whether replacing `path` would throw away a folder that satchel did not make."""
    if not path.is_dir() or path.is_symlink() or any((path / name).is_file() for name in (MANIFEST_NAME, KIT_NAME)):
        return False
    return any(path.iterdir())


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
