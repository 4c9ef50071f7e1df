"""What a model itself says to rows of data, kept by content: the same model and rows are asked once."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from satchel_converters.asking import Ask, ask
from satchel_converters.process import HERE, Room, Tell
from satchel_runtimes.bundle import cache_folder
from satchel_runtimes.examples import Example

from .stage_cache import code_digest, version_of

__all__ = ["reference_answers"]

_PACKAGES = ("torch", "transformers", "tokenizers", "numpy", "pillow")
_STALE_SECONDS = 90 * 24 * 3600  # answers are small; those that nobody asked for in a season go


def reference_answers(
    asked: Ask,
    rows: Sequence[Example],
    tell: Tell,
    cancel: threading.Event | None = None,
    *,
    use_cache: bool = True,
    room: Room = HERE,
) -> list[Any]:
    """Answers as `Task.reply` gives them.

    Raises:
        SatchelError, RuntimeError: as a conversion's export.
    """
    folder = cache_folder() / "answers"
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{_key(asked, rows)}.json"
    if use_cache:
        with contextlib.suppress(OSError, ValueError):  # not there, or half of it: asked again
            answers: list[Any] = json.loads(file.read_bytes())
            if len(answers) == len(rows):
                tell("cache", f"{len(rows)} answers of {asked.source.name} from {file.name[:12]}", 0, 0)
                os.utime(file)
                return answers
    with tempfile.TemporaryDirectory(prefix="satchel-ask-") as place:
        answers = ask(asked, rows, Path(place), tell, cancel, room)
    beside = file.with_name(f".{file.name}.{os.getpid()}")
    beside.write_text(json.dumps(answers), "utf-8")
    os.replace(beside, file)
    _sweep(folder)
    return answers


def _key(asked: Ask, rows: Sequence[Example]) -> str:
    digest = hashlib.sha256()
    about = {
        "source": asked.source.digest,
        "trust": asked.source.trust_remote_code,
        "task": asked.task,
        "labels": asked.labels,
        "packages": {name: version_of(name) for name in _PACKAGES},
        "code": code_digest(),
    }
    digest.update(json.dumps(about, sort_keys=True).encode())
    for row in rows:
        digest.update(json.dumps(row.input, sort_keys=True).encode())
        if isinstance(row.input, str) and len(row.input) < 4096 and "\n" not in row.input:
            with contextlib.suppress(OSError, ValueError):  # a text and no path
                digest.update(hashlib.sha256(Path(row.input).read_bytes()).digest())
    return digest.hexdigest()


def _sweep(folder: Path) -> None:
    for each in folder.iterdir():
        with contextlib.suppress(OSError):
            if time.time() - each.stat().st_mtime > _STALE_SECONDS:
                each.unlink()
