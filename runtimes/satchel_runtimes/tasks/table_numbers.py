"""Numbers and dates in the words of a table and of a question, which TAPAS reads beside the words themselves.

What counts as a number and a date, and which of several readings wins, is as in `number_utils.py` and
`number_annotation_utils.py` of https://github.com/google-research/tapas, which `TapasTokenizer` of transformers follows.
"""

from __future__ import annotations

import datetime
import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Optional, Union

__all__ = ["Value", "column_values", "comparable", "has_word", "values_in"]

Date = tuple[Optional[int], Optional[int], Optional[int]]  # year, month, day; None for what is not said
Value = Union[float, Date]

_COUNTS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"]
_PLACES = [
    "zeroth",
    "first",
    "second",
    "third",
    "fourth",
    "fifth",
    "sixth",
    "seventh",
    "eighth",
    "ninth",
    "tenth",
    "eleventh",
    "twelfth",
]
_NUMBER = re.compile(r"((^|\s)[+-])?((\.\d+)|(\d+(,\d\d\d)*(\.\d*)?))")
_WORD = re.compile(r"[^\W_]+")
_LONGEST_DATE = 5  # words
_YEARS = range(1700, 2017)  # a number beyond is no year
_SAME_KIND = 0.7  # of a column's cells must have a number, or a date, for it to count as a column of them

_DATES = (
    *("%B", "%Y", "%Ys", "%b %Y", "%B %Y", "%B %d", "%b %d", "%d %b", "%d %B", "%B %d, %Y", "%d %B %Y", "%m-%d-%Y"),
    *("%Y-%m-%d", "%Y-%m", "%d %b %Y", "%b %d, %Y", "%d.%m.%Y", "%A, %b %d", "%A, %B %d"),
)
_FIELDS = {"%A": r"\w+", "%B": r"\w+", "%Y": r"\d{4}", "%b": r"\w{3}", "%d": r"\d{1,2}", "%m": r"\d{1,2}"}


def _shape(pattern: str) -> re.Pattern[str]:
    """What a text must look like before `strptime`, which is slow and takes more, is asked."""
    parts = re.split("(%.)", pattern)
    return re.compile("".join(_FIELDS.get(part) or re.escape(part).replace(r"\ ", r"\s+") for part in parts))


_SHAPES = tuple((pattern, _shape(pattern)) for pattern in _DATES)


def has_word(text: str) -> bool:
    """Whether there is a letter or a digit."""
    return _WORD.search(text) is not None


def values_in(text: str) -> list[Value]:
    """The numbers and dates of a text, in their order. Of two that overlap the longer counts; a year is both."""
    text = " ".join(text.lower().split())
    found: dict[tuple[int, int], list[Value]] = {}
    for match in _NUMBER.finditer(text):
        number = _number(match.group())
        if number is not None:
            found[match.span()] = [number]
    words = [match.span() for match in _WORD.finditer(text)]
    for start, end in words:
        if (start, end) not in found:
            found[start, end] = list(_of_word(text[start:end]))
    for last, (_, end) in enumerate(words):
        for start, _ in words[max(0, last + 1 - _LONGEST_DATE) : last + 1]:
            date = _date(text[start:end])
            if date is not None:
                found.setdefault((start, end), []).append(date)
    longest = sorted((span for span, values in found.items() if values), key=lambda span: (span[0] - span[1], span[0]))
    kept: list[tuple[int, int]] = []
    for start, end in longest:
        if not any(first <= start and end <= last for first, last in kept):
            kept.append((start, end))
    return [value for span in sorted(kept) for value in found[span]]


def column_values(cells: Sequence[str]) -> dict[int, Value]:
    """The number of each row that has one, or the date, if most of the column's cells have it; a date wins a tie."""
    values = [values_in(cell) for cell in cells]
    kinds = Counter(kind for each in values for kind in {type(value) for value in each})
    most = max(kinds.values(), default=0)
    if not most or most < len(cells) * _SAME_KIND:
        return {}
    kind = tuple if kinds[tuple] == most else float
    firsts = ((row, next((each for each in found if type(each) is kind), None)) for row, found in enumerate(values))
    return {row: value for row, value in firsts if value is not None}


def comparable(values: Mapping[int, Value]) -> Optional[dict[int, tuple[float, ...]]]:
    """The values as tuples that can be ordered: of dates, what all of them say. None where they have nothing in common."""
    if len({type(value) for value in values.values()}) != 1:
        return None
    parts = {row: value if isinstance(value, tuple) else (value,) for row, value in values.items()}
    common = [
        place for place in range(len(next(iter(parts.values())))) if all(p[place] is not None for p in parts.values())
    ]
    if not common:
        return None
    return {row: tuple(float(part[place] or 0) for place in common) for row, part in parts.items()}


def _of_word(word: str) -> Iterator[float]:
    number = _number(word)
    if number is not None:
        yield number
    for names in (_COUNTS, _PLACES):
        if word in names:
            yield float(names.index(word))


def _number(text: str) -> Optional[float]:
    """Of digits, or of an ordinal such as 3rd."""
    text = (text[:-2] if text.endswith(("st", "nd", "rd", "th")) else text).replace(",", "")
    try:
        number = float(text)
    except ValueError:
        return None
    return None if math.isnan(number) or number == math.inf else number


def _date(text: str) -> Optional[Date]:
    if not any(character.isdigit() for character in text) and not text.isalpha():
        return None  # only a month can do without a digit
    for pattern, shape in _SHAPES:
        if not shape.fullmatch(text):
            continue
        yearless = "%Y" not in pattern
        try:
            date = datetime.datetime.strptime(
                f"1900 {text}" if yearless else text, f"%Y {pattern}" if yearless else pattern
            )
        except ValueError:
            continue
        if date.year in _YEARS:
            month = any(name in pattern for name in ("%B", "%b", "%m"))
            return None if yearless else date.year, date.month if month else None, date.day if "%d" in pattern else None
    return None
