"""Qwen2-VL: pictures keep their proportions, and each of their tokens has a place in height and width."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from benchmarks.matrix.rows import seeing
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from tests.conversions import blinded, damage, refused

import satchel
from satchel_converters.capture import capture, load_model, qwen2_vl
from satchel_converters.pictures import draw
from satchel_converters.processors import Processors
from satchel_converters.source import find_source
from satchel_runtimes import Predictor, load
from satchel_runtimes.errors import ParityError, SupportError, UsageError
from satchel_runtimes.manifest import TaskEntry
from satchel_runtimes.tasks.grid_pictures import GridPictures
from satchel_runtimes.tasks.image import _table, image_steps
from satchel_runtimes.tasks.image_to_text import TASK as CAPTIONS

PICTURES = [draw(6000 + number).convert("RGB") for number in range(3)]
ASKED = [
    {"image": PICTURES[0], "text": "What is it?"},
    {"images": PICTURES[1:], "text": "How many circles can you see here?"},
    {"images": PICTURES, "text": "No?"},
]


class TestPatches:
    @settings(max_examples=60, deadline=None)
    @given(
        height=st.integers(1, 300),
        width=st.integers(1, 300),
        patch=st.sampled_from([4, 14]),
        merge=st.sampled_from([1, 2]),
        bounds=st.sampled_from([(256, 2048), (56 * 56, 10**6), (3000, 5000)]),
    )
    def test_are_those_of_transformers(
        self, height: int, width: int, patch: int, merge: int, bounds: tuple[int, int]
    ) -> None:
        drawn = np.random.default_rng(height * 1000 + width).integers(0, 256, (height, width, 3), dtype=np.uint8)
        looks: Any = transformers.Qwen2VLImageProcessorPil(
            patch_size=patch, merge_size=merge, size={"shortest_edge": bounds[0], "longest_edge": bounds[1]}
        )
        steps = image_steps(json.loads(looks.to_json_string()))
        task: Any = CAPTIONS.__new__(CAPTIONS)
        task.entry_, task._table, task._patches = TaskEntry("image-text-to-text", steps, ()), _table(steps), None
        task._grid = next(step.options for step in steps if step.step == "grid")
        try:
            expected = Processors(None, {"image_processor": looks}).looked(Image.fromarray(drawn), "")  # type: ignore[arg-type]  # nothing of it is read
        except ValueError:  # a strip
            with pytest.raises(UsageError, match="more than 200 times"):
                task.tensors(Image.fromarray(drawn))
            return

        found = task.tensors(Image.fromarray(drawn))

        assert set(found) == set(expected)
        for name, value in found.items():
            np.testing.assert_allclose(value, expected[name][0], atol=1e-6, err_msg=name)


FIRST = 50  # token numbers from here up are places in pictures


@settings(max_examples=200, deadline=None)
@given(
    parts=st.lists(
        st.one_of(st.integers(1, 5), st.tuples(st.integers(1, 4), st.integers(1, 4))), min_size=1, max_size=6
    )
)
def test_tokens_are_turned_as_in_transformers(parts: list[Any]) -> None:
    # Words stand between pictures, as the marks around each do.
    parts = [each for part in parts for each in ((part, 2) if isinstance(part, tuple) else (part,))]
    kinds: list[int] = []
    for part in parts:
        kinds += [1] * (part[0] * part[1]) if isinstance(part, tuple) else [0] * part
    grids = np.array([part for part in parts if isinstance(part, tuple)], dtype=np.int64).reshape(-1, 2) * 2
    model: Any = transformers.models.qwen2_vl.modeling_qwen2_vl.Qwen2VLModel.__new__(
        transformers.models.qwen2_vl.modeling_qwen2_vl.Qwen2VLModel
    )
    torch.nn.Module.__init__(model)
    model.config = transformers.Qwen2VLConfig(vision_config={"spatial_merge_size": 2})
    thw = torch.from_numpy(np.concatenate([np.ones((len(grids), 1), np.int64), grids], axis=1))
    ids = np.where(np.array(kinds) == 1, FIRST, 3)
    expected, delta = model.get_rope_index(
        torch.from_numpy(ids)[None], torch.tensor([kinds]), image_grid_thw=thw if len(grids) else None
    )
    task: Any = GridPictures.__new__(GridPictures)
    task._words, task._grid = {"first": FIRST}, {"merge": 2}

    turns, ours = task._turns(ids, grids)

    assert ours == int(delta)
    places = np.arange(len(ids))[:, None] + ours + turns
    assert places.T.tolist() == expected[:, 0].tolist()


def built(folder: Path) -> Path:
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(0)
        seeing.qwen2_vl(folder)
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return built(tmp_path_factory.mktemp("qwen") / "qwen2-vl")


def converted(folder: Path, **options: Any) -> Predictor:
    out = folder.with_suffix(".satchel")
    satchel.convert(folder, device="generic-x86-64", quantize="fp32", prefer="size", out=out, replace=True, **options)
    return load(out, threads=1, trust=True)


@pytest.fixture(scope="module")
def opened(model: Path) -> Predictor:
    return converted(model)


def test_a_rewrite_that_takes_pictures_for_a_line_of_words_is_refused(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def line(positions: torch.Tensor, others: Mapping[str, torch.Tensor]) -> torch.Tensor:
        return positions[None].expand(3, -1, -1)

    monkeypatch.setattr(qwen2_vl, "_turns", line)

    with pytest.raises(SupportError, match="answers otherwise by"):
        capture(load_model(find_source(model), "image-text-to-text"))


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
        theirs = seeing._places(model, ASKED, options)[: len(ASKED)]

        assert opened.predict(ASKED, return_full_text=False, **options) == theirs

    def test_depend_on_the_picture(self, opened: Predictor) -> None:
        shown = [{"image": draw(6000 + number), "text": "What is it?"} for number in range(6)]

        assert len({str(each) for each in opened.predict(shown, max_new_tokens=10)}) > 2

    def test_of_a_conversation_come_back_with_it(self, opened: Predictor) -> None:
        said = [
            {"role": "user", "content": [{"type": "image", "image": PICTURES[0]}, {"type": "text", "text": "What?"}]},
            {"role": "assistant", "content": "A square."},
            {"role": "user", "content": [{"type": "image", "image": PICTURES[1]}, {"type": "text", "text": "And it?"}]},
        ]

        (found,) = opened.predict(said, max_new_tokens=8)

        *before, last = found["generated_text"]
        assert before == said
        assert last["role"] == "assistant"
        assert last["content"]

    @pytest.mark.parametrize(
        ("given", "why"),
        [
            ({"text": "What is it?"}, "there is no picture"),
            ({"image": PICTURES[0]}, "it takes"),
            ({"images": PICTURES[:2], "text": "only one <|image_pad|>"}, "each picture stands at a mark"),
            ({"images": PICTURES * 9, "text": "What?"}, "the model can hold 256 in all"),
            ({"image": Image.new("RGB", (3, 900)), "text": "What?"}, "more than 200 times"),
            ({"image": b"\xff\xd8\xff\xe0nothing", "text": "What?"}, "Cannot read the picture"),
        ],
        ids=lambda each: str(each)[:30],
    )
    def test_to_what_cannot_be_answered_are_errors(self, opened: Predictor, given: Any, why: str) -> None:
        with pytest.raises(UsageError, match=why):
            opened.predict(given)

    def test_of_a_graph_that_does_not_look_are_refused(
        self, model: Path, opened: Predictor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        damage(monkeypatch, lambda graph: blinded(graph, "pixel_values"))

        refused(model, tmp_path / "out", ParityError, device="generic-x86-64", quantize="fp32", prefer="size")

    def test_by_torchscript_are_the_same(self, model: Path, tmp_path: Path) -> None:
        found = converted(model, format="torchscript").predict(ASKED, return_full_text=False, max_new_tokens=12)

        assert found == seeing._places(model, ASKED, {"max_new_tokens": 12})[: len(ASKED)]

    def test_by_graphs_of_one_size_are_refused(self, model: Path) -> None:
        with pytest.raises(SupportError, match="a size of its own") as caught:
            converted(model, format="tflite")
        assert caught.value.exit_code == 14
