"""IDEFICS: each word looks at the last picture before it, and what it says is what transformers says."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from benchmarks.matrix.rows import seeing
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.conversions import blinded, damage, refused
from transformers.models.idefics.processing_idefics import image_attention_mask_for_packed_input_ids

import satchel
from satchel_converters.capture import capture, idefics, load_model
from satchel_converters.pictures import draw
from satchel_converters.source import find_source
from satchel_runtimes import Predictor, load
from satchel_runtimes.errors import ParityError, SupportError, UsageError
from satchel_runtimes.tasks.gated_pictures import GatedPictures
from satchel_runtimes.tasks.task import ModelFacts

PICTURES = [draw(6000 + number).convert("RGB") for number in range(3)]
ASKED = [
    {"image": PICTURES[0], "text": "What is it?"},
    {"images": PICTURES[1:], "text": "Where is <image> the <image>order? It has</s> not"},
    {"images": PICTURES, "text": "<image><image> one <image> "},
    {"images": PICTURES[:2], "text": "Nobody says where they stand"},
]


def converted(folder: Path, **options: Any) -> Predictor:
    out = folder.with_suffix(".satchel")
    satchel.convert(folder, device="generic-x86-64", quantize="fp32", prefer="size", out=out, **options)
    return load(out, threads=1, trust=True)


def built(folder: Path, **options: Any) -> Path:
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(0)
        seeing.idefics(folder, **options)
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return built(tmp_path_factory.mktemp("idefics") / "idefics")


@pytest.fixture(scope="module")
def opened(model: Path) -> Predictor:
    return converted(model)


@pytest.mark.slow
class TestAnswers:
    @pytest.mark.parametrize(
        "options",
        [
            {"max_new_tokens": 15},
            {"max_new_tokens": 12, "num_beams": 3},
            {"max_new_tokens": 12, "repetition_penalty": 1.5, "no_repeat_ngram_size": 2},
        ],
        ids=str,
    )
    def test_are_those_of_transformers(self, model: Path, opened: Predictor, options: Mapping[str, Any]) -> None:
        theirs = seeing._looks_on(model, ASKED, options)[: len(ASKED)]

        assert opened.predict(ASKED, return_full_text=False, **options) == theirs

    def test_depend_on_the_picture(self, opened: Predictor) -> None:
        shown = [{"image": draw(6000 + number), "text": "What is it?"} for number in range(6)]

        said = {str(each) for each in opened.predict(shown, max_new_tokens=10)}

        assert len(said) > 2

    def test_of_a_conversation_are_those_of_its_text(self, model: Path, opened: Predictor) -> None:
        said = [
            {"role": "user", "content": [{"type": "text", "text": "What?"}, {"type": "image", "image": PICTURES[0]}]},
            {"role": "assistant", "content": "A square."},
            {"role": "user", "content": [{"type": "image", "image": PICTURES[1]}, {"type": "text", "text": "And it?"}]},
        ]
        # As the model's card writes them.
        turn = "<end_of_utterance>"
        text = f"User: What?<image>{turn}\nAssistant: A square.{turn}\nUser:<image>And it?{turn}\nAssistant:"
        ((theirs,),) = seeing._looks_on(model, [{"images": PICTURES[:2], "text": text}], {"max_new_tokens": 8})[:1]

        (found,) = opened.predict(said, max_new_tokens=8)

        *before, last = found["generated_text"]
        assert before == said
        assert last == {"role": "assistant", "content": theirs["generated_text"]}

    @pytest.mark.parametrize(
        ("given", "why"),
        [
            ({"text": "What is it?"}, "there is no picture"),
            ({"images": [], "text": "What is it?"}, "there is no picture"),
            ({"image": PICTURES[0]}, "it takes"),
            ("What is it?", "it takes"),
            ({"images": PICTURES[:2], "text": "only one <image>"}, "each picture stands at a mark"),
            ({"image": PICTURES[0], "text": "too long " * 300}, "the model can hold 256 in all$"),
            ([{"role": "user", "content": [{"type": "text", "text": "Hello"}]}], "there is no picture"),
            ({"image": "/nowhere.jpg", "text": "What?"}, "No such file"),
            ({"image": b"\xff\xd8\xff\xe0nothing", "text": "What?"}, "Cannot read the picture"),
        ],
        ids=lambda each: str(each)[:30],
    )
    def test_to_what_cannot_be_answered_are_errors(self, opened: Predictor, given: Any, why: str) -> None:
        with pytest.raises(UsageError, match=why.removesuffix("$")) as caught:
            opened.predict(given)
        assert caught.value.fix
        if why.endswith("$"):  # a picture takes no room in the text, and nothing says that it does
            assert caught.value.why.endswith(why.removesuffix("$"))

    def test_of_a_graph_that_does_not_look_are_refused(
        self, model: Path, opened: Predictor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        damage(monkeypatch, lambda graph: blinded(graph, "pixel_values"))

        refusal = refused(model, tmp_path / "out", ParityError, device="generic-x86-64", quantize="fp32", prefer="size")

        assert refusal.report["exit_code"] == 10


MARK, END = 7, 2


@settings(max_examples=200, deadline=None)
@given(ids=st.lists(st.sampled_from([MARK, END, 11, 12]), min_size=1, max_size=14))
def test_each_token_sees_the_picture_that_transformers_shows_it(ids: list[int]) -> None:
    class Marks:
        eos_token_id = END

        def convert_tokens_to_ids(self, name: str) -> int:
            return MARK

    theirs, _ = image_attention_mask_for_packed_input_ids(torch.tensor([ids]), Marks(), "pt")
    task: Any = GatedPictures.__new__(GatedPictures)
    task._words, task._end = {"id": MARK}, END

    found = task._seen(np.array(ids), ids.count(MARK))

    places = np.arange(len(ids))[:, None]
    seen = (found[:, 0] <= places) & (places < found[:, 1])
    ours = np.where(seen.any(axis=1), seen.argmax(axis=1) if seen.size else -1, -1)
    assert seen.sum(axis=1).max(initial=0) <= 1
    assert ours.tolist() == theirs[0].tolist()
    # What is written behind sees what the last token sees.
    later = (found[:, 0] <= len(ids) + 5) & (len(ids) + 5 < found[:, 1])
    assert later.tolist() == (seen[-1].tolist() if seen.size else [])


def test_a_rewrite_that_shows_each_word_all_pictures_is_refused(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = load_model(find_source(model), "image-text-to-text")
    own = idefics._looked

    def careless(layer: Any, states: Any, pair: Any, bias: torch.Tensor, gate: torch.Tensor) -> torch.Tensor:
        return own(layer, states, pair, bias * 0, gate)

    monkeypatch.setattr(idefics, "_looked", careless)

    with pytest.raises(SupportError, match="answers otherwise by"):
        capture(loaded)


def test_a_tokenizer_without_marks_for_pictures_is_refused() -> None:
    facts = ModelFacts({"model_type": "idefics", "vocab_size": 9}, 64)

    with pytest.raises(SupportError, match="<fake_token_around_image>") as caught:
        GatedPictures.entry(dataclasses.replace(facts, added_tokens={"<image>": 8}))
    assert caught.value.exit_code == 14


@pytest.mark.slow
@pytest.mark.parametrize("form", ["onnx", "tflite", "torchscript"])
@pytest.mark.parametrize("resampled", [True, False], ids=["resampler", "patches"])
def test_every_form_answers_as_transformers_does(form: str, resampled: bool, tmp_path: Path) -> None:
    folder = built(tmp_path / "idefics", resampled=resampled)
    opened = converted(folder, format=form)
    for options in ({"max_new_tokens": 12}, {"max_new_tokens": 10, "num_beams": 3}):
        theirs = seeing._looks_on(folder, ASKED, options)[: len(ASKED)]

        assert opened.predict(ASKED, return_full_text=False, **options) == theirs
    if form == "tflite":
        with pytest.raises(UsageError, match="compiled for at most"):
            opened.predict({"images": PICTURES * 2, "text": "What?"})
