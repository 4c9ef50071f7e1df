"""The measuring loop: warm-up, limits in runs and seconds, quantiles with a bootstrap interval, peak memory.

It lies on the ground floor so that a device can measure itself.
"""

from __future__ import annotations

import os
import platform
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Callable, Optional

import numpy as np

__all__ = [
    "FEWEST",
    "Latency",
    "Ratio",
    "interleave",
    "machine",
    "median_interval",
    "peak_rss_bytes",
    "ratio",
    "sample",
    "summarize",
]

_RESAMPLES = 1000
# A ratio whose 95 % interval is wider than this part of its value says nothing that one would act on.
_MEANINGLESS = 0.5
FEWEST = 5  # runs below which a bootstrap interval is an accident
_TAIL = 100  # runs below which nothing at all lies beyond the 99th percentile


@dataclass(frozen=True)
class Latency:
    """Milliseconds of one call. `low_ms` and `high_ms` bound the median at 95 % (percentile bootstrap).

    `p99_ms` is None for fewer than 100 runs: it would only be the slowest of them under another name.
    """

    n: int
    p50_ms: float
    p90_ms: float
    p99_ms: Optional[float]
    low_ms: float
    high_ms: float


@dataclass(frozen=True)
class Ratio:
    """How many times faster the second is, from runs in turn; the bounds are of a 95 % bootstrap interval."""

    value: float
    low: float
    high: float
    n: int

    @property
    def meaningful(self) -> bool:
        return not self.why

    @property
    def why(self) -> str:
        """Why one should not act on it, in words; empty where one may."""
        if self.n < FEWEST:
            return f"{self.n} runs are too few for a ratio; at least {FEWEST} are needed"
        # Written so that NaN, from a clock that stood still, is refused as well.
        if not self.high - self.low <= _MEANINGLESS * self.value:
            return f"the runs spread too much: the ratio lies anywhere from {self.low:.2f} to {self.high:.2f}"
        return ""


def sample(
    call: Callable[[], object], *, warmup: int = 5, min_runs: int = 10, max_runs: int = 500, max_seconds: float = 2.0
) -> np.ndarray:
    """Seconds of each run, float64 [n]. Stops after `max_runs`, or after `max_seconds` once `min_runs` are there."""
    return interleave({"": call}, warmup=warmup, min_runs=min_runs, max_runs=max_runs, max_seconds=max_seconds)[""]


def interleave(
    calls: Mapping[str, Callable[[], object]],
    *,
    warmup: int = 5,
    min_runs: int = 10,
    max_runs: int = 500,
    max_seconds: float = 2.0,
    settle: int = 0,
) -> dict[str, np.ndarray]:
    """Seconds of each run of several calls in turn, so that a machine that slows down slows all of them.

    `settle` runs of a call go uncounted before each counted one. Without them each call meets caches that another has
    filled: right after the other, int8 MiniLM takes 1.9 ms and float32 5.6; after nine runs of its own, 1.1 and 3.3.
    """
    for _ in range(warmup):
        for call in calls.values():
            call()
    times: dict[str, list[float]] = {name: [] for name in calls}
    clock = time.perf_counter
    start, runs = clock(), 0
    while runs < max_runs and (runs < min_runs or clock() - start < max_seconds):
        for name, call in calls.items():
            for _ in range(settle if len(calls) > 1 else 0):
                call()
            before = clock()
            call()
            times[name].append(clock() - before)
        runs += 1
    return {name: np.array(each) for name, each in times.items()}


def summarize(seconds: np.ndarray) -> Latency:
    p50, p90, p99 = (float(q) * 1e3 for q in np.percentile(seconds, [50, 90, 99]))
    low, high = median_interval(seconds)
    return Latency(len(seconds), p50, p90, p99 if len(seconds) >= _TAIL else None, low * 1e3, high * 1e3)


def ratio(base: np.ndarray, other: np.ndarray) -> Ratio:
    """Speed of `other` against `base`, pair by pair; both come from one `interleave`."""
    pairs = base / other
    low, high = median_interval(pairs)
    return Ratio(float(np.median(pairs)), low, high, len(pairs))


def median_interval(values: np.ndarray) -> tuple[float, float]:
    """Bounds of the median at 95 %, by percentile bootstrap with a fixed seed: the same values give the same bounds."""
    random = np.random.default_rng(0)
    picks = random.integers(0, len(values), (_RESAMPLES, len(values)))
    low, high = np.percentile(np.median(values[picks], axis=1), [2.5, 97.5])
    return float(low), float(high)


def peak_rss_bytes() -> int:
    """The most memory that this process has held."""
    try:
        # Linux carries ru_maxrss over an exec, so a small child of a large parent would report the parent.
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    import resource  # not on Windows

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def machine() -> dict[str, object]:
    """What figures must be read with: processor, cores, instruction sets, memory, load, Python, system."""
    model, flags = _cpu()
    return {
        "system": platform.platform(),
        "machine": platform.machine(),
        "processor": model or platform.processor(),
        "cores": os.cpu_count(),
        "instruction_sets": flags,
        "memory_bytes": _memory_bytes(),
        "load_average": list(os.getloadavg()) if hasattr(os, "getloadavg") else None,
        "python": platform.python_version(),
        "emulated": _emulator(),
    }


def _emulator() -> Optional[str]:
    """What stands for the processor, by whose times nothing may be judged; None on a real one."""
    try:
        # qemu answers for /proc/self/exe, and not for the same of a thread.
        program = Path(os.readlink(f"/proc/self/task/{os.getpid()}/exe")).name
    except OSError:
        return None
    return program if program.startswith("qemu-") else None


def _cpu() -> tuple[Optional[str], list[str]]:
    model, flags = None, set()
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            key, _, value = line.partition(":")
            key = key.strip()
            if key in ("model name", "Model", "Hardware") and not model:
                model = value.strip()
            if key in ("flags", "Features"):
                flags |= set(value.split())
    except OSError:
        pass
    # Profiles say "neon" for what Linux calls asimd on 64-bit Arm.
    return model, sorted(flags | ({"neon"} if "asimd" in flags else set()))


def _memory_bytes() -> Optional[int]:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return None
