"""The weights of a model that writes move into huge pages where Linux has them; what they say stays as it is."""

from __future__ import annotations

import ctypes
import mmap
import re
import sys
from pathlib import Path

import numpy as np
import pytest

from satchel_runtimes.sessions import huge_pages

MIB = 2**20


def huge(address: int) -> int:
    """Bytes in huge pages of the mapping at this address."""
    text = Path("/proc/self/smaps").read_text()
    for found in re.finditer(r"^([0-9a-f]+)-([0-9a-f]+) .*?AnonHugePages:\s+(\d+) kB", text, re.MULTILINE | re.DOTALL):
        if int(found[1], 16) <= address < int(found[2], 16):
            return int(found[3]) * 1024
    raise AssertionError("no such mapping")


def mapped(size: int) -> np.ndarray:
    return np.frombuffer(mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS), np.uint8)


@pytest.fixture
def able() -> None:
    array = mapped(8 * MIB)
    array[:] = 1
    if not sys.platform.startswith("linux") or huge_pages.collapse() == 0:
        pytest.skip("this system moves nothing into huge pages")


@pytest.mark.usefixtures("able")
def test_what_is_in_use_moves_and_keeps_its_values() -> None:
    array = mapped(16 * MIB)
    array[:] = np.random.default_rng(0).integers(0, 256, len(array), dtype=np.uint8)
    before = array.copy()

    huge_pages.collapse()

    assert huge(array.ctypes.data) >= 12 * MIB  # all but the ends
    np.testing.assert_array_equal(array, before)


@pytest.mark.usefixtures("able")
def test_memory_that_is_promised_and_not_used_takes_none() -> None:
    array = mapped(16 * MIB)
    array[: 2 * MIB : 4096] = 1
    array[8 * MIB :: 65536] = 1  # a page of each sixteen
    before = huge(array.ctypes.data)  # of neighbours in one mapping

    huge_pages.collapse()

    assert huge(array.ctypes.data) - before <= 2 * MIB


def test_a_system_without_them_is_left_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(huge_pages, "_SIZE", tmp_path / "none")

    assert huge_pages.collapse() == 0


def test_a_system_that_refuses_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huge_pages, "_COLLAPSE", 12345)  # as an older one says it: EINVAL
    array = mapped(8 * MIB)
    array[:] = 3

    assert huge_pages.collapse() == 0
    assert ctypes.get_errno() in (0, 22) and (array == 3).all()
