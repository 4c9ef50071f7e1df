"""A tokenizer's files with fewer tokens: what the texts need is kept, numbered anew in the old order.

tokenizer.json is the one that counts (WordPiece, BPE, Unigram, WordLevel); the files beside it follow. On every text of
the corpus the smaller tokenizer gives the same tokens, which is checked; any other text falls back to smaller pieces.
"""

from __future__ import annotations

import copy
import itertools
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from satchel_runtimes.errors import SupportError

__all__ = ["TokenizerFiles", "TrimmedFiles"]

Json = dict[str, Any]  # Any: whatever the file holds

_BYTE = re.compile(r"<0x[0-9A-Fa-f]{2}>")


@dataclass(frozen=True)
class TokenizerFiles:
    """tokenizer.json, read to be rewritten."""

    spec: Json
    tokenizer: Tokenizer
    vocabulary: Mapping[str, int]  # every token and its number, added ones too

    @staticmethod
    def read(folder: Path) -> TokenizerFiles:
        """Raises SupportError: there is no tokenizer.json, or its model is of another kind."""
        file = folder / "tokenizer.json"
        if not file.is_file():
            raise _unsupported("there is no tokenizer.json; the tokenizer has no fast form")
        spec = json.loads(file.read_text("utf-8"))
        kind = spec["model"].get("type")
        if kind not in _KEEP:
            raise _unsupported(f"its tokenizer is of the kind {kind}; satchel knows {', '.join(_KEEP)}")
        tokenizer = _plain(spec)
        return TokenizerFiles(spec, tokenizer, tokenizer.get_vocab(with_added_tokens=True))

    @property
    def largest(self) -> int:
        return max(self.vocabulary.values())

    def ids(self, text: str) -> list[int]:
        """The tokens of a text, with special ones, not truncated."""
        return self.tokenizer.encode(text).ids

    def trimmed(self, texts: Sequence[str], also: Iterable[int] = ()) -> TrimmedFiles:
        """What is left for these texts.

        Args:
            also: numbers of tokens that stay in any case.

        Raises:
            SupportError: the smaller tokenizer splits one of the texts otherwise, or a part of the file is unknown.
        """
        names = {number: token for token, number in self.vocabulary.items()}
        encodings = self.tokenizer.encode_batch(list(texts))
        used = {token for each in encodings for token in each.tokens} & set(names.values())
        used |= {names[number] for number in also if number in names}
        used |= _named(self.spec.get("post_processor"))
        added = {each["content"] for each in self.spec.get("added_tokens", [])}
        if unknown := self.spec["model"].get("unk_token"):
            used.add(unknown)
        own = set(_pieces(self.spec["model"]))
        kept = _KEEP[self.spec["model"]["type"]](self.spec["model"], used & own)
        numbers = sorted({self.vocabulary[token] for token in (kept | added | used) if token in self.vocabulary})
        renumbered = {old: new for new, old in enumerate(numbers)}
        spec = _rewritten(self.spec, kept, renumbered, self.vocabulary)
        smaller = _plain(spec)
        for text, old, new in zip(texts, encodings, smaller.encode_batch(list(texts)), strict=True):
            if old.tokens != new.tokens or [renumbered[number] for number in old.ids] != new.ids:
                raise _unsupported(f"with fewer tokens it splits {text[:60]!r} otherwise")
        return TrimmedFiles(spec, renumbered)


@dataclass(frozen=True)
class TrimmedFiles:
    """The smaller tokenizer, and the new number of every token that is kept, in the order of both."""

    spec: Json
    renumbered: Mapping[int, int]

    def write(self, folder: Path) -> tuple[str, ...]:
        """Rewrite tokenizer.json and every file beside it that numbers tokens. Notes on what could not be kept."""
        _write(folder / "tokenizer.json", self.spec)
        tokens = _plain(self.spec).get_vocab(with_added_tokens=True)
        ordered = sorted(tokens, key=tokens.__getitem__)
        if (folder / "vocab.txt").exists():
            (folder / "vocab.txt").write_text("".join(f"{token}\n" for token in ordered), "utf-8")
        if (folder / "vocab.json").exists():
            _write(
                folder / "vocab.json",
                {token: tokens[token] for token in ordered if token in self.spec["model"]["vocab"]},
            )
        if (folder / "merges.txt").exists():
            pairs = (" ".join(_pair(merge)) for merge in self.spec["model"].get("merges", ()))
            (folder / "merges.txt").write_text("#version: 0.2\n" + "".join(f"{pair}\n" for pair in pairs), "utf-8")
        if (folder / "added_tokens.json").exists():
            old = json.loads((folder / "added_tokens.json").read_text("utf-8"))
            _write(folder / "added_tokens.json", {token: tokens[token] for token in old if token in tokens})
        file = folder / "tokenizer_config.json"
        if file.exists():
            config = json.loads(file.read_text("utf-8"))
            if "added_tokens_decoder" in config:
                config["added_tokens_decoder"] = {
                    str(self.renumbered[int(number)]): token
                    for number, token in config["added_tokens_decoder"].items()
                    if int(number) in self.renumbered
                }
            _write(file, config)
        notes = []
        for each in sorted(folder.glob("*.model")):
            each.unlink()
            notes.append(f"{each.name} has the old vocabulary and is gone; tokenizer.json is the tokenizer")
        return tuple(notes)


def _keep_pieces(model: Json, used: set[str]) -> set[str]:
    """WordPiece and WordLevel: what is used, and every single character, at the start of a word and inside."""
    prefix = model.get("continuing_subword_prefix") or ""
    return used | {token for token in model["vocab"] if len(token.removeprefix(prefix)) == 1}


def _keep_bpe(model: Json, used: set[str]) -> set[str]:
    """BPE: also every token that is merged on the way to a kept one.

    Which merges make a token does not depend on what is around it: none crosses its ends, or it would not be a token.
    """
    suffix = model.get("end_of_word_suffix") or ""
    ranks = {_pair(merge): rank for rank, merge in enumerate(model["merges"])}
    single = {token for token in model["vocab"] if len(token.removesuffix(suffix)) <= 1 or _BYTE.fullmatch(token)}
    kept = used | single
    for token in used - single:
        kept |= _merged(token, ranks, model.get("continuing_subword_prefix") or "", suffix)
    return kept & set(model["vocab"])


def _merged(token: str, ranks: Mapping[tuple[str, str], int], prefix: str, suffix: str) -> set[str]:
    """Every token that the merges make out of the characters of one token."""
    ends = bool(suffix) and token.endswith(suffix) and token != suffix
    inside = bool(prefix) and token.startswith(prefix) and token != prefix
    characters = token[len(prefix) if inside else 0 : -len(suffix) if ends else None]
    symbols = [(prefix if inside or i else "") + character for i, character in enumerate(characters)]
    if ends:
        symbols[-1] += suffix
    made = set(symbols)
    while len(symbols) > 1:
        rank, place = min((ranks.get(pair, len(ranks)), i) for i, pair in enumerate(itertools.pairwise(symbols)))
        if rank == len(ranks):
            break
        symbols[place : place + 2] = [symbols[place] + symbols[place + 1].removeprefix(prefix)]
        made.add(symbols[place])
    return made


def _keep_unigram(model: Json, used: set[str]) -> set[str]:
    """Unigram: single characters, bytes, and the piece of the lowest score, which the score of the unknown goes by."""
    scores = dict(model["vocab"])
    kept = used | {token for token in scores if len(token) == 1 or _BYTE.fullmatch(token)}
    kept.add(min(scores, key=lambda token: scores[token]))
    return kept if model.get("unk_id") is None else kept | {model["vocab"][model["unk_id"]][0]}


_KEEP = {"WordPiece": _keep_pieces, "WordLevel": _keep_pieces, "BPE": _keep_bpe, "Unigram": _keep_unigram}


def _rewritten(spec: Json, kept: set[str], renumbered: Mapping[int, int], vocabulary: Mapping[str, int]) -> Json:
    spec = copy.deepcopy(spec)
    model = spec["model"]
    new = {token: renumbered[number] for token, number in vocabulary.items() if number in renumbered}
    if model["type"] == "Unigram":
        # A list counts by its places, so it also holds the added tokens that lie between its own.
        unknown = None if model.get("unk_id") is None else model["vocab"][model["unk_id"]][0]
        left = [[token, score] for token, score in model["vocab"] if token in new]
        model["vocab"] = left
        model["unk_id"] = None if unknown is None else [token for token, _ in left].index(unknown)
        if any(new[token] != place for place, (token, _) in enumerate(left)):
            raise _unsupported("its added tokens lie between the pieces of its vocabulary")
    else:
        own = [token for token in model["vocab"] if token in new]
        model["vocab"] = {token: new[token] for token in sorted(own, key=new.__getitem__)}
    if model["type"] == "BPE":
        prefix = model.get("continuing_subword_prefix") or ""
        model["merges"] = [
            merge
            for merge in model["merges"]
            if {_pair(merge)[0], _pair(merge)[1], _pair(merge)[0] + _pair(merge)[1].removeprefix(prefix)}
            <= set(model["vocab"])
        ]
    for each in spec.get("added_tokens", []):
        each["id"] = renumbered[each["id"]]
    if spec.get("padding"):
        spec["padding"]["pad_id"] = renumbered[spec["padding"]["pad_id"]]
    _renumber_processor(spec.get("post_processor"), renumbered)
    return spec


def _processors(processor: Json | None) -> list[Json]:
    """A post-processor and those inside it."""
    if processor is None:
        return []
    if processor["type"] not in ("Sequence", "TemplateProcessing", "BertProcessing", "RobertaProcessing", "ByteLevel"):
        raise _unsupported(f"its tokenizer ends with {processor['type']}, which satchel does not know")
    return [processor, *(each for inner in processor.get("processors", ()) for each in _processors(inner))]


def _named(processor: Json | None) -> set[str]:
    """The tokens that a post-processor puts around a text."""
    named = set()
    for each in _processors(processor):
        named |= {token for special in each.get("special_tokens", {}).values() for token in special["tokens"]}
        named |= {each[end][0] for end in ("sep", "cls") if end in each}
    return named


def _renumber_processor(processor: Json | None, renumbered: Mapping[int, int]) -> None:
    for each in _processors(processor):
        for special in each.get("special_tokens", {}).values():
            special["ids"] = [renumbered[number] for number in special["ids"]]
        for end in ("sep", "cls"):
            if end in each:
                each[end] = [each[end][0], renumbered[each[end][1]]]


def _pieces(model: Json) -> Iterable[str]:
    return (token for token, _ in model["vocab"]) if model["type"] == "Unigram" else model["vocab"]


def _pair(merge: str | Sequence[str]) -> tuple[str, str]:
    """A merge, which older files write as one string."""
    first, second = merge.split(" ") if isinstance(merge, str) else merge
    return first, second


def _plain(spec: Json) -> Tokenizer:
    tokenizer = Tokenizer.from_str(json.dumps(spec))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def _write(file: Path, value: object) -> None:
    file.write_text(json.dumps(value, ensure_ascii=False, indent=2) + "\n", "utf-8")


def _unsupported(why: str) -> SupportError:
    return SupportError("Cannot prune the vocabulary.", why=why, fix="leave vocabulary out for this model")
