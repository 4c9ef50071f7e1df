"""What all tasks share that write token by token: how a decoder is run, streamed, judged and measured."""

from __future__ import annotations

import dataclasses
import threading
import time
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Callable, ClassVar, Optional

import numpy as np

from ..errors import Cancelled, UsageError
from ..generation import (
    KINDS,
    Chosen,
    Form,
    GenerationConfig,
    Prompt,
    Rule,
    Stops,
    Texts,
    Tokens,
    generate,
    never,
    stream,
)
from ..manifest import Graph, Step, TaskEntry
from ..sessions import Session, Tensors
from ..sessions.cache import WINDOW_POSITIONS, Cache
from .task import LOSS, NEXT, Answer, Files, Input, ModelFacts, Row, Task, log_softmax, softmax
from .text import TextTask

__all__ = ["OPTIONS", "STEPS", "DecoderAlone", "Generating", "GenerativeTask", "Pieces"]

# What may be asked of every text beside the settings of generation.
OPTIONS: Mapping[str, Any] = {
    "cancel": None,
    "callback": None,
    "json_schema": None,
    "regex": None,
    "grammar": None,
    "prefix_allowed_tokens_fn": None,
}

STEPS = 8  # tokens of a golden text that are read one by one, as generation does
_CONTEXT, _MOST = 4, 24  # tokens before a piece that it is read with
_NEW_TOKENS = 256  # where neither the model nor the caller says, as in the pipeline


class Generating(Task):
    """A decoder whose graph is `component`, and its settings.

    Parity reads each golden text up to its last tokens at once and those one by one, through the cache, and compares what may
    come next after each.
    """

    judged = {"scores": NEXT, "losses": LOSS}
    outputs = ("logits",)
    component = "model"
    generates = True
    brief: ClassVar[Mapping[str, Any]] = {"max_new_tokens": 1}

    config: GenerationConfig

    @staticmethod
    def generate_step(facts: ModelFacts, **changed: Any) -> Step:
        """The settings of the checkpoint, with some changed; checked now and not on the device."""
        saved = {name: value for name, value in facts.generation.items() if not name.startswith("_")}
        read = GenerationConfig.read({**saved, **changed})
        fields = [field for field in dataclasses.fields(read) if getattr(read, field.name) != field.default]
        return Step("generate", {"config": {field.name: getattr(read, field.name) for field in fields}})

    @abstractmethod
    def prompts(
        self, graphs: Mapping[str, Session], items: Sequence[Input], options: Mapping[str, Any]
    ) -> list[Prompt]:
        """What generation starts from.

        Raises:
            UsageError: the model cannot hold it.
        """

    @abstractmethod
    def written(self, row: Row) -> np.ndarray:
        """The tokens of a golden text that the decoder reads, int64 [tokens]."""

    def beside(self, graphs: Mapping[str, Session], rows: Sequence[Row]) -> Optional[Tensors]:
        """What each call of the decoder is given too, [rows, …]."""
        return None

    def assistant(self, options: Mapping[str, Any]) -> Optional[Session]:
        return None

    def check_options(self, given: Mapping[str, Any]) -> Mapping[str, Any]:
        own = {name: value for name, value in given.items() if name in self.options}
        settings = {name: value for name, value in given.items() if name not in self.options}
        config = self.config.changed(settings)
        if config.max_new_tokens is None and config.max_length is None:
            config = config.changed({"max_new_tokens": _NEW_TOKENS})
        return {**self.options, **own, "config": config}

    def score(self, outputs: Tensors, row: Row) -> Tensors:
        logits, ids = outputs["logits"], self.written(row)
        came = ids[len(ids) - len(logits) + 1 :]  # of each token but the last, the next one
        return {"scores": softmax(logits), "losses": -log_softmax(logits[:-1])[np.arange(len(came)), came]}

    def forward(
        self, graphs: Mapping[str, Session], rows: Sequence[Row], batch_size: int
    ) -> Iterator[tuple[int, Tensors]]:
        session = graphs[self.component]
        order = sorted(range(len(rows)), key=lambda i: rows[i].length)
        for start in range(0, len(order), batch_size):
            group = order[start : start + batch_size]
            ids = [self.written(rows[i]) for i in group]
            steps = [min(STEPS, len(each) - 1) for each in ids]
            texts = Texts(
                session, len(group), max(map(len, ids)) + STEPS, self.beside(graphs, [rows[i] for i in group])
            )
            found = [texts.read([each[: len(each) - count] for each, count in zip(ids, steps)])]
            for step in range(max(steps)):
                tokens = [each[min(len(each) - count + step, len(each) - 1)] for each, count in zip(ids, steps)]
                found.append(texts.step(np.array(tokens)))
            for row, (i, count) in enumerate(zip(group, steps)):
                yield i, {"logits": np.stack([each[row] for each in found[: count + 1]])}

    def answer(self, item: Input, rows: Sequence[Row], scores: Sequence[Tensors], options: Mapping[str, Any]) -> Answer:
        raise NotImplementedError  # `run` generates


class DecoderAlone(Generating):
    """A decoder that reads what it goes on with, beside nothing."""

    def written(self, row: Row) -> np.ndarray:
        return row.tensors["input_ids"]

    def given(self, row: Row, graph: Graph) -> Tensors:
        ids = row.tensors["input_ids"][None]
        places = np.arange(ids.shape[1])[None]
        cache = Cache(graph.caches, 1, ids.shape[1])
        near = {spec.name: places for spec in graph.given if spec.name == WINDOW_POSITIONS}
        return {"input_ids": ids, "position_ids": places, "logits_positions": places, **near, **cache.arrays}

    def call(self, graphs: Mapping[str, Session], rows: Mapping[str, Row], tokens: int) -> Callable[[], object]:
        """One token, the last of a text of so many."""
        row = rows[next(iter(rows))]
        texts = Texts(graphs[self.component], 1, tokens, self.beside(graphs, [row]))
        texts.read([np.resize(row.tensors["input_ids"], tokens - 1)])

        def step() -> object:
            texts.keep(np.array([tokens - 1]))
            return texts.step(row.tensors["input_ids"][:1])

        return step


class GenerativeTask(Generating, TextTask):
    """What is written is text.

    Options of all of them: `json_schema`, `regex` or `grammar` (what the text must be; a schema is a dict, a grammar is Lark's),
    `callback(piece, number)` (told each piece of text as it comes, with the number of its text), `cancel` (an event; once set, texts
    end with their next token), and `prefix_allowed_tokens_fn(number, ids)` (the tokens that may come).
    """

    def __init__(self, entry: TaskEntry, files: Files) -> None:
        super().__init__(entry, files)
        self.config = GenerationConfig.read(entry.option("generate", "config", {}))
        self._readers: dict[tuple[int, ...], Tokens] = {}  # by what ends a text

    @abstractmethod
    def answered(self, item: Input, prompt: Prompt, ids: list[int], options: Mapping[str, Any]) -> dict[str, Any]:
        """One text, of its new tokens."""

    def shown(self, token: int) -> bool:
        """Whether a token is of the text that a reader sees."""
        return True

    def stops(self, options: Mapping[str, Any]) -> Stops:
        """Whether a text ends for another reason than its length or an end token; `max_time` begins now."""
        config: GenerationConfig = options["config"]
        cancel: Optional[threading.Event] = options.get("cancel")
        reasons: list[Stops] = []
        if config.stop_strings:
            reasons.append(self._completed(config.stop_strings))
        if config.max_time is not None:
            until = time.monotonic() + config.max_time
            reasons.append(lambda ids: time.monotonic() > until)
        if cancel is not None:
            reasons.append(lambda ids: cancel.is_set())
        if len(reasons) < 2:
            return reasons[0] if reasons else never
        return lambda ids: any(stop(ids) for stop in reasons)

    def _completed(self, strings: Sequence[str]) -> Stops:
        """Whether the last token completed one of the strings."""
        longest = max(map(len, strings)) + 8  # a character has at most a few tokens

        def stop(ids: np.ndarray) -> bool:
            tail = ids[-longest:].tolist()
            text = str(self.tokenizer.decode(tail, skip_special_tokens=False))
            found = [each for each in strings if each in text]
            if not found:
                return False
            before = str(self.tokenizer.decode(tail[:-1], skip_special_tokens=False))
            return any(text.count(each) > before.count(each) for each in found)

        return stop

    def form(self, options: Mapping[str, Any]) -> Optional[Form]:
        """What the texts must be.

        Raises:
            UsageError: two forms at once, one that is none, or nothing that could end a text.
        """
        asked = [kind for kind in KINDS if options.get(kind) is not None]
        if not asked:
            return None
        ends: tuple[int, ...] = options["config"].eos_token_id
        if len(asked) > 1 or not ends:
            raise UsageError(
                f"Cannot hold the text to a {KINDS[asked[0]]}.",
                why=f"{asked[1]} was given too" if len(asked) > 1 else "no token ends a text of this model",
                fix="give one of them" if len(asked) > 1 else "say which one does, by eos_token_id",
            )
        if not hasattr(self.tokenizer, "to_str"):
            raise UsageError(
                f"Cannot hold the text to a {KINDS[asked[0]]}.",
                why="this model's tokens are not those of a tokenizer.json, which llguidance reads",
                fix="take a language model, whose tokenizer.json works on bytes",
            )
        with self._lock:
            if ends not in self._readers:
                self._readers[ends] = Tokens(self.tokenizer, ends)
        return Form(self._readers[ends], asked[0], options[asked[0]])

    def _requested(self, prompts: Sequence[Prompt], form: Optional[Form], options: Mapping[str, Any]) -> list[Prompt]:
        """Prompts with what the caller asks of each text."""
        allowed = options.get("prefix_allowed_tokens_fn")
        made = []
        for number, prompt in enumerate(prompts):
            held = form.held(len(prompt.ids)) if form is not None else None
            own: Sequence[Rule] = prompt.own if allowed is None else [*prompt.own, _Allowed(allowed, number)]
            made.append(dataclasses.replace(prompt, form=held, own=own))
        return made

    def _check_whole(self, ids: Sequence[int], form: Optional[Form], options: Mapping[str, Any]) -> None:
        """Raises: UsageError for a text that is not what it must be yet, Cancelled where that was the caller's wish."""
        if form is None:
            return
        if options.get("cancel") is not None and options["cancel"].is_set():
            raise Cancelled(
                "The text was cancelled.", why="it is not whole", fix="ask again, or take the pieces of `stream`"
            )
        form.check_whole(ids, self.decoded(ids, skip=True))

    def run(
        self, graphs: Mapping[str, Session], inputs: Sequence[Input], options: Mapping[str, Any], batch_size: int = 0
    ) -> list[Answer]:
        config: GenerationConfig = options["config"]
        helper, form, stops = self.assistant(options), self.form(options), self.stops(options)
        answers: list[Answer] = []
        size = batch_size or self.batch_size
        for start in range(0, len(inputs), size):
            items = inputs[start : start + size]
            prompts = self._requested(self.prompts(graphs, items, options), form, options)
            heard = self._teller(prompts, start * config.num_return_sequences, options)
            made = generate(graphs[self.component], prompts, config, stops, assistant=helper, heard=heard)
            for item, prompt, found in zip(items, prompts, made):
                for ids in found:
                    self._check_whole(ids, form, options)
                answers.append([self.answered(item, prompt, ids, options) for ids in found])
        return answers

    def _teller(
        self, prompts: Sequence[Prompt], before: int, options: Mapping[str, Any]
    ) -> Optional[Callable[[int, Chosen], None]]:
        """What tells the caller's `callback` the pieces of each text."""
        callback, copies = options.get("callback"), options["config"].num_return_sequences
        if callback is None:
            return None
        pieces = [Pieces(self, prompt.ids) for prompt in prompts for _ in range(copies)]

        def heard(number: int, chosen: Chosen) -> None:
            piece = pieces[number].add(chosen.token) + (pieces[number].rest() if chosen.ended else "")
            if piece:
                callback(piece, before + number)

        return heard

    def stream(
        self, graphs: Mapping[str, Session], items: Sequence[Input], options: Mapping[str, Any]
    ) -> Iterator[tuple[int, str]]:
        """The new texts in pieces, each with the number of its text, as soon as their characters are whole."""
        cancel: Optional[threading.Event] = options["cancel"]
        form = self.form(options)
        prompts = self._requested(self.prompts(graphs, items, options), form, options)
        steps = stream(
            graphs[self.component],
            prompts,
            options["config"],
            self.stops(options),
            assistant=self.assistant(options),
        )
        pieces = [Pieces(self, prompt.ids) for prompt in prompts]
        written: list[list[int]] = [[] for _ in prompts]
        for step in steps:
            for number, chosen in enumerate(step):
                if chosen is None:
                    continue
                written[number].append(chosen.token)
                piece = pieces[number].add(chosen.token) if self.shown(chosen.token) else ""
                piece += pieces[number].rest() if chosen.ended else ""
                if piece:
                    yield number, piece
                if chosen.ended and not (cancel is not None and cancel.is_set()):
                    self._check_whole(written[number], form, options)
            if cancel is not None and cancel.is_set():
                return


@dataclasses.dataclass(frozen=True)
class _Allowed:
    """The rule of a caller who says which tokens may come."""

    tokens: Callable[[int, np.ndarray], Sequence[int]]
    number: int

    def __call__(self, ids: np.ndarray, scores: np.ndarray) -> np.ndarray:
        allowed = np.array(list(self.tokens(self.number, ids)), dtype=np.int64)
        result: np.ndarray = np.full_like(scores, -np.inf)
        result[allowed] = scores[allowed]
        return result


class Pieces:
    """Text as its tokens come: what is not a whole character yet is held back."""

    def __init__(self, task: TextTask, before: Sequence[int]) -> None:
        # A few tokens before the new ones: what a first word looks like depends on them.
        self._task, self._ids, self._cleans = task, list(before[-2 * _CONTEXT :]), task.cleans
        self._shown = len(task.decoded(self._ids, skip=True))
        self._forget()

    def add(self, token: int) -> str:
        self._ids.append(token)
        text = self._task.decoded(self._ids, skip=True)
        if text.endswith("\ufffd"):  # bytes of a character that more tokens will complete
            return ""
        whole = len(text)
        if self._cleans:  # the next word may take away a space of the last two: "I do n't" is "I don't"
            whole = max(text.rfind(" ", 0, max(text.rfind(" "), 0)), self._shown)
        piece, self._shown = text[self._shown : whole], max(whole, self._shown)
        if len(self._ids) > _MOST and not self._cleans:  # or each token would take longer than the one before
            self._forget()
        return piece

    def _forget(self) -> None:
        """Read on with the last few tokens, from where a character begins."""
        for count in range(_CONTEXT, 2 * _CONTEXT):
            text = self._task.decoded(self._ids[-count:], skip=True)
            if "\ufffd" not in text:
                self._ids, self._shown = self._ids[-count:], len(text)
                return

    def rest(self) -> str:
        """What was held back, which the text ends with."""
        text = self._task.decoded(self._ids, skip=True)
        piece, self._shown = text[self._shown :], len(text)
        return piece
