"""question-answering: the words of a context that answer a question, as the pipeline of transformers 4.57 finds them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import UsageError
from ..manifest import Step, TaskEntry
from ..sessions import Session, Tensors
from .task import DISTRIBUTION, Answer, Input, ModelFacts, Row, softmax
from .text import TextTask, Tokens, tokenize_step, whole_number, windows, wrong_type

__all__ = ["TASK", "QuestionAnswering", "Window", "spans"]

_MAX_WINDOW = 384
_MAX_STRIDE = 128
# Whose heads of the same name answer about pages, pictures and tables.
_OTHERS = ("layoutlm", "lilt", "lxmert", "tapas", "vilt", "visual_bert")


@dataclass(frozen=True)
class Window:
    tokens: Tokens
    allowed: np.ndarray  # which tokens have a part in the softmax: the context's, and [CLS] for "no answer"


class QuestionAnswering(TextTask):
    """`predict({"question": …, "context": …})` is `{"score", "start", "end", "answer"}`, with start and end counted in
    characters of the context; with `top_k` above 1 a list of at most that many, the likeliest first.

    Options as in the pipeline: `max_answer_len` (15 tokens); `max_seq_len` and `doc_stride`, the size of the windows
    over a long context and how far they overlap; `max_question_len`, where a longer question is cut (None: nowhere);
    `handle_impossible_answer`, whether the empty answer competes; `align_to_words`, whether answers are whole words.
    """

    name = "question-answering"
    text_kind = "{'question', 'context'}"
    judged = {"start": DISTRIBUTION, "end": DISTRIBUTION}
    options = {
        "top_k": 1,
        "doc_stride": None,
        "max_answer_len": 15,
        "max_seq_len": None,
        "max_question_len": None,
        "handle_impossible_answer": False,
        "align_to_words": True,
    }
    auto_model = "AutoModelForQuestionAnswering"
    architectures = ("ForQuestionAnswering",)
    outputs = ("start_logits", "end_logits")
    columns = {"question": ("question",), "context": ("context",), "answers": ("answers", "answer")}
    optional = frozenset({"answers"})
    target = "answers"
    metrics = ("f1", "exact_match")
    rows_are_inputs = True

    @classmethod
    def fits(cls, facts: ModelFacts) -> bool:
        return not str(facts.config.get("model_type", "")).startswith(_OTHERS)

    @classmethod
    def entry(cls, facts: ModelFacts) -> TaskEntry:
        length = min(facts.max_length, _MAX_WINDOW)
        step = Step("windows", {"length": length, "stride": min(length // 2, _MAX_STRIDE)})
        # The task cuts: a long context becomes several windows.
        return TaskEntry(cls.name, (tokenize_step(facts, policy="do_not_truncate"), step), (Step("spans"),))

    @classmethod
    def sample(cls, text: str, index: int, facts: ModelFacts) -> tuple[Input, dict[str, Any]]:
        return {"question": "What is this about?", "context": text or "."}, {}

    def encode(self, item: Input, options: Mapping[str, Any]) -> list[Row]:
        if not isinstance(item, Mapping) or set(item) != {"question", "context"}:
            raise wrong_type(self, item)
        for part in ("question", "context"):
            if not isinstance(item[part], str):
                raise wrong_type(self, item)
            if not item[part]:
                raise UsageError("Cannot answer.", why=f"the {part} is empty", fix=f"give a {part}")
        tokens = Tokens.of(self.encoding(item["question"], item["context"]))
        if options["max_question_len"] is not None:
            question = np.flatnonzero(tokens.sequences == 0)
            tokens = tokens.take(
                np.delete(np.arange(len(tokens)), question[whole_number(options, "max_question_len") :])
            )
        length, stride = self._window(options)
        rows = []
        for window in windows(tokens, 1, length, stride, self._step.options["side"]):
            # The token that opens the sequence ([CLS], <s>) stands for "no answer", wherever the text has it, too.
            no_answer = window.ids == window.ids[0] if window.special[0] else np.zeros(len(window), bool)
            extra = Window(window, (window.sequences == 1) | no_answer)
            rows.append(self.row_of_ids(window.ids, window.type_ids, extra))
        return rows

    def _window(self, options: Mapping[str, Any]) -> tuple[int, int]:
        length: int = self.entry_.option("windows", "length")
        stride: int = self.entry_.option("windows", "stride")
        if options["max_seq_len"] is not None:
            length = whole_number(options, "max_seq_len")
            stride = min(length // 2, _MAX_STRIDE)
        if options["doc_stride"] is not None:
            stride = whole_number(options, "doc_stride", least=0)
        if length > self.max_length or stride > length:
            raise UsageError(
                f"Cannot read windows of {length} tokens that overlap by {stride}.",
                why=f"the model takes {self.max_length} tokens, and the overlap must be smaller than the window",
                fix="choose a smaller max_seq_len or doc_stride",
            )
        return length, stride

    def score(self, outputs: Tensors, row: Row) -> Tensors:
        """Probabilities that the answer starts and ends at each token; where it may not, they are 0."""
        barred = np.float32(-10000)
        return {
            side: softmax(np.where(row.extra.allowed, outputs[f"{side}_logits"].astype(np.float32), barred))
            for side in ("start", "end")
        }

    def answer(self, item: Input, rows: Sequence[Row], scores: Sequence[Tensors], options: Mapping[str, Any]) -> Answer:
        count, longest = whole_number(options, "top_k"), whole_number(options, "max_answer_len")
        align = bool(options["align_to_words"])
        answers: dict[str, dict[str, Any]] = {}
        no_answer = 1.0
        for row, score in zip(rows, scores):
            tokens: Tokens = row.extra.tokens
            no_answer = min(no_answer, float(score["start"][0] * score["end"][0]))
            # Several spans may be the same words once they are aligned, so more than are asked for are looked at.
            wanted = 2 * count + 10 if align else count
            start_of, end_of = (np.where(tokens.sequences == 1, score[side], 0) for side in ("start", "end"))
            firsts, lasts, values = spans(start_of, end_of, wanted, longest)
            for first, last, value in zip(firsts.tolist(), lasts.tolist(), values.tolist()):
                start, end = _characters(tokens, first, last, align)
                text = item["context"][start:end]
                # The same words count once, by the sum of their probabilities, where they were likeliest at first.
                found = answers.setdefault(text.lower(), {"score": 0.0, "start": start, "end": end, "answer": text})
                found["score"] += value
        ranked = list(answers.values())
        empty = {"score": no_answer, "start": 0, "end": 0, "answer": ""}
        if options["handle_impossible_answer"]:
            ranked.append(empty)
        elif not ranked:  # a context without a single token
            ranked.append({**empty, "score": 0.0})
        ranked = sorted(ranked, key=lambda each: -float(each["score"]))[:count]
        return ranked[0] if count == 1 else ranked

    def reply(
        self, graphs: Mapping[str, Session], inputs: Sequence[Input], labels: Sequence[str] = (), batch_size: int = 0
    ) -> list[Any]:
        """The text of each answer; it may be "", for none, only where some right answer of the data is."""
        options = self.check_options({"handle_impossible_answer": "" in labels})
        return [each["answer"] for each in self.run(graphs, inputs, options, batch_size)]


def spans(start: np.ndarray, end: np.ndarray, count: int, longest: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """First and last tokens of the likeliest spans and their probabilities, the likeliest first.

    Only ends that can belong to a start are multiplied with it: a band of the matrix, not the whole.
    """
    width = min(longest, len(start))
    ends = np.lib.stride_tricks.sliding_window_view(np.concatenate([end, np.zeros(width - 1, end.dtype)]), width)
    band = start[:, None] * ends
    flat = band.ravel()
    likely = np.flatnonzero(flat)
    if len(likely) > count:
        likely = np.sort(likely[np.argpartition(-flat[likely], count - 1)[:count]])
    best = likely[np.argsort(-flat[likely], kind="stable")]
    return best // width, best // width + best % width, flat[best]


def _characters(tokens: Tokens, first: int, last: int, align: bool) -> tuple[int, int]:
    """Where a span of tokens starts and ends in the context; with `align` it grows to whole words."""
    if align and tokens.words[first] >= 0 and tokens.words[last] >= 0:
        context = tokens.sequences == 1
        first = int(np.flatnonzero(context & (tokens.words == tokens.words[first]))[0])
        last = int(np.flatnonzero(context & (tokens.words == tokens.words[last]))[-1])
    return int(tokens.offsets[first, 0]), int(tokens.offsets[last, 1])


TASK = QuestionAnswering
