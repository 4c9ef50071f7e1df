"""Minutes of load: what a device does when it has become warm, beside what it did in its first minute."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Callable, Optional

import numpy as np

from .errors import UsageError
from .measure import Latency, summarize
from .sensors import Energy, Sensors

__all__ = ["Sustained", "Window", "cool_down", "sustain"]

_MINUTE = 60.0
_WARMER = 2.0  # degrees above where it began that count as cool again


@dataclass(frozen=True)
class Window:
    """A stretch of the load, which ended at `seconds` from its start."""

    seconds: float
    latency: Latency
    celsius: Optional[float]
    mhz: Optional[float]


@dataclass(frozen=True)
class Sustained:
    """`first` and `last` are of the first and the last minute; of a shorter load, of its first and last window."""

    seconds: float
    first: Latency
    last: Latency
    windows: tuple[Window, ...]
    joules: Optional[float]  # of the whole machine or processor, as far as `sensor` sees
    joules_per_call: Optional[float]
    sensor: Optional[str]
    throttled: Optional[list[str]]  # what the board says of its supply and temperature afterwards


def sustain(
    call: Callable[[], object],
    seconds: float,
    *,
    window: float = 10.0,
    sensors: Optional[Sensors] = None,
    energy: Optional[Energy] = None,
    on_window: Optional[Callable[[Window], None]] = None,
) -> Sustained:
    """Call as often as it goes.

    Args:
        seconds: how long.
        window: seconds of one point of the curve.
        sensors, energy: those of this machine by default.
        on_window: told each point as it comes.
    """
    if not (seconds > 0 and window > 0):
        raise UsageError("Cannot measure nothing.", why=f"{seconds} s in windows of {window} s", fix="give more")
    sensors = sensors or Sensors()
    energy = energy or Energy.of()
    clock = time.perf_counter
    begun = clock()
    windows: list[Window] = []
    every: list[tuple[float, list[float]]] = []  # when each window ended, and its calls
    while clock() - begun < seconds:
        end = min(clock() + window, begun + seconds)
        part: list[float] = []
        while not part or clock() < end:
            before = clock()
            call()
            part.append(clock() - before)
        if energy is not None:
            energy.joules()
        every.append((clock() - begun, part))
        windows.append(Window(clock() - begun, summarize(np.array(part)), sensors.celsius(), sensors.mhz()))
        if on_window is not None:
            on_window(windows[-1])
    whole, calls = every[-1][0], sum(len(part) for _, part in every)
    joules = None if energy is None else energy.joules()
    return Sustained(
        whole,
        summarize(_between(every, 0.0, _MINUTE)),
        summarize(_between(every, whole - _MINUTE, whole)),
        tuple(windows),
        joules,
        None if joules is None else joules / calls,
        None if energy is None else energy.name,
        sensors.throttled(),
    )


def _between(every: Sequence[tuple[float, list[float]]], start: float, end: float) -> np.ndarray:
    """Seconds of the calls in windows that lie there; the nearest window where none does."""
    slack = 0.5  # a call that began in a window may end behind it
    begins = [0.0, *(each for each, _ in every[:-1])]
    inside = [p for begin, (stop, p) in zip(begins, every) if begin >= start - slack and stop <= end + slack]
    nearest = every[0][1] if start <= 0 else every[-1][1]
    found: np.ndarray = np.array([each for part in inside for each in part] or nearest)
    return found


def cool_down(
    start: Optional[float],
    most: float,
    sensors: Sensors,
    tell: Callable[[str], None],
    wait: Callable[[float], None] = time.sleep,
) -> float:
    """Wait until the processor is as cool as it was, at most so many seconds; how many it were. Nothing where no one knows."""
    waited = 0.0
    while start is not None and waited < most:
        now = sensors.celsius()
        if now is None or now <= start + _WARMER:
            break
        if not waited:
            tell(f"cooling down from {now:.0f} °C")
        wait(1.0)
        waited += 1.0
    return waited
