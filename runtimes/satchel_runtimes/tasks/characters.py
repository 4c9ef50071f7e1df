"""Texts as characters or bytes, for models without a vocabulary: Canine reads code points, Perceiver reads UTF-8."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Optional

from .plain_tokenizer import Part, PlainTokenizer

__all__ = ["CharacterTokenizer"]


class CharacterTokenizer(PlainTokenizer):
    """The step "characters" of a bundle. `first` stands before the text, `last` after each of one or two texts.

    Args:
        options: `unit` is "character" or "byte", `offset` what is added to its number; `first` and `last` are ids; `specials`
            are words of the text that are one token; `pair_type` is the type id of the second text.
        truncate: whether texts are cut to `max_length`, by the policy `truncation` and from `side`.
    """

    def __init__(self, options: Mapping[str, Any], *, truncate: bool) -> None:
        first, last = options["first"], options["last"]
        super().__init__(
            ((first, None, last), (first, None, last, None, last)),
            pair_type=options["pair_type"],
            max_length=options["max_length"] if truncate else None,
            truncation=options["truncation"],
            side=options["side"],
        )
        self._options = options
        self._specials: Mapping[str, int] = options["specials"]
        longest = sorted(self._specials, key=len, reverse=True)
        self._split = re.compile("|".join(map(re.escape, longest))) if longest else None

    def token_to_id(self, token: str) -> Optional[int]:
        """Of a special token, or of a text that is one unit."""
        if token in self._specials:
            return self._specials[token]
        made = Part([], [], [])
        self._plain(made, token, 0, len(token))
        return made.ids[0] if len(made.ids) == 1 else None

    def id_to_token(self, token: int) -> str:
        return self.decode([token], skip_special_tokens=False)

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = True) -> str:
        """The text of ids; bytes that are no UTF-8 come out as its sign for that."""
        names = {number: name for name, number in self._specials.items()}
        text, plain = "", bytearray()
        for number in (each for each in ids if not (skip_special_tokens and each in names)):
            unit = number - self._options["offset"]
            if number not in names and unit >= 0 and self._options["unit"] == "byte":
                plain.append(unit)
                continue
            text, plain = text + plain.decode("utf-8", "replace"), bytearray()
            text += names[number] if number in names else chr(unit)
        return text + plain.decode("utf-8", "replace")

    def get_vocab_size(self) -> int:
        return 256 + int(self._options["offset"]) if self._options["unit"] == "byte" else 0x110000

    def part(self, text: str) -> Part:
        text.encode("utf-8")  # refuses what is no text
        made, start = Part([], [], []), 0
        for found in self._split.finditer(text) if self._split else ():
            self._plain(made, text, start, found.start())
            made.ids.append(self._specials[found.group()])
            made.offsets.append(found.span())
            start = found.end()
        self._plain(made, text, start, len(text))
        number, inside = -1, False
        for first, _ in made.offsets:  # a word is what lies between white space
            blank = text[first].isspace()
            number += not blank and not inside
            inside = not blank
            made.words.append(None if blank else number)
        return made

    def _plain(self, made: Part, text: str, start: int, end: int) -> None:
        offset = self._options["offset"]
        for place in range(start, end):
            units = text[place].encode("utf-8") if self._options["unit"] == "byte" else (ord(text[place]),)
            made.ids.extend(unit + offset for unit in units)
            made.offsets.extend([(place, place + 1)] * len(units))
