"""text-generation: a language model goes on with a text, or answers in a conversation."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Callable, Optional

import numpy as np

from ..chat import Template, check_messages
from ..errors import UsageError
from ..generation import GenerationConfig, Prompt, Stops, generate, never, stream
from ..manifest import Graph, Step, TaskEntry
from ..sessions import Session, Tensors
from ..sessions.cache import Cache
from .task import LOSS, NEXT, Answer, Files, Input, ModelFacts, Row, log_softmax, softmax
from .text import TextTask, tokenize_step, wrong_type

__all__ = ["TASK", "GenerativeTask"]

_STEPS = 8  # tokens of a golden text that are read one by one, as generation does
_NEW_TOKENS = 256  # where neither the model nor the caller says, as in the pipeline


class GenerativeTask(TextTask):
    """What all tasks that write text share: a decoder whose graph is `component`, its settings, and what is judged of it.

    Parity reads each golden text up to its last tokens at once and those one by one, through the cache, and compares what may
    come next after each.
    """

    judged = {"scores": NEXT, "losses": LOSS}
    outputs = ("logits",)
    component = "model"
    generates = True

    def __init__(self, entry: TaskEntry, files: Files) -> None:
        super().__init__(entry, files)
        self.config = GenerationConfig.read(entry.option("generate", "config", {}))

    @staticmethod
    def generate_step(facts: ModelFacts) -> Step:
        """The settings of the checkpoint, checked now and not on the device."""
        saved = {name: value for name, value in facts.generation.items() if not name.startswith("_")}
        read = GenerationConfig.read(saved)
        fields = [field for field in dataclasses.fields(read) if getattr(read, field.name) != field.default]
        return Step("generate", {"config": {field.name: getattr(read, field.name) for field in fields}})

    def check_options(self, given: Mapping[str, Any]) -> Mapping[str, Any]:
        own = {name: value for name, value in given.items() if name in self.options}
        settings = {name: value for name, value in given.items() if name not in self.options}
        config = self.config.changed(settings)
        if config.max_new_tokens is None and config.max_length is None:
            config = config.changed({"max_new_tokens": _NEW_TOKENS})
        return {**self.options, **own, "config": config}

    def score(self, outputs: Tensors, row: Row) -> Tensors:
        logits, ids = outputs["logits"], row.tensors["input_ids"]
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


class TextGeneration(GenerativeTask):
    """`predict("Once upon a time")` is `[{"generated_text": "Once upon a time …"}]`; a conversation, a list of
    `{"role": …, "content": …}`, comes back with the assistant's message behind it.

    Options as in the pipeline: `return_full_text` (True), `handle_long_generation` (None, or "hole": cut the beginning of a
    prompt that leaves no room), `tools`, `assistant_model` (another predictor, whose guesses are confirmed several at a time),
    and every setting of `GenerationConfig` by its name, such as `max_new_tokens`, `do_sample` or `num_beams`.
    """

    name = "text-generation"
    text_kind = "a string, or a conversation as a list of messages"
    options = {
        "return_full_text": True,
        "handle_long_generation": None,
        "tools": None,
        "assistant_model": None,
        "cancel": None,
    }
    auto_model = "AutoModelForCausalLM"
    architectures = ("ForCausalLM", "LMHeadModel")
    metrics = ("perplexity",)

    def __init__(self, entry: TaskEntry, files: Files) -> None:
        super().__init__(entry, files)
        self._template: Optional[Template] = None

    @classmethod
    def entry(cls, facts: ModelFacts) -> TaskEntry:
        steps = [tokenize_step(facts)]
        if facts.chat_template:
            steps.append(Step("chat", {"file": facts.chat_template, "special_tokens": dict(facts.special_tokens)}))
        return TaskEntry(cls.name, tuple(steps), (cls.generate_step(facts),))

    @classmethod
    def sample(cls, text: str, index: int, facts: ModelFacts) -> tuple[Input, dict[str, Any]]:
        return text if text.strip() else f"{text}The", {}  # most tokenizers make nothing of nothing

    def is_single(self, inputs: Input) -> bool:
        return isinstance(inputs, str) or _is_chat(inputs)

    def encode(self, item: Input, options: Mapping[str, Any]) -> list[Row]:
        if isinstance(item, str):
            return [self.row(self.encoding(item))]
        ids = np.array(self.ids_of(item, options), dtype=np.int64)[: self.max_length]
        return [self.row_of_ids(ids, np.zeros_like(ids), None)]

    def texts(self, item: Input, options: Mapping[str, Any]) -> Sequence[str]:
        return (item,) if isinstance(item, str) else ()

    def ids_of(self, item: Input, options: Mapping[str, Any]) -> list[int]:
        """The tokens of a prompt, however many."""
        if isinstance(item, str):
            return list(self.encoding(item, cut=False).ids)
        if not _is_chat(item):
            raise wrong_type(self, item)
        return list(self.encoding(self._conversation(item, options.get("tools")), special=False, cut=False).ids)

    def _conversation(self, messages: Sequence[Mapping[str, Any]], tools: Optional[Sequence[Any]]) -> str:
        check_messages(messages)
        if self._template is None:
            step = next((each for each in self.entry_.preprocess if each.step == "chat"), None)
            if step is None:
                raise UsageError(
                    "Cannot hold a conversation with this model.",
                    why="its tokenizer has no chat template",
                    fix="give the text as a string, or convert a model that was trained for conversations",
                )
            text = self._files.read(step.options["file"]).decode("utf-8")
            self._template = Template(text, step.options["special_tokens"])
        found = self._template.text(messages, tools=tools, reply=messages[-1]["role"] != "assistant")
        if messages[-1]["role"] == "assistant":  # which goes on: what the template puts behind it is cut off
            said = str(messages[-1]["content"]).strip()
            found = found[: found.rindex(said) + len(said)]
        return found

    def prompt(self, item: Input, options: Mapping[str, Any]) -> Prompt:
        """Raises: UsageError where it is longer than the model can hold."""
        ids, config = self.ids_of(item, options), options["config"]
        if not ids:
            start = config.bos_token_id
            if start is None:
                self.row_of_ids(np.array([], dtype=np.int64), np.array([]), None)  # says so
            ids = [start]
        if options["handle_long_generation"] == "hole":
            room = self.max_length - (config.max_new_tokens or 1)
            if room < 1:
                raise UsageError(
                    f"Cannot make {config.max_new_tokens} tokens.",
                    why=f"the model can hold {self.max_length} in all",
                    fix="ask for fewer",
                )
            ids = ids[-room:]
        elif len(ids) >= self.max_length:
            raise UsageError(
                f"Cannot go on with a text of {len(ids)} tokens.",
                why=f"the model can hold {self.max_length} in all",
                fix='shorten it, or pass handle_long_generation="hole", which cuts its beginning',
            )
        return Prompt(ids, self.max_length)

    def run(
        self, graphs: Mapping[str, Session], inputs: Sequence[Input], options: Mapping[str, Any], batch_size: int = 0
    ) -> list[Answer]:
        config: GenerationConfig = options["config"]
        session, helper = graphs[self.component], self._assistant(options["assistant_model"])
        answers: list[Answer] = []
        size = batch_size or self.batch_size
        for start in range(0, len(inputs), size):
            items = inputs[start : start + size]
            prompts = [self.prompt(item, options) for item in items]
            stops = self.stops(config)
            for item, prompt, found in zip(items, prompts, generate(session, prompts, config, stops, assistant=helper)):
                answers.append([self._answered(item, prompt.ids, ids, options) for ids in found])
        return answers

    def stream(self, graphs: Mapping[str, Session], item: Input, options: Mapping[str, Any]) -> Iterator[str]:
        """The new text in pieces, each as soon as its characters are whole."""
        config: GenerationConfig = options["config"]
        cancel: Optional[threading.Event] = options["cancel"]
        prompt = self.prompt(item, options)
        helper = self._assistant(options["assistant_model"])
        pieces = _Pieces(self, prompt.ids)
        for (chosen,) in stream(graphs[self.component], [prompt], config, self.stops(config), assistant=helper):
            if chosen is not None:
                piece = pieces.add(chosen.token)
                if piece:
                    yield piece
            if cancel is not None and cancel.is_set():
                return
        rest = pieces.rest()
        if rest:
            yield rest

    def _answered(
        self, item: Input, prompt: Sequence[int], ids: list[int], options: Mapping[str, Any]
    ) -> dict[str, Any]:
        given = list(prompt)
        text = self.decoded([*given, *ids], skip=True)[len(self.decoded(given, skip=True)) :]
        if not options["return_full_text"]:
            return {"generated_text": text}
        if isinstance(item, str):
            return {"generated_text": item + text}
        said = [dict(each) for each in item]
        if said[-1]["role"] == "assistant":
            said[-1]["content"] += text
        else:
            said.append({"role": "assistant", "content": text})
        return {"generated_text": said}

    def _assistant(self, predictor: Any) -> Optional[Session]:  # Any: a Predictor, which is above this floor
        if predictor is None:
            return None
        other = predictor.open_task(self.name)
        ours, theirs = (
            self.tokenizer.get_vocab(with_added_tokens=True),
            other.tokenizer.get_vocab(with_added_tokens=True),
        )
        if ours != theirs:
            raise UsageError(
                "Cannot use this assistant.",
                why=f"it has another vocabulary: {len(theirs)} tokens in place of {len(ours)}, or others",
                fix="take a smaller model of the same family",
            )
        found: Session = predictor.graphs[self.component]
        return found

    def forward(
        self, graphs: Mapping[str, Session], rows: Sequence[Row], batch_size: int
    ) -> Iterator[tuple[int, Tensors]]:
        from ..generation.texts import Texts

        session = graphs[self.component]
        order = sorted(range(len(rows)), key=lambda i: rows[i].length)
        for start in range(0, len(order), batch_size):
            group = order[start : start + batch_size]
            ids = [rows[i].tensors["input_ids"] for i in group]
            steps = [min(_STEPS, len(each) - 1) for each in ids]
            texts = Texts(session, len(group), max(map(len, ids)) + _STEPS)
            found = [texts.read([each[: len(each) - count] for each, count in zip(ids, steps)])]
            for step in range(max(steps)):
                tokens = [each[min(len(each) - count + step, len(each) - 1)] for each, count in zip(ids, steps)]
                found.append(texts.step(np.array(tokens)))
            for row, (i, count) in enumerate(zip(group, steps)):
                yield i, {"logits": np.stack([each[row] for each in found[: count + 1]])}

    def given(self, row: Row, graph: Graph) -> Tensors:
        ids = row.tensors["input_ids"][None]
        places = np.arange(ids.shape[1])[None]
        cache = Cache(graph.caches, 1, ids.shape[1])
        return {"input_ids": ids, "position_ids": places, "logits_positions": places, **cache.arrays}

    def call(self, graphs: Mapping[str, Session], rows: Mapping[str, Row], tokens: int) -> Callable[[], object]:
        """One token, the last of a text of so many."""
        from ..generation.texts import Texts

        row = rows[next(iter(rows))]
        texts = Texts(graphs[self.component], 1, tokens)
        texts.read([np.resize(row.tensors["input_ids"], tokens - 1)])

        def step() -> object:
            texts.keep(np.array([tokens - 1]))
            return texts.step(row.tensors["input_ids"][:1])

        return step

    def answer(self, item: Input, rows: Sequence[Row], scores: Sequence[Tensors], options: Mapping[str, Any]) -> Answer:
        raise NotImplementedError  # `run` generates

    def reply(
        self, graphs: Mapping[str, Session], inputs: Sequence[Input], labels: Sequence[str] = (), batch_size: int = 0
    ) -> list[Any]:
        """What each token of the texts costs, for the perplexity."""
        from ..generation.texts import Texts

        said = []
        for text in inputs:
            (row,) = self.encode(text, {})
            ids = row.tensors["input_ids"]
            nll: list[float] = []
            size = self.tokenizer.get_vocab_size()
            if len(ids) > 1:
                logits = Texts(graphs[self.component], 1, len(ids)).outputs([ids[:-1]])["logits"][0]
                nll, size = (
                    [-float(each) for each in log_softmax(logits)[np.arange(len(logits)), ids[1:]]],
                    logits.shape[1],
                )
            said.append({"nll": nll, "tokens": ids[1:].tolist(), "vocabulary": size})
        return said


class _Pieces:
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


def _is_chat(inputs: Any) -> bool:  # Any: what the user gave
    return isinstance(inputs, (list, tuple)) and bool(inputs) and isinstance(inputs[0], Mapping) and "role" in inputs[0]


TASK = TextGeneration
