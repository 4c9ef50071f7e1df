"""Weights in huge pages: a step of a model that writes reads all of them once, and looking pages of 4 KiB up takes a fifth of that.

Engines take the memory of their packed weights from malloc, which on most systems asks for no huge pages. What is in use is moved
into such pages afterwards, by Linux 6.1 and later (madvise(2), MADV_COLLAPSE); elsewhere everything stays as it is.
"""

from __future__ import annotations

import ctypes
import errno
import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np

__all__ = ["collapse", "collapse_beside"]

_COLLAPSE = 25  # which `mmap` has no name for
_SIZE = Path("/sys/kernel/mm/transparent_hugepage/hpage_pmd_size")
_IN_USE = 0.9  # of a huge page's small ones: a page that is not there yet would take memory


def collapse_beside() -> None:
    """`collapse` in a thread: where memory is in pieces it takes half a second, in which the first tokens can be written."""
    threading.Thread(target=collapse, name="satchel-huge-pages", daemon=True).start()


def collapse() -> int:
    """Move this process's own memory into huge pages where whole ones are in use. Returns their bytes; 0 where none can be had."""
    if not sys.platform.startswith("linux") or not _SIZE.is_file():
        return 0
    libc = ctypes.CDLL(None, use_errno=True)
    if not (hasattr(libc, "madvise") and hasattr(libc, "mincore")):
        return 0
    size, moved = int(_SIZE.read_text()), 0
    for start, end in _anonymous():
        first, last = -(-start // size), end // size
        for number in _used(libc, first, last, size) if last > first else ():
            if libc.madvise(ctypes.c_void_p(number * size), ctypes.c_size_t(size), _COLLAPSE) == 0:
                moved += size
            elif ctypes.get_errno() == errno.ENOMEM:
                return moved  # the system is short of whole pages: the weights are as good where they lie
            elif ctypes.get_errno() == errno.EINVAL:
                break  # nothing of this mapping may move, or nothing at all on an older system
    return moved


def _anonymous() -> Iterator[tuple[int, int]]:
    """Start and end of what malloc gives out: its heap, and what it maps for large arrays."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        parts = line.split(maxsplit=5)
        if parts[1] == "rw-p" and (len(parts) == 5 or parts[5] == "[heap]"):
            start, end = (int(each, 16) for each in parts[0].split("-"))
            yield start, end


def _used(libc: ctypes.CDLL, first: int, last: int, size: int) -> list[int]:
    """Huge pages, by number, whose small ones are in memory."""
    page = os.sysconf("SC_PAGE_SIZE")
    there = np.zeros(((last - first), size // page), np.uint8)
    span = ctypes.c_size_t((last - first) * size)
    if libc.mincore(ctypes.c_void_p(first * size), span, ctypes.c_void_p(there.ctypes.data)) != 0:
        return []  # unmapped in the meantime
    return [first + int(each) for each in np.flatnonzero((there & 1).mean(axis=1) >= _IN_USE)]
