"""What satchel knows of the devices it packs for: one TOML file in `data/` is one device, code gives it a shape."""

from __future__ import annotations

from satchel_device_profiles.profile import (
    Budget,
    DeviceProfile,
    Engine,
    Measured,
    MeasuredRun,
    Parity,
    ParityLimits,
    list_profiles,
    load_profile,
)

__all__ = [
    "Budget",
    "DeviceProfile",
    "Engine",
    "Measured",
    "MeasuredRun",
    "Parity",
    "ParityLimits",
    "list_profiles",
    "load_profile",
]
