"""document-question-answering: where on a page the answer to a question stands."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import ToolchainError, UsageError
from ..manifest import Step, TaskEntry
from ..sessions import Tensors
from ..toolchain import need
from .image import ImageTask, image_steps
from .question_answering import QuestionAnswering, Window, spans
from .task import Answer, Files, Input, ModelFacts, Row, Task
from .text import Tokens, tokenize_step, whole_number, windows
from .written_document import WrittenDocument, writes_about_pages

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["TASK"]

_MOST_OVERLAP = 256  # tokens that windows share at most, by default
_EDGE = 1000  # boxes are in thousandths of the page


class DocumentQuestionAnswering(QuestionAnswering, ImageTask):
    """`predict({"image": "page.png", "question": "…", "word_boxes": [("Total", (70, 20, 110, 35)), …]})` is
    `[{"score", "answer", "start", "end"}]`, where start and end are places in `word_boxes`.

    Boxes are left, top, right and bottom in thousandths of the page. Without `word_boxes` the words are read from the
    picture by Tesseract, for which the extra "ocr" is needed. A model that reads words and boxes only needs no picture then.

    Options as in the pipeline: `top_k`, `max_answer_len`, `doc_stride`, `max_seq_len` (tokens), `handle_impossible_answer`,
    and `lang` and `tesseract_config` for Tesseract.
    """

    name = "document-question-answering"
    modality = "image+text"
    text_kind = picture_kind = "{'image', 'question', 'word_boxes'}"
    other_steps = ("tokenize", "boxes", "windows")
    options = {
        "top_k": 1,
        "doc_stride": None,
        "max_answer_len": 15,
        "max_seq_len": None,
        "handle_impossible_answer": False,
        "lang": None,
        "tesseract_config": "",
    }
    auto_model = "AutoModelForDocumentQuestionAnswering"
    columns = {
        "image": ("image", "file", "path", "page", "image_path"),
        "question": ("question", "query"),
        "answers": ("answers", "answer"),
    }
    shape, size = Task.shape, Task.size  # inputs have a length

    def __init__(self, entry: TaskEntry, files: Files) -> None:
        self._sees = any(step.step == "rgb" for step in entry.preprocess)
        ImageTask.__init__(self, entry, files)
        QuestionAnswering.__init__(self, entry, files)

    @classmethod
    def for_model(cls, config: Mapping[str, Any]) -> type[Task]:
        return WrittenDocument if writes_about_pages(config) else cls

    @classmethod
    def for_entry(cls, entry: TaskEntry) -> type[Task]:
        return WrittenDocument if any(step.step == "generate" for step in entry.postprocess) else cls

    @classmethod
    def needs(cls, config: Mapping[str, Any]) -> tuple[str, ...]:
        return ("tokenizer",) if config.get("model_type") == "layoutlm" else ("tokenizer", "image_processor")

    @classmethod
    def fits(cls, facts: ModelFacts) -> bool:
        return str(facts.config.get("model_type", "")).startswith("layoutlm")

    @classmethod
    def entry(cls, facts: ModelFacts) -> TaskEntry:
        length = facts.max_length
        steps = (
            *(image_steps(facts.image_processor) if facts.image_processor else ()),
            tokenize_step(facts, policy="do_not_truncate"),
            Step("boxes", {"last": facts.separator_box}),
            Step("windows", {"length": length, "stride": min(length // 2, _MOST_OVERLAP)}),
        )
        return TaskEntry(cls.name, steps, (Step("spans"),))

    @classmethod
    def sample(cls, text: Any, index: int, facts: ModelFacts) -> tuple[Input, dict[str, Any]]:
        """A page with the words of a text in lines of eight."""
        picture, words = text[0], (text[1].split() or ["."])[:200]
        boxes = []
        for place, word in enumerate(words):
            left, top = place % 8 * 120 + 20, min(place // 8 * 40 + 20, 960)
            boxes.append([word, [left, top, min(left + 12 * len(word), _EDGE), top + 30]])
        page = {"image": {"file": picture}} if facts.image_processor else {}
        return {**page, "question": "What is this about?", "word_boxes": boxes}, {}

    def seen(self, item: Input) -> Image.Image:
        return self.picture(item["image"])

    def encode(self, item: Input, options: Mapping[str, Any]) -> list[Row]:
        if not isinstance(item, Mapping) or not set(item) <= {"image", "question", "word_boxes"}:
            raise self._wrong(type(item).__name__, str(item)[:40])
        question = item.get("question")
        if not isinstance(question, str) or not question.strip():
            raise UsageError("Cannot answer.", why="there is no question", fix='give a text as "question"')
        if self._sees and item.get("image") is None:
            raise UsageError("Cannot answer.", why="this model sees the page", fix='give the picture as "image"')
        words, boxes = self._words(item, options)
        tokens = Tokens.of(self.encoding(question.split(), words))
        length, stride = self._window(options)
        rows = []
        pixels = self.tensors(self.seen(item)) if self._sees else {}
        for window in windows(tokens, 1, length, stride, self._step.options["side"]):
            inside = window.sequences == 1
            bbox: np.ndarray = np.zeros((len(window), 4), np.int64)
            bbox[inside] = boxes[window.words[inside]]
            bbox[window.ids == window.ids[-1]] = self.entry_.option("boxes", "last")
            no_answer = window.ids == window.ids[0] if window.special[0] else np.zeros(len(window), bool)
            row = self.row_of_ids(window.ids, window.type_ids, Window(window, inside | no_answer))
            rows.append(Row({**row.tensors, **pixels, "bbox": bbox}, row.length, (words, row.extra)))
        return rows

    def _words(self, item: Mapping[str, Any], options: Mapping[str, Any]) -> tuple[list[str], np.ndarray]:
        """Words, and their boxes as int64 [words, 4]."""
        given = item.get("word_boxes")
        if given is None:
            if item.get("image") is None:
                raise UsageError(
                    "Cannot answer.", why="there is neither a picture nor words", fix='give "image" or "word_boxes"'
                )
            given = self._read(self.seen(item), options)
        try:
            words = [str(word) for word, _ in given]
            boxes = np.array([box for _, box in given], dtype=np.float64).reshape(-1, 4)
            fits = len(boxes) == len(words) and bool(((boxes >= 0) & (boxes <= _EDGE)).all())
        except (TypeError, ValueError):
            fits = False
        if not fits:
            raise UsageError(
                "Cannot use these word_boxes.",
                why=f"they are pairs of a word and of left, top, right and bottom, each from 0 to {_EDGE}",
                fix=f"scale the boxes to thousandths of the page: {_EDGE} * pixels / width or height",
            )
        if not words:
            raise UsageError("Cannot answer.", why="the page has no words", fix="give a page with text")
        return words, boxes.astype(np.int64)

    def _read(self, picture: Image.Image, options: Mapping[str, Any]) -> list[tuple[str, list[int]]]:
        """The words of a picture by Tesseract, as transformers reads them."""
        engine: Any = need("pytesseract", extra="ocr", to="read the words of a page, unless it is given word_boxes")
        try:
            found = engine.image_to_data(
                picture, lang=options["lang"], output_type="dict", config=options["tesseract_config"]
            )
        except (OSError, RuntimeError) as error:  # its own errors are one of these: no program, no such language
            raise ToolchainError(
                "Cannot read the words of the page.",
                why=str(error).strip().splitlines()[0][:200],
                fix="install Tesseract with the language, or give the words as word_boxes",
            ) from None
        words = []
        for word, left, top, width, height in zip(
            *(found[each] for each in ("text", "left", "top", "width", "height"))
        ):
            corners = (left, top, left + width, top + height)
            edges = (picture.width, picture.height) * 2
            if word.strip():
                words.append((word, [int(_EDGE * corner / edge) for corner, edge in zip(corners, edges)]))
        return words

    def score(self, outputs: Tensors, row: Row) -> Tensors:
        return super().score(outputs, Row(row.tensors, row.length, row.extra[1]))

    def answer(self, item: Input, rows: Sequence[Row], scores: Sequence[Tensors], options: Mapping[str, Any]) -> Answer:
        count, longest = whole_number(options, "top_k"), whole_number(options, "max_answer_len")
        found, no_answer = [], 1.0
        for row, score in zip(rows, scores):
            words, tokens = row.extra[0], row.extra[1].tokens
            no_answer = min(no_answer, float(score["start"][0] * score["end"][0]))
            start, end = (np.where(tokens.sequences == 1, score[side], 0) for side in ("start", "end"))
            for first, last, value in zip(*(each.tolist() for each in spans(start, end, count, longest))):
                since, until = int(tokens.words[first]), int(tokens.words[last])
                answer = " ".join(words[since : until + 1])
                found.append({"score": value, "answer": answer, "start": since, "end": until})
        if options["handle_impossible_answer"]:
            found.append({"score": no_answer, "answer": "", "start": 0, "end": 0})
        return sorted(found, key=lambda each: -float(each["score"]))[:count]

    def reply(self, graphs: Any, inputs: Sequence[Input], labels: Sequence[str] = (), batch_size: int = 0) -> list[Any]:
        """The text of each likeliest answer; it may be "", for none, only where some right answer of the data is."""
        options = self.check_options({"handle_impossible_answer": "" in labels})
        return [each[0]["answer"] if each else "" for each in self.run(graphs, inputs, options, batch_size)]


TASK = DocumentQuestionAnswering
