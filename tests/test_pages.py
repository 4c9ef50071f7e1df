"""Models that read pages: a Pix2Struct, whose questions are drawn above the picture, and a Donut that is asked in its own marks."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from benchmarks.matrix.rows import pages
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFont
from tests.conversions import blinded, damage, refused

import satchel
from satchel_converters.capture import attention, capture, load_model
from satchel_converters.pictures import draw
from satchel_converters.processors import load_processors
from satchel_converters.source import find_source, tasks_for
from satchel_runtimes import Predictor, load
from satchel_runtimes.errors import IntegrityError, ParityError, SupportError, UsageError
from satchel_runtimes.manifest import TaskEntry
from satchel_runtimes.tasks.image_steps import image_steps
from satchel_runtimes.tasks.image_to_text import TASK as CAPTIONS
from satchel_runtimes.tasks.patches import MASK, PATCHES, drawn_header, flattened, open_font, with_header
from satchel_runtimes.tasks.task import ModelFacts
from satchel_runtimes.tasks.written_answer import WrittenAnswer
from satchel_runtimes.tasks.written_document import WrittenDocument

FONT: Any = ImageFont.load_default(36)  # the one that Pillow brings; its file is in memory
HEADER = {"font": "font.ttf", "size": 36, "columns": 80, "margin": 5}
DRAWN = [draw(6000 + number).convert("RGB") for number in range(3)]
ASKED = [
    {"image": picture, "question": text} for picture, text in zip(DRAWN, ("Where?", "How many?", "No?"), strict=True)
]


def drawn(height: int, width: int, seed: int, colours: int) -> np.ndarray:
    """Noise of so many colours; of one it is a page without anything on it."""
    random = np.random.default_rng(seed)
    palette = random.integers(0, 256, (colours, 3), dtype=np.uint8)
    found: np.ndarray = palette[random.integers(0, colours, (height, width))]
    return found


class TestPatches:
    @settings(max_examples=50, deadline=None)
    @given(
        height=st.integers(1, 700),
        width=st.integers(1, 700),
        patch=st.sampled_from([(16, 16), (8, 8), (4, 6)]),
        most=st.sampled_from([1, 7, 64, 300]),
        colours=st.sampled_from([1, 2, 200]),
        normalize=st.booleans(),
    )
    def test_are_those_of_transformers(
        self, height: int, width: int, patch: tuple[int, int], most: int, colours: int, normalize: bool
    ) -> None:
        picture = drawn(height, width, height * 1000 + width, colours)
        sides = dict(zip(("height", "width"), patch, strict=True))
        looks: Any = transformers.Pix2StructImageProcessorPil(
            max_patches=most, patch_size=sides, do_normalize=normalize
        )
        (step,) = (each for each in image_steps(json.loads(looks.to_json_string())) if each.step == "patches")
        expected = looks(Image.fromarray(picture), return_tensors="np")

        found = flattened(picture, step.options)

        count = len(found[PATCHES])
        assert count == int(expected["attention_mask"][0].sum()) == int(found[MASK].sum())
        # Sums of up to a hundred float32 in another order: of values of some units, or of 0 to 255 where not normalized.
        close = 5e-6 if normalize else 5e-4
        np.testing.assert_allclose(found[PATCHES], expected["flattened_patches"][0][:count], rtol=0, atol=close)
        assert not expected["flattened_patches"][0][count:].any()

    @settings(max_examples=30, deadline=None)
    @given(
        text=st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=250).filter(str.strip),
        height=st.integers(1, 200),
        width=st.integers(1, 900),
    )
    def test_have_the_question_above_as_transformers_draws_it(self, text: str, height: int, width: int) -> None:
        picture = drawn(height, width, 3, 50)
        looks: Any = transformers.Pix2StructImageProcessorPil(is_vqa=True)
        data = FONT.path.getvalue()
        try:
            expected = looks.render_header(picture.transpose(2, 0, 1), text, font_bytes=data)
        except RuntimeError:  # of control characters in some orders
            with pytest.raises(UsageError, match="Cannot draw the question"):
                drawn_header(text, open_font(data, HEADER), HEADER, 10**9)
            return

        header = drawn_header(text, open_font(data, HEADER), HEADER, 10**9)
        found = with_header(Image.fromarray(picture), header)

        np.testing.assert_array_equal(np.asarray(found), expected.transpose(1, 2, 0))


def converted(folder: Path, **options: Any) -> Predictor:
    out = folder.with_suffix(".satchel")
    satchel.convert(folder, device="generic-x86-64", quantize="fp32", prefer="size", out=out, **options)
    return load(out, threads=1, trust=True)


def built(build: Any, folder: Path, **options: Any) -> Path:
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(0)
        build(folder, **options)
    return folder


class Reader:
    """A Pix2Struct that is asked, and its bundle."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.opened = converted(folder)

    def expected(self, **options: Any) -> list[Any]:
        return pages._reads(self.folder, ASKED, options)[len(ASKED) :]


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return built(pages.pix2struct, tmp_path_factory.mktemp("pages") / "asked", asked=True)


@pytest.fixture(scope="module")
def reader(asked: Path) -> Reader:
    return Reader(asked)


@pytest.mark.slow
class TestAnswers:
    @pytest.mark.parametrize(
        "options",
        [
            {"max_new_tokens": 12},
            {"max_new_tokens": 10, "num_beams": 3},
            {"max_new_tokens": 10, "repetition_penalty": 1.5, "no_repeat_ngram_size": 2},
        ],
        ids=str,
    )
    def test_are_those_of_transformers(self, reader: Reader, options: Mapping[str, Any]) -> None:
        theirs = reader.expected(**options)

        assert reader.opened.predict(ASKED, **options) == theirs
        # Alone nothing is filled up to the patches of another.
        assert [reader.opened.predict(each, **options) for each in ASKED] == [[each] for each in theirs]
        assert len({each["answer"] for each in theirs}) > 1

    def test_about_pages_are_those_about_pictures(self, reader: Reader) -> None:
        found = reader.opened.predict(ASKED, task="document-question-answering", max_new_tokens=12)

        assert found == [[each] for each in reader.expected(max_new_tokens=12)]

    def test_depend_on_the_question_and_on_the_picture(self, reader: Reader) -> None:
        for items in (
            [{"image": DRAWN[0], "question": text} for text in ("Where?", "How many are there in all?", "No?")],
            [{"image": picture, "question": "Where?"} for picture in DRAWN],
        ):
            found = reader.opened.predict(items, max_new_tokens=10)

            assert len({each["answer"] for each in found}) > 1

    @pytest.mark.parametrize(
        ("given", "why"),
        [
            ({"image": DRAWN[0], "question": " "}, "there is no question"),
            ({"image": DRAWN[0], "question": ""}, "there is no question"),
            ({"image": DRAWN[0], "question": 3}, "there is no question"),
            ({"image": None, "question": "What?"}, "there is no picture"),
            ({"question": "What?"}, "it takes {'image', 'question'}"),
            (DRAWN[0], "it takes {'image', 'question'}"),
            ({"image": "/nowhere.png", "question": "What?"}, "No such file"),
            ({"image": b"\x89PNG\r\n\x1a\nnothing", "question": "What?"}, "Cannot read the picture"),
            ({"image": DRAWN[0], "question": "0\x85"}, "Cannot draw the question"),
            ({"image": DRAWN[0], "question": "long " * 60_000}, "it would be a picture of"),
            (
                {"image": Image.new("RGB", (1, 60_000)), "question": "What is on this strip?"},
                "the model would see it as",
            ),
        ],
        ids=lambda each: str(each)[:30],
    )
    def test_to_what_cannot_be_asked_are_errors(self, reader: Reader, given: Any, why: str) -> None:
        with pytest.raises(UsageError, match=why) as caught:
            reader.opened.predict(given)
        assert caught.value.fix

    def test_of_a_graph_that_does_not_look_are_refused(
        self, reader: Reader, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        damage(monkeypatch, lambda graph: blinded(graph, PATCHES))

        refusal = refused(
            reader.folder, tmp_path / "out", ParityError, device="generic-x86-64", quantize="fp32", prefer="size"
        )

        assert refusal.report["exit_code"] == 10


class TestFonts:
    def test_a_model_that_is_asked_without_one_is_refused_with_what_to_do(self, asked: Path) -> None:
        source = find_source(asked)
        looks = json.loads((asked / "preprocessor_config.json").read_text())
        facts = dataclasses.replace(source.facts, image_processor=looks)

        with pytest.raises(SupportError, match=r"font\.ttf(.|\n)*Liberation Sans") as caught:
            WrittenAnswer.entry(facts)
        assert caught.value.exit_code == 14

    def test_what_is_none_is_an_error(self) -> None:
        with pytest.raises(IntegrityError, match="Cannot read the font"):
            open_font(b"no font", HEADER)

    def test_one_is_carried_only_where_questions_are_drawn(self, asked: Path, tmp_path: Path) -> None:
        describes = built(pages.pix2struct, tmp_path / "captions")
        (describes / "font.ttf").write_bytes(FONT.path.getvalue())

        for folder, draws in ((asked, True), (describes, False)):
            processors = load_processors(find_source(folder), ("tokenizer", "image_processor"))
            saved = tmp_path / f"saved-{folder.stem}"
            saved.mkdir()
            assert processors.facts().font is draws
            assert ("font.ttf" in processors.save(saved, {})) is draws


class TestKinds:
    def test_a_checkpoint_that_is_asked_answers_and_another_describes(self, asked: Path, tmp_path: Path) -> None:
        describes = built(pages.pix2struct, tmp_path / "captions")

        answers = ("visual-question-answering", "document-question-answering")
        assert tasks_for(find_source(asked), None) == answers
        assert tasks_for(find_source(describes), None) == ("image-to-text",)

    @pytest.mark.parametrize(
        ("task", "vqa", "other"),
        [(CAPTIONS, True, "visual-question-answering"), (WrittenAnswer, False, "image-to-text")],
    )
    def test_one_is_not_asked_for_what_the_other_does(self, task: Any, vqa: bool, other: str) -> None:
        looks = json.loads(transformers.Pix2StructImageProcessorPil(is_vqa=vqa).to_json_string())
        facts = ModelFacts({"model_type": "pix2struct"}, 64, image_processor=looks, font=True)

        with pytest.raises(SupportError, match=other):
            task.entry(facts)

    def test_a_donut_for_another_job_is_not_asked(self) -> None:
        facts = ModelFacts({"encoder": {"model_type": "donut-swin"}}, 64, added_tokens={"<s_cord-v2>": 9})

        with pytest.raises(SupportError, match="<s_docvqa>") as caught:
            WrittenDocument.entry(facts)
        assert caught.value.exit_code == 14

    @pytest.mark.slow
    @pytest.mark.parametrize("form", ["onnx", "tflite", "torchscript"])
    def test_describes_pictures_as_transformers_does(self, form: str, tmp_path: Path) -> None:
        folder = built(pages.pix2struct, tmp_path / "captions")
        opened = converted(folder, format=form)
        for options in ({"max_new_tokens": 12}, {"max_new_tokens": 10, "num_beams": 3}):
            assert opened.predict(DRAWN, **options) == pages._reads(folder, DRAWN, options)[3:]
        (begun,) = opened.predict(DRAWN[0], prompt="a small", max_new_tokens=6)
        assert begun["generated_text"].startswith("a small")

    @pytest.mark.slow
    @pytest.mark.parametrize("form", ["tflite", "torchscript"])
    def test_answers_as_transformers_does(self, form: str, tmp_path: Path) -> None:
        folder = built(pages.pix2struct, tmp_path / "asked", asked=True)
        opened = converted(folder, format=form)
        for options in ({"max_new_tokens": 12}, {"max_new_tokens": 10, "num_beams": 3}):
            assert opened.predict(ASKED, **options) == pages._reads(folder, ASKED, options)[3:]


class TestDonut:
    @pytest.mark.slow
    @pytest.mark.parametrize("form", ["onnx", "tflite", "torchscript"])
    def test_answers_as_the_pipeline_does(self, form: str, tmp_path: Path) -> None:
        folder = built(pages.donut_answers, tmp_path / "donut")
        opened = converted(folder, format=form, task="document-question-answering")
        for options in ({"max_new_tokens": 12}, {"max_new_tokens": 10, "num_beams": 3}):
            theirs = pages._asks(folder, ASKED, options)

            assert [*(opened.predict(each, **options) for each in ASKED), *opened.predict(ASKED, **options)] == theirs
        with pytest.raises(UsageError, match="there is no question"):
            opened.predict({"image": DRAWN[0], "question": ""})


def test_a_decoder_that_does_not_look_at_the_patches_is_refused(asked: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = load_model(find_source(asked), "visual-question-answering")
    names = [each.name for each in capture(loaded)]

    def blind(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *others: Any) -> torch.Tensor:
        return torch.zeros_like(query).transpose(1, 2)

    monkeypatch.setattr(attention, "across", blind)

    assert names == ["encoder", "decoder"]
    with pytest.raises(SupportError, match="answers otherwise by"):
        capture(loaded)


def test_a_bundle_without_its_font_is_not_opened() -> None:
    class Nothing:
        path = Path("pages.satchel")

        def read(self, name: str) -> bytes:
            raise IntegrityError("Cannot read it.", why=f"there is no {name}", fix="copy the bundle again")

    looks = json.loads(transformers.Pix2StructImageProcessorPil(is_vqa=True).to_json_string())
    with pytest.raises(IntegrityError, match=r"font\.ttf"):
        WrittenAnswer(TaskEntry("visual-question-answering", image_steps(looks), ()), Nothing())
