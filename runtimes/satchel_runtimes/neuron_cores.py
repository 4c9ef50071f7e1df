"""NeuronCores: which ones there are, which this process may use, and which session gets which.

Three notations name them, as in NEURON_RT_VISIBLE_CORES: "4", "7-15" and "0,2-3". As the Neuron runtime documents it,
NEURON_RT_VISIBLE_CORES names exact cores and takes precedence over NEURON_RT_NUM_CORES, which asks for as many free ones
and of which 0 means all; inside a process cores are counted from 0, whatever their number on the machine.
"""

from __future__ import annotations

import os
import re
import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Optional

from .errors import UsageError

__all__ = ["ALLOCATOR", "Allocator", "Visible", "count_cores", "parse_cores", "visible_cores"]

VISIBLE, NUMBER, LOGICAL = "NEURON_RT_VISIBLE_CORES", "NEURON_RT_NUM_CORES", "NEURON_LOGICAL_NC_CONFIG"
ROOT = "SATCHEL_NEURON_ROOT"  # where the device tree is looked for, "/" but in tests
_MOST = 4096  # cores: a typing error such as 0-99999999 is refused before a list of them is made


def parse_cores(text: str, name: str) -> tuple[int, ...]:
    """Core numbers from one of the three notations; `name` is where they were given.

    Raises:
        UsageError: it is none of them, a range runs backwards, or a core stands twice.
    """
    found: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d{1,9})(?:-(\d{1,9}))?\s*", part)
        first, last = (int(match.group(1)), int(match.group(2) or match.group(1))) if match else (1, 0)
        if last < first or last - first >= _MOST:
            raise UsageError(
                f"Cannot use {name}={text}.", why=f"{part.strip()!r} names no cores", fix="write 4, 7-15 or 0,2-3"
            )
        found += range(first, last + 1)
    if len(set(found)) != len(found):
        raise UsageError(f"Cannot use {name}={text}.", why="a core stands twice", fix="write 4, 7-15 or 0,2-3")
    return tuple(found)


def count_cores(environment: Mapping[str, str] = os.environ) -> int:
    """The cores of the machine as the runtime counts them; 0 without devices.

    Each device is /dev/neuronN, and sysfs tells its physical cores. Trainium2 groups two of its eight physical cores to a
    logical one unless NEURON_LOGICAL_NC_CONFIG says otherwise (AWS Neuron documentation, Logical NeuronCore configuration);
    older chips have at most four and no groups.
    """
    root = Path(environment.get(ROOT) or "/")
    total = 0
    for device in root.glob("dev/neuron*"):
        number = re.fullmatch(r"neuron(\d+)", device.name)
        if number is None:
            continue
        try:
            text = (root / "sys/devices/virtual/neuron_device" / device.name / "core_count").read_text()
            physical = int(text.split()[0])
        except (OSError, ValueError, IndexError):
            continue
        grouped = int(environment.get(LOGICAL) or 2) if physical >= 8 else 1
        total += physical // max(grouped, 1)
    return total


@dataclass(frozen=True)
class Visible:
    """The cores of this process. `names` are their numbers on the machine, or those within the process where the runtime
    picks them; a core's place in it is what the runtime calls it."""

    names: tuple[int, ...]
    why: str


def visible_cores(environment: Mapping[str, str] = os.environ) -> Visible:
    """What the two variables and the device tree leave to this process; no names where there is no device to count.

    Raises:
        UsageError: the variables ask for what the machine has not, or for nothing that can be understood.
    """
    there = count_cores(environment)
    named, number = environment.get(VISIBLE, "").strip(), environment.get(NUMBER, "").strip()
    if named:  # takes precedence, whatever the other says
        cores = parse_cores(named, VISIBLE)
        if there and max(cores) >= there:
            raise _beyond(f"{VISIBLE}={named}", there)
        return Visible(cores, f"{VISIBLE}={named}")
    if number:
        if not number.isdigit():
            raise UsageError(f"Cannot use {NUMBER}={number}.", why="it is not a number", fix=f"write {NUMBER}=2")
        if there and int(number) > there:
            raise _beyond(f"{NUMBER}={number}", there)
        if int(number):
            return Visible(tuple(range(int(number))), f"{NUMBER}={number}")
    return Visible(tuple(range(there)), f"this machine has {there}")


def _beyond(asked: str, there: int) -> UsageError:
    return UsageError(
        f"Cannot use {asked}.", why=f"this machine has {there} NeuronCores, 0 to {there - 1}", fix="ask for these"
    )


class Allocator:
    """Gives the sessions of a process different cores for as long as there are free ones, then the least used."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._sessions: Counter[int] = Counter()

    def take(
        self, wanted: Optional[str], environment: Mapping[str, str] = os.environ
    ) -> tuple[Visible, tuple[int, ...]]:
        """Cores for a session, as places among the visible ones: those `wanted`, or one; none without devices.

        Raises:
            UsageError: `wanted` names a core that this process does not have.
        """
        visible = visible_cores(environment)
        if wanted is not None:
            return visible, self._add(self._places(visible, wanted))
        with self._lock:
            free = range(len(visible.names))
            chosen = sorted(free, key=lambda place: (self._sessions[place], place))[:1]
            self._sessions.update(chosen)
        return visible, tuple(chosen)

    def give_back(self, places: Sequence[int]) -> None:
        with self._lock:
            self._sessions.subtract(places)

    def _add(self, places: tuple[int, ...]) -> tuple[int, ...]:
        with self._lock:
            self._sessions.update(places)
        return places

    def _places(self, visible: Visible, wanted: str) -> tuple[int, ...]:
        cores = parse_cores(wanted, "cores")
        missing = [core for core in cores if core not in visible.names]
        if not visible.names:
            raise UsageError(
                f"Cannot use the cores {wanted}.",
                why="there is no Neuron device (/dev/neuron*)",
                fix="run this on a Neuron instance with the vendor's driver, or leave the cores out",
            )
        if missing:
            raise UsageError(
                f"Cannot use the cores {wanted}.",
                why=f"core {missing[0]} is not one of this process: {visible.why}",
                fix=f"choose among {', '.join(map(str, visible.names))}",
            )
        return tuple(visible.names.index(core) for core in cores)


ALLOCATOR = Allocator()
