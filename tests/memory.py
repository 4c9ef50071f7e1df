"""What a process holds, for tests that watch it grow."""

from __future__ import annotations

from pathlib import Path


def held() -> int:
    """Bytes that this process has in memory of its own."""
    text = Path("/proc/self/smaps_rollup").read_text()
    return int(text.split("Anonymous:")[1].split()[0]) * 1024
