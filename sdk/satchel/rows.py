"""Rows of a user's file or folder, each with the place where it stands, before they mean anything to a task."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from satchel_runtimes.errors import UsageError

from .inputs import as_text

__all__ = ["CALIBRATION", "EVALUATION", "FILE_COLUMNS", "SPLITS", "TRAIN", "Raw", "read_rows"]

TRAIN, CALIBRATION, EVALUATION = SPLITS = ("train", "calibration", "evaluation")
_SPLIT_NAMES = {
    **dict.fromkeys(("train", "training"), TRAIN),
    **dict.fromkeys(("calibration", "validation", "valid", "val", "dev"), CALIBRATION),
    **dict.fromkeys(("evaluation", "eval", "test"), EVALUATION),
}
FILE_COLUMNS = ("file_name", "file", "path")  # of a picture or a sound in a manifest, whatever the task calls it
_MANIFESTS = ("metadata", "manifest", "transcripts")
_IMAGES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm")
_SOUNDS = (".wav", ".flac", ".ogg", ".mp3")
_MAX_CELL = 2**31 - 1  # csv's own limit is smaller than many a document


@dataclass(frozen=True)
class Raw:
    """One row: its values by column, and the folder that paths in it start from."""

    where: str
    values: Mapping[str, Any]
    folder: Path
    split: str | None = None  # None: nobody said which


def read_rows(path: Path) -> list[Raw]:
    """All rows of JSON lines, CSV, a text per line, pictures in a folder per label, sounds beside their transcripts, or
    of a folder that has one of these per split.

    Raises:
        UsageError: nothing there, none of these, not UTF-8, or a row that cannot be read.
    """
    try:
        rows = list(_folder(path, path)) if path.is_dir() else list(_file(path, path.name, _split_of(path)))
    except OSError as error:
        raise _cannot(str(path), str(error.strerror or error), "check the path") from None
    if not rows:
        raise _cannot(str(path), "it holds no rows", "give data with at least one row")
    return rows


def _cannot(what: str, why: str, fix: str) -> UsageError:
    return UsageError(f"Cannot read {what}.", why=why, fix=fix)


def _split_of(path: Path) -> str | None:
    return _SPLIT_NAMES.get(path.name.partition(".")[0].lower())


def _folder(folder: Path, root: Path) -> Iterator[Raw]:
    entries = sorted(each for each in folder.iterdir() if not each.name.startswith("."))
    splits = [each for each in entries if _split_of(each)] if folder == root else []
    if splits:
        for each in splits:
            name, split = each.relative_to(root).as_posix(), _split_of(each)
            rows = list(_folder(each, root) if each.is_dir() else _file(each, name, split))
            if not rows:
                raise _cannot(str(each), f"the split {split!r} is empty", "add rows to it, or remove it")
            yield from (Raw(row.where, row.values, row.folder, split) for row in rows)
        return
    manifest = next((each for each in entries if each.stem in _MANIFESTS and each.suffix in _READERS), None)
    if manifest is not None:
        yield from _file(manifest, manifest.relative_to(root).as_posix(), None)
        return
    found = False
    for each in entries:
        if each.suffix.lower() in _SOUNDS:
            found = True
            yield _sound(each, root)
        elif each.is_dir():
            for file in sorted(each.rglob("*")):
                if file.suffix.lower() in _IMAGES and not file.name.startswith("."):
                    found = True
                    name = file.relative_to(root).as_posix()
                    yield Raw(name, {"image": file.name, "label": each.name}, file.parent)
    if not found and folder == root:
        raise _cannot(
            str(folder),
            "it has no file or folder named for a split (train, validation, test), no folder of pictures per label, no "
            "sounds with transcripts, and no metadata.jsonl or metadata.csv",
            "see docs/data.md for the forms that are read",
        )


def _sound(file: Path, root: Path) -> Raw:
    name, beside = file.relative_to(root).as_posix(), file.with_suffix(".txt")
    if not beside.is_file():
        raise _cannot(
            name, f"there is no transcript {beside.name} beside it", "add the transcript, or remove the sound"
        )
    return Raw(name, {"audio": file.name, "text": as_text(beside.read_bytes(), str(beside)).strip()}, file.parent)


def _file(file: Path, name: str, split: str | None) -> Iterator[Raw]:
    reader = _READERS.get(file.suffix.lower())
    if reader is None:
        raise _cannot(str(file), f"files that end in {file.suffix or 'nothing'} are not read", f"give {_FORMS}")
    for where, values in reader(file.read_bytes(), name):
        yield Raw(where, values, file.parent, split)


def _json_lines(data: bytes, name: str) -> Iterator[tuple[str, dict[str, Any]]]:
    for number, line in enumerate(data.split(b"\n"), 1):
        where = f"row {number} of {name}"
        if line.strip():
            yield where, _object(as_text(line.removeprefix(b"\xef\xbb\xbf"), where), where)


def _json_list(data: bytes, name: str) -> Iterator[tuple[str, dict[str, Any]]]:
    text = as_text(data, name)
    if not text.lstrip("\ufeff \t\r\n").startswith("["):
        yield from _json_lines(data, name)
        return
    try:
        rows = json.loads(text.lstrip("\ufeff"))
    except ValueError as error:
        raise _cannot(name, f"it is not valid JSON: {error}", "mend it, or write a JSON object per line") from None
    for number, row in enumerate(rows, 1):
        yield f"row {number} of {name}", _checked(row, f"row {number} of {name}")


def _object(text: str, where: str) -> dict[str, Any]:
    try:
        row = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _cannot(where, f"it is not valid JSON: {error}", "mend the row, or remove it") from None
    return _checked(row, where)


def _checked(row: Any, where: str) -> dict[str, Any]:
    if not isinstance(row, dict):
        why = f"it is a {type(row).__name__}, not an object with columns"
        raise _cannot(where, why, 'write rows such as {"text": "…", "label": "…"}')
    return row


def _csv(data: bytes, name: str, delimiter: str = ",") -> Iterator[tuple[str, dict[str, Any]]]:
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        as_text(data, f"line {line} of {name}")
        raise
    csv.field_size_limit(_MAX_CELL)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    header: list[str] | None = None
    try:
        for cells in reader:
            where = f"line {reader.line_num} of {name}"
            if not cells:
                continue
            if header is None:
                header = [cell.strip() for cell in cells]
                if len(set(header)) < len(header) or "" in header:
                    raise _cannot(where, f"its columns are {', '.join(map(repr, header))}", "name each column once")
            elif len(cells) != len(header):
                why = f"it has {len(cells)} cells, and {len(header)} columns are named"
                raise _cannot(where, why, "put cells with commas or line ends in quotation marks")
            else:
                yield where, dict(zip(header, cells, strict=True))
    except csv.Error as error:
        raise _cannot(f"line {reader.line_num} of {name}", str(error), "mend the row, or remove it") from None


def _tsv(data: bytes, name: str) -> Iterator[tuple[str, dict[str, Any]]]:
    return _csv(data, name, "\t")


def _texts(data: bytes, name: str) -> Iterator[tuple[str, dict[str, Any]]]:
    for number, line in enumerate(data.split(b"\n"), 1):
        where = f"row {number} of {name}"
        if line.strip():
            yield where, {"text": as_text(line.removeprefix(b"\xef\xbb\xbf"), where).strip()}


_READERS: Mapping[str, Callable[[bytes, str], Iterator[tuple[str, dict[str, Any]]]]] = {
    ".jsonl": _json_lines,
    ".ndjson": _json_lines,
    ".json": _json_list,
    ".csv": _csv,
    ".tsv": _tsv,
    ".txt": _texts,
}
_FORMS = "JSON lines (.jsonl), CSV (.csv, .tsv), a text per line (.txt), or a folder"
