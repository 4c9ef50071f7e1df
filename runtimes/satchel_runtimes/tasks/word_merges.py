"""Words as Moses' tokenizer finds them, and pieces of words that were merged: how XLM and FlauBERT read a text.

What is put for what is data, read from the tokenizer itself when a model was converted, character classes included: those of this
machine's Python may be of another Unicode version.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any, Callable

__all__ = ["WordSpeller"]

_DOTS = re.compile(r"\.{2,}")
_MARKED_DOTS = re.compile(r"(?:DOT)+MULTI")

Step = Callable[[str], str]


class WordSpeller:
    """What `pieces` of a text are.

    Args:
        spec: `steps`, each a name and what it is given, by which a text becomes words with spaces between them; `merges` of pieces,
            the first ones first; and what a word's `end` is.
    """

    def __init__(self, spec: Mapping[str, Any]) -> None:
        self._steps = [_STEPS[name](*given) for name, *given in spec["steps"]]
        self._ranks = {tuple(each): rank for rank, each in enumerate(spec["merges"])}
        self._end = spec["end"]

    def pieces(self, text: str) -> list[str]:
        for step in self._steps:
            text = step(text)
        return [piece for word in text.split(" ") if word for piece in self._merged(word)]

    def text(self, pieces: Sequence[str]) -> str:
        return "".join(pieces)

    def _merged(self, word: str) -> list[str]:
        found = [*word[:-1], word[-1] + self._end]
        last = len(self._ranks)
        while len(found) > 1:
            best = min(zip(found, found[1:]), key=lambda pair: self._ranks.get(pair, last))
            if best not in self._ranks:
                break
            place = 0
            while place < len(found) - 1:
                if (found[place], found[place + 1]) == best:
                    found[place : place + 2] = [best[0] + best[1]]
                place += 1
        return found


def _replaced(pattern: str, by: str) -> Step:
    compiled = re.compile(pattern)
    return lambda text: compiled.sub(by, text)


def _mapped(table: Mapping[str, str]) -> Step:
    prepared = str.maketrans(dict(table))
    return lambda text: text.translate(prepared)


def _normal(form: str) -> Step:
    return lambda text: unicodedata.normalize(form, text)  # type: ignore[arg-type]  # one of its four names


def _marked(text: str) -> str:
    """Dots in a row as one word, which nothing else takes apart."""
    return _DOTS.sub(lambda found: f" {'DOT' * len(found[0])}MULTI{' ' * (found.end() < len(text))}", text)


def _unmarked(text: str) -> str:
    return _MARKED_DOTS.sub(lambda found: "." * ((len(found[0]) - 5) // 3), text)


def _full_stops(prefixes: Sequence[str], numeric: Sequence[str], letters: str, small: str) -> Step:
    """Parts a word from its full stop, unless it is short for something (`numeric`: before a number) or a small letter follows."""
    short, before_number = frozenset(prefixes) - frozenset(numeric), frozenset(numeric)
    letter, lower = re.compile(letters), re.compile(small)

    def step(text: str) -> str:
        words = text.split()
        for place, word in enumerate(words):
            prefix = word[:-1]
            if not prefix or not word.endswith("."):
                continue
            after = words[place + 1] if place + 1 < len(words) else ""
            stays = ("." in prefix and letter.search(prefix)) or prefix in short or (after and lower.match(after))
            if not stays and not (prefix in before_number and after[:1] in tuple("0123456789")):
                words[place] = f"{prefix} ."
        return " ".join(words)

    return step


_STEPS: Mapping[str, Callable[..., Step]] = {
    "replace": _replaced,
    "map": _mapped,
    "normalize": _normal,
    "lower": lambda: str.lower,
    "strip": lambda: str.strip,
    "words": lambda: lambda text: " ".join(text.split()),
    "mark_dots": lambda: _marked,
    "unmark_dots": lambda: _unmarked,
    "full_stops": _full_stops,
}
