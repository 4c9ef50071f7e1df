"""fill-mask: the likeliest words for a masked place in a text."""

from __future__ import annotations

import warnings
import zlib
from collections.abc import Mapping, Sequence
from typing import Any, Optional

import numpy as np

from ..errors import IntegrityError, UsageError
from ..manifest import Step, TaskEntry
from ..sessions import Session, Tensors
from .task import DISTRIBUTION, Answer, Files, Input, ModelFacts, Row, forward, log_softmax, softmax
from .text import TextTask, tokenize_step, whole_number, wrong_type

__all__ = ["TASK"]

_MASKED = 8  # tokens of a text that `reply` masks


class FillMask(TextTask):
    """`predict("Paris is the [MASK] of France.")` is a list of `{"score", "token", "token_str", "sequence"}`, the
    likeliest first; with several masks in the text a list of such lists.

    Options as in the pipeline: `top_k` (5), and `targets`, the only words to choose from.
    """

    name = "fill-mask"
    judged = {"scores": DISTRIBUTION}
    options = {"top_k": 5, "targets": None}
    batch_size = 1  # a batch of scores for every token and every word of the vocabulary is a hundred megabytes
    auto_model = "AutoModelForMaskedLM"
    # The last two are trained to fill masks, whatever their name says.
    architectures = ("ForMaskedLM", "XLMWithLMHeadModel", "FlaubertWithLMHeadModel")
    outputs = ("logits",)
    metrics = ("perplexity",)

    def __init__(self, entry: TaskEntry, files: Files) -> None:
        super().__init__(entry, files)
        self._mask = str(entry.option("mask", "token"))
        mask_id = self.tokenizer.token_to_id(self._mask)
        if mask_id is None:
            raise IntegrityError(
                f"Cannot serve {self.name} from {files.path}.",
                why=f"its tokenizer does not know the mask {self._mask!r}",
                fix="convert the model again",
            )
        self.mask_id: int = mask_id
        padding = entry.option("mask", "padding")
        self._padding_id: Optional[int] = None if padding is None else self.tokenizer.token_to_id(padding)

    @classmethod
    def fits(cls, facts: ModelFacts) -> bool:
        return facts.mask_token is not None

    @classmethod
    def entry(cls, facts: ModelFacts) -> TaskEntry:
        mask = {
            "token": facts.mask_token,
            "padding": facts.special_tokens.get("pad_token"),
        }
        return TaskEntry(cls.name, (tokenize_step(facts),), (Step("softmax"), Step("mask", mask)))

    @classmethod
    def sample(cls, text: str, index: int, facts: ModelFacts) -> tuple[Input, dict[str, Any]]:
        mask, words = facts.mask_token or "", text.split()
        if len(words) < 2:  # also a language that writes no spaces
            return f"{text} {mask}".strip(), {}
        place = index % min(len(words), 16)  # near the side that truncation keeps
        words[-1 - place if facts.truncation_side == "left" else place] = mask
        return " ".join(words), {}

    def encode(self, item: Input, options: Mapping[str, Any]) -> list[Row]:
        if not isinstance(item, str):
            raise wrong_type(self, item)
        row = self.row(self.encoding(item))
        if self.mask_id not in row.tensors["input_ids"]:
            raise UsageError(
                f"Cannot fill {item[:40]!r}.",
                why=f"there is no {self._mask} in its first {self.max_length} tokens, which are all that the model takes"
                if self._mask in item
                else f"there is no {self._mask} in it",
                fix=f"put {self._mask} where the word is missing",
            )
        return [row]

    def score(self, outputs: Tensors, row: Row) -> Tensors:
        return {"scores": softmax(outputs["logits"][row.tensors["input_ids"] == self.mask_id])}

    def answer(self, item: Input, rows: Sequence[Row], scores: Sequence[Tensors], options: Mapping[str, Any]) -> Answer:
        count = whole_number(options, "top_k")
        ids, probabilities = rows[0].tensors["input_ids"], scores[0]["scores"]
        places = np.flatnonzero(ids == self.mask_id)
        candidates = np.arange(probabilities.shape[-1])
        if options["targets"] is not None:
            candidates = np.array(self._ids_of(options["targets"]))
        filled = [
            [
                self._proposal(ids, int(place), int(token), float(row[token]), only=len(places) == 1)
                for token in candidates[_best(row[candidates], count)]
            ]
            for place, row in zip(places, probabilities)
        ]
        return filled[0] if len(filled) == 1 else filled

    def reply(
        self, graphs: Mapping[str, Session], inputs: Sequence[Input], labels: Sequence[str] = (), batch_size: int = 0
    ) -> list[Any]:
        """How surely the model knows tokens of ordinary texts: at most 8 of each, chosen by its content, are masked one
        at a time, and `nll` has the negative logarithm of each one's probability."""
        said = []
        for text in inputs:
            encoding = self.encoding(text)
            ids, type_ids = np.array(encoding.ids), np.array(encoding.type_ids)
            plain = np.flatnonzero(np.array(encoding.special_tokens_mask) == 0)
            seeded = np.random.default_rng(zlib.crc32(text.encode()))
            places = np.sort(seeded.permutation(plain)[:_MASKED])
            rows = [
                self.row_of_ids(np.where(np.arange(len(ids)) == at, self.mask_id, ids), type_ids, None) for at in places
            ]
            nll = [0.0] * len(rows)
            size = self.tokenizer.get_vocab_size()
            for i, outputs in forward(graphs, rows, batch_size or self.batch_size) if rows else ():
                logits = outputs["logits"][places[i]]
                nll[i], size = -float(log_softmax(logits)[ids[places[i]]]), len(logits)
            said.append({"nll": nll, "tokens": ids[places].tolist(), "vocabulary": size})
        return said

    def _proposal(self, ids: np.ndarray, place: int, token: int, score: float, *, only: bool) -> dict[str, Any]:
        whole = ids.copy()
        whole[place] = token
        # With several masks the others stay to be seen, and all special tokens with them.
        sequence = self.decoded(whole[whole != self._padding_id].tolist(), skip=only)
        return {"score": score, "token": token, "token_str": self.decoded([token], skip=False), "sequence": sequence}

    def _ids_of(self, targets: Any) -> list[int]:  # Any: what the user gave
        """Token ids of words; a word that the vocabulary lacks stands for its first piece, with a warning."""
        words = [targets] if isinstance(targets, str) else targets
        if not isinstance(words, (list, tuple)) or not all(isinstance(word, str) for word in words):
            raise UsageError(f"Cannot use targets={targets!r}.", why="they are not words", fix="pass a list of strings")
        ids = []
        for word in words:
            pieces = self.encoding(word, special=False).ids
            token = self.tokenizer.token_to_id(word)
            if token is None and pieces:
                token = pieces[0]
                warnings.warn(
                    f"{word!r} is not in the vocabulary; {self.tokenizer.id_to_token(token)!r} stands for it",
                    stacklevel=2,
                )
            if token is not None:
                ids.append(token)
        if not ids:
            raise UsageError(
                f"Cannot use targets={targets!r}.", why="none of them is a word", fix="name a word, or leave them out"
            )
        return list(dict.fromkeys(ids))


def _best(values: np.ndarray, count: int) -> np.ndarray:
    """Places of the largest values, the largest first."""
    count = min(count, len(values))
    likely = np.sort(np.argpartition(-values, count - 1)[:count])
    best: np.ndarray = likely[np.argsort(-values[likely], kind="stable")]
    return best


TASK = FillMask
