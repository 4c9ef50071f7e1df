"""The model of tests/recorded/searches-4.55.json, built again where its texts are compared.

python -m tests.recorded_searches FOLDER
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from benchmarks.matrix.rows.generators import decoder

__all__ = ["RECORD", "build"]

RECORD: dict[str, Any] = {}
_FILE = Path(__file__).parent / "recorded" / "searches-4.55.json"
if _FILE.exists():
    RECORD.update(json.loads(_FILE.read_text()))


def build(folder: Path) -> None:
    torch.manual_seed(0)
    decoder("llama", folder, seed=2, max_position_embeddings=192)


if __name__ == "__main__":
    build(Path(sys.argv[1]))
