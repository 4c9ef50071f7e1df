"""What a long conversion tells its caller, and how it is stopped."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from satchel_runtimes.errors import Cancelled

__all__ = ["Callback", "Progress", "Reporter"]


@dataclass(frozen=True)
class Progress:
    """One piece of news. `total` is 0 where the length of a stage is not known."""

    stage: str
    message: str
    done: int
    total: int
    elapsed_s: float
    detail: str = ""  # of a step within the message, for a line that is drawn anew


Callback = Callable[[Progress], None]


class Reporter:
    """Passes news on, keeps the time of each stage, and raises `Cancelled` between steps once `cancel` is set."""

    def __init__(self, callback: Callback | None, cancel: threading.Event | None) -> None:
        self.cancel = cancel
        self.seconds: dict[str, float] = {}
        self._callback = callback
        self._stage, self._message, self._done, self._total = "", "", 0, 0
        self._since = time.monotonic()

    def tell(self, stage: str, message: str = "", step: int = 0, total: int = 0) -> None:
        now = time.monotonic()
        if stage != self._stage:
            self.finish()
            self._stage, self._done, self._total, self._since = stage, 0, 0, now
        self._message = message or self._message if step else message
        self._done += step
        self._total = total or self._total
        if self._callback is not None:
            self._callback(Progress(stage, self._message, self._done, self._total, now - self._since))
        if self.cancel is not None and self.cancel.is_set():
            raise Cancelled("The conversion was cancelled.", why="its cancel event was set", fix="run it again")

    def finish(self) -> None:
        """Close the stage that is open."""
        if self._stage:
            self.seconds[self._stage] = self.seconds.get(self._stage, 0.0) + time.monotonic() - self._since
            self._stage = ""
