"""text-generation: a language model goes on with a text, or answers in a conversation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Optional

import numpy as np

from ..chat import Template, check_messages
from ..errors import UsageError
from ..generation import Prompt, Texts
from ..manifest import Step, TaskEntry
from ..sessions import Session
from .generative import OPTIONS, DecoderAlone, GenerativeTask
from .task import Files, Input, ModelFacts, Row, log_softmax
from .text import tokenize_step, wrong_type

__all__ = ["TASK", "TextGeneration", "is_chat"]


class TextGeneration(DecoderAlone, GenerativeTask):
    """`predict("Once upon a time")` is `[{"generated_text": "Once upon a time …"}]`; a conversation, a list of
    `{"role": …, "content": …}`, comes back with the assistant's message behind it.

    Options as in the pipeline: `return_full_text` (True), `handle_long_generation` (None, or "hole": cut the beginning of a
    prompt that leaves no room), `tools`, `assistant_model` (another predictor, whose guesses are confirmed several at a time),
    `negative_prompt` (what `guidance_scale` leads away from), and every setting of `GenerationConfig` by its name, such as `max_new_tokens`, `do_sample` or `num_beams`.
    """

    name = "text-generation"
    text_kind = "a string, or a conversation as a list of messages"
    options = {
        "return_full_text": True,
        "handle_long_generation": None,
        "tools": None,
        "assistant_model": None,
        "negative_prompt": None,
        **OPTIONS,
    }
    auto_model = "AutoModelForCausalLM"
    architectures: ClassVar[tuple[str, ...]] = ("ForCausalLM", "LMHeadModel")
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
        return isinstance(inputs, str) or is_chat(inputs)

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
        if not is_chat(item):
            raise wrong_type(self, item)
        return list(self.encoding(self._conversation(item, options.get("tools")), special=False, cut=False).ids)

    def _conversation(self, messages: Sequence[Mapping[str, Any]], tools: Optional[Sequence[Any]]) -> str:
        check_messages(messages, "image" in self.modality)
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
            before, mark, _ = found.rpartition(said)
            if not mark:
                raise UsageError(
                    "Cannot go on with the assistant's message.",
                    why="the chat template does not give it as it is",
                    fix='end with a message of the role "user"',
                )
            found = before + said
        return found

    def prompts(
        self, graphs: Mapping[str, Session], items: Sequence[Input], options: Mapping[str, Any]
    ) -> list[Prompt]:
        return [self._prompt(item, options) for item in items]

    def _prompt(self, item: Input, options: Mapping[str, Any]) -> Prompt:
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
        other = options["negative_prompt"]
        return Prompt(ids, self.max_length, unguided=None if other is None else self.ids_of(other, options))

    def answered(self, item: Input, prompt: Prompt, ids: list[int], options: Mapping[str, Any]) -> dict[str, Any]:
        given = list(prompt.ids)
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

    def assistant(self, options: Mapping[str, Any]) -> Optional[Session]:
        predictor: Any = options["assistant_model"]  # a Predictor, which is above this floor
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

    def reply(
        self, graphs: Mapping[str, Session], inputs: Sequence[Input], labels: Sequence[str] = (), batch_size: int = 0
    ) -> list[Any]:
        """What each token of the texts costs, for the perplexity."""
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


def is_chat(inputs: Any) -> bool:  # Any: what the user gave
    return isinstance(inputs, (list, tuple)) and bool(inputs) and isinstance(inputs[0], Mapping) and "role" in inputs[0]


TASK = TextGeneration
