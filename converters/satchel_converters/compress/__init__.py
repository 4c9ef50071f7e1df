"""Smaller before it is exported: trim, prune, distil, trained on the user's data in a worker process.

Importing this needs no torch. What comes out is a normal Hugging Face folder with `compression.json` in it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
import threading
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from satchel_runtimes.errors import UsageError
from satchel_runtimes.examples import Example, write_examples

from ..process import HERE, Room, Tell, run_process
from ..source import SourceModel, find_source
from .distill import Distill, parse_distill
from .prune import Prune, parse_prune

__all__ = [
    "COMPRESS",
    "COMPRESSION",
    "Compression",
    "Distill",
    "FineTune",
    "Prune",
    "compress",
    "fine_tune",
    "parse_distill",
    "parse_prune",
]

COMPRESS = "compress.json"  # the worker's job
COMPRESSION = "compression.json"  # beside the weights that it left: what was asked, removed, learned
TRAIN, HELD_OUT, MODEL = "train.jsonl", "held-out.jsonl", "model"


@dataclass(frozen=True)
class Compression:
    """What is done to a model, in this order: its vocabulary is trimmed, it is pruned, it learns from what it was."""

    prune: Prune | None = None
    distill: Distill | None = None
    seed: int = 0
    max_length: int | None = None  # texts are cut at this many tokens, also on the device


@dataclass(frozen=True)
class FineTune:
    """How a model is trained on labelled data.

    Raises:
        UsageError: a number that is not above zero.
    """

    epochs: float | None = None  # None: 3, unless minutes or steps say how long
    minutes: float | None = None
    steps: int | None = None
    learning_rate: float | None = None  # None: 1e-4, of a new head 1e-3
    batch: int = 16
    head_only: bool = False  # the body stays as it is, and runs once over the data
    seed: int = 0
    patience: int = 3
    max_length: int | None = None  # texts are cut at this many tokens, also on the device

    def __post_init__(self) -> None:
        for name in ("epochs", "minutes", "steps", "learning_rate", "batch", "patience", "max_length"):
            value = getattr(self, name)
            if value is not None and not 0 < value < float("inf"):
                flag = f"--{name.replace('_', '-')} {value:g}"
                raise UsageError(f"Cannot train with {flag}.", why="it is not above zero", fix="give a positive number")


def compress(
    source: SourceModel,
    task: str,
    wanted: Compression,
    train: Sequence[Example],
    held_out: Sequence[Example],
    folder: Path,
    tell: Tell,
    cancel: threading.Event | None = None,
    room: Room = HERE,
    checkpoints: Path | None = None,
) -> Path:
    """Make a smaller model of `source` in `folder`, which must not exist yet, and return it.

    Args:
        train: what it learns from, and what decides which parts matter; for a trimmed vocabulary, the words to keep.
        held_out: rows that decide when to stop; taken from `train` if there are none. Never those of a final judgement.
        checkpoints: where a killed run leaves what the next one goes on from; beside `folder` by default.

    Raises:
        SatchelError: what the worker refused, or a limit of `room`; nothing is left but the checkpoint.
    """
    asked = {
        "prune": dataclasses.asdict(wanted.prune) if wanted.prune else None,
        "distill": dataclasses.asdict(wanted.distill) if wanted.distill else None,
        "seed": wanted.seed,
        "max_length": wanted.max_length,
    }
    if wanted.prune is None and wanted.distill is None:
        raise UsageError("There is nothing to compress.", why="neither --prune nor --distill is given", fix="add one")
    student = None
    if wanted.distill is not None and wanted.distill.student is not None:
        student = find_source(wanted.distill.student)
    job = {"kind": "compress", "asked": asked, "student": student.to_job() if student else None}
    return _made("compression", job, source, student, task, (train, held_out), folder, tell, cancel, room, checkpoints)


def fine_tune(
    source: SourceModel,
    task: str,
    wanted: FineTune,
    train: Sequence[Example],
    held_out: Sequence[Example],
    folder: Path,
    tell: Tell,
    cancel: threading.Event | None = None,
    room: Room = HERE,
    checkpoints: Path | None = None,
) -> Path:
    """Train `source` on labelled rows, with a new head where it has none for their labels; as `compress` otherwise."""
    job = {"kind": "train", "asked": dataclasses.asdict(wanted), "student": None}
    return _made("training", job, source, None, task, (train, held_out), folder, tell, cancel, room, checkpoints)


def _made(
    what: str,
    job: dict[str, Any],
    source: SourceModel,
    student: SourceModel | None,
    task: str,
    data: tuple[Sequence[Example], Sequence[Example]],
    folder: Path,
    tell: Tell,
    cancel: threading.Event | None,
    room: Room,
    checkpoints: Path | None,
) -> Path:
    if os.path.lexists(folder):
        raise UsageError(f"Will not overwrite {folder}.", why="it exists already", fix="choose another --out")
    making = folder.with_name(f".{folder.name}.making-{uuid.uuid4().hex}")
    making.mkdir(parents=True)
    kept = checkpoints or folder.with_name(f".{folder.name}.training")
    try:
        for name, examples in zip((TRAIN, HELD_OUT), data, strict=True):
            write_examples(making / name, examples)
        run = hashlib.sha256(json.dumps([job["kind"], job["asked"], task]).encode())
        run.update(source.digest.encode() + (student.digest if student else "").encode())
        for name in (TRAIN, HELD_OUT):
            run.update((making / name).read_bytes())
        rest = {"source": source.to_job(), "task": task, "run": run.hexdigest(), "checkpoints": str(kept.absolute())}
        (making / COMPRESS).write_text(json.dumps({**job, **rest}))
        run_process(what, making, tell, cancel, room)
        os.rename(making / MODEL, folder)
    finally:
        shutil.rmtree(making, ignore_errors=True)
    shutil.rmtree(kept, ignore_errors=True)
    return folder
