"""A machine with Neuron devices, as far as tests can have one: the fakes of the vendor's packages, and a tree of devices."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

__all__ = ["FAKES", "MODULES", "device_tree", "forget"]

FAKES = Path(__file__).parent / "fake_neuron"
MODULES = ("torch_neuronx", "torch_neuron", "fake_neuron_graphs")


def device_tree(root: Path, *cores: int) -> Path:
    """/dev and sysfs as the vendor's driver lays them out, a number of cores for each device."""
    for number, count in enumerate(cores):
        (root / "dev").mkdir(parents=True, exist_ok=True)
        (root / "dev" / f"neuron{number}").touch()
        about = root / "sys/devices/virtual/neuron_device" / f"neuron{number}"
        about.mkdir(parents=True)
        (about / "core_count").write_text(f"{count}\n")
    return root


def forget(prefixes: tuple[str, ...] = MODULES) -> None:
    for name in [each for each in sys.modules if each.partition(".")[0] in prefixes]:
        del sys.modules[name]
    importlib.invalidate_caches()
