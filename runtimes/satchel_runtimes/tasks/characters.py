"""Texts as characters or bytes, for models without a vocabulary: Canine reads code points, Perceiver reads UTF-8."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Optional, Union

__all__ = ["CharacterTokenizer", "Characters"]


@dataclass(frozen=True)
class Characters:
    """What `tokenizers.Encoding` says of a text, under the same names; each list has one entry per token."""

    ids: list[int]
    type_ids: list[int]
    offsets: list[tuple[int, int]]  # of characters in the token's own text
    special_tokens_mask: list[int]
    sequence_ids: list[Optional[int]]
    word_ids: list[Optional[int]]  # a word is what lies between white space

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True)
class _Part:
    ids: list[int]
    offsets: list[tuple[int, int]]
    words: list[Optional[int]]

    def cut(self, length: int, side: str) -> _Part:
        part = slice(max(len(self.ids) - length, 0), None) if side == "left" else slice(length)
        return _Part(self.ids[part], self.offsets[part], self.words[part])


class CharacterTokenizer:
    """The step "characters" of a bundle. `first` stands before the text, `last` after each of one or two texts.

    Args:
        options: `unit` is "character" or "byte", `offset` what is added to its number; `first` and `last` are ids; `specials`
            are words of the text that are one token; `pair_type` is the type id of the second text.
        truncate: whether texts are cut to `max_length`, by the policy `truncation` and from `side`.
    """

    def __init__(self, options: Mapping[str, Any], *, truncate: bool) -> None:
        self._options, self._truncate = options, truncate
        self._specials: Mapping[str, int] = options["specials"]
        longest = sorted(self._specials, key=len, reverse=True)
        self._split = re.compile("|".join(map(re.escape, longest))) if longest else None

    def encode(
        self,
        text: Union[str, Sequence[str]],
        pair: Optional[str] = None,
        is_pretokenized: bool = False,
        add_special_tokens: bool = True,
    ) -> Characters:
        """As `tokenizers.Tokenizer.encode`.

        Raises:
            UnicodeEncodeError: a lone surrogate.
            ValueError: too short: the text that may not be cut leaves no room.
        """
        parts = [self._words(text) if is_pretokenized else self._part(str(text))]
        if pair is not None:
            parts.append(self._part(pair))
        if self._truncate:
            added = 1 + len(parts) if add_special_tokens else 0
            parts = self._cut(parts, self._options["max_length"] - added)
        made = Characters([], [], [], [], [], [])
        if add_special_tokens:
            _add(made, self._options["first"], None, 0)
        for number, part in enumerate(parts):
            type_id = self._options["pair_type"] if number else 0
            made.ids.extend(part.ids)
            made.offsets.extend(part.offsets)
            made.word_ids.extend(part.words)
            made.type_ids.extend([type_id] * len(part.ids))
            made.special_tokens_mask.extend([0] * len(part.ids))
            made.sequence_ids.extend([number] * len(part.ids))
            if add_special_tokens:
                _add(made, self._options["last"], None, type_id)
        return made

    def token_to_id(self, token: str) -> Optional[int]:
        """Of a special token, or of a text that is one unit."""
        if token in self._specials:
            return self._specials[token]
        made = _Part([], [], [])
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

    @property
    def model(self) -> None:
        """`tokenizers` has one; there is no vocabulary here."""

    def _words(self, words: Union[str, Sequence[str]]) -> _Part:
        whole = _Part([], [], [])
        for number, word in enumerate(words):
            part = self._part(word)
            whole.ids.extend(part.ids)
            whole.offsets.extend(part.offsets)
            whole.words.extend([number] * len(part.ids))
        return whole

    def _part(self, text: str) -> _Part:
        text.encode("utf-8")  # refuses what is no text
        made, start = _Part([], [], []), 0
        for found in self._split.finditer(text) if self._split else ():
            self._plain(made, text, start, found.start())
            made.ids.append(self._specials[found.group()])
            made.offsets.append(found.span())
            start = found.end()
        self._plain(made, text, start, len(text))
        number, inside = -1, False
        for first, _ in made.offsets:
            blank = text[first].isspace()
            number += not blank and not inside
            inside = not blank
            made.words.append(None if blank else number)
        return made

    def _plain(self, made: _Part, text: str, start: int, end: int) -> None:
        offset = self._options["offset"]
        for place in range(start, end):
            units = text[place].encode("utf-8") if self._options["unit"] == "byte" else (ord(text[place]),)
            made.ids.extend(unit + offset for unit in units)
            made.offsets.extend([(place, place + 1)] * len(units))

    def _cut(self, parts: list[_Part], room: int) -> list[_Part]:
        lengths = [len(part.ids) for part in parts]
        over = sum(lengths) - room
        if over <= 0:
            return parts
        policy = self._options["truncation"]
        if len(parts) == 1 or policy in ("only_first", "only_second"):
            cut = 1 if policy == "only_second" and len(parts) > 1 else 0
            if lengths[cut] <= over:
                raise ValueError("the text that may be cut is too short")
            lengths[cut] -= over
        else:
            for _ in range(over):  # of two texts the longer gives, the second where they are alike
                lengths[0 if lengths[0] > lengths[1] else 1] -= 1
        return [part.cut(length, self._options["side"]) for part, length in zip(parts, lengths)]


def _add(made: Characters, token: int, sequence: Optional[int], type_id: int) -> None:
    made.ids.append(token)
    made.type_ids.append(type_id)
    made.offsets.append((0, 0))
    made.special_tokens_mask.append(1)
    made.sequence_ids.append(sequence)
    made.word_ids.append(None)
