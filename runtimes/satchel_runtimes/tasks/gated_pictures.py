"""image-text-to-text by IDEFICS: pictures are no part of the text, and each token looks at the last one before it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..chat import check_messages
from ..errors import SupportError
from ..manifest import Step, TaskEntry
from ..sessions import Session, Tensors
from .image import image_steps
from .image_text_to_text import ImageTextToText, image_tokens
from .task import Files, Input, ModelFacts, Row
from .text import tokenize_step
from .text_generation import is_chat

__all__ = ["SEEN", "GatedPictures", "cross_name"]

SEEN = (
    "image_seen"  # of the decoder: the first token that sees a place in the pictures, and the first that no longer does
)
_END = 2**31 - 1
_MARK, _FAKE, _TURN = "<image>", "<fake_token_around_image>", "<end_of_utterance>"


def cross_name(layer: int, kind: str) -> str:
    return f"cross_{kind}_{layer}"


class GatedPictures(ImageTextToText):
    """As of `ImageTextToText`. A text without the model's own marks stands behind its pictures.

    Where the model has no template for conversations, they are written as those of IDEFICS were: "User:" and "Assistant:", each
    turn ended by a mark of its own.
    """

    def __init__(self, entry: TaskEntry, files: Files) -> None:
        super().__init__(entry, files)
        self._end: int = image_tokens(entry.preprocess)["end"]

    @classmethod
    def fits(cls, facts: ModelFacts) -> bool:
        return True

    @classmethod
    def entry(cls, facts: ModelFacts) -> TaskEntry:
        """Raises: SupportError where its tokenizer has no marks for pictures."""
        config, end = facts.config, facts.config.get("eos_token_id", 2)
        if not {_MARK, _FAKE} <= set(facts.added_tokens):
            raise SupportError(
                "Cannot show pictures to this model.",
                why=f"its tokenizer has no {_MARK} and {_FAKE}, between which they stand in a text",
                fix="copy all files of the model's repository, the tokenizer's added tokens among them",
            )
        shown = {
            "family": "idefics",
            "id": facts.added_tokens[_MARK],
            "first": int(config["vocab_size"]) + int(config.get("additional_vocab_size") or 0),
            "count": 0,
            "tiles": False,
            "ahead": False,
            "begin": facts.special_tokens.get("bos_token", ""),
            "end": int(end[0] if isinstance(end, list) else end),
            "turns": _TURN in facts.added_tokens,
        }
        steps = [*image_steps(facts.image_processor), tokenize_step(facts), Step("image_tokens", shown)]
        if facts.chat_template:
            steps.append(Step("chat", {"file": facts.chat_template, "special_tokens": dict(facts.special_tokens)}))
        return TaskEntry(cls.name, tuple(steps), (cls.generate_step(facts),))

    def beside(self, graphs: Mapping[str, Session], rows: Sequence[Row]) -> Tensors:
        found = [_joined(graphs["image_encoder"].run({"pixel_values": row.tensors["pixel_values"]})) for row in rows]
        for each, row in zip(found, rows):
            places = self._seen(row.tensors["input_ids"], len(row.tensors["pixel_values"]))
            each[SEEN] = np.repeat(places, next(iter(each.values())).shape[1] // len(places), axis=0)
        return {name: _stacked([each[name] for each in found]) for name in found[0]}

    def _seen(self, ids: np.ndarray, pictures: int) -> np.ndarray:
        """Which tokens see each picture: those from its mark to the next one's, or to the end of its text; int64 [pictures, 2]."""
        marks = np.flatnonzero(ids == self._words["id"])
        ends = np.flatnonzero(ids == self._end) + 1
        found: np.ndarray = np.zeros((pictures, 2), dtype=np.int64)
        for place, first in enumerate(marks[:pictures].tolist()):
            until = [
                *marks[place + 1 : place + 2].tolist(),
                *(each for each in ends.tolist() if first < each < len(ids)),
            ]
            found[place] = first, min(until, default=_END)
        return found

    def _read(self, item: Input, options: Mapping[str, Any]) -> Tensors:
        """Token numbers; and pixels, [pictures, 3, height, width]."""
        said, pictures = self._parts(item)
        text = self._conversation(said, options.get("tools")) if is_chat(said) else said
        pieces = text.split(_MARK)
        if len(pieces) == 1:  # nobody says where they stand
            pieces = [*([""] * len(pictures)), text]
        pieces = self._pieces(pieces, _MARK, len(pictures))
        whole = str(self._words["begin"]) if not text.startswith(str(self._words["begin"])) else ""
        for number, piece in enumerate(pieces):
            if number:  # two that follow each other share what stands around them
                whole += f"{_MARK}{_FAKE}" if number > 1 and not pieces[number - 1] else f"{_FAKE}{_MARK}{_FAKE}"
            whole += piece.strip(" ")
        ids: np.ndarray = np.array(self.encoding(whole, special=False, cut=False).ids, dtype=np.int64)
        pixels = np.stack([self.tensors(self.picture(each))["pixel_values"] for each in pictures])
        return {"input_ids": ids, "pixel_values": pixels}

    def _conversation(self, messages: Sequence[Mapping[str, Any]], tools: Any) -> str:
        if self._talks() or not self._words["turns"]:
            return super()._conversation(messages, tools)
        check_messages(messages, True)
        turns = []
        for each in messages:
            content = each["content"]
            parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
            text = "".join(_MARK if part.get("type") == "image" else str(part.get("text", "")) for part in parts)
            turns.append(f"{str(each['role']).capitalize()}:{text if text.startswith(_MARK) else f' {text}'}")
        if messages[-1]["role"] == "assistant":  # it goes on
            return f"{_TURN}\n".join(turns)
        return "".join(f"{turn}{_TURN}\n" for turn in turns) + "Assistant:"


def _joined(found: Tensors) -> dict[str, np.ndarray]:
    """What was seen in several pictures as one, [pictures, heads, tokens, size] to [heads, places, size]."""
    return {name: each.transpose(1, 0, 2, 3).reshape(each.shape[1], -1, each.shape[3]) for name, each in found.items()}


def _stacked(rows: Sequence[np.ndarray]) -> np.ndarray:
    """Filled up to the longest with zeros, which nobody sees."""
    longest = max(each.shape[-2] for each in rows)
    sides = [[*[(0, 0)] * (each.ndim - 2), (0, longest - each.shape[-2]), (0, 0)] for each in rows]
    stacked: np.ndarray = np.stack([np.pad(each, side) for each, side in zip(rows, sides)])
    return stacked
