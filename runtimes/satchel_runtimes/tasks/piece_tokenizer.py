"""Tokenizers that transformers has in Python alone: a text is cut into pieces, which a vocabulary of its own numbers."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Optional, Union

from .plain_tokenizer import Part, PlainTokenizer
from .sentence_pieces import Speller
from .word_merges import WordSpeller

__all__ = ["PIECES_FILE", "PieceTokenizer"]

PIECES_FILE = "pieces.json"


class PieceTokenizer(PlainTokenizer):
    """What pieces.json of a bundle says.

    Args:
        spec: `speller`, that of texts; `vocabulary`, the id of each piece; `unknown`, the id of any other; `tokens`, what stands
            for each id in a text that is written; `added`, words of a text that are one token; `specials`, the ids that
            `skip_special_tokens` leaves out; `code`, what a language's name in front of a text begins and ends with; `single`
            and `pair`, the ids around texts; and how a text is written of pieces (`written`).
        options: those of the step, of truncation.
    """

    def __init__(self, spec: Mapping[str, Any], options: Mapping[str, Any], *, truncate: bool) -> None:
        super().__init__(
            (spec["single"], spec["pair"]),
            max_length=options["max_length"] if truncate else None,
            truncation=options["truncation"],
            side=options["side"],
        )
        self._spec, self._written = spec, spec["written"]
        self._speller = _speller(spec["speller"])
        self._ids: Mapping[str, int] = spec["vocabulary"]
        self._names: Mapping[int, str] = {int(number): piece for number, piece in spec["tokens"].items()}
        self._specials = frozenset(spec["specials"])
        self._added: Mapping[str, Mapping[str, Any]] = spec["added"]
        # The special tokens by name, as they are in a text: one may be written that has no id of its own.
        self._said = frozenset(self._written["specials"])
        longest = sorted(self._added, key=len, reverse=True)
        self._split = re.compile("(" + "|".join(map(re.escape, longest)) + ")") if longest else None
        other = self._written.get("speller")
        self._writer = self._speller if other is None else _speller(other)

    def part(self, text: str) -> Part:
        text.encode("utf-8")  # refuses what is no text
        ids = list(self._numbers(text))
        # Where in the text a piece came from is not known: transformers' own tokenizers of this kind do not say it either.
        return Part(ids, [], [None] * len(ids))

    def _numbers(self, text: str) -> Iterator[int]:
        for part in self._parts(text):
            if part in self._added:
                yield self._added[part]["id"]
                continue
            code, rest = self._code(part)
            for piece in (*code, *self._speller.pieces(rest)):
                yield self.number(piece)

    def number(self, piece: str) -> int:
        return int(self._added[piece]["id"]) if piece in self._added else self._ids.get(piece, self._spec["unknown"])

    def _parts(self, text: str) -> list[str]:
        """The text between added tokens, and these."""
        if self._split is None:
            return [text] if text else []
        parts = self._split.split(text)
        for place in range(1, len(parts), 2):
            if self._added[parts[place]]["rstrip"]:
                parts[place + 1] = parts[place + 1].lstrip()
            if self._added[parts[place]]["lstrip"]:
                parts[place - 1] = parts[place - 1].rstrip()
        return [each for each in parts if each]

    def _code(self, text: str) -> tuple[list[str], str]:
        """A language's name such as `>>fra<<` in front of a text, and the rest."""
        if self._spec["code"] is None:
            return [], text
        begin, end = self._spec["code"]
        place = text.find(end) if text.startswith(begin) else -1
        return ([], text) if place < 0 else ([text[: place + len(end)]], text[place + len(end) :])

    def token_to_id(self, token: str) -> Optional[int]:
        return int(self._added[token]["id"]) if token in self._added else self._ids.get(token)

    def id_to_token(self, token: int) -> Optional[str]:
        return self._names.get(token)

    def get_vocab(self, with_added_tokens: bool = True) -> dict[str, int]:
        return {**self._ids, **{name: int(each["id"]) for name, each in self._added.items() if with_added_tokens}}

    def get_vocab_size(self) -> int:
        return max(self._names) + 1

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = True) -> str:
        """The text of ids. Special tokens stand between texts of their own."""
        unknown = self._written["unknown"]
        tokens = [
            self._names.get(number, unknown)
            for number in map(int, ids)
            if not (skip_special_tokens and number in self._specials)
        ]
        if not self._written["spelt"]:
            return "".join(tokens).replace(self._written["space"], " ").strip()
        made, waiting = "", list[str]()
        for token in tokens:
            if token in self._said:
                made += self._spell(waiting) + token + self._written["after"]
                waiting = []
            else:
                waiting.append(token)
        made += self._spell(waiting)
        return (made.replace(self._written["space"], " ") if self._written["spaces"] else made).strip()

    def _spell(self, pieces: Sequence[str]) -> str:
        text = self._writer.text(pieces)
        return text.upper() if self._written["upper"] else text


def _speller(spec: Mapping[str, Any]) -> Union[Speller, WordSpeller]:
    return WordSpeller(spec) if spec["model"] == "words" else Speller(spec)
