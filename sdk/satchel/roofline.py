"""What a device's peak throughput and memory bandwidth allow a measured bundle, by its profile."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from satchel_converters.format import format_of
from satchel_device_profiles import load_profile
from satchel_runtimes.errors import UsageError

from .trial import estimate

__all__ = ["floor_ms", "kind_of"]

_KINDS = {
    "x86_64": "x86-64",
    "AMD64": "x86-64",
    "aarch64": "arm64",
    "arm64": "arm64",
    "browser": "browser",
}  # what systems call a profile's kind


def kind_of(machine: str) -> str:
    """A profile's kind, of what a system calls its processor."""
    return _KINDS.get(machine, machine)


def floor_ms(result: Mapping[str, Any]) -> dict[int, float]:
    """Milliseconds by tokens below which no run can be. Empty where the profile lacks a fact, is of another kind of machine than
    the one that measured, or the inputs have no length."""
    about, run = result["bundle"], result["run"]
    try:
        profile = load_profile(about["device"])
        scheme = format_of(about["format"]).scheme(about["scheme"])
    except UsageError:  # a profile of the user's own, or of a later satchel
        return {}
    if profile.kind != kind_of(run["machine"]["machine"]) or run["shape"]:
        return {}
    lengths = [int(tokens) for tokens in run["latency"]]
    return dict(estimate(profile, about["source"]["parameters"], scheme, run["threads"], lengths))
