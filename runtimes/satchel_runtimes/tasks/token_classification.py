"""token-classification: a label per token, or per name where tokens are put together again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Union

import numpy as np

from ..errors import UsageError
from ..examples import Example
from ..manifest import Step, TaskEntry
from ..sessions import Session, Tensors
from .task import DISTRIBUTION, Answer, Files, Input, ModelFacts, Row, softmax
from .text import TextTask, Tokens, choice, labels_of, tokenize_step, whole_number, windows, wrong_type

__all__ = ["TASK"]

_STRATEGIES = ("none", "simple", "first", "average", "max")


@dataclass(frozen=True)
class _Chunk:
    """One row's text and tokens, with the offsets counted in that text."""

    text: str
    tokens: Tokens


@dataclass(frozen=True)
class _Piece:
    """A token, or the tokens of one word, with one label."""

    label: str
    score: np.floating[Any]  # Any: the precision of the graph
    word: str
    start: int
    end: int


class TokenClassification(TextTask):
    """`predict("text")` is a list of `{"entity", "score", "index", "word", "start", "end"}`, one for each token whose
    label is not in `ignore_labels`.

    Options as in the pipeline. With an `aggregation_strategy` other than "none" neighbours of one name are one entry,
    with "entity_group" in place of "entity" and "index"; "first", "average" and "max" also give each word one label,
    which needs a tokenizer that marks how words go on (as WordPiece does; for others words end at spaces). `stride`
    reads a long text in windows that overlap by that many tokens; without it the text is cut. With
    `is_split_into_words` an input is a list of words, and `delimiter` stands between them in the text that start and
    end count in.
    """

    name = "token-classification"
    text_kind = "a string (a list of words with is_split_into_words=True)"
    judged = {"scores": DISTRIBUTION}
    options = {
        "aggregation_strategy": "none",
        "ignore_labels": ("O",),
        "stride": None,
        "is_split_into_words": False,
        "delimiter": " ",
    }
    auto_model = "AutoModelForTokenClassification"
    architectures = ("ForTokenClassification",)
    outputs = ("logits",)
    columns = {"tokens": ("tokens", "words"), "labels": ("ner_tags", "labels", "tags", "pos_tags")}
    optional = frozenset({"labels"})
    target = "labels"
    metrics = ("entity_f1", "token_accuracy")

    def __init__(self, entry: TaskEntry, files: Files) -> None:
        super().__init__(entry, files)
        model = self.tokenizer.model
        unknown = entry.option("labels", "unknown") or getattr(model, "unk_token", None)
        self._unknown = None if unknown is None else self.tokenizer.token_to_id(unknown)
        self._marks_subwords = bool(getattr(model, "continuing_subword_prefix", None))

    @classmethod
    def entry(cls, facts: ModelFacts) -> TaskEntry:
        step = Step("labels", {"labels": labels_of(facts), "unknown": facts.special_tokens.get("unk_token")})
        return TaskEntry(cls.name, (tokenize_step(facts),), (Step("softmax"), step))

    def encode(self, item: Input, options: Mapping[str, Any]) -> list[Row]:
        text, parts = self._text_of(item, options)
        stride = None if options["stride"] is None else whole_number(options, "stride", least=0)
        if stride is not None and choice(options, "aggregation_strategy", _STRATEGIES) == "none":
            raise UsageError(
                f"Cannot use stride={stride} with aggregation_strategy='none'.",
                why="tokens of windows that overlap are put together by name, not one by one",
                fix=f"choose one of {', '.join(_STRATEGIES[1:])}",
            )
        tokens = Tokens.of(self.encoding(parts, cut=stride is None))
        chunks = [tokens]
        if stride is not None:
            chunks = windows(tokens, 0, self.max_length, stride, self._step.options["side"])
        if not isinstance(parts, str):
            starts = np.cumsum([0] + [len(word) + len(options["delimiter"]) for word in parts])
            for each in chunks:
                each.offsets[:] += np.where(each.words >= 0, starts[each.words], 0)[:, None]
        return [self.row_of_ids(each.ids, each.type_ids, _Chunk(text, each)) for each in chunks]

    def _text_of(self, item: Input, options: Mapping[str, Any]) -> tuple[str, Union[str, Sequence[str]]]:
        if not options["is_split_into_words"]:
            if not isinstance(item, str):
                raise wrong_type(self, item)
            return item, item
        if not isinstance(item, (list, tuple)) or not all(isinstance(word, str) for word in item):
            raise UsageError(
                f"Cannot run {self.name} on {type(item).__name__} {str(item)[:40]!r}.",
                why="with is_split_into_words each input is a list of words",
                fix="pass a list of such lists, also for one text: [['two', 'words']]",
            )
        if not isinstance(options["delimiter"], str):
            raise UsageError(
                f"Cannot use delimiter={options['delimiter']!r}.", why="it is not a string", fix="pass delimiter=' '"
            )
        return options["delimiter"].join(item), item

    @classmethod
    def example(cls, parts: Mapping[str, Any]) -> Example:
        """The words, and a label for each."""
        words = parts["tokens"]
        return Example(words, {"tokens": words, "labels": parts["labels"]} if "labels" in parts else None)

    def reply(
        self, graphs: Mapping[str, Session], inputs: Sequence[Input], labels: Sequence[str] = (), batch_size: int = 0
    ) -> list[Any]:
        """The label of each word, which is that of its first token; None of words beyond the cut."""
        options = self.check_options({"is_split_into_words": True, "ignore_labels": []})
        said = []
        for words, tokens in zip(inputs, self.run(graphs, inputs, options, batch_size)):
            word_of = self.encode(words, options)[0].extra.tokens.words
            first: dict[int, str] = {}
            for token in tokens:
                first.setdefault(int(word_of[token["index"]]), token["entity"])
            said.append([first.get(place) for place in range(len(words))])
        return said

    def score(self, outputs: Tensors, row: Row) -> Tensors:
        return {"scores": softmax(outputs["logits"][~row.extra.tokens.special])}

    def answer(self, item: Input, rows: Sequence[Row], scores: Sequence[Tensors], options: Mapping[str, Any]) -> Answer:
        strategy = choice(options, "aggregation_strategy", _STRATEGIES)
        ignored = options["ignore_labels"]
        if isinstance(ignored, str) or not isinstance(ignored, Sequence):
            raise UsageError(
                f"Cannot use ignore_labels={ignored!r}.", why="it is not a list of labels", fix="pass ['O']"
            )
        found = []
        for row, score in zip(rows, scores):
            if strategy == "none":
                found += self._each_token(row.extra, score["scores"], ignored)
            else:
                names = self._names(self._pieces(row.extra, score["scores"], strategy))
                found += [name for name in names if name["entity_group"] not in ignored]
        return _without_overlaps(found) if len(rows) > 1 else found

    def _each_token(self, chunk: _Chunk, scores: np.ndarray, ignored: Sequence[str]) -> list[dict[str, Any]]:
        labels = self.labels()
        words, starts, ends, _ = self._words(chunk)
        indices = np.flatnonzero(~chunk.tokens.special).tolist()
        return [
            {
                "entity": labels[best],
                "score": float(scores[i, best]),
                "index": indices[i],
                "word": words[i],
                "start": starts[i],
                "end": ends[i],
            }
            for i, best in enumerate(scores.argmax(axis=-1).tolist())
            if labels[best] not in ignored
        ]

    def _words(self, chunk: _Chunk) -> tuple[list[str], list[int], list[int], list[bool]]:
        """Per token of the text: its word piece, where it starts and ends, and whether it goes on with a word."""
        shown = ~chunk.tokens.special
        ids = chunk.tokens.ids[shown].tolist()
        starts, ends = (side.tolist() for side in chunk.tokens.offsets[shown].T)
        words, goes_on = [], []
        for i, token in enumerate(ids):
            reference = chunk.text[starts[i] : ends[i]]
            if token == self._unknown:
                words.append(reference)
                goes_on.append(False)
                continue
            word = self.tokenizer.id_to_token(token) or reference
            words.append(word)
            if self._marks_subwords:
                goes_on.append(len(word) != len(reference))
            else:
                goes_on.append(starts[i] > 0 and " " not in chunk.text[starts[i] - 1 : starts[i] + 1])
        return words, starts, ends, goes_on

    def _pieces(self, chunk: _Chunk, scores: np.ndarray, strategy: str) -> Iterator[_Piece]:
        """One piece per token ("simple"), or one per word with the label that the strategy gives it."""
        labels = self.labels()
        words, starts, ends, goes_on = self._words(chunk)
        firsts = [i for i in range(len(words)) if strategy == "simple" or i == 0 or not goes_on[i]]
        for first, following in zip(firsts, firsts[1:] + [len(words)]):
            of_word = scores[first:following]
            if strategy == "average":
                likely = of_word.mean(axis=0)
            elif strategy == "max":
                likely = of_word[of_word.max(axis=-1).argmax()]
            else:
                likely = of_word[0]
            best = int(likely.argmax())
            word = words[first] if strategy == "simple" else self._joined(words[first:following])
            yield _Piece(labels[best], likely[best], word, starts[first], ends[following - 1])

    def _names(self, pieces: Iterator[_Piece]) -> list[dict[str, Any]]:
        """Neighbours with one tag are one name; a tag that begins with B- starts the next."""
        groups: list[list[_Piece]] = []
        for piece in pieces:
            if groups and not piece.label.startswith("B-") and _tag(piece.label) == _tag(groups[-1][-1].label):
                groups[-1].append(piece)
            else:
                groups.append([piece])
        return [
            {
                "entity_group": group[0].label.split("-", 1)[-1],
                "score": float(np.mean([piece.score for piece in group])),
                "word": self._joined([piece.word for piece in group]),
                "start": group[0].start,
                "end": group[-1].end,
            }
            for group in groups
        ]

    def _joined(self, words: list[str]) -> str:
        decoder = self.tokenizer.decoder
        return " ".join(words) if decoder is None else str(decoder.decode(words))


def _tag(label: str) -> str:
    return label[2:] if label[:2] in ("B-", "I-") else label


def _without_overlaps(names: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Of names that overlap, as two windows see them, the longest; of equally long ones the likeliest."""
    kept: list[dict[str, Any]] = []
    for name in sorted(names, key=lambda each: int(each["start"])):
        if not kept or not kept[-1]["start"] <= name["start"] < kept[-1]["end"]:
            kept.append(name)
        elif _weight(name) > _weight(kept[-1]):
            kept[-1] = name
    return kept


def _weight(name: Mapping[str, Any]) -> tuple[int, float]:
    return name["end"] - name["start"], name["score"]


TASK = TokenClassification
