"""Pictures pixel by pixel: those that transformers makes, from nothing or from the upper part of one, and how they are written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from benchmarks.matrix.rows.pixels import COLORS, ROWS, SIDE, imagegpt
from PIL import Image
from tests.conversions import run

import satchel
from satchel_converters.capture import attention, capture, load_model
from satchel_converters.pictures import draw
from satchel_converters.source import find_source
from satchel_runtimes import Predictor, load
from satchel_runtimes.errors import SupportError, UsageError
from satchel_runtimes.tasks.unconditional_image_generation import TASK

BY_LAYER = {"scale_attn_by_inverse_layer_idx": True, "reorder_and_upcast_attn": True}


class Kept:
    """A checkpoint and its bundle."""

    def __init__(self, folder: Path) -> None:
        imagegpt(folder, **BY_LAYER)
        self.folder, self.bundle = folder, folder.with_suffix(".satchel")
        satchel.convert(folder, device="generic-x86-64", quantize="fp32", prefer="size", out=self.bundle)
        self.opened: Predictor = load(self.bundle, threads=1)
        self.model: Any = transformers.ImageGPTForCausalImageModeling.from_pretrained(folder).eval()
        self.looks: Any = transformers.AutoImageProcessor.from_pretrained(folder, backend="pil")

    def expected(self, picture: Image.Image | None, rows: int, **options: Any) -> np.ndarray:
        begun = torch.full((1, 1), COLORS)
        if picture is not None:
            seen = self.looks(picture, return_tensors="pt")["input_ids"][:, : rows * SIDE]
            begun = torch.cat([begun, seen], dim=1)
        with torch.inference_mode():
            ids = self.model.generate(begun, max_length=SIDE * SIDE + 1, **options)[0, 1:].numpy()
        colors = np.rint(127.5 * (np.array(self.looks.clusters)[ids] + 1.0)).astype(np.uint8)
        return colors.reshape(SIDE, SIDE, 3)


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Kept:
    return Kept(tmp_path_factory.mktemp("pixels") / "imagegpt")


@pytest.mark.parametrize("keep", [0, 0.25, 0.5, 0.99])
@pytest.mark.parametrize("options", [{"do_sample": False}, {"do_sample": False, "num_beams": 3}, {"top_k": 1}], ids=str)
def test_a_picture_goes_on_as_in_transformers(kept: Kept, keep: float, options: dict[str, Any]) -> None:
    wanted = kept.expected(draw(6001), int(SIDE * keep), **({"do_sample": True} | options))

    found = kept.opened.predict(draw(6001), keep=keep, **options)

    assert (found.size, found.mode) == ((SIDE, SIDE), "RGB")
    np.testing.assert_array_equal(np.asarray(found), wanted)
    assert len(np.unique(wanted.reshape(-1, 3), axis=0)) > 4


def test_a_picture_from_nothing_is_another_for_each_seed(kept: Kept) -> None:
    made = [np.asarray(kept.opened.predict(None, seed=seed)) for seed in (1, 1, 2)]

    assert np.array_equal(made[0], made[1])
    assert not np.array_equal(made[0], made[2])
    likeliest = np.asarray(kept.opened.predict(None, do_sample=False))
    np.testing.assert_array_equal(likeliest, kept.expected(None, 0, do_sample=False))


def test_colours_are_drawn_as_often_as_the_model_says(kept: Kept) -> None:
    count = 400
    with torch.inference_mode():
        logits = kept.model(torch.full((1, 1), COLORS)).logits[0, -1]
    chances = torch.softmax(logits, dim=-1).numpy()
    colors = np.rint(127.5 * (np.array(kept.looks.clusters) + 1.0)).astype(np.uint8)

    found = kept.opened.predict(None, num_return_sequences=count, top_k=0, seed=0)

    first = np.array([np.asarray(each)[0, 0] for each in found])
    drawn = (first[:, None] == colors[None]).all(axis=2).mean(axis=0)
    # Of 400 draws a chance of one half is off by 0.025 in one deviation; four of them.
    assert np.abs(drawn - chances).max() < 0.1
    assert (drawn > 0).sum() > 3


def test_a_list_holds_a_picture_for_each_and_several_of_one_are_a_list(kept: Kept) -> None:
    together = kept.opened.predict([None, draw(6001)], do_sample=False)

    alone = [kept.opened.predict(each, do_sample=False) for each in (None, draw(6001))]
    assert [np.asarray(each).tolist() for each in together] == [np.asarray(each).tolist() for each in alone]
    assert len(kept.opened.predict(None, num_return_sequences=3, seed=0)) == 3


@pytest.mark.parametrize(
    ("given", "options", "why"),
    [
        (None, {"keep": 1}, "below 1"),
        (None, {"keep": "half"}, "below 1"),
        (None, {"max_new_tokens": 3}, "all of its pixels"),
        (3, {}, "None, or the picture"),
        ("no-such.png", {}, "check the path"),
    ],
)
def test_what_makes_no_picture_is_refused(kept: Kept, given: Any, options: dict[str, Any], why: str) -> None:
    with pytest.raises(UsageError, match=why):
        kept.opened.predict(given, **options)


def test_pictures_cannot_be_streamed(kept: Kept) -> None:
    with pytest.raises(UsageError, match="does not write text"):
        kept.opened.stream(None)


def test_the_command_writes_pictures_into_files(kept: Kept, tmp_path: Path) -> None:
    draw(6001).save(tmp_path / "given.png")

    done = run("predict", kept.bundle, "--out", tmp_path / "made.png", "--option", "seed=1")
    more = run(
        "predict", kept.bundle, tmp_path / "given.png", tmp_path / "given.png", "--option", "do_sample=false",
        "--out", tmp_path / "whole.png", "--json",
    )  # fmt: skip

    assert done.returncode == more.returncode == 0, done.stderr + more.stderr
    np.testing.assert_array_equal(Image.open(tmp_path / "made.png"), kept.opened.predict(None, seed=1))
    for name in ("whole.png", "whole-2.png"):
        np.testing.assert_array_equal(
            Image.open(tmp_path / name), kept.expected(draw(6001), SIDE // 2, do_sample=False)
        )


@pytest.mark.parametrize(
    ("out", "why"), [((), "--out picture.png"), (("--out", "no/such/folder/made.png"), "Cannot write")]
)
def test_the_command_says_where_a_picture_could_go(kept: Kept, out: tuple[str, ...], why: str) -> None:
    done = run("predict", kept.bundle, *out)

    assert done.returncode == 2
    assert why in done.stderr


def test_a_processor_of_another_size_is_refused(kept: Kept) -> None:
    loaded = load_model(find_source(kept.folder), TASK.name)
    facts = loaded.facts()
    other = {**facts.config, "n_positions": 65}

    with pytest.raises(SupportError, match="65 pixels.*gives 8x8"):
        TASK.entry(type(facts)(other, 65, image_processor=facts.image_processor))


def test_a_layer_that_is_scaled_otherwise_is_refused(kept: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = load_model(find_source(kept.folder), TASK.name)
    plain = attention._attention

    def louder(query: torch.Tensor, *others: Any) -> Any:
        return plain(query * 2, *others)

    monkeypatch.setattr(attention, "_attention", louder)

    with pytest.raises(SupportError, match="answers otherwise by"):
        capture(loaded)


@pytest.mark.slow
@pytest.mark.parametrize("format", ["onnx", "tflite", "torchscript"])
@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_every_format_paints_as_transformers_does(row: Any, format: str, tmp_path: Path) -> None:
    row.write(tmp_path / "model")
    out = tmp_path / "model.satchel"
    satchel.convert(tmp_path / "model", device="generic-x86-64", quantize="fp32", format=format, prefer="size", out=out)

    found = load(out, threads=1, trust=True).predict(list(row.inputs), **row.options)

    for ours, theirs in zip(found, row.oracle(tmp_path / "model", row.inputs, row.options), strict=False):
        np.testing.assert_array_equal(ours, theirs)
