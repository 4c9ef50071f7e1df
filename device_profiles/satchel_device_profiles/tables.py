"""Fill a frozen dataclass from a TOML table. The dataclass is the schema: what it does not name is refused by name."""

from __future__ import annotations

import dataclasses
import math
import types
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from satchel_runtimes.errors import UsageError

if TYPE_CHECKING:
    import re

__all__ = ["Shape", "build", "check"]

_T = TypeVar("_T")


@dataclasses.dataclass(frozen=True)
class Shape:
    """What a string must look like: `Annotated[str, Shape(…)]`."""

    pattern: re.Pattern[str]
    example: str


def check(kind: type, table: Mapping[str, object], file: str, *, besides: Mapping[str, Any]) -> None:
    """Refuse unknown keys and wrong values in a table that may still lack some; `besides` are keys that kind lacks."""
    # Any: a type hint has no type of its own that covers unions, literals and generics.
    _fields({**_hints(kind), **besides}, table, _Place(file))


def build(kind: type[_T], table: Mapping[str, object], file: str) -> _T:
    """The dataclass that a complete table describes."""
    return _build(kind, table, _Place(file))


@dataclasses.dataclass(frozen=True)
class _Place:
    """Where a value stands, for the message."""

    file: str
    key: str = ""

    def at(self, key: object) -> _Place:
        return _Place(self.file, f"{self.key}.{key}" if self.key else str(key))

    def refuse(self, why: str, fix: str) -> UsageError:
        return UsageError(f"Cannot read the device profile {self.file}.", why=why, fix=fix)

    def wrong(self, value: object, wanted: str) -> UsageError:
        return self.refuse(f"'{self.key}' is {value!r}, not {wanted}", f"give {wanted}, or leave the key out")

    def unknown(self, key: str, accepted: tuple[str, ...]) -> UsageError:
        inside = f" in '{self.key}'" if self.key else ""
        return self.refuse(f"the key '{key}'{inside} is not known", f"use one of: {', '.join(sorted(accepted))}")


def _hints(kind: type) -> dict[str, Any]:  # Any: see check
    return get_type_hints(kind, include_extras=True)


def _build(kind: type[_T], table: Mapping[str, object], place: _Place) -> _T:
    values = _fields(_hints(kind), table, place)
    fields = dataclasses.fields(kind)  # type: ignore[arg-type]  # callers pass dataclasses; typing has no name for them
    for field in fields:
        optional = field.default is not dataclasses.MISSING or field.default_factory is not dataclasses.MISSING
        if not optional and field.name not in values:
            raise place.refuse(f"the key '{place.at(field.name).key}' is missing", f"add '{field.name}' to the file")
    return kind(**values)


def _fields(hints: Mapping[str, Any], table: Mapping[str, object], place: _Place) -> dict[str, object]:
    values = {}
    for key, value in table.items():
        if key not in hints:
            raise place.unknown(key, tuple(hints))
        values[key] = _value(hints[key], value, place.at(key))
    return values


def _value(hint: Any, value: object, place: _Place) -> object:
    """The value as its type hint wants it."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):  # X | None: TOML has no null, so None never comes from a file
        (inner,) = (argument for argument in arguments if argument is not type(None))
        return _value(inner, value, place)
    if origin is Literal:
        if value not in arguments:
            raise place.wrong(value, f"one of {', '.join(map(repr, arguments))}")
        return value
    if origin is Annotated:
        return _string(value, place, arguments[1])
    if origin is tuple:
        if not isinstance(value, list):
            raise place.wrong(value, "a list")
        return tuple(_value(arguments[0], item, place.at(number)) for number, item in enumerate(value))
    if origin is Mapping:
        return _mapping(arguments, value, place)
    if dataclasses.is_dataclass(hint):
        return _build(hint, _table(value, place), place)  # type: ignore[arg-type]  # a hint is a class, not an instance
    return _scalar(hint, value, place)


def _mapping(arguments: tuple[Any, ...], value: object, place: _Place) -> dict[str, object]:
    key_hint, value_hint = arguments
    accepted = get_args(key_hint)  # of a Literal; () where any key will do
    values = {}
    for key, item in _table(value, place).items():
        if accepted and key not in accepted:
            raise place.unknown(key, accepted)
        values[key] = _value(value_hint, item, place.at(key))
    return values


def _table(value: object, place: _Place) -> dict[str, object]:
    if not isinstance(value, dict):
        raise place.wrong(value, "a table")
    return value


def _string(value: object, place: _Place, shape: Shape | None = None) -> str:
    if not isinstance(value, str) or not value:
        raise place.wrong(value, "a string")
    if shape is not None and not shape.pattern.fullmatch(value):
        raise place.wrong(value, shape.example)
    return value


def _scalar(hint: Any, value: object, place: _Place) -> str | bool | int | float:
    if hint is str:
        return _string(value, place)
    if hint is bool:
        if not isinstance(value, bool):
            raise place.wrong(value, "true or false")
        return value
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if hint is int:
        if not number or not isinstance(value, int) or value < 1:
            raise place.wrong(value, "a whole number of at least 1")
        return value
    if hint is float:
        # TOML can write nan, and every comparison with it is false: a budget of nan would let everything pass.
        if not number or not isinstance(value, int | float) or not math.isfinite(value) or value < 0:
            raise place.wrong(value, "a number of at least 0")
        return float(value)
    raise TypeError(f"{place.key}: a profile cannot hold {hint}")
