"""What every way to a device offers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

__all__ = ["OWN", "Device", "Json", "Tell"]

OWN = ""  # in place of the name of a certificate's file: one that is made for the run

Tell = Callable[[str], None]
Json = dict[str, Any]  # Any: what the agent says


class Device(Protocol):
    """A machine that measures bundles with the agent, `satchel_runtimes.agent`, whose answers these are.

    Each may raise a SatchelError: the device cannot be reached, lacks something, or refuses the bundle.
    """

    name: str

    def look(self) -> Json | None: ...  # None of one that tells of itself only with its figures, as "device" among them
    def push(self, bundle: Path, tell: Tell) -> str: ...
    def measure(self, bundle: Path, options: Mapping[str, Any], tell: Tell) -> Json: ...
    def predict(self, bundle: Path, inputs: Sequence[Any], options: Mapping[str, Any], tell: Tell) -> list[Any]: ...
    def remove(self, bundle: Path | None) -> str: ...
    def close(self) -> None: ...
