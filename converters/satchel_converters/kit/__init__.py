"""Compile kits: the work of a format whose compiler lives on another machine, prepared as far as it can be here.

A kit is a folder that needs nothing of satchel any more. `finish.py` in it compiles the traced model with the vendor's
toolchain, replays the golden rows through what came out, and writes the bundle.
"""

from __future__ import annotations

from pathlib import Path

__all__ = ["FINISH", "PARITY"]

FINISH = Path(__file__).with_name("finish.py")  # copied into every kit as it stands
PARITY = "kit-parity.json"  # in the stage: how the traced model answered the golden samples
