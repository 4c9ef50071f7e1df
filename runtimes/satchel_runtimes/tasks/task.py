"""What a task is: the way from an input to the graph, and from the graph's outputs to an answer.

One class holds all that satchel knows of a task: how a device runs it, how parity judges it, and, as plain data, what
the converter must capture for it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Callable, ClassVar, Optional, Protocol

import numpy as np

from ..errors import UsageError
from ..examples import Example
from ..manifest import Graph, TaskEntry, TensorSpec
from ..sessions import Session, Tensors

__all__ = [
    "LABEL_COLUMNS",
    "TEXT_COLUMNS",
    "Files",
    "ModelFacts",
    "Row",
    "Task",
    "log_softmax",
    "pad",
    "sigmoid",
    "softmax",
]

Input = Any  # what a user gives: a string, a mapping, later an image or a waveform; each task checks its own
Answer = Any  # what `transformers.pipeline` returns for the task

TEXT_COLUMNS = ("text", "sentence", "content", "document", "review")
LABEL_COLUMNS = ("label", "labels", "category", "class")

# How parity compares an array of what the user sees; see `satchel_runtimes.parity`.
VECTOR, DISTRIBUTION, INDEPENDENT, NUMBER = "vector", "distribution", "independent", "number"
SOUND = "sound"  # decibels by frame and band
NEXT, LOSS = "next", "loss"  # of a language model: what may come next, and minus the logarithm of what came
WIDE = (DISTRIBUTION, NEXT)  # those with a top answer

# Rows are sorted by length within blocks of this many batches, so that a long list does not lie in memory at once.
_BATCHES_PER_BLOCK = 64
_COMPARED = 2**16  # bytes of a row that is looked for among the others; a picture has more


class Files(Protocol):
    """Where a task reads its processors from: a bundle, or the folder of a model that is being converted."""

    @property
    def path(self) -> Path: ...

    def read(self, name: str) -> bytes: ...


@dataclass(frozen=True)
class ModelFacts:
    """What a task may know of the source model when its entry in the manifest is written."""

    config: Mapping[str, Any]  # config.json
    max_length: int  # tokens that the tokenizer and the position embeddings allow
    truncation_side: str = "right"
    mask_token: Optional[str] = None
    special_tokens: Mapping[str, str] = field(default_factory=dict)  # "unk_token", "pad_token" … as transformers has
    clean_up_spaces: bool = False  # clean_up_tokenization_spaces of tokenizer_config.json
    modules: tuple[Mapping[str, Any], ...] = ()  # sentence-transformers' modules.json, each with its own config
    image_processor: Mapping[str, Any] = field(default_factory=dict)  # its settings with all defaults
    feature_extractor: Mapping[str, Any] = field(default_factory=dict)  # of sound; the same
    ctc: Mapping[str, Any] = field(default_factory=dict)  # how a tokenizer for CTC joins tokens; empty: it is another
    characters: Mapping[str, Any] = field(default_factory=dict)  # options of that step, without a tokenizer.json
    tokenizer_file: str = "tokenizer.json"  # or pieces.json, of a tokenizer that transformers has in Python alone
    letters: Mapping[str, Any] = field(default_factory=dict)  # likewise, of the step "letters"
    alphabet: str = ""  # small letters that a tokenizer of letters knows
    scalars: Mapping[str, float] = field(default_factory=dict)  # weights of one value, by name
    table: Mapping[str, Any] = field(
        default_factory=dict
    )  # what a tokenizer of tables keeps of one; empty: it is another
    generation: Mapping[str, Any] = field(default_factory=dict)  # what differs from the defaults of generation
    chat_template: str = ""  # the file of it; empty: the model holds no conversations
    languages: Mapping[str, Any] = field(default_factory=dict)  # how a text in a language is marked; empty: it is not
    added_tokens: Mapping[str, int] = field(default_factory=dict)  # what the tokenizer knows beside pieces of words
    font: bool = False  # whether the folder has one to draw questions with
    pad_id: int = 0
    whole: Mapping[str, Any] = field(default_factory=dict)  # config.json with its class's defaults; of a loaded model
    vocoder: Mapping[str, Any] = field(
        default_factory=dict
    )  # config.json of the model that makes sound of spectrograms
    voice: str = ""  # the file of the speaker whose voice is taken; empty: callers bring one
    separator_box: tuple[int, ...] = (1000,) * 4  # of a page's words: the box of the token that ends them


@dataclass(frozen=True)
class Row:
    """One sequence for the model, before it is padded into a batch."""

    tensors: Tensors  # each without the batch axis
    length: int
    extra: Any = None  # what the task needs again for the answer, for instance offsets
    component: str = "model"  # the graph that takes it
    sizes: Mapping[str, int] = field(default_factory=dict)  # of axes of the outputs, by name, where padding is cut off

    @property
    def key(self) -> tuple[str, bytes]:
        """The same for rows that a graph cannot tell apart."""
        parts = (value.tobytes() + str(value.shape).encode() for _, value in sorted(self.tensors.items()))
        return self.component, b"|".join(parts)


class Task(ABC):
    """One task of one bundle. Instances keep no state between calls, so threads may share them."""

    name: ClassVar[str]
    modality: ClassVar[str] = "text"  # of what the built-in samples are made: "text", "image", "audio", "image+text" …
    judged: Mapping[str, str]  # the arrays that `score` returns -> how parity compares each
    joint: ClassVar[tuple[str, ...]] = ()  # those of `judged` that take all rows of an input, and that `join` returns
    options: ClassVar[Mapping[str, Any]] = {}  # what `predict` takes beside the input, with the defaults
    batch_size: ClassVar[int] = 8
    needs_input: ClassVar[bool] = True  # of a task that makes something of nothing too: None stands for nothing
    generates: ClassVar[bool] = False  # writes token by token, with a cache
    brief: ClassVar[Mapping[str, Any]] = {}  # options that end an answer as soon as one can: what is timed of it
    speaks: ClassVar[bool] = False  # the answer is a sound
    takes_voice: ClassVar[bool] = False  # a vocoder, and the embedding of a speaker
    cannot: ClassVar[Mapping[str, str]] = {}  # format -> why its engine does not serve the task
    begins: ClassVar[tuple[str, ...]] = ()  # options of golden samples alone: what the model itself said, see `begun`

    # What the converter must know, as plain data.
    auto_model: ClassVar[str]  # the Auto class of transformers that brings the head; "architecture": its own class
    architectures: ClassVar[tuple[str, ...]] = ()  # ends of architecture names in config.json that mean this task
    outputs: ClassVar[tuple[str, ...]]  # fields of the model's output, in order
    processors: ClassVar[tuple[str, ...]] = ("tokenizer",)  # or "image_processor", "feature_extractor", or several

    # What rows of a user's data hold for it: each part, and the names of columns that it is read from, the first that
    # is there. The part that is `target` is the right answer, all others make the input. A part named "image" or
    # "audio" is a file.
    columns: ClassVar[Mapping[str, tuple[str, ...]]] = {"text": TEXT_COLUMNS}
    optional: ClassVar[frozenset[str]] = frozenset()  # parts that a row may lack
    target: ClassVar[Optional[str]] = None
    metrics: ClassVar[tuple[str, ...]] = ()  # of satchel_benchmarks.accuracy; the first that fits the data is judged
    rows_are_inputs: ClassVar[bool] = False  # whether `predict` takes a row's input as it is, and JSON holds it
    reply_options: ClassVar[Mapping[str, Any]] = {}  # of `predict`, for answers that these metrics can judge

    @classmethod
    def head(cls, config: Mapping[str, Any]) -> tuple[str, tuple[str, ...]]:
        """The Auto class of transformers that brings the head of this model, and the fields of its output."""
        return cls.auto_model, cls.outputs

    @classmethod
    def needs(cls, config: Mapping[str, Any]) -> tuple[str, ...]:
        """The processors that this model has for the task."""
        return cls.processors

    @classmethod
    def for_model(cls, config: Mapping[str, Any]) -> type[Task]:
        """The class that serves this task for a model of this config.json: some tasks are served in two ways."""
        return cls

    @classmethod
    def for_entry(cls, entry: TaskEntry) -> type[Task]:
        """The same, for a task of a bundle."""
        return cls

    @classmethod
    def check_model(cls, facts: ModelFacts) -> None:
        """Before the long work, by config.json alone.

        Raises:
            SupportError: the task cannot be served for this model, whatever the format.
            UsageError: something that goes with it was not named.
        """

    @abstractmethod
    def __init__(self, entry: TaskEntry, files: Files) -> None:
        """Read what the task needs from the bundle, once."""

    @classmethod
    def named(cls, config: Mapping[str, Any]) -> bool:
        """Whether config.json names one of these architectures."""
        return any(str(name).endswith(cls.architectures) for name in config.get("architectures") or ())

    @classmethod
    def fits(cls, facts: ModelFacts) -> bool:
        """Whether a model with the right architecture can also serve this task."""
        return True

    @classmethod
    @abstractmethod
    def entry(cls, facts: ModelFacts) -> TaskEntry:
        """The task's steps for this model, as the manifest carries them."""

    @classmethod
    @abstractmethod
    def sample(cls, text: Any, index: int, facts: ModelFacts) -> tuple[Input, dict[str, Any]]:
        """A golden input, with options, made from one of the built-in texts, the name of a built-in picture or clip, or,
        with several modalities, from a tuple of one of each."""

    @property
    def shape(self) -> str:
        """The one shape that the graph takes, in words; empty where inputs have a length."""
        return ""

    @property
    def size(self) -> int:
        """That shape as one number, under which its times are listed; 0 where inputs have a length."""
        return 0

    @abstractmethod
    def is_single(self, inputs: Input) -> bool:
        """Whether this is one input; otherwise it is a list of them."""

    @abstractmethod
    def encode(self, item: Input, options: Mapping[str, Any]) -> list[Row]:
        """The rows that one input needs.

        Raises:
            UsageError: the input is not of the task's type.
        """

    def texts(self, item: Input, options: Mapping[str, Any]) -> Sequence[str]:
        """The texts behind the rows of token ids, one for each, where the tokenizer is given nothing else with it."""
        return ()

    @abstractmethod
    def score(self, outputs: Tensors, row: Row) -> Tensors:
        """What the user sees of one row's raw outputs, as the arrays that parity judges."""

    def join(self, rows: Sequence[Row], scores: Sequence[Tensors]) -> Tensors:
        """What the user sees of all rows of one input together, where the answer is more than that of its rows."""
        return {}

    @abstractmethod
    def answer(self, item: Input, rows: Sequence[Row], scores: Sequence[Tensors], options: Mapping[str, Any]) -> Answer:
        """The task's result for one input in a list."""

    def wrap_single(self, answer: Answer, options: Mapping[str, Any]) -> Answer:
        """The result where the input was not in a list; some pipelines still wrap it."""
        return answer

    def run(
        self, graphs: Mapping[str, Session], inputs: Sequence[Input], options: Mapping[str, Any], batch_size: int = 0
    ) -> list[Answer]:
        if len(inputs) == 1:  # the path of a device that answers one question at a time
            rows = self.encode(inputs[0], options)
            outputs = forward(graphs, rows, batch_size or self.batch_size)
            found = {i: self.score(each, rows[i]) for i, each in outputs}  # in the order of their length
            return [self.answer(inputs[0], rows, [found[i] for i in range(len(rows))], options)]
        answers: list[Answer] = []
        block = (batch_size or self.batch_size) * _BATCHES_PER_BLOCK
        for start in range(0, len(inputs), block):
            answers += self._run_block(graphs, inputs[start : start + block], options, batch_size or self.batch_size)
        return answers

    def _run_block(
        self, graphs: Mapping[str, Session], inputs: Sequence[Input], options: Mapping[str, Any], batch_size: int
    ) -> list[Answer]:
        rows_of = [self.encode(item, options) for item in inputs]
        rows = [row for group in rows_of for row in group]
        # Labels come again with every input, and texts in a list are often the same: the graph sees each once.
        users: dict[Any, list[int]] = {}
        for i, row in enumerate(rows):
            small = sum(value.nbytes for value in row.tensors.values()) <= _COMPARED
            users.setdefault(row.key if small else i, []).append(i)
        scores: dict[int, Tensors] = {}
        groups = list(users.values())
        for place, outputs in forward(graphs, [rows[group[0]] for group in groups], batch_size):
            scores.update((i, self.score(outputs, rows[i])) for i in groups[place])
        answers, first = [], 0
        for item, group in zip(inputs, rows_of):
            answers.append(self.answer(item, group, [scores[first + i] for i in range(len(group))], options))
            first += len(group)
        return answers

    def forward(
        self, graphs: Mapping[str, Session], rows: Sequence[Row], batch_size: int
    ) -> Iterator[tuple[int, Tensors]]:
        """What the graphs answer to rows, as parity compares it."""
        return forward(graphs, rows, batch_size)

    def begun(self, graphs: Mapping[str, Session], item: Input, options: Mapping[str, Any]) -> Mapping[str, Any]:
        """Options that fix, for every machine, what some graphs themselves choose about an input; `begins` names them."""
        return {}

    def given(self, row: Row, graph: Graph) -> Tensors:
        """All inputs of the bare graph for one row, which may hold what another component reads."""
        return {spec.name: row.tensors[spec.name][None] for spec in graph.inputs}

    def call(self, graphs: Mapping[str, Session], rows: Mapping[str, Row], tokens: int) -> Callable[[], object]:
        """What is measured: a run of each graph on its row, one after the other.

        A row that has a sequence is repeated or cut to so many tokens, but beside a picture of one size it stays as it is.
        """
        runs = [
            (graphs[name].run, _resized(graphs[name], row, 0 if self.size else tokens)) for name, row in rows.items()
        ]
        return lambda: [run(tensors) for run, tensors in runs]

    @classmethod
    def example(cls, parts: Mapping[str, Any]) -> Example:
        """One row of data as `predict` takes it, with the right answer; `parts` are those of `columns` that it has."""
        given = {name: value for name, value in parts.items() if name != cls.target}
        return Example(next(iter(given.values())) if len(given) == 1 else given, parts.get(cls.target or ""))

    def reply(
        self, graphs: Mapping[str, Session], inputs: Sequence[Input], labels: Sequence[str] = (), batch_size: int = 0
    ) -> list[Any]:
        """Answers to rows of data in the form that the metrics judge, which JSON can hold.

        Args:
            labels: the different right answers of all rows, where they are texts.
        """
        return self.run(graphs, inputs, self.check_options(self.reply_options), batch_size)

    def check_options(self, given: Mapping[str, Any]) -> Mapping[str, Any]:
        if not given:
            return self.options
        unknown = sorted(set(given) - set(self.options))
        if unknown:
            takes = ", ".join(self.options) or "none"
            raise UsageError(
                f"Cannot use the option {unknown[0]!r}.", why=f"{self.name} takes {takes}", fix="leave it out"
            )
        return {**self.options, **given}


def forward(graphs: Mapping[str, Session], rows: Sequence[Row], batch_size: int) -> Iterator[tuple[int, Tensors]]:
    """Run rows in batches of similar length; yields each row's index and its outputs on its valid positions.

    One batch's outputs are alive at a time. Rows of one batch come in the order of their length, not of the input.
    """
    if len(rows) == 1:
        session = graphs[rows[0].component]
        outputs = session.run({spec.name: rows[0].tensors[spec.name][None] for spec in session.inputs})
        yield 0, {spec.name: _valid(outputs[spec.name][0], spec, rows[0].sizes) for spec in session.outputs}
        return
    groups: dict[tuple[str, ...], list[int]] = {}
    for i, row in enumerate(rows):
        groups.setdefault((row.component, *_unpadded(row)), []).append(i)
    for (component, *_), places in groups.items():
        order = sorted(places, key=lambda i: rows[i].length)
        for start in range(0, len(order), batch_size):
            yield from _forward_batch(graphs[component], rows, order[start : start + batch_size])


def _resized(session: Session, row: Row, tokens: int) -> Tensors:
    tensors = {}
    for spec in session.inputs:
        value = row.tensors[spec.name]
        if tokens and spec.shape[1:2] == ("sequence",):
            value = np.resize(value, (tokens, *value.shape[1:]))
        tensors[spec.name] = value[None]
    return tensors


def _unpadded(row: Row) -> list[str]:
    """The axes that are never padded, such as a picture's height and width: rows that differ there share no batch."""
    return [f"{name}{value.shape[1:]}" for name, value in row.tensors.items() if value.ndim > 1]


def _forward_batch(session: Session, rows: Sequence[Row], batch: Sequence[int]) -> Iterator[tuple[int, Tensors]]:
    outputs = session.run(
        {spec.name: pad([rows[i].tensors[spec.name] for i in batch], spec) for spec in session.inputs}
    )
    for place, i in enumerate(batch):
        sizes = {"sequence": rows[i].length, **rows[i].sizes}
        yield i, {spec.name: _valid(outputs[spec.name][place], spec, sizes) for spec in session.outputs}


def _valid(value: np.ndarray, spec: TensorSpec, sizes: Mapping[str, int]) -> np.ndarray:
    """One row of an output without what padding added to it."""
    if not any(axis in sizes for axis in spec.shape[1:]):
        return value
    valid: np.ndarray = value[
        tuple([slice(sizes.get(axis)) if isinstance(axis, str) else slice(None) for axis in spec.shape[1:]])
    ]
    return valid


def pad(arrays: Sequence[np.ndarray], spec: TensorSpec) -> np.ndarray:
    """A batch of one input's rows, each filled up to the longest."""
    longest = max(array.shape[0] for array in arrays)
    batch: np.ndarray = np.full((len(arrays), longest) + arrays[0].shape[1:], spec.padding or 0, dtype=arrays[0].dtype)
    for i, array in enumerate(arrays):
        batch[i, : array.shape[0]] = array
    return batch


def softmax(logits: np.ndarray) -> np.ndarray:
    """Over the last axis, in float32 or wider."""
    values = logits.astype(np.float32, copy=False)
    shifted = np.exp(values - values.max(axis=-1, keepdims=True))
    result: np.ndarray = shifted / shifted.sum(axis=-1, keepdims=True)
    return result


def log_softmax(logits: np.ndarray) -> np.ndarray:
    values = logits.astype(np.float32, copy=False)
    shifted = values - values.max(axis=-1, keepdims=True)
    result: np.ndarray = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return result


def sigmoid(logits: np.ndarray) -> np.ndarray:
    # exp of a large positive number overflows: use the half of the identity that stays small.
    values = logits.astype(np.float32, copy=False)
    small = np.exp(-np.abs(values))
    result: np.ndarray = np.where(values >= 0, 1 / (1 + small), small / (1 + small))
    return result
