"""Recipes: every option of a conversion in one TOML file, read, and written so that it makes the same bundle again."""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import json
import math
import os
import re
import tomllib
import types
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Union, get_args, get_origin, get_type_hints

import satchel_runtimes
from satchel_runtimes.bundle import sha256_of
from satchel_runtimes.errors import IntegrityError, SupportError, UsageError

from .data import parse_columns
from .options import Options, Prepared

if TYPE_CHECKING:
    from .report import Outcome

__all__ = ["check_digests", "given_in", "options_from", "read_recipe", "recipe_of", "toml_of", "write_recipe"]

_DIGESTS = "sha256"  # the table that says what the files were when the recipe was written
# Where a run puts things and how it goes about it: a recipe may say so, but none is written with it.
_OF_A_RUN = ("out", "report", "replace", "keep_failed", "cache", "max_convert_memory_mb", "max_convert_seconds")
_NO_KEYS = ("formats", "schemes", "held_out", "write_recipe", "trust_remote_code")
_PATHS = ("model", "device", "out", "report", "calibration", "data", "vocoder", "speaker")
_MODELS = ("model", "vocoder")  # a path, or an id on the Hub
_DEFAULTS = {each.name: each.default for each in dataclasses.fields(Options)}
_CHECKED = ("model", "data", "calibration")  # their content decides what is made


def options_from(recipe: Path | None, given: Mapping[str, Any]) -> Options:
    """What a recipe says, and over it what is given beside it.

    Raises:
        UsageError: the recipe cannot be read, or neither names a model and a device.
    """
    table = read_recipe(recipe) if recipe is not None else {}
    named = {**table, **given}
    for name in ("model", "device"):
        if named.get(name) is None:
            where = "in the recipe and on the command line" if recipe is not None else ""
            raise UsageError(
                f"Cannot convert without a {name}.",
                why=f"none is named {where}".rstrip(),
                fix=f'add {name} = "…" to {recipe}'
                if recipe is not None
                else f"name one ({'MODEL' if name == 'model' else '--device'}), or a --recipe that does",
            )
    if isinstance(named.get("columns"), str):  # as the command line has them
        named["columns"] = parse_columns(named["columns"])
    # Another model or other data than the recipe's own is no change of those.
    digests = {name: value for name, value in table.get(_DIGESTS, {}).items() if named.get(name) == table.get(name)}
    return Options(**{**named, _DIGESTS: digests})


def given_in(options: Options) -> dict[str, Any]:
    """What was asked for beside the defaults; a recipe is asked for the rest."""
    values = {field.name: getattr(options, field.name) for field in dataclasses.fields(Options)}
    return {name: value for name, value in values.items() if value not in ("", {}) and value != _DEFAULTS.get(name)}


def read_recipe(file: Path) -> dict[str, Any]:
    """The options in a recipe by name; relative paths are those of its folder.

    Raises:
        UsageError: it cannot be read, has a key that is no option, or a value that the option does not take.
    """
    try:
        table = tomllib.loads(file.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        missing = isinstance(error, FileNotFoundError)
        raise UsageError(
            f"Cannot read the recipe {file}.",
            why="there is no such file" if missing else str(error),
            fix="check the path" if missing else "make it a TOML file that can be read",
        ) from None
    hints = get_type_hints(Options)
    found: dict[str, Any] = {}
    for written, value in table.items():
        name = written.replace("-", "_")
        if name == "trust_remote_code":
            raise _refused(
                file,
                f"it has {written}, and a file does not decide whether a repository's code may run here",
                "take it out, and say --trust-remote-code on the command line",
            )
        if name not in hints or name in _NO_KEYS:
            known = sorted(set(hints) - set(_NO_KEYS))
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise _refused(
                file, f"the key '{written}' is no option of convert", f"{hint}use one of: {', '.join(known)}"
            )
        value = _value(hints[name], value, written, file)
        found[name] = _located(name, value, file.parent) if name in _PATHS else value
    for name in found.get(_DIGESTS, {}):
        if name not in _CHECKED:
            raise _refused(file, f"the key '{_DIGESTS}.{name}' is not known", f"use one of: {', '.join(_CHECKED)}")
    return found


def _refused(file: Path, why: str, fix: str) -> UsageError:
    return UsageError(f"Cannot read the recipe {file}.", why=why, fix=fix)


def _value(hint: Any, value: object, key: str, file: Path) -> Any:  # Any: a type hint, and what it describes
    """The value as the option wants it; a table where it wants a string is a specification: ffn = 0.5 is "ffn=0.5"."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        taken = [each for each in inner if each is not type(None)]
        if Path in taken and isinstance(value, str):
            return _value(Path, value, key, file)
        for each in taken[:-1]:
            try:
                return _value(each, value, key, file)
            except UsageError:
                continue
        return _value(taken[-1], value, key, file)
    if hint is str and isinstance(value, dict) and value:
        return ",".join(_specified(name, each, key, file) for name, each in value.items() if each is not False)
    if hint is str and isinstance(value, str) and value:
        return value
    if hint is Path and isinstance(value, str) and value:
        return Path(value)
    if hint is bool and isinstance(value, bool):
        return value
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if hint is int and number and isinstance(value, int):
        return value
    if hint is float and number and math.isfinite(float(value)):  # type: ignore[arg-type]  # it is a number
        return float(value)  # type: ignore[arg-type]
    if origin is not None and issubclass(origin, Mapping) and isinstance(value, dict):
        return {name: _value(inner[1], each, f"{key}.{name}", file) for name, each in value.items()}
    if origin is not None and issubclass(origin, Sequence) and isinstance(value, list):
        return tuple(_value(inner[0], each, key, file) for each in value)
    wanted = {str: "a string", Path: "a path", bool: "true or false", int: "a whole number", float: "a number"}
    words = wanted.get(hint, "a table" if origin is not None and issubclass(origin, Mapping) else "a list")
    raise _refused(file, f"'{key}' is {value!r}, not {words}", f"give {words}, or leave the key out")


def _specified(name: str, value: object, key: str, file: Path) -> str:
    if value is True:
        return name
    if isinstance(value, str | int | float):
        return f"{name}={value}"
    raise _refused(
        file, f"'{key}.{name}' is {value!r}, not a string or a number", "write it flat, as on the command line"
    )


def _located(name: str, value: Any, folder: Path) -> Any:  # Any: a path, or a string that may be one
    """A path of the recipe's own folder. A model may be a Hub id and a device a name: those are no paths."""
    path = Path(value).expanduser()
    if name in _MODELS and not ((folder / path).is_dir() or path.is_absolute() or str(value).startswith(".")):
        return value
    if name == "device" and path.suffix != ".toml":
        return value
    made = folder / path
    return made if isinstance(value, Path) else str(made)


def recipe_of(options: Options, prepared: Prepared, chosen: Outcome | None, folder: Path) -> dict[str, Any]:
    """What makes this bundle again, for a file in `folder`: what was asked for, and what was found to be the answer."""
    plain = {field.name: getattr(options, field.name) for field in dataclasses.fields(Options)}
    source = prepared.reference
    plain["task"] = prepared.tasks[0]
    plain["threads"] = options.threads or prepared.profile.threads
    if source.revision is not None:
        plain["revision"] = source.revision
    if chosen is not None:
        plain["format"], plain["quantize"] = chosen.format, chosen.scheme
    found: dict[str, Any] = {}
    for name, value in plain.items():
        if name in (*_OF_A_RUN, *_NO_KEYS, _DIGESTS) or value == _DEFAULTS[name] or value in (None, (), {}):
            continue
        if (
            name in _PATHS
            and Path(value).expanduser().exists()
            and not (name == "device" and Path(value).suffix != ".toml")
        ):
            value = _relative(Path(value).expanduser(), folder)
        found[name] = list(value) if isinstance(value, tuple) else value
    found[_DIGESTS] = {name: _digest(name, options, prepared) for name in _CHECKED if getattr(options, name, None)}
    return found


def _relative(path: Path, folder: Path) -> str:
    try:
        found = Path(os.path.relpath(path.resolve(), folder.resolve())).as_posix()
    except ValueError:  # another drive of Windows
        return str(path.resolve())
    return found if found.startswith(".") else f"./{found}"


def _digest(name: str, options: Options, prepared: Prepared) -> str:
    return prepared.reference.digest if name == "model" else _digest_of(Path(getattr(options, name)))


def _digest_of(path: Path) -> str:
    """sha256 of a file, or over the names and contents of all files in a folder."""
    if path.is_file():
        with path.open("rb") as opened:
            return sha256_of(opened)
    digest = hashlib.sha256()
    for file in sorted(each for each in path.rglob("*") if each.is_file()):
        with file.open("rb") as opened:
            digest.update(f"{file.relative_to(path).as_posix()}\0{sha256_of(opened)}\n".encode())
    return digest.hexdigest()


def check_digests(prepared: Prepared) -> None:
    """Raises: IntegrityError where the model or the data is no longer what the recipe was written with."""
    for name, wanted in prepared.options.sha256.items():
        has = _digest(name, prepared.options, prepared)
        if has != wanted:
            raise IntegrityError(
                "Cannot follow the recipe.",
                why=f"the {name} {getattr(prepared.options, name)} has changed since it was written: sha256 {has[:12]}…, "
                f"then {wanted[:12]}…",
                fix=f"bring the old one back, or take '{name}' out of the recipe's [{_DIGESTS}] and judge the result anew",
            )


def write_recipe(file: Path, table: Mapping[str, Any], *comments: str) -> None:
    """In one step, so that a run that is killed leaves an earlier recipe as it was."""
    lines = [
        f"# Written by satchel {satchel_runtimes.__version__}. The same bundle again: satchel convert --recipe {file.name}",
        *(f"# {_one_line(each)}" for each in comments),
    ]
    file.parent.mkdir(parents=True, exist_ok=True)
    beside = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        beside.write_text("\n".join([*lines, toml_of(table)]), "utf-8")
        os.replace(beside, file)
    finally:
        beside.unlink(missing_ok=True)


def _one_line(text: str) -> str:
    return re.sub(r"[\x00-\x1f\x7f]+", " ", text)


def toml_of(table: Mapping[str, Any]) -> str:
    """Strings, numbers, truth values, lists of these, and one level of tables, as TOML."""
    flat = [f"{_key(name)} = {_toml(value)}" for name, value in table.items() if not isinstance(value, Mapping)]
    nested = [(name, value) for name, value in table.items() if isinstance(value, Mapping)]
    for name, inner in nested:
        flat += ["", f"[{_key(name)}]", *(f"{_key(each)} = {_toml(value)}" for each, value in inner.items())]
    return "\n".join(flat) + "\n"


def _key(name: str) -> str:
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else _toml(name)


def _toml(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        return repr(value)  # inf and nan are TOML's too
    if isinstance(value, list | tuple):
        return f"[{', '.join(_toml(each) for each in value)}]"
    text = str(value)
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise SupportError(
            "Cannot write the recipe.", why=f"{text!r} is not valid Unicode", fix="rename the file or the folder"
        ) from None
    # JSON escapes as TOML's basic strings do, but for one control character that only TOML forbids.
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
