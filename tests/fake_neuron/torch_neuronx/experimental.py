"""Placement on cores, relative to those that the process may use; the fake remembers what it was told."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

placed: list[tuple[int, int]] = []


@contextlib.contextmanager
def neuron_cores_context(start_nc: int = -1, nc_count: int = -1) -> Iterator[None]:
    placed.append((start_nc, nc_count))
    yield


def set_neuron_cores(trace: Any, start_nc: int = -1, nc_count: int = -1) -> None:
    placed.append((start_nc, nc_count))
