"""Compression before conversion: the smaller model of a source, kept by content so that every format reuses it."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
from pathlib import Path

from satchel_converters.compress import (
    COMPRESSION,
    Compression,
    FineTune,
    compress,
    fine_tune,
    parse_distill,
    parse_prune,
)
from satchel_converters.process import HERE, Room
from satchel_converters.source import SourceModel, find_source, tasks_for
from satchel_runtimes.bundle import cache_folder
from satchel_runtimes.errors import UsageError
from satchel_runtimes.examples import Example
from satchel_runtimes.tasks import task_class

from .data import Labels, read_data
from .options import Prepared
from .progress import Reporter
from .stage_cache import code_digest

__all__ = ["compress_model", "train_model", "wanted_of", "with_compression"]


def wanted_of(
    prune: str | None, distill: str | None, *, seed: int = 0, sequence_length: int | None = None
) -> Compression | None:
    """What `--prune` and `--distill` ask for; None where neither is given.

    Raises:
        UsageError: as their own words are refused.
    """
    if prune is None and distill is None:
        return None
    return Compression(
        parse_prune(prune) if prune is not None else None,
        parse_distill(distill) if distill is not None else None,
        seed,
        sequence_length,
    )


def with_compression(prepared: Prepared, reporter: Reporter) -> Prepared:
    """The same conversion of the compressed model; answers are still judged by the original.

    Raises:
        SatchelError: what compression refuses.
    """
    options = prepared.options
    wanted = wanted_of(options.prune, options.distill, sequence_length=options.sequence_length)
    if wanted is None:
        return prepared
    rows = prepared.data.train if prepared.data is not None else ()
    _check_rows(wanted, len(rows))
    source, task = prepared.source, prepared.tasks[0]
    key = _key(source, task, wanted, json.dumps([[each.input, each.target] for each in rows]))
    folder = cache_folder() / "compressed" / key
    if options.cache and (folder / COMPRESSION).is_file():
        with contextlib.suppress(OSError):  # a cache that others own may still be read
            os.utime(folder)
        reporter.tell("cache", f"compressed model from {key[:12]}")
    else:
        # The same run of another moment has the same key, so a killed one is gone on from.
        made = folder if not folder.exists() else folder.with_name(f"{key}-{os.getpid()}")
        room = Room(None, options.max_convert_memory_mb, options.max_convert_seconds)
        checkpoints = folder.with_name(f".{key}.training")
        folder = compress(source, task, wanted, rows, (), made, reporter.tell, reporter.cancel, room, checkpoints)
    smaller = dataclasses.replace(source, folder=folder, config=find_source(folder).config)
    return dataclasses.replace(prepared, source=smaller, original=source)


def compress_model(
    model: str,
    out: Path,
    wanted: Compression,
    data: Path | None,
    task: str | None,
    columns: dict[str, str] | None,
    drop_overlaps: bool,
    reporter: Reporter,
    room: Room = HERE,
) -> Path:
    """`satchel compress`: the smaller model as a Hugging Face folder."""
    source = find_source(model)
    task = tasks_for(source, task)[0]
    rows: tuple[Example, ...] = ()
    if data is not None:
        labels = Labels.of(source.config)
        rows = read_data(data, task_class(task), labels, columns=columns, drop_overlaps=drop_overlaps).train
    _check_rows(wanted, len(rows))
    return compress(source, task, wanted, rows, (), out, reporter.tell, reporter.cancel, room)


def train_model(
    model: str,
    out: Path,
    wanted: FineTune,
    data: Path,
    task: str,
    columns: dict[str, str] | None,
    drop_overlaps: bool,
    reporter: Reporter,
    room: Room = HERE,
) -> Path:
    """`satchel train`: the model, or only a head on it, trained on the labels of the data."""
    found = read_data(data, task_class(task), columns=columns, drop_overlaps=drop_overlaps)
    rows = found.rows("train", to="train")
    return fine_tune(find_source(model), task, wanted, rows, (), out, reporter.tell, reporter.cancel, room)


def _check_rows(wanted: Compression, rows: int) -> None:
    needs = []
    if wanted.prune is not None and (wanted.prune.needs_data or wanted.prune.vocabulary):
        needs.append("--prune")
    if wanted.distill is not None:
        needs.append("--distill")
    if needs and not rows:
        raise UsageError(
            f"Cannot use {' and '.join(needs)} without rows to train on.",
            why="what matters, and what is learned, is found on data",
            fix="give --data with a train split; a plain --prune layers=… or by=magnitude needs none",
        )


def _key(source: SourceModel, task: str, wanted: Compression, rows: str) -> str:
    student = wanted.distill.student if wanted.distill is not None else None
    about = {
        "source": source.digest,
        "trust": source.trust_remote_code,
        "student": find_source(student).digest if student else None,
        "task": task,
        "wanted": dataclasses.asdict(wanted),
        "rows": rows,
        "code": code_digest(),
    }
    return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()
