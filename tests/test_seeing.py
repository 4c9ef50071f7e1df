"""Language models that see: what they say about pictures is what transformers says."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from benchmarks.matrix.rows import seeing, writers
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import satchel
from satchel_converters.pictures import draw
from satchel_runtimes import Predictor, load
from satchel_runtimes.errors import UsageError
from satchel_runtimes.manifest import TaskEntry
from satchel_runtimes.tasks.image import _table, image_steps
from satchel_runtimes.tasks.image_text_to_text import TASK
from satchel_runtimes.tasks.image_to_text import TASK as CAPTIONS

KINDS = (pytest.param("idefics3", marks=pytest.mark.slow), "llava")  # with tiles, and without
ASKED = [{"image": draw(6000), "text": "What is it?"}, {"image": draw(6003), "text": "How many circles?"}]


def converted(model: Path, **options: Any) -> Predictor:
    out = model.with_suffix(".satchel")
    satchel.convert(model, device="generic-x86-64", quantize="fp32", prefer="size", out=out, **options)
    return load(out, threads=1, trust=True)


def built(name: str, folder: Path, **settings: int) -> Path:
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(0)
        getattr(seeing if hasattr(seeing, name) else writers, name)(folder, **settings)
    return folder


class Seer:
    """A checkpoint and its bundle."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name, self.folder = name, built(name, folder)
        self.opened = converted(self.folder)


@pytest.fixture(scope="module", params=KINDS)
def seer(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Seer:
    return Seer(request.param, tmp_path_factory.mktemp("seers") / request.param)


@pytest.fixture(scope="module")
def llava(tmp_path_factory: pytest.TempPathFactory) -> Seer:
    return Seer("llava", tmp_path_factory.mktemp("seers") / "llava-alone")


def theirs(seer: Seer, **options: Any) -> list[Any]:
    return seeing._answers(seer.folder, ASKED, options)[: len(ASKED)]


class TestAnswers:
    @pytest.mark.parametrize(
        "options",
        [
            {"max_new_tokens": 15},
            {"max_new_tokens": 12, "num_beams": 3},
            # Its prompt holds marks of pictures, which are no words of what the graph reads.
            {"max_new_tokens": 12, "repetition_penalty": 1.5, "no_repeat_ngram_size": 2},
        ],
        ids=str,
    )
    def test_are_those_of_transformers(self, seer: Seer, options: Mapping[str, Any]) -> None:
        found = seer.opened.predict(ASKED, return_full_text=False, **options)

        assert found == theirs(seer, **options)
        assert found[0] != found[1]

    def test_depend_on_the_picture(self, seer: Seer) -> None:
        shown = [{"image": draw(6000 + i), "text": "What is it?"} for i in range(6)]

        said = {str(each) for each in seer.opened.predict(shown, max_new_tokens=10)}

        assert len(said) > 2

    def test_come_in_pieces(self, seer: Seer) -> None:
        pieces = list(seer.opened.stream(ASKED[0], max_new_tokens=15))

        (answer,) = seer.opened.predict(ASKED[0], max_new_tokens=15, return_full_text=False)
        assert "".join(pieces) == answer["generated_text"]

    def test_of_a_conversation_come_back_with_it(self, llava: Seer) -> None:
        said = [
            {"role": "user", "content": [{"type": "image", "image": draw(6000)}, {"type": "text", "text": "What?"}]},
            {"role": "assistant", "content": "A square."},
            {
                "role": "user",
                "content": [{"type": "image", "image": draw(6001)}, {"type": "text", "text": "And here?"}],
            },
        ]

        (found,) = llava.opened.predict(said, max_new_tokens=8)

        *before, last = found["generated_text"]
        assert before == said
        assert last["role"] == "assistant"
        assert last["content"]

    def test_of_several_pictures_are_those_of_transformers(self, llava: Seer) -> None:
        text, pictures = "<s>one <image> and <image>: ", [draw(6000), draw(6001)]
        reader = transformers.AutoTokenizer.from_pretrained(llava.folder)
        looks = transformers.AutoImageProcessor.from_pretrained(llava.folder, backend="pil")
        processor: Any = transformers.LlavaProcessor.from_pretrained(llava.folder, image_processor=looks)
        model: Any = transformers.LlavaForConditionalGeneration.from_pretrained(llava.folder).eval()
        with torch.inference_mode():
            (ids,) = model.generate(**processor(images=pictures, text=text, return_tensors="pt"), max_new_tokens=10)

        (found,) = llava.opened.predict({"images": pictures, "text": text}, max_new_tokens=10, return_full_text=False)

        assert reader.decode(ids, skip_special_tokens=True).endswith(found["generated_text"])
        assert found["generated_text"]

    @pytest.mark.parametrize(
        ("given", "why"),
        [
            ({"text": "What is it?"}, "there is no picture"),
            ({"images": [], "text": "What is it?"}, "there is no picture"),
            ({"image": "picture.jpg"}, "it takes"),
            ("What is it?", "it takes"),
            ({"images": [draw(1), draw(2)], "text": "only one <image>"}, "each picture stands at a mark"),
            ({"images": [draw(1)] * 40, "text": "What?"}, "the model can hold"),
            ([{"role": "user", "content": [{"type": "text", "text": "Hello"}]}], "there is no picture"),
            ({"image": "/nowhere.jpg", "text": "What?"}, "No such file"),
            ([{"role": "assistant", "content": [{"type": "text", "text": "It is"}]}], "is text"),
        ],
        ids=lambda each: str(each)[:30],
    )
    def test_to_what_cannot_be_answered_are_errors(self, llava: Seer, given: Any, why: str) -> None:
        with pytest.raises(UsageError, match=why):
            llava.opened.predict(given)


class TestTiles:
    @settings(max_examples=60, deadline=None)
    @given(
        height=st.integers(1, 300),
        width=st.integers(1, 300),
        edge=st.sampled_from([32, 64, 96, 140]),
        side=st.sampled_from([16, 32]),
        split=st.booleans(),
    )
    def test_are_those_of_transformers(self, height: int, width: int, edge: int, side: int, split: bool) -> None:
        drawn = np.random.default_rng(height * 1000 + width).integers(0, 256, (height, width, 3), dtype=np.uint8)
        picture = Image.fromarray(drawn)
        looks: Any = transformers.Idefics3ImageProcessorPil(
            size={"longest_edge": edge}, max_image_size={"longest_edge": side}, do_image_splitting=split
        )
        expected = looks(picture, return_tensors="np", return_row_col_info=True, do_rescale=False, do_normalize=False)
        task: Any = TASK.__new__(TASK)
        task._tiles = {"side": side, "longest_edge": edge, "split": split, "filter": "lanczos"}

        views, (rows, columns) = task._views(picture)

        assert (rows, columns) == (expected["rows"][0][0], expected["cols"][0][0])
        ours = np.stack([np.asarray(view).transpose(2, 0, 1) for view in views])
        np.testing.assert_array_equal(ours, expected["pixel_values"][0])


class TestPages:
    @settings(max_examples=60, deadline=None)
    @given(
        height=st.integers(2, 200),
        width=st.integers(2, 200),
        size=st.sampled_from([(64, 48), (48, 64), (40, 40)]),
        turned=st.booleans(),
        thumbnail=st.booleans(),
    )
    def test_are_those_of_transformers(
        self, height: int, width: int, size: tuple[int, int], turned: bool, thumbnail: bool
    ) -> None:
        drawn = np.random.default_rng(height * 1000 + width).integers(0, 256, (height, width, 3), dtype=np.uint8)
        looks: Any = transformers.DonutImageProcessorPil(
            size={"height": size[0], "width": size[1]}, do_align_long_axis=turned, do_thumbnail=thumbnail
        )
        steps = image_steps(json.loads(looks.to_json_string()))
        task: Any = CAPTIONS.__new__(CAPTIONS)
        task.entry_, task._table = TaskEntry("image-to-text", steps, ()), _table(steps)
        try:
            expected = looks(Image.fromarray(drawn), return_tensors="np")["pixel_values"][0]
        except ValueError:  # a page too wide for the size when its height fits
            with pytest.raises(UsageError, match="fits its longer side alone"):
                task.pixels(Image.fromarray(drawn))
            return

        np.testing.assert_allclose(task.pixels(Image.fromarray(drawn)), expected, atol=1e-6)

    @pytest.mark.slow
    def test_are_read_for_the_job_that_the_text_begins_with(self, tmp_path: Path) -> None:
        opened = converted(built("donut", tmp_path / "donut"), task="image-to-text")

        (found,) = opened.predict(draw(6000), prompt="<s_page>", max_new_tokens=8)

        reader = transformers.AutoTokenizer.from_pretrained(tmp_path / "donut")
        looks = transformers.AutoImageProcessor.from_pretrained(tmp_path / "donut", backend="pil")
        model: Any = transformers.VisionEncoderDecoderModel.from_pretrained(tmp_path / "donut").eval()
        begun = reader("<s_page>", add_special_tokens=False, return_tensors="pt")["input_ids"]
        pixels = looks(draw(6000), return_tensors="pt")["pixel_values"]
        (ids,) = model.generate(pixels, decoder_input_ids=begun, max_new_tokens=8)
        assert found["generated_text"] == reader.decode(ids, skip_special_tokens=True)


class TestEveryKind:
    @pytest.mark.slow
    @pytest.mark.parametrize("form", ["onnx", "tflite", "torchscript"])
    @pytest.mark.parametrize("name", ["blip_2", "idefics3", "llava", "smolvlm"])
    def test_answers_as_transformers_does(self, name: str, form: str, tmp_path: Path) -> None:
        opened = converted(built(name, tmp_path / name), format=form)
        oracle = seeing._goes_on if name == "blip_2" else seeing._answers
        options = {"max_new_tokens": 12, "return_full_text": False}

        assert opened.predict(ASKED, **options) == oracle(tmp_path / name, ASKED, options)[:2]

    @pytest.mark.parametrize(
        ("name", "form"),
        [
            ("git", "onnx"),
            pytest.param("git", "tflite", marks=pytest.mark.slow),
            pytest.param("donut", "onnx", marks=pytest.mark.slow),
            pytest.param("donut", "tflite", marks=pytest.mark.slow),
            pytest.param("donut", "torchscript", marks=pytest.mark.slow),
            pytest.param("blip", "tflite", marks=pytest.mark.slow),
            pytest.param("git", "torchscript", marks=pytest.mark.slow),
            pytest.param("blip", "onnx", marks=pytest.mark.slow),
            pytest.param("blip", "torchscript", marks=pytest.mark.slow),
        ],
    )
    def test_captions_as_transformers_does(self, name: str, form: str, tmp_path: Path) -> None:
        opened = converted(built(name, tmp_path / name), format=form, task="image-to-text")
        pictures = [draw(6000 + number) for number in range(3)]
        for options in ({"max_new_tokens": 12}, {"max_new_tokens": 10, "num_beams": 3}):
            found = opened.predict(pictures, **options)

            assert found == [each for (each,) in writers._tells(tmp_path / name, pictures, options)[:3]]
            assert len({each["generated_text"] for each in found}) > 1

    @pytest.mark.slow
    @pytest.mark.parametrize("form", ["onnx", "tflite", "torchscript"])
    def test_describes_and_answers_with_a_t5_as_transformers_does(self, form: str, tmp_path: Path) -> None:
        # With the row's own seed the toy says the same of every picture that it is asked "What" of.
        opened = converted(built("blip_2_t5", tmp_path / "blip", seed=1), format=form)
        pictures = [draw(6000 + number) for number in range(3)]
        asked = [{"image": draw(6000 + i), "question": text} for i, text in enumerate(("No?", "What is in it?"))]

        assert opened.tasks == ("image-to-text", "visual-question-answering")
        for options in ({"max_new_tokens": 12}, {"max_new_tokens": 10, "num_beams": 3}):
            for inputs, key, more in (
                (pictures, "generated_text", {}),
                (pictures, "generated_text", {"prompt": "What"}),
            ):
                theirs = seeing._tells(key, tmp_path / "blip", inputs, {**options, **more})[len(inputs) :]
                assert opened.predict(inputs, **options, **more) == theirs
                assert len({each[key] for each in theirs}) > 1
            theirs = seeing._tells("answer", tmp_path / "blip", asked, options)[len(asked) :]
            assert opened.predict(asked, task="visual-question-answering", **options) == theirs
        with pytest.raises(UsageError, match="there is no question"):
            opened.predict({"image": pictures[0], "question": ""}, task="visual-question-answering")

    @pytest.mark.slow
    @pytest.mark.parametrize("form", ["onnx", "tflite", "torchscript"])
    def test_answers_questions_as_transformers_does(self, form: str, tmp_path: Path) -> None:
        opened = converted(built("blip_answers", tmp_path / "blip"), format=form)
        asked = [{"image": draw(6000 + i), "question": text} for i, text in enumerate(("No?", "What is in it?"))]
        for options in ({"max_new_tokens": 10}, {"max_new_tokens": 10, "num_beams": 3}):
            theirs = writers._answers(tmp_path / "blip", asked, options)[len(asked) :]

            assert opened.predict(asked, **options) == theirs
            assert [
                opened.predict(each, **options)[0] for each in asked
            ] == theirs  # a question is not seen through padding
        with pytest.raises(UsageError, match="there is no question"):
            opened.predict({"image": draw(6000), "question": " "})

    @pytest.mark.slow
    def test_begins_as_it_is_told(self, tmp_path: Path) -> None:
        opened = converted(built("git", tmp_path / "git"), task="image-to-text")

        (found,) = opened.predict(draw(6000), prompt="a small model", max_new_tokens=6)

        reader = transformers.AutoTokenizer.from_pretrained(tmp_path / "git")
        looks = transformers.AutoImageProcessor.from_pretrained(tmp_path / "git", backend="pil")
        model: Any = transformers.GitForCausalLM.from_pretrained(tmp_path / "git").eval()
        begun = [reader.cls_token_id, *reader("a small model", add_special_tokens=False)["input_ids"]]
        given = {"input_ids": torch.tensor([begun]), **looks(draw(6000), return_tensors="pt")}
        (ids,) = model.generate(**given, max_new_tokens=6)
        assert found["generated_text"] == reader.decode(ids, skip_special_tokens=True)
