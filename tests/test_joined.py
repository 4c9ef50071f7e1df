"""Tasks over a picture and words: pages, questions about a picture, and things that are named when it is asked."""

from __future__ import annotations

import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from benchmarks.matrix.cell import OK, measure, model_of
from benchmarks.matrix.rows import ROWS
from PIL import Image

import satchel
from satchel_converters.capture import capture, load_model
from satchel_converters.source import find_source, tasks_for
from satchel_runtimes import Predictor, load
from satchel_runtimes.errors import ToolchainError, UsageError

BY_NAME = {row.name: row for row in ROWS}
PAGES = "layoutlm document-question-answering"
QUESTIONS = "vilt visual-question-answering"
THINGS = "owlvit zero-shot-object-detection"
REGIONS = "lxmert region-question-answering"

Open = Callable[[str], Predictor]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("joined")


@pytest.fixture(scope="module")
def opened(folder: Path) -> Open:
    """A bundle of a row of the matrix, made once."""
    made: dict[str, Predictor] = {}

    def of(name: str) -> Predictor:
        if name not in made:
            model = model_of(BY_NAME[name], folder)
            out = satchel.convert(
                model, device="generic-x86-64", quantize="fp32", prefer="size", out=model.with_suffix(".satchel")
            )
            made[name] = load(out, threads=1)
        return made[name]

    return of


@pytest.mark.slow
@pytest.mark.parametrize("format", ["onnx", "torchscript", "tflite"])
@pytest.mark.parametrize("name", [PAGES, "layoutlmv3 document-question-answering", THINGS, REGIONS])
def test_answers_are_those_of_the_pipeline(name: str, format: str, folder: Path) -> None:
    cell = measure(BY_NAME[name], format, folder)

    assert cell.status == OK, cell.why


@pytest.mark.parametrize(
    "name",
    [
        PAGES,
        "layoutlmv3 document-question-answering",
        QUESTIONS,
        THINGS,
        REGIONS,
        "visual_bert region-question-answering",
    ],
)
def test_the_task_is_told_by_the_architecture(name: str, folder: Path) -> None:
    source = find_source(model_of(BY_NAME[name], folder))

    assert tasks_for(source, None)[0] == BY_NAME[name].task


class TestPages:
    def test_words_and_boxes_are_enough_for_a_model_that_does_not_see(self, opened: Open) -> None:
        page = BY_NAME[PAGES].inputs[0]

        (found,) = opened(PAGES).predict(page)

        words = [word for word, _ in page["word_boxes"]]
        assert found["answer"] == " ".join(words[found["start"] : found["end"] + 1])

    def test_a_long_page_is_read_in_windows(self, opened: Open) -> None:
        words = [
            (f"word{place}", (place % 10 * 90, place // 10 * 9, place % 10 * 90 + 60, place // 10 * 9 + 8))
            for place in range(300)
        ]

        found = opened(PAGES).predict({"question": "Where?", "word_boxes": words}, top_k=40)

        assert max(each["end"] for each in found) > 150
        assert [each["score"] for each in found] == sorted((each["score"] for each in found), reverse=True)

    def test_where_a_word_stands_matters(self, opened: Open) -> None:
        page = BY_NAME[PAGES].inputs[0]
        moved = [
            (word, [1000 - right, top, 1000 - left, bottom]) for word, (left, top, right, bottom) in page["word_boxes"]
        ]

        scores = [
            opened(PAGES).predict({**page, "word_boxes": each})[0]["score"] for each in (page["word_boxes"], moved)
        ]

        assert abs(scores[0] - scores[1]) > 1e-4

    def test_tesseract_reads_a_page_that_comes_without_words(
        self, opened: Open, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """By contract: the engine's answer here is what `image_to_data` is documented to give."""
        said = {"text": ["", "Total", " ", "12"], "left": [0, 20, 0, 100], "top": [0, 10, 0, 10]}
        sizes = {"width": [200, 40, 0, 50], "height": [100, 20, 0, 20]}
        engine = types.ModuleType("pytesseract")
        engine.__file__ = "pytesseract.py"
        engine.image_to_data = lambda *_, **__: {**said, **sizes}  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "pytesseract", engine)
        picture = Image.new("RGB", (200, 100), "white")

        read = opened(PAGES).predict({"image": picture, "question": "Total?"})

        boxes = [("Total", (100, 100, 300, 300)), ("12", (500, 100, 750, 300))]
        assert read == opened(PAGES).predict({"question": "Total?", "word_boxes": boxes})

    def test_without_tesseract_the_extra_is_named(self, opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "pytesseract", None)

        with pytest.raises(ToolchainError, match=r"satchel-runtimes\[ocr\]"):
            opened(PAGES).predict({"image": Image.new("RGB", (20, 20)), "question": "Total?"})

    @pytest.mark.parametrize(
        ("page", "said"),
        [
            ("page.png", "takes {'image', 'question', 'word_boxes'}"),
            ({"question": " ", "word_boxes": []}, "there is no question"),
            ({"question": "Where?"}, "neither a picture nor words"),
            ({"question": "Where?", "word_boxes": []}, "no words"),
            ({"question": "Where?", "word_boxes": [("a", (0, 0, 1200, 10))]}, "from 0 to 1000"),
            ({"question": "Where?", "word_boxes": [("a", (0, 0, 10))]}, "from 0 to 1000"),
            ({"question": "Where?", "word_boxes": [("a", (float("nan"), 0, 10, 10))]}, "from 0 to 1000"),
        ],
    )
    def test_what_is_no_page_is_refused_in_words(self, opened: Open, page: Any, said: str) -> None:
        with pytest.raises(UsageError) as refused:
            opened(PAGES).predict(page)

        assert said in str(refused.value)


class TestQuestions:
    def test_every_patch_is_seen_in_its_order_as_the_model_sees_them_in_another(self, folder: Path) -> None:
        """The model draws the order of the patches by chance; they carry their places, so the answer is the same up to
        the order of float32 sums."""
        loaded = load_model(find_source(model_of(BY_NAME[QUESTIONS], folder)), BY_NAME[QUESTIONS].task)
        (component,) = capture(loaded)
        ids = torch.tensor([[2, 40, 77, 3]])
        given = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "token_type_ids": torch.zeros_like(ids)}
        pixels = torch.randn((1, 3, 96, 160), generator=torch.Generator().manual_seed(0))

        with torch.no_grad():
            ours = component.module(**given, pixel_values=pixels)["logits"]
            theirs = loaded.model(
                **given, pixel_values=pixels, pixel_mask=torch.ones((1, 96, 160), dtype=torch.long)
            ).logits

        assert float(theirs.abs().max()) > 0.1
        assert torch.allclose(ours, theirs, atol=1e-5)

    def test_the_picture_and_the_question_both_matter(self, opened: Open) -> None:
        one, other, _ = BY_NAME[QUESTIONS].inputs
        scores = [
            {
                each["answer"]: each["score"]
                for each in opened(QUESTIONS).predict({"image": image, "question": question}, top_k=6)
            }
            for image, question in (
                (one["image"], one["question"]),
                (other["image"], one["question"]),
                (one["image"], other["question"]),
            )
        ]

        assert all(max(abs(each[name] - scores[0][name]) for name in each) > 1e-3 for each in scores[1:])

    @pytest.mark.parametrize(
        ("item", "said"),
        [
            ({"image": np.zeros((40, 40, 3), np.uint8)}, "takes {'image', 'question'}"),
            ({"image": np.zeros((40, 40, 3), np.uint8), "question": ""}, "there is no question"),
            ({"image": "missing.png", "question": "What?"}, "No such file"),
            ({"image": np.zeros((2, 4000, 3), np.uint8), "question": "What?"}, "nothing would be left"),
        ],
    )
    def test_what_is_no_question_is_refused_in_words(self, opened: Open, item: Any, said: str) -> None:
        with pytest.raises(UsageError) as refused:
            opened(QUESTIONS).predict(item)

        assert said in str(refused.value)


class TestRegions:
    @pytest.mark.parametrize("name", [REGIONS, "visual_bert region-question-answering"])
    def test_answers_are_those_of_the_model_on_as_many_regions_as_there_are(self, name: str, folder: Path) -> None:
        cell = measure(BY_NAME[name], "onnx", folder)

        assert cell.status == OK, cell.why

    def test_what_a_region_shows_and_where_it_is_both_matter(self, opened: Open) -> None:
        asked = BY_NAME[REGIONS].inputs[1]
        others = {**asked, "features": asked["features"][::-1]}, {**asked, "boxes": asked["boxes"][::-1]}

        scores = [
            {each["answer"]: each["score"] for each in opened(REGIONS).predict(item, top_k=6)}
            for item in (asked, *others)
        ]

        assert all(max(abs(each[name] - scores[0][name]) for name in each) > 1e-3 for each in scores[1:])

    @pytest.mark.parametrize(
        ("changes", "said"),
        [
            ({"image": "picture.jpg"}, "takes {'question', 'features', 'boxes'}"),
            ({"question": " "}, "there is no question"),
            ({"features": np.zeros((3, 7))}, "float [regions, 24]"),
            ({"features": np.zeros((37, 24)), "boxes": np.zeros((37, 4))}, "1 to 36 regions"),
            ({"features": np.zeros((0, 24)), "boxes": np.zeros((0, 4))}, "1 to 36 regions"),
            ({"features": "a picture"}, "float [regions, 24]"),
            ({"boxes": np.zeros((2, 4))}, "a box for each region"),
            ({"boxes": np.full((3, 4), np.nan)}, "NaN or infinite"),
        ],
    )
    def test_what_are_no_regions_is_refused_in_words(self, opened: Open, changes: Any, said: str) -> None:
        with pytest.raises(UsageError) as refused:
            opened(REGIONS).predict({**BY_NAME[REGIONS].inputs[1], **changes})

        assert said in str(refused.value)


class TestThings:
    def test_a_label_is_found_where_it_is_found_alone(self, opened: Open) -> None:
        row = BY_NAME[THINGS]
        labels = row.options["candidate_labels"]
        model = opened(THINGS)

        together = model.predict(row.inputs[0], candidate_labels=labels, threshold=0.0)  # with none at an edge of it

        for label in labels:
            alone = model.predict(row.inputs[0], candidate_labels=[label], threshold=0.0)
            beside = [each for each in together if each["label"] == label]
            assert [each["score"] for each in beside] == pytest.approx([each["score"] for each in alone], abs=1e-4)
            corners = [np.sort([list(each["box"].values()) for each in found], axis=0) for found in (beside, alone)]
            np.testing.assert_allclose(*corners, atol=1)  # a corner may be rounded to the next pixel

    def test_labels_are_needed(self, opened: Open) -> None:
        with pytest.raises(UsageError, match="candidate_labels"):
            opened(THINGS).predict(BY_NAME[THINGS].inputs[0])
