"""What a board tells of itself while it works: temperature, clock, governor, throttling, energy. What it does not tell is absent.

Sources, all of Linux: thermal zones, cpufreq, powercap (RAPL) and hwmon in /sys, and `vcgencmd get_throttled` of a Raspberry Pi.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Callable, Optional

__all__ = ["Energy", "Sensors", "disk_free_bytes"]

# Bits of get_throttled, https://www.raspberrypi.com/documentation/computers/os.html#get_throttled
_THROTTLED = {
    0: "under-voltage now",
    1: "clock capped now",
    2: "throttled now",
    3: "soft temperature limit now",
    16: "under-voltage since boot",
    17: "clock capped since boot",
    18: "throttled since boot",
    19: "soft temperature limit since boot",
}


class Sensors:
    """Of this machine; `root` is another folder in tests."""

    def __init__(self, root: Path = Path("/")) -> None:
        self._cpu = root / "sys/devices/system/cpu/cpu0/cpufreq"
        self._zones = sorted((root / "sys/class/thermal").glob("thermal_zone*"))
        self._root = root

    def look(self) -> dict[str, object]:
        """All that is known now: celsius, mhz, governor, throttled, energy (the name of its sensor)."""
        energy = Energy.of(self._root)
        found = {
            "celsius": self.celsius(),
            "mhz": self.mhz(),
            "governor": _text(self._cpu / "scaling_governor"),
            "throttled": self.throttled(),
            "energy": energy.name if energy else None,
        }
        return {name: value for name, value in found.items() if value is not None}

    def celsius(self) -> Optional[float]:
        """Of the zone that names the processor, or of the hottest."""
        found = {}
        for zone in self._zones:
            value = _number(zone / "temp")
            if value is not None:
                found[(_text(zone / "type") or "").lower()] = value / 1000
        named = [value for name, value in found.items() if "cpu" in name or "x86_pkg" in name or "soc" in name]
        return max(named or found.values(), default=None)

    def mhz(self) -> Optional[float]:
        value = _number(self._cpu / "scaling_cur_freq")
        return None if value is None else value / 1000

    def throttled(self) -> Optional[list[str]]:
        """What a Raspberry Pi says of its supply and its temperature, in words; an empty list where all is well."""
        command = shutil.which("vcgencmd")
        if command is None or self._root != Path("/"):
            return None
        said = subprocess.run(
            [command, "get_throttled"], capture_output=True, text=True, check=False
        ).stdout  # throttled=0x50000
        _, _, bits = said.strip().partition("=")
        try:
            number = int(bits, 16)
        except ValueError:
            return None
        return [words for bit, words in _THROTTLED.items() if number >> bit & 1]


class Energy:
    """A counter of joules, or a meter of watts whose readings are added up over the time between them."""

    def __init__(self, name: str, read: Callable[[], Optional[float]], *, counts: bool, wraps: float = 0.0) -> None:
        self.name = name
        self._read, self._counts, self._wraps = read, counts, wraps
        self._last, self._at = read(), time.perf_counter()
        self._joules = 0.0

    @classmethod
    def of(cls, root: Path = Path("/")) -> Optional[Energy]:
        """The first that this machine has and lets this user read: RAPL, an INA or another hwmon, a battery."""
        return next((made for made in _sensors(root) if made._last is not None), None)

    def joules(self) -> float:
        """Since this object was made. A meter of watts must be asked often: each reading counts until the next."""
        value, now = self._read(), time.perf_counter()
        if value is not None and self._last is not None:
            if self._counts:
                self._joules += value - self._last + (self._wraps if value < self._last else 0.0)
            else:
                self._joules += (value + self._last) / 2 * (now - self._at)
        self._last, self._at = value, now
        return self._joules


def _sensors(root: Path) -> Iterator[Energy]:
    for folder in sorted((root / "sys/class/powercap").glob("intel-rapl:[0-9]")):
        counter, wraps = folder / "energy_uj", _number(folder / "max_energy_range_uj") or 0.0
        yield Energy("RAPL", _scaled(counter, 1e-6), counts=True, wraps=wraps * 1e-6)
    for folder in sorted((root / "sys/class/hwmon").glob("hwmon*")):
        if (folder / "power1_input").exists():
            yield Energy(_text(folder / "name") or folder.name, _scaled(folder / "power1_input", 1e-6), counts=False)
    for folder in sorted((root / "sys/class/power_supply").glob("*")):
        if _text(folder / "type") == "Battery" and _text(folder / "status") == "Discharging":
            yield Energy("battery", _scaled(folder / "power_now", 1e-6), counts=False)


def _scaled(file: Path, factor: float) -> Callable[[], Optional[float]]:
    def read() -> Optional[float]:
        value = _number(file)
        return None if value is None else value * factor

    return read


def _text(file: Path) -> Optional[str]:
    try:
        return file.read_text("utf-8", "replace").strip() or None
    except OSError:  # absent, or only for root: both are not known
        return None


def _number(file: Path) -> Optional[float]:
    text = _text(file)
    try:
        return None if text is None else float(text)
    except ValueError:
        return None


def disk_free_bytes(folder: Path) -> int:
    """Where files of a user may be written; of the nearest parent that exists."""
    while not folder.exists():
        folder = folder.parent
    found = os.statvfs(folder)
    return found.f_bavail * found.f_frsize
