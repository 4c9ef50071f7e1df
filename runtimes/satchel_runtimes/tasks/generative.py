"""What all tasks share that write text token by token: how a decoder is run, streamed, judged and measured."""

from __future__ import annotations

import dataclasses
import threading
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, Optional

import numpy as np

from ..generation import GenerationConfig, Prompt, Stops, Texts, generate, never, stream
from ..manifest import Step, TaskEntry
from ..sessions import Session, Tensors
from .task import LOSS, NEXT, Answer, Files, Input, ModelFacts, Row, log_softmax, softmax
from .text import TextTask

__all__ = ["STEPS", "GenerativeTask", "Pieces"]

STEPS = 8  # tokens of a golden text that are read one by one, as generation does
_NEW_TOKENS = 256  # where neither the model nor the caller says, as in the pipeline


class GenerativeTask(TextTask):
    """A decoder whose graph is `component`, and its settings.

    Parity reads each golden text up to its last tokens at once and those one by one, through the cache, and compares what may
    come next after each.
    """

    judged = {"scores": NEXT, "losses": LOSS}
    outputs = ("logits",)
    component = "model"
    generates = True
    brief: ClassVar[Mapping[str, Any]] = {"max_new_tokens": 1}

    def __init__(self, entry: TaskEntry, files: Files) -> None:
        super().__init__(entry, files)
        self.config = GenerationConfig.read(entry.option("generate", "config", {}))

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
    def answered(self, item: Input, prompt: Prompt, ids: list[int], options: Mapping[str, Any]) -> dict[str, Any]:
        """One text, of its new tokens."""

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

    def stops(self, config: GenerationConfig) -> Stops:
        """Whether a text ends, because its last token completed one of the strings that stop it."""
        if not config.stop_strings:
            return never
        longest = max(map(len, config.stop_strings)) + 8  # a character has at most a few tokens

        def stop(ids: np.ndarray) -> bool:
            tail = [int(each) for each in ids[-longest:]]
            text, before = (str(self.tokenizer.decode(each, skip_special_tokens=False)) for each in (tail, tail[:-1]))
            return any(text.count(each) > before.count(each) for each in config.stop_strings)

        return stop

    def run(
        self, graphs: Mapping[str, Session], inputs: Sequence[Input], options: Mapping[str, Any], batch_size: int = 0
    ) -> list[Answer]:
        config: GenerationConfig = options["config"]
        helper = self.assistant(options)
        answers: list[Answer] = []
        size = batch_size or self.batch_size
        for start in range(0, len(inputs), size):
            items = inputs[start : start + size]
            prompts = self.prompts(graphs, items, options)
            made = generate(graphs[self.component], prompts, config, self.stops(config), assistant=helper)
            for item, prompt, found in zip(items, prompts, made):
                answers.append([self.answered(item, prompt, ids, options) for ids in found])
        return answers

    def stream(self, graphs: Mapping[str, Session], item: Input, options: Mapping[str, Any]) -> Iterator[str]:
        """The new text in pieces, each as soon as its characters are whole."""
        config: GenerationConfig = options["config"]
        cancel: Optional[threading.Event] = options["cancel"]
        prompts = self.prompts(graphs, [item], options)
        helper = self.assistant(options)
        pieces = Pieces(self, prompts[0].ids)
        for (chosen,) in stream(graphs[self.component], prompts, config, self.stops(config), assistant=helper):
            if chosen is not None:
                piece = pieces.add(chosen.token)
                if piece:
                    yield piece
            if cancel is not None and cancel.is_set():
                return
        rest = pieces.rest()
        if rest:
            yield rest

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


class Pieces:
    """Text as its tokens come: what is not a whole character yet is held back."""

    def __init__(self, task: TextTask, before: Sequence[int]) -> None:
        # A few tokens before the new ones: what a first word looks like depends on them.
        self._task, self._ids = task, list(before[-4:])
        self._shown = len(task.decoded(self._ids, skip=True))

    def add(self, token: int) -> str:
        self._ids.append(token)
        text = self._task.decoded(self._ids, skip=True)
        if text.endswith("\ufffd"):  # bytes of a character that more tokens will complete
            return ""
        piece, self._shown = text[self._shown :], len(text)
        if text.endswith("\n"):  # nothing before a line's end changes what is behind it
            self._ids, self._shown = self._ids[-1:], len(self._task.decoded(self._ids[-1:], skip=True))
        return piece

    def rest(self) -> str:
        return self._task.decoded(self._ids, skip=True)[self._shown :]
