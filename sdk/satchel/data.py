"""A user's data: rows that a task understands, in three splits of which no two share an input."""

from __future__ import annotations

import hashlib
import json
import math
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from satchel_runtimes.errors import UsageError
from satchel_runtimes.examples import Example
from satchel_runtimes.tasks import Task

from .rows import CALIBRATION, EVALUATION, FILE_COLUMNS, SPLITS, TRAIN, Raw, read_rows

__all__ = ["Data", "Labels", "parse_columns", "read_data", "sample"]

_HUNDRED = 100
_TO_EVALUATION, _TO_CALIBRATION = 20, 10  # of every hundred inputs, where nobody said which split they belong to
_SHOWN = 20  # labels that an error lists
_ANY_LABELS = ("zero-shot-classification",)  # their models' own labels are those of entailment
_FILES = ("image", "audio")


@dataclass(frozen=True)
class Labels:
    """What a model calls its outputs, and how data may call them: by name, by number, or as its label2id does."""

    names: tuple[str, ...]
    ids: Mapping[str, int]
    kind: str = "one"  # "many" of them to a row, or a "number" in their place

    @staticmethod
    def of(config: Mapping[str, Any], task: str = "") -> Labels | None:
        """Of a config.json; None where it has no labels, or where the task takes any."""
        if task in _ANY_LABELS:
            return None
        named = config.get("id2label")
        if not isinstance(named, Mapping) or not named:
            return None
        names = tuple(str(named[key]) for key in sorted(named, key=int))
        problem = config.get("problem_type")
        kind = {"regression": "number", "multi_label_classification": "many"}.get(str(problem), "one")
        return Labels(names, {str(k): int(v) for k, v in (config.get("label2id") or {}).items()}, kind)

    def name_of(self, value: Any, where: str) -> str:  # Any: what the data says
        if isinstance(value, str) and value in self.names:
            return value
        number = int(value) if isinstance(value, (bool, int)) else None
        if isinstance(value, float) and value.is_integer():
            number = int(value)
        if isinstance(value, str):
            number = self.ids.get(value, int(value) if value.isascii() and value.isdigit() else None)
        if number is not None and 0 <= number < len(self.names):
            return self.names[number]
        more = f" and {len(self.names) - _SHOWN} more" if len(self.names) > _SHOWN else ""
        raise UsageError(
            f"Cannot use {where}.",
            why=f"the model has no label {value!r}; it has {', '.join(self.names[:_SHOWN])}{more}",
            fix="write labels by these names, or by their numbers from 0; id2label in config.json names them",
        )


@dataclass(frozen=True)
class Data:
    """The rows of a `--data`, split."""

    path: Path
    train: tuple[Example, ...] = ()
    calibration: tuple[Example, ...] = ()
    evaluation: tuple[Example, ...] = ()
    columns: Mapping[str, str] | None = None  # part of the task -> the column that it was read from
    dropped: int = 0  # rows of training or calibration that evaluation has as well

    def rows(self, split: str, *, least: int = 1, to: str = "use it") -> tuple[Example, ...]:
        """The rows of a split, of which there must be some.

        Raises:
            UsageError: no such split, or too few rows in it.
        """
        if split not in (*SPLITS, "all"):
            raise UsageError(
                f"Cannot use the split {split!r}.", why="there is none", fix=f"choose one of {', '.join(SPLITS)}, all"
            )
        names = SPLITS if split == "all" else (split,)
        found = tuple(each for name in names for each in getattr(self, name))
        if len(found) < least:
            counts = ", ".join(f"{len(getattr(self, name))} for {name}" for name in SPLITS)
            raise UsageError(
                f"Cannot {to} with {self.path}.",
                why=f"its {split} split has {len(found)} rows, and at least {least} are needed (it has {counts})"
                if found or least > 1
                else f"its {split} split is empty (it has {counts})",
                fix="add rows, or name a file or folder for that split (train, validation, test)",
            )
        return found

    @property
    def labels(self) -> tuple[str, ...]:
        """The different right answers of all rows, where they are texts."""
        found: set[str] = set()
        for each in (*self.train, *self.calibration, *self.evaluation):
            found.update(_texts_of(each.target))
        return tuple(sorted(found))


def _texts_of(target: Any) -> Iterable[str]:
    if isinstance(target, str):
        return (target,)
    if isinstance(target, Mapping):
        return _texts_of(target.get("labels"))
    if isinstance(target, list):
        if target and isinstance(target[0], Mapping):  # answers to a question
            return [each["text"] for each in target]
        return target or ("",)
    return ()


def sample(rows: Sequence[Example], count: int | None) -> tuple[Example, ...]:
    """At most so many rows, drawn with a fixed seed: files are often sorted by label."""
    if count is None or count >= len(rows):
        return tuple(rows)
    return tuple(rows[i] for i in sorted(np.random.default_rng(0).permutation(len(rows))[:count].tolist()))


def parse_columns(given: str | None) -> dict[str, str]:
    """`--columns text=review,label=stars`."""
    pairs = [each.partition("=") for each in given.split(",")] if given else []
    if any(not part.strip() or not column.strip() for part, _, column in pairs):
        raise UsageError(
            f"Cannot use --columns {given}.", why="it is not a list of part=column", fix="write text=review,label=stars"
        )
    return {part.strip(): column.strip() for part, _, column in pairs}


def read_data(
    path: str | Path,
    task: type[Task],
    labels: Labels | Sequence[str] | None = None,
    *,
    columns: Mapping[str, str] | None = None,
    drop_overlaps: bool = False,
) -> Data:
    """Read rows, give them the form that the task takes, and split them.

    Files and folders that are named for a split (train; validation or calibration; test or evaluation) are that split.
    Otherwise the content of a row's input decides, so that a repeated input is always in one split.

    Args:
        task: its class says which columns it reads.
        labels: the model's; None takes labels as the data has them.
        columns: part of the task -> name of the column, in place of the names that the task knows.
        drop_overlaps: leave rows out of training and calibration that evaluation has as well, instead of refusing.

    Raises:
        UsageError: a file that cannot be read, a missing column, a label that the model does not have, a row whose type
            differs from the others', an empty split, or an input in two splits.
    """
    path = Path(path)
    if labels is not None and not isinstance(labels, Labels):
        labels = Labels(tuple(labels), {})
    raw = read_rows(path)
    chosen = _choose(raw, task, columns or {}, path)
    reader = _Reader(task, labels, chosen, {})
    made = [(row, *reader.read(row)) for row in raw]
    splits, dropped = _split(made, drop_overlaps)
    train, calibration, evaluation = (tuple(splits[name]) for name in SPLITS)
    return Data(path, train, calibration, evaluation, chosen, dropped)


def _choose(raw: Sequence[Raw], task: type[Task], given: Mapping[str, str], path: Path) -> dict[str, str]:
    """Which column each part of the task is read from."""
    for part in given:
        if part not in task.columns:
            raise UsageError(
                f"Cannot use --columns {part}=….", why=f"{task.name} reads {', '.join(task.columns)}", fix="name one"
            )
    there = dict.fromkeys(name for row in raw for name in row.values)
    chosen: dict[str, str] = {}
    for part, names in task.columns.items():
        wanted = (given[part],) if part in given else (*names, *(FILE_COLUMNS if part in _FILES else ()))
        found = next((name for name in wanted if name in there and name not in chosen.values()), None)
        if found is not None:
            chosen[part] = found
        elif part in given or part not in task.optional:
            raise UsageError(
                f"Cannot use {path} for {task.name}.",
                why=f"it has no column {' or '.join(wanted)}; it has {', '.join(there)}",
                fix=f"name the column: --columns {part}=…",
            )
    return chosen


@dataclass(frozen=True)
class _Reader:
    """Rows as examples; `kinds` remembers the type of each column's first value."""

    task: type[Task]
    labels: Labels | None
    columns: Mapping[str, str]
    kinds: dict[str, tuple[str, str]]

    def read(self, row: Raw) -> tuple[Example, str]:
        """The example, and the digest of its input."""
        parts: dict[str, Any] = {}
        digests: list[str] = []
        for part, column in self.columns.items():
            value = row.values.get(column)
            if value is None:
                if part in self.task.optional and part == self.task.target:
                    continue  # a row that is not labelled
                raise UsageError(f"Cannot use {row.where}.", why=f"it has no {column!r}", fix="complete the row")
            self._same_kind(column, value, row.where)
            parts[part] = self._value(part, column, value, row)
            if part in _FILES:
                digests.append(hashlib.sha256(Path(parts[part]).read_bytes()).hexdigest())
        example = self.task.example(parts)
        target = example.target
        if isinstance(target, Mapping) and len(target.get("labels", ())) != len(target.get("tokens", ())):
            why = f"it has {len(target['tokens'])} words and {len(target['labels'])} labels"
            raise UsageError(f"Cannot use {row.where}.", why=why, fix="give each word one label")
        content = json.dumps(digests or _canonical(example.input), ensure_ascii=False, sort_keys=True)
        return example, hashlib.sha256(content.encode("utf-8", "surrogatepass")).hexdigest()

    def _same_kind(self, column: str, value: Any, where: str) -> None:
        kind = _KINDS.get(type(value), type(value).__name__)
        first = self.kinds.setdefault(column, (kind, where))
        if first[0] != kind:
            why = f"{column!r} is {kind} here and {first[0]} in {first[1]}"
            raise UsageError(f"Cannot use {where}.", why=why, fix="write all rows alike")

    def _value(
        self, part: str, column: str, value: Any, row: Raw
    ) -> Any:  # Any: what the data says, and what a task takes
        if part in _FILES:
            file = row.folder / str(value)
            if not isinstance(value, str) or not file.is_file() or not file.stat().st_size:
                why = f"there is no file {file}, or it is empty"
                raise UsageError(
                    f"Cannot use {row.where}.", why=why, fix="paths are relative to the file that has them"
                )
            return str(file.absolute())
        read = _VALUES.get(part)
        if read is not None:
            return read(value, self.labels, f"{row.where}, column {column!r}")
        if not isinstance(value, str):
            why = f"{column!r} is {_KINDS.get(type(value), type(value).__name__)}, not a text"
            raise UsageError(
                f"Cannot use {row.where}.", why=why, fix=f"write a text, or name another column: --columns {part}=…"
            )
        return value


_KINDS = {str: "a text", int: "a number", float: "a number", bool: "true or false", list: "a list", dict: "an object"}


def _canonical(value: Any) -> Any:  # Any: JSON
    """The same for texts that only differ in white space or in how Unicode writes a letter."""
    if isinstance(value, str):
        return " ".join(unicodedata.normalize("NFC", value).split())
    if isinstance(value, Mapping):
        return {name: _canonical(each) for name, each in value.items()}
    return [_canonical(each) for each in value] if isinstance(value, (list, tuple)) else value


def _number(value: Any, labels: Labels | None, where: str) -> float:
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise UsageError(f"Cannot use {where}.", why=f"{value!r} is not a number", fix="write a number")
    return number


def _label(value: Any, labels: Labels | None, where: str) -> Any:  # Any: a name, several, or a number
    if labels is not None and labels.kind == "number":
        return _number(value, labels, where)
    several = _listed(value)
    if labels is None:
        if several is not None:
            return [str(each) for each in several]
        return value if isinstance(value, (str, float)) else str(int(value))
    if labels.kind == "many":
        return [labels.name_of(each, where) for each in (several if several is not None else [value])]
    if several is not None:
        raise UsageError(
            f"Cannot use {where}.", why="it is a list, and the model gives one label", fix="write one label"
        )
    return labels.name_of(value, where)


def _word_labels(value: Any, labels: Labels | None, where: str) -> list[str]:
    found = _listed(value, words=True)
    if found is None:
        raise UsageError(f"Cannot use {where}.", why="it is not a list of labels", fix="give each word one label")
    return [str(each) if labels is None else labels.name_of(each, where) for each in found]


def _words(value: Any, labels: Labels | None, where: str) -> list[str]:
    found = _listed(value, words=True)
    if not found or not all(isinstance(each, str) for each in found):
        raise UsageError(f"Cannot use {where}.", why="it is not a list of words", fix='write ["two", "words"]')
    return found


def _answers(value: Any, labels: Labels | None, where: str) -> list[dict[str, Any]]:
    """As SQuAD has them, `{"text": [...], "answer_start": [...]}`, or a list of texts or of objects, or one text; an
    empty list, or an empty text, is a question without an answer."""
    if isinstance(value, str):
        value = _listed(value) if value[:1] in ("[", "{") and _listed(value) is not None else [value]
    if isinstance(value, Mapping):
        texts, starts = value.get("text"), value.get("answer_start", value.get("start"))
        texts = [texts] if isinstance(texts, str) else texts
        if isinstance(texts, list):
            starts = starts if isinstance(starts, list) else [starts] * len(texts)
            value = [{"text": text, "start": start} for text, start in zip(texts, starts, strict=False)]
    if isinstance(value, list):
        found = [each if isinstance(each, Mapping) else {"text": each} for each in value]
        if all(isinstance(each.get("text"), str) for each in found):
            starts_of = ((each["text"], each.get("start", each.get("answer_start"))) for each in found)
            return [{"text": text, "start": start} for text, start in starts_of if text]
    raise UsageError(
        f"Cannot use {where}.", why="these are no answers", fix='write {"text": ["…"], "answer_start": [17]}'
    )


def _listed(value: Any, *, words: bool = False) -> list[Any] | None:
    """A list, which a cell of CSV holds as JSON; words may also stand with blanks between them."""
    if isinstance(value, str):
        try:
            value = json.loads(value) if value[:1] in ("[", "{") else value
        except ValueError:
            pass
        if words and isinstance(value, str):
            return value.split()
    return value if isinstance(value, list) else None


_VALUES: Mapping[str, Callable[[Any, Labels | None, str], Any]] = {
    "label": _label,
    "labels": _word_labels,
    "tokens": _words,
    "score": _number,
    "answers": _answers,
}


def _split(made: Sequence[tuple[Raw, Example, str]], drop_overlaps: bool) -> tuple[Mapping[str, list[Example]], int]:
    named = {row.split for row, _, _ in made if row.split}
    roles = {name: name for name in SPLITS}
    if CALIBRATION in named and TRAIN in named and EVALUATION not in named:
        roles[CALIBRATION] = EVALUATION  # train and validation alone: what is held out is judged on
    splits: dict[str, list[Example]] = {name: [] for name in SPLITS}
    where_of: dict[str, tuple[str, str]] = {}
    dropped = 0
    # Evaluation first: what it has stays in it.
    order = sorted(made, key=lambda each: -SPLITS.index(roles[each[0].split or TRAIN]))
    for row, example, key in order:
        split = roles[row.split] if row.split else None
        place = int(key[:8], 16) % _HUNDRED
        if split is None:
            above = place - _TO_EVALUATION
            split = EVALUATION if above < 0 else CALIBRATION if above < _TO_CALIBRATION else TRAIN
        elif split == TRAIN and not {CALIBRATION} & {roles[each] for each in named} and place < _TO_CALIBRATION:
            split = CALIBRATION
        first = where_of.setdefault(key, (split, row.where))
        if first[0] != split:
            if not drop_overlaps:
                raise UsageError(
                    f"Cannot use {row.where}.",
                    why=f"its input is that of {first[1]}, which is in the split {first[0]}: what is judged must not be trained on",
                    fix="remove one of them; or --drop-overlaps leaves such rows out of training and calibration",
                )
            dropped += 1
            continue
        splits[split].append(example)
    return splits, dropped
