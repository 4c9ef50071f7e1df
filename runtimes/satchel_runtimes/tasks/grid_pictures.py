"""image-text-to-text by Qwen2-VL: a picture is as many tokens as its size gives it, and each has a place in height and width."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..manifest import Step, TaskEntry
from ..sessions import Session, Tensors
from .image import image_steps
from .image_text_to_text import FEATURES, ImageTextToText
from .patches import PLACES, grid_places
from .task import Input, ModelFacts, Row
from .text import tokenize_step
from .text_generation import is_chat

__all__ = ["DELTA", "TURNS", "GridPictures"]

# Of the decoder, which turns a token's queries and keys by three numbers: `DELTA` is how far those of new words are behind their
# place in the text, and `TURNS` how much more it is in the prompt, [tokens, 3].
TURNS, DELTA = "text_turns", "text_delta"
_GRIDS = "image_grids"  # rows and columns of patches, [pictures, 2]


class GridPictures(ImageTextToText):
    """As of `ImageTextToText`."""

    @classmethod
    def fits(cls, facts: ModelFacts) -> bool:
        return True

    @classmethod
    def entry(cls, facts: ModelFacts) -> TaskEntry:
        config, text = facts.config, facts.config.get("text_config") or facts.config  # as older checkpoints have it
        shown = {"family": "qwen2_vl", "id": int(config["image_token_id"]), "first": int(text["vocab_size"])}
        shown |= {"count": 0, "tiles": False, "ahead": False}
        steps = [*image_steps(facts.image_processor), tokenize_step(facts), Step("image_tokens", shown)]
        if facts.chat_template:
            steps.append(Step("chat", {"file": facts.chat_template, "special_tokens": dict(facts.special_tokens)}))
        return TaskEntry(cls.name, tuple(steps), (cls.generate_step(facts),))

    def _read(self, item: Input, options: Mapping[str, Any]) -> Tensors:
        """Token numbers, of which those from `first` up are places in the features; pixels, [patches, values]; and the grids."""
        said, pictures = self._parts(item)
        text = self._conversation(said, options.get("tools")) if is_chat(said) else said
        mark = str(self.tokenizer.id_to_token(self._words["id"]))
        whole, *pieces = self._pieces(text.split(mark), mark, len(pictures))
        pixels, grids = [], []
        for given, after in zip(pictures, pieces):
            made = self.tensors(self.picture(given))
            pixels.append(made["pixel_values"])
            grids.append(made[PLACES].max(axis=0) + 1)
            whole += mark * self._tokens(grids[-1]) + after
        ids: np.ndarray = np.array(self.encoding(whole, special=not is_chat(said), cut=False).ids, dtype=np.int64)
        seen = ids == self._words["id"]
        known = np.where(seen, self._words["first"] + np.cumsum(seen) - 1, ids)
        return {"input_ids": known, "pixel_values": np.concatenate(pixels), _GRIDS: np.stack(grids)}

    def _tokens(self, grid: np.ndarray) -> int:
        assert self._grid is not None
        return int(grid.prod()) // int(self._grid["merge"]) ** 2

    def beside(self, graphs: Mapping[str, Session], rows: Sequence[Row]) -> Tensors:
        found = [self._seen(graphs["image_encoder"], row.tensors) for row in rows]
        turns = [self._turns(row.tensors["input_ids"], row.tensors[_GRIDS]) for row in rows]
        deltas: np.ndarray = np.array([[delta] for _, delta in turns], dtype=np.int64)
        return {FEATURES: _filled(found), TURNS: _filled([each for each, _ in turns]), DELTA: deltas}

    def _seen(self, encoder: Session, tensors: Tensors) -> np.ndarray:
        assert self._grid is not None
        made, start = [], 0
        for rows, columns in tensors[_GRIDS].tolist():
            part = tensors["pixel_values"][start : start + rows * columns]
            places = grid_places(rows, columns, self._grid["merge"])
            made.append(encoder.run({"pixel_values": part[None], PLACES: places[None]})[FEATURES][0])
            start += rows * columns
        seen: np.ndarray = np.concatenate(made)
        return seen

    def _turns(self, ids: np.ndarray, grids: np.ndarray) -> tuple[np.ndarray, int]:
        """`TURNS` and `DELTA` of a prompt: words count up in all three numbers, and a picture's tokens from there in its rows and
        columns."""
        assert self._grid is not None
        merge, pictures, place, number = int(self._grid["merge"]), iter(grids), 0, 0
        turns: np.ndarray = np.zeros((len(ids), 3), dtype=np.int64)
        while place < len(ids):
            if ids[place] < self._words["first"]:
                turns[place] = number
                place, number = place + 1, number + 1
                continue
            grid = next(pictures) // merge
            inside = np.stack([np.zeros(int(grid.prod()), np.int64), *np.indices(grid).reshape(2, -1)], axis=1) + number
            turns[place : place + len(inside)] = inside[: len(ids) - place]
            place, number = place + len(inside), number + int(grid.max())
        delta = int(turns.max(initial=-1)) + 1 - len(ids)
        return turns - np.arange(len(ids))[:, None] - delta, delta


def _filled(rows: Sequence[np.ndarray]) -> np.ndarray:
    longest = max(map(len, rows))
    filled: np.ndarray = np.stack([np.pad(each, ((0, longest - len(each)), (0, 0))) for each in rows])
    return filled
