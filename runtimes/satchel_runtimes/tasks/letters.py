"""Texts as the letters of a vocabulary, with blanks between them: what VITS reads."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Optional

from ..errors import UsageError
from .plain_tokenizer import PlainEncoding

__all__ = ["LetterTokenizer"]


class LetterTokenizer:
    """The step "letters" of a bundle.

    Args:
        options: `vocabulary` and `added` are ids of letters and of words that are one token, in the order in which the checkpoint has
            them; `blank` is the id around each letter, or None; `normalize` makes letters small and leaves out what is
            in no vocabulary, where otherwise `unknown` stands for it; `replace` are pairs of strings; with `roman`
            a text may hold ASCII alone.
    """

    def __init__(self, options: Mapping[str, Any]) -> None:
        self._options = options
        self._vocabulary: Mapping[str, int] = options["vocabulary"]
        self._added: Mapping[str, int] = options["added"]
        self._words = [*self._vocabulary, *(each for each in self._added if each not in self._vocabulary)]
        longest = sorted(self._added, key=len, reverse=True)
        self._split = re.compile("|".join(map(re.escape, longest))) if longest else None

    def encode(
        self, text: str, pair: None = None, is_pretokenized: bool = False, add_special_tokens: bool = True
    ) -> PlainEncoding:
        """As `tokenizers.Tokenizer.encode`; places are those in the text with small letters.

        Raises:
            UnicodeEncodeError: a lone surrogate.
            UsageError: other letters than roman ones, where a program must write them so first.
        """
        text.encode("utf-8")  # refuses what is no text
        text = self._normal(text)
        made, start = PlainEncoding([], [], [], [], [], []), 0
        for found in self._split.finditer(text) if self._split else ():
            self._letters(made, text, start, found.start())
            self._add(made, self._added[found.group()], found.span())
            start = found.end()
        self._letters(made, text, start, len(text))
        return made

    def token_to_id(self, token: str) -> Optional[int]:
        return self._added.get(token, self._vocabulary.get(token))

    def _normal(self, text: str) -> str:
        if self._options["normalize"]:
            text = self._small(text)
        for old, new in self._options["replace"]:
            text = text.replace(old, new)
        if self._options["roman"] and not text.isascii():
            letter = next(each for each in text if not each.isascii())
            raise UsageError(
                "Cannot speak the text.",
                why=f"it holds {letter!r}, and this voice reads roman letters that the program uroman has written",
                fix="romanise the text with uroman first (https://github.com/isi-nlp/uroman)",
            )
        if self._options["normalize"]:
            text = "".join([each for each in text if each in self._vocabulary]).strip()
        return text

    def _small(self, text: str) -> str:
        """In small letters, but for words of the vocabulary, of which the first that fits is taken and not the longest."""
        parts, place = [], 0
        while place < len(text):
            word = next((each for each in self._words if text.startswith(each, place)), None)
            parts.append(text[place].lower() if word is None else word)
            place += 1 if word is None else len(word)
        return "".join(parts)

    def _letters(self, made: PlainEncoding, text: str, start: int, end: int) -> None:
        if start == end:
            return
        blank = self._options["blank"]
        for place in range(start, end):
            if blank is not None:
                self._add(made, blank, (place, place))
            known = self.token_to_id(text[place])
            self._add(made, self._options["unknown"] if known is None else known, (place, place + 1))
        if blank is not None:
            self._add(made, blank, (end, end))

    def _add(self, made: PlainEncoding, token: int, span: tuple[int, int]) -> None:
        made.ids.append(token)
        made.type_ids.append(0)
        made.offsets.append(span)
        made.special_tokens_mask.append(int(span[0] == span[1]))  # a blank
        made.sequence_ids.append(0)
        made.word_ids.append(None)
