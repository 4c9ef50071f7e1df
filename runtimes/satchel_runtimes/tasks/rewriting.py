"""What tasks share that read one thing and write a text about it: an encoder's graph, and a decoder's over what that found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Callable

import numpy as np

from ..errors import SupportError
from ..generation import Prompt, Texts, generate
from ..manifest import Step, TaskEntry, TensorSpec
from ..sessions import Session, Tensors
from .generative import OPTIONS, STEPS, GenerativeTask
from .task import Answer, Files, Input, ModelFacts, Row, pad
from .text import tokenize_step, wrong_type

__all__ = ["RewritingTask", "TextRewriting"]

_ENDLESS = 2**31
_CONTEXTS = (
    "max_target_positions",
    "max_decoder_position_embeddings",
    "max_position_embeddings",
    "n_positions",
)  # of config.json: the decoder's


class RewritingTask(GenerativeTask):
    """The encoder's graph is "encoder"; what it answers is given to every call of "decoder".

    A row carries the decoder's first tokens: in use the one that starts a text and what the caller says that it begins with, in
    golden samples what the model itself wrote.
    """

    component = "decoder"
    options = {"decoder_input_ids": (), **OPTIONS}
    begins = ("decoder_input_ids",)
    auto_model = "AutoModelForSeq2SeqLM"
    answer_key = "generated_text"

    def __init__(self, entry: TaskEntry, files: Files) -> None:
        super().__init__(entry, files)
        self._context: int = entry.option("generate", "context", 0)

    @classmethod
    def generate_step(cls, facts: ModelFacts, **changed: Any) -> Step:
        """Raises: SupportError where nothing says which token starts a text."""
        step = super().generate_step(facts, **changed)
        if step.options["config"].get("decoder_start_token_id", step.options["config"].get("bos_token_id")) is None:
            raise SupportError(
                "Cannot generate with this model.",
                why="neither generation_config.json nor config.json has a decoder_start_token_id",
                fix="add it to generation_config.json; it is the token that the decoder was trained to start with",
            )
        text = facts.config.get("decoder") or facts.config.get("text_config") or facts.config
        context = next((int(text[name]) for name in _CONTEXTS if text.get(name)), 0)
        return Step("generate", {**step.options, "context": context})  # 0: positions without end

    def start(self, options: Mapping[str, Any]) -> list[int]:
        """The decoder's first tokens."""
        config = options["config"]
        first = config.decoder_start_token_id
        return [config.bos_token_id if first is None else first, *options["decoder_input_ids"]]

    def written(self, row: Row) -> np.ndarray:
        return row.tensors["decoder_input_ids"]

    def beside(self, graphs: Mapping[str, Session], rows: Sequence[Row]) -> Tensors:
        encoder, wanted = graphs["encoder"], {spec.name for spec in graphs[self.component].inputs}
        # Of samples each sound is heard alone: norms over the whole time would hear padding too.
        alone = any("samples" in spec.shape for spec in encoder.inputs)
        found = [
            encoder.run({spec.name: pad([row.tensors[spec.name] for row in group], spec) for spec in encoder.inputs})
            for group in ([[row] for row in rows] if alone else [list(rows)])
        ]
        return {spec.name: _joined(spec, found) for spec in encoder.outputs if spec.name in wanted}

    def prompts(
        self, graphs: Mapping[str, Session], items: Sequence[Input], options: Mapping[str, Any]
    ) -> list[Prompt]:
        rows = [self.encode(item, options)[0] for item in items]
        beside = self.beside(graphs, rows)
        longest = getattr(graphs[self.component], "longest", _ENDLESS)  # of a cache of fixed sizes
        return [
            Prompt(
                row.tensors["decoder_input_ids"].tolist(),
                min(self._context or _ENDLESS, longest),
                {name: value[i : i + 1] for name, value in beside.items()},
                row.tensors.get("input_ids"),
            )
            for i, row in enumerate(rows)
        ]

    def answered(self, item: Input, prompt: Prompt, ids: list[int], options: Mapping[str, Any]) -> dict[str, Any]:
        return {self.answer_key: self.decoded([*prompt.ids, *ids], skip=True)}

    def run(
        self, graphs: Mapping[str, Session], inputs: Sequence[Input], options: Mapping[str, Any], batch_size: int = 0
    ) -> list[Answer]:
        found = super().run(graphs, inputs, options, batch_size)
        return [each[0] if len(each) == 1 else each for each in found]

    def wrap_single(self, answer: Answer, options: Mapping[str, Any]) -> Answer:
        return answer if isinstance(answer, list) else [answer]

    def begun(self, graphs: Mapping[str, Session], item: Input, options: Mapping[str, Any]) -> Mapping[str, Any]:
        """The first tokens, the likeliest each time."""
        chosen = self.check_options({**options, "max_new_tokens": STEPS, "num_beams": 1, "do_sample": False})
        prompts = self.prompts(graphs, [item], chosen)
        return {"decoder_input_ids": generate(graphs[self.component], prompts, chosen["config"])[0][0]}

    def call(self, graphs: Mapping[str, Session], rows: Mapping[str, Row], tokens: int) -> Callable[[], object]:
        """The encoder on so many tokens, and the first token of the answer."""
        row = next(iter(rows.values()))
        long = Row({name: self.repeated(value, tokens) for name, value in row.tensors.items()}, tokens)
        first = self.written(row)[:1]

        def step() -> object:
            texts = Texts(graphs[self.component], 1, 1, self.beside(graphs, [long]))
            return texts.read([first])

        return step

    def repeated(self, value: np.ndarray, tokens: int) -> np.ndarray:
        """An input of the encoder at so many tokens; one that is no text keeps its size."""
        return value

    def reply(
        self, graphs: Mapping[str, Session], inputs: Sequence[Input], labels: Sequence[str] = (), batch_size: int = 0
    ) -> list[Any]:
        found = self.run(graphs, inputs, self.check_options(self.reply_options), batch_size)
        return [(each[0] if isinstance(each, list) else each)[self.answer_key] for each in found]


def _joined(spec: TensorSpec, found: Sequence[Tensors]) -> np.ndarray:
    """One output of several runs as that of one, filled with zeros, which its mask marks."""
    parts = [each[spec.name] for each in found]
    if len(parts) == 1:
        return parts[0]
    place = spec.shape.index("encoder_sequence")
    longest = max(each.shape[place] for each in parts)
    sides = [[(0, longest - each.shape[i] if i == place else 0) for i in range(each.ndim)] for each in parts]
    joined: np.ndarray = np.concatenate([np.pad(each, side) for each, side in zip(parts, sides)])
    return joined


class TextRewriting(RewritingTask):
    """From one text to another. A checkpoint that was trained for several jobs has a `prefix` for this one, which goes before each
    text, and settings of its own."""

    target = "target"
    metrics = ("chrf",)
    params: tuple[str, ...] = ()  # the names that `task_specific_params` of config.json has for the task

    def __init__(self, entry: TaskEntry, files: Files) -> None:
        super().__init__(entry, files)
        self.prefix: str = entry.option("prefix", "text", "")

    @classmethod
    def entry(cls, facts: ModelFacts) -> TaskEntry:
        all_own = facts.config.get("task_specific_params") or {}
        own = dict(next((all_own[name] for name in (cls.name, *cls.params) if name in all_own), {}))
        prefix = own.pop("prefix", None) or facts.config.get("prefix") or ""
        steps = [Step("prefix", {"text": prefix})] if prefix else []
        return TaskEntry(cls.name, (*steps, tokenize_step(facts)), (cls.generate_step(facts, **own),))

    @classmethod
    def sample(cls, text: str, index: int, facts: ModelFacts) -> tuple[Input, dict[str, Any]]:
        return text if text.strip() else f"{text}The", {}

    def is_single(self, inputs: Input) -> bool:
        return isinstance(inputs, str)

    def encode(self, item: Input, options: Mapping[str, Any]) -> list[Row]:
        if not isinstance(item, str):
            raise wrong_type(self, item)
        ids = self.ids_of(item, options)
        row = self.row_of_ids(ids, np.zeros_like(ids), None)
        start: np.ndarray = np.array(self.start(options), dtype=np.int64)
        return [Row({**row.tensors, "decoder_input_ids": start}, row.length, component="encoder")]

    def repeated(self, value: np.ndarray, tokens: int) -> np.ndarray:
        repeated: np.ndarray = np.resize(value, tokens)
        return repeated

    def ids_of(self, item: str, options: Mapping[str, Any]) -> np.ndarray:
        ids: np.ndarray = np.array(self.encoding(self.prefix + item).ids, dtype=np.int64)
        return ids

    def texts(self, item: Input, options: Mapping[str, Any]) -> Sequence[str]:
        return (self.prefix + item,) if isinstance(item, str) else ()
