"""SentencePiece's way from a text to pieces and back, in plain Python, to the last tie.

`tokenizers` has the same models, and is not the same on every text: it adds scores in float64 and SentencePiece in float32, so that
of "......." cut as "..." + "." + "..." another path wins; and it reads the table of characters by graphemes, not by the longest
match. A translator was trained with what SentencePiece makes of a text.
"""

from __future__ import annotations

import base64
import heapq
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

__all__ = ["SPACE", "Speller"]

SPACE = "\u2581"  # what stands for a space in pieces
_UNKNOWN_PENALTY = 10.0  # below the worst piece
_UNKNOWN_SURFACE = " \u2047 "


def _rounded(value: float) -> float:
    """As a float32."""
    return float(np.float32(value))


class _Table:
    """What is put for parts of a text: at each place the longest that the table has.

    Args:
        blob: the table as a SentencePiece model has it: the bytes of a double array (darts-clone's), with their number before
            them, and texts that end with a zero. Written out it would be a hundred times as large.
        kept: parts that stay as they are, before any other.
    """

    def __init__(self, blob: bytes, kept: Sequence[str]) -> None:
        size = int.from_bytes(blob[:4], "little")
        self._units: list[int] = np.frombuffer(blob[4 : 4 + size], "<u4").tolist()
        self._texts = blob[4 + size :]
        self._kept = sorted(kept, key=len, reverse=True)
        self._first = frozenset(each[0] for each in kept)

    def parts(self, text: str) -> Iterator[str]:
        place = 0
        while place < len(text):
            kept = self._kept_at(text, place) if text[place] in self._first else ""
            length, found = (len(kept), kept) if kept else self._longest(text, place)
            yield found
            place += length

    def _kept_at(self, text: str, place: int) -> str:
        return next((each for each in self._kept if text.startswith(each, place)), "")

    def _longest(self, text: str, place: int) -> tuple[int, str]:
        """How many characters are replaced, and by what."""
        if not self._units:
            return 1, text[place]
        units, end, value = self._units, place, -1
        unit, node = units[0], 0
        for at in range(place, len(text)):
            for byte in text[at].encode():
                node ^= ((unit >> 10) << ((unit & 0x200) >> 6)) ^ byte
                unit = units[node] if node < len(units) else -1
                if unit & 0x800000FF != byte:
                    break
            else:
                if unit & 0x100:  # a part of the table ends here
                    leaf = node ^ ((unit >> 10) << ((unit & 0x200) >> 6))
                    end, value = at + 1, units[leaf] & 0x7FFFFFFF
                continue
            break
        if value < 0:
            return 1, text[place]
        return end - place, self._texts[value : self._texts.index(b"\0", value)].decode()


class _Model(ABC):
    """Cuts a normalized text into strings; those that are no pieces are whole characters."""

    @abstractmethod
    def cut(self, text: str) -> list[str]: ...

    @abstractmethod
    def knows(self, piece: str) -> bool: ...


class _Unigram(_Model):
    """The likeliest pieces."""

    def __init__(self, spec: Mapping[str, Any]) -> None:
        scores = dict(zip(spec["pieces"], np.array(spec["scores"], np.float32).tolist()))
        # Better than any piece, the longer the more; as SentencePiece 0.2.3 does, measured.
        kept = {each: _rounded(0.1 * (len(each.encode()) - 1)) for each in spec["kept"]}
        self._unknown = _rounded(min(scores.values()) - _UNKNOWN_PENALTY)
        self._scores = {**scores, **kept}
        self._longest = max(map(len, self._scores))

    def knows(self, piece: str) -> bool:
        return piece in self._scores

    def cut(self, text: str) -> list[str]:
        scores, size = self._scores, len(text)
        best, starts = [0.0] * (size + 1), [-1] * (size + 1)
        for start in range(size):
            here = best[start]
            for end in range(start + 1, min(size, start + self._longest) + 1):
                score = scores.get(text[start:end])
                if score is not None:
                    score = _rounded(here + score)
                    if starts[end] < 0 or score > best[end]:
                        best[end], starts[end] = score, start
            if text[start] not in scores:
                score = _rounded(here + self._unknown)
                if starts[start + 1] < 0 or score > best[start + 1]:
                    best[start + 1], starts[start + 1] = score, start
        found = []
        end = size
        while end:
            found.append(text[starts[end] : end])
            end = starts[end]
        return found[::-1]


class _Merges(_Model):
    """Neighbours are joined, the best pair first and of equal ones the left."""

    def __init__(self, spec: Mapping[str, Any]) -> None:
        self._kept = _Table(b"", spec["kept"])
        self._frozen = frozenset(spec["kept"])
        self._scores = dict(zip(spec["pieces"], np.array(spec["scores"], np.float32).tolist()))
        self._unused = dict(zip(spec["unused"], np.array(spec["unused_scores"], np.float32).tolist()))
        self._all = {**self._scores, **self._unused, **{each: 0.0 for each in spec["kept"]}}

    def knows(self, piece: str) -> bool:
        return piece in self._all

    def cut(self, text: str) -> list[str]:
        symbols = list(self._kept.parts(text))
        frozen = [each in self._frozen for each in symbols]
        before, after = list(range(-1, len(symbols) - 1)), [*range(1, len(symbols)), -1]
        waiting: list[tuple[float, int, int, int]] = []
        halves: dict[str, tuple[str, str]] = {}

        def offer(left: int, right: int) -> None:
            if left < 0 or right < 0 or frozen[left] or frozen[right]:
                return
            joined = symbols[left] + symbols[right]
            if joined in self._all:
                heapq.heappush(waiting, (-self._all[joined], left, right, len(joined)))
                if joined in self._unused:
                    halves[joined] = (symbols[left], symbols[right])

        for place in range(1, len(symbols)):
            offer(place - 1, place)
        while waiting:
            _, left, right, length = heapq.heappop(waiting)
            if not symbols[left] or not symbols[right] or len(symbols[left]) + len(symbols[right]) != length:
                continue  # one of them was joined with another since
            symbols[left] += symbols[right]
            symbols[right] = ""
            after[left] = after[right]
            if after[right] >= 0:
                before[after[right]] = left
            offer(before[left], left)
            offer(left, after[left])

        def whole(piece: str) -> Iterator[str]:
            """One that is not used any more is what it was made of."""
            if piece in self._unused and piece in halves:
                for half in halves[piece]:
                    yield from whole(half)
            else:
                yield piece

        return [each for piece in symbols if piece for each in whole(piece)]


class _Characters(_Model):
    def __init__(self, spec: Mapping[str, Any]) -> None:
        self._kept = _Table(b"", spec["kept"])
        self._pieces = frozenset((*spec["pieces"], *spec["kept"]))

    def knows(self, piece: str) -> bool:
        return piece in self._pieces

    def cut(self, text: str) -> list[str]:
        return list(self._kept.parts(text))


MODELS: Mapping[str, Any] = {"unigram": _Unigram, "bpe": _Merges, "char": _Characters}


class Speller:
    """A SentencePiece model.

    Args:
        spec: its `model`; the `pieces` with their `scores`, those that are always cut out (`kept`) and those that are not used;
            the `table` of characters; how spaces are treated (`prefix`, `suffix`, `shorten`, `mark`); whether what is unknown is
            written in `bytes`; and, to decode, the `controls` and what stands for `unknown`.
    """

    def __init__(self, spec: Mapping[str, Any]) -> None:
        self._spec = spec
        self._table = _Table(base64.b64decode(spec["table"]), spec["kept"])
        self._model: _Model = MODELS[spec["model"]](spec)
        self._bytes = {f"<0x{number:02X}>": number for number in range(256)} if spec["bytes"] else {}
        self._silent = frozenset(spec["controls"])

    def normalized(self, text: str) -> str:
        spec = self._spec
        space = SPACE if spec["mark"] else " "
        parts = list(self._table.parts(text))
        if spec["shorten"]:
            first = next((place for place, part in enumerate(parts) if part != " "), len(parts))
            parts = parts[first:]
        if not parts:
            return ""
        made = [space] if spec["prefix"] else []
        after_space = spec["shorten"]
        for part in parts:
            if after_space:
                part = part.lstrip(" ")
            if part:
                made.append(part.replace(" ", space))
                after_space = part.endswith(" ")
            after_space = after_space and spec["shorten"]
        text = "".join(made)
        if spec["shorten"]:
            while text.endswith(space):
                text = text[: -len(space)]
        return text + (space if spec["suffix"] else "")

    def pieces(self, text: str) -> list[str]:
        """Neighbours that are unknown are one piece, or their bytes are."""
        found: list[str] = []
        was_unknown = False
        for piece in self._model.cut(self.normalized(text)):
            unknown = not self._model.knows(piece)
            if unknown and self._bytes:
                found.extend(f"<0x{byte:02X}>" for byte in piece.encode())
            elif unknown and was_unknown:
                found[-1] += piece
            else:
                found.append(piece)
            was_unknown = unknown
        return found

    def text(self, pieces: Sequence[str]) -> str:
        """What pieces say, also those that are not the model's own."""
        text, waiting = "", bytearray()
        first, spoken = True, False  # whether a space may yet be the one that was put before the text
        for piece in pieces:
            if piece in self._bytes:
                waiting.append(self._bytes[piece])
                continue
            text += _characters(waiting)
            waiting = bytearray()
            if spoken or text:
                first = False
            part, spoken = self._said(piece, first)
            text += part
        return text + _characters(waiting)

    def _said(self, piece: str, first: bool) -> tuple[str, bool]:
        spec = self._spec
        if piece in self._silent:
            return "", False
        if piece == spec["unknown"]:
            return spec.get("unknown_surface", _UNKNOWN_SURFACE), False
        if not self._model.knows(piece) and piece not in spec["unused"]:
            return piece, False
        consumed = False
        if first and (spec["prefix"] or spec["suffix"] or spec["shorten"]) and piece.startswith(SPACE):
            piece, consumed = piece[len(SPACE) :], not spec["shorten"]
        return piece.replace(SPACE, " "), consumed


def _characters(found: bytearray) -> str:
    """The text of bytes; each that begins no character comes out as the sign for that."""
    text, place = "", 0
    while place < len(found):
        for length in (1, 2, 3, 4):
            try:
                text += found[place : place + length].decode("utf-8")
            except UnicodeDecodeError:
                continue
            place += length
            break
        else:
            text, place = text + "\ufffd", place + 1
    return text
