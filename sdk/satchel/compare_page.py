"""The page of a comparison."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def check_page(path: Path) -> None: ...
def write_page(plain: dict[str, Any], path: Path) -> None: ...
