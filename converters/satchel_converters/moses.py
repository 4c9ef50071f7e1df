"""Moses' rules for words, as XLM's and FlauBERT's tokenizers apply them, read out of them as data."""

from __future__ import annotations

import re
import sys
import unicodedata
from collections.abc import Iterable
from typing import Any

__all__ = ["spelling"]

# Any below: classes of transformers and sacremoses, which have no types.
Step = list[Any]

_SIZE = 0x110000
_SURROGATES = range(0xD800, 0xE000)


def spelling(tokenizer: Any) -> dict[str, Any]:
    """What `satchel_runtimes.tasks.word_merges` reads of an XLM or FlauBERT tokenizer.

    Both tokenize in one language whatever a text is in: transformers 5 passes none on.
    """
    french = type(tokenizer).__name__ == "FlaubertTokenizer"
    language = "fr" if french else "en"
    steps = [*_quotes(tokenizer)] if french else []
    steps += _punctuation(sys.modules[type(tokenizer).__module__].replace_unicode_punct)
    tokenizer.moses_punct_norm("", language)  # fills the caches that are read below
    tokenizer.moses_tokenize("", language)
    steps += [["replace", *each] for each in tokenizer.cache_moses_punct_normalizer[language].substitutions]
    steps += [["strip"], ["replace", _class(_of_category("C")), ""]]
    steps += _words(tokenizer.cache_moses_tokenizer[language])
    if tokenizer.do_lowercase_and_remove_accent:
        steps += [["lower"], ["normalize", "NFD"], ["replace", _class(_of_category("Mn")), ""], ["lower"]]
    return {
        "model": "words",
        "steps": steps,
        "merges": [list(each) for each in sorted(tokenizer.bpe_ranks, key=tokenizer.bpe_ranks.__getitem__)],
        "end": "</w>",
    }


def _quotes(tokenizer: Any) -> list[Step]:
    """What FlauBERT does before all else."""
    lower = [["lower"]] if tokenizer.do_lowercase else []
    return [["replace", "``", '"'], ["replace", "''", '"'], ["normalize", "NFC"], *lower]


def _punctuation(replace: Any) -> list[Step]:
    """Which characters it writes as others; some take the white space behind them along."""
    characters = [chr(each) for each in range(1, _SIZE) if each not in _SURROGATES]
    found = replace("\0".join(characters)).split("\0")
    table = {a: b for a, b in zip(characters, found, strict=True) if a != b}
    greedy = {each for each, by in table.items() if replace(f"{each} \t") == by}
    return [
        *(["replace", rf"{re.escape(each)}\s*", table[each]] for each in sorted(greedy)),
        ["map", {each: by for each, by in table.items() if each not in greedy}],
    ]


def _words(rules: Any) -> list[Step]:
    """As `MosesTokenizer.tokenize` without escapes and without what is protected."""
    apostrophes = {"en": rules.ENGLISH_SPECIFIC_APOSTROPHE, "fr": rules.FR_IT_SPECIFIC_APOSTROPHE}[rules.lang]
    commas = (rules.COMMA_SEPARATE_1, rules.COMMA_SEPARATE_2, rules.COMMA_SEPARATE_3)
    classes = sorted((rules.IsAlnum, rules.IsAlpha, rules.IsN), key=len, reverse=True)

    def replaces(*found: Any) -> list[Step]:
        made = []
        for compiled, by in found:
            pattern = compiled.pattern
            for each in classes:
                pattern = pattern.replace(each, _ranges(each))
            made.append(["replace", pattern, by])
        return made

    letters, small = _class(rules.IsAlpha), _class(rules.IsLower)
    return [
        *replaces(rules.DEDUPLICATE_SPACE, rules.ASCII_JUNK),
        ["strip"],
        *replaces(rules.PAD_NOT_ISALNUM),
        ["mark_dots"],
        *replaces(*commas, *apostrophes),
        ["full_stops", rules.NONBREAKING_PREFIXES, rules.NUMERIC_ONLY_PREFIXES, letters, small],
        *replaces(rules.DEDUPLICATE_SPACE),
        ["strip"],
        *replaces(rules.TRAILING_DOT_APOSTROPHE),
        ["unmark_dots"],
        ["words"],
    ]


def _of_category(start: str) -> Iterable[str]:
    characters = (chr(each) for each in range(_SIZE) if each not in _SURROGATES)
    return (each for each in characters if unicodedata.category(each).startswith(start))


def _class(characters: Iterable[str]) -> str:
    return f"[{_ranges(characters)}]"


def _ranges(characters: Iterable[str]) -> str:
    """The inside of a character class, neighbours as one range."""
    parts: list[list[int]] = []
    for number in sorted(set(map(ord, characters))):
        if parts and number == parts[-1][1] + 1:
            parts[-1][1] = number
        else:
            parts.append([number, number])
    return "".join(_one(a) if a == b else f"{_one(a)}-{_one(b)}" for a, b in parts)


def _one(number: int) -> str:
    return re.escape(chr(number))
