"""Ways to a device: where a bundle is proved and measured, by `--on`."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from satchel_runtimes.errors import UsageError

if TYPE_CHECKING:
    from .device import Device

__all__ = ["open_device"]

# A new way is one file here with `open_device(target)`, and this line.
_SCHEMES = {"local": ".local", "ssh": ".ssh", "browser": ".browser", "adb": ".adb"}


def open_device(target: str, **options: str | None) -> Device:
    """The device that `local`, `ssh://[user@]host[:port]`, `browser` or `adb://serial` names; nothing is done there yet.

    Raises:
        UsageError: no way has this name, or the rest of it cannot be read.
    """
    scheme = target.partition(":")[0]
    if scheme not in _SCHEMES:
        raise UsageError(
            f"Cannot measure on {target!r}.",
            why=f"there is no way to a device called {scheme!r}; there are {', '.join(_SCHEMES)}",
            fix="write local, ssh://user@host[:port], browser, or adb://serial",
        )
    found: Device = importlib.import_module(_SCHEMES[scheme], __package__).open_device(target, **options)
    return found
