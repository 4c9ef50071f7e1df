"""document-question-answering by writing: the page is seen as a picture, and nobody reads its words before."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..errors import SupportError
from ..generation import Prompt
from ..manifest import Step, TaskEntry
from ..sessions import Session
from .image import image_steps
from .picture_writers import is_donut
from .task import Answer, Files, Input, ModelFacts, Row
from .text import tokenize_step
from .written_answer import WrittenAnswer

__all__ = ["WrittenDocument", "writes_about_pages"]

# How a Donut is asked, and what it writes about the answer; the marks are tokens of its own.
_ASKED = "<s_docvqa><s_question>{}</s_question><s_answer>"
_MARKS = ("<s_docvqa>", "<s_question>", "</s_question>", "<s_answer>", "</s_answer>")
_QUESTION = 40  # characters of a golden one
_ANSWERED = re.compile(r"<s_answer>(.*)</s_answer>")


def writes_about_pages(config: Mapping[str, Any]) -> bool:
    """Whether a model of this config.json sees pages and writes."""
    return config.get("model_type") == "pix2struct" or is_donut(config)


class WrittenDocument(WrittenAnswer):
    """`predict({"image": "page.png", "question": "…"})` is `[{"answer"}]`, as of the pipeline for Donut; None where it never says
    that its answer ends.

    Options as of visual-question-answering.
    """

    name = "document-question-answering"
    architectures = ()  # a Pix2Struct answers about pictures first, and a Donut may have been trained for other jobs
    other_steps = (*WrittenAnswer.other_steps, "question")
    columns = {
        "image": ("image", "file", "path", "page", "image_path"),
        "question": ("question", "query"),
        "answers": ("answers", "answer"),
    }
    optional = frozenset({"answers"})
    target = "answers"
    metrics = ("f1", "exact_match")

    def __init__(self, entry: TaskEntry, files: Files) -> None:
        super().__init__(entry, files)
        self._asked: str = entry.option("question", "text", "")

    @property
    def size(self) -> int:  # as of a picture: nothing else that the encoder reads has a length
        return 1

    @classmethod
    def fits(cls, facts: ModelFacts) -> bool:
        return facts.config.get("model_type") == "pix2struct" and bool(facts.config.get("is_vqa"))

    @classmethod
    def entry(cls, facts: ModelFacts) -> TaskEntry:
        """Raises: SupportError as of `WrittenAnswer`, or for a Donut that was trained for another job."""
        if not is_donut(facts.config):
            return super().entry(facts)
        missing = [each for each in _MARKS if each not in facts.added_tokens]
        if missing:
            raise SupportError(
                "Cannot ask this model about pages.",
                why=f"its tokenizer has no {missing[0]}, so it was trained for another job",
                fix="take a checkpoint for DocVQA, or convert it with --task image-to-text and name its job as the prompt",
            )
        steps = (*image_steps(facts.image_processor), tokenize_step(facts), Step("question", {"text": _ASKED}))
        return TaskEntry(cls.name, steps, (cls.generate_step(facts),))

    @classmethod
    def sample(cls, text: Any, index: int, facts: ModelFacts) -> tuple[Input, dict[str, Any]]:
        """A short question: a Donut reads it with what it writes, and has room for little more than a line."""
        found, options = super().sample(text, index, facts)
        return {**found, "question": found["question"][:_QUESTION].strip() or "What is it?"}, options

    def texts(self, item: Input, options: Mapping[str, Any]) -> Sequence[str]:
        return ()

    def encode(self, item: Input, options: Mapping[str, Any]) -> list[Row]:
        if not self._asked:
            return super().encode(item, options)
        self.check(item)
        begun = self.encoding(self._asked.format(item["question"]), special=False, cut=False).ids
        start: np.ndarray = np.array([*begun, *options["decoder_input_ids"]], dtype=np.int64)
        return [Row({**self.looked(item), "decoder_input_ids": start}, 1, component="encoder")]

    def answered(self, item: Input, prompt: Prompt, ids: list[int], options: Mapping[str, Any]) -> dict[str, Any]:
        if not self._asked:
            return super().answered(item, prompt, ids, options)
        found = _ANSWERED.search(self.decoded([*prompt.ids, *ids], skip=False))
        return {self.answer_key: found.group(1).strip() if found else None}

    def run(
        self, graphs: Mapping[str, Session], inputs: Sequence[Input], options: Mapping[str, Any], batch_size: int = 0
    ) -> list[Answer]:
        return [self.wrap_single(each, options) for each in super().run(graphs, inputs, options, batch_size)]

    def reply(
        self, graphs: Mapping[str, Session], inputs: Sequence[Input], labels: Sequence[str] = (), batch_size: int = 0
    ) -> list[Any]:
        found = self.run(graphs, inputs, self.check_options(self.reply_options), batch_size)
        return [each[0][self.answer_key] or "" for each in found]
