"""Language models in four bits: calibrated on what they write themselves, and judged by the perplexity of texts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from benchmarks.matrix.rows.generators import decoder

import satchel
from satchel_converters import onnx_cache
from satchel_converters.written import own_words
from satchel_runtimes import Predictor, load
from satchel_runtimes.errors import ParityError, SupportError
from satchel_runtimes.tasks.text_generation import TextGeneration


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("four") / "model"
    torch.manual_seed(0)
    decoder("llama", made, max_position_embeddings=96)
    return made


def made(model: Path, out: Path, scheme: str) -> Path:
    return satchel.convert(
        model, device="generic-x86-64", format="onnx", quantize=scheme, prefer="size", out=out / f"{scheme}.satchel"
    )


@pytest.fixture(scope="module")
def opened(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Predictor:
    return load(made(model, tmp_path_factory.mktemp("float"), "fp32"), threads=1)


def test_each_text_begins_as_it_was_given_and_goes_on_to_the_length_that_the_model_holds(opened: Predictor) -> None:
    task = opened.open_task("text-generation")
    assert isinstance(task, TextGeneration)
    texts = ("Where is my order?", "A", "The small model answers quickly and keeps its word. " * 12)
    rows = [row for text in texts for row in task.encode(text, {})]

    first, again = (own_words(task, opened.graphs["model"], rows) for _ in range(2))

    given, found = ([row.tensors["input_ids"] for row in part] for part in (rows, first))
    assert [len(ids) for ids in found] == [96, 96, 96]
    assert all((new[: len(old)] == old).all() for old, new in zip(given, found, strict=True))
    assert len(given[2]) == 96, "a text that is as long as can be stays as it is"
    assert all((one.tensors["input_ids"] == other).all() for one, other in zip(again, found, strict=True))


def test_the_report_names_both_perplexities_and_the_rise(model: Path, tmp_path: Path) -> None:
    made(model, tmp_path, "int8-weights")

    candidate = json.loads((tmp_path / "int8-weights.report.json").read_text())["candidates"][0]
    figures = candidate["parity"]["text-generation"]
    rise = figures["perplexity"] / figures["perplexity_reference"] - 1
    assert figures["perplexity_reference"] > 10, "it has learned nothing"
    assert rise == pytest.approx(figures["perplexity_rise"], abs=1e-6)
    (said,) = (each["why"] for each in candidate["verdicts"] if each["gate"] == "parity")
    assert f"the model's own {figures['perplexity_reference']:.4g} ({rise:+.1%})" in said


def test_four_bits_that_are_rounded_too_coarsely_are_refused(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("satchel_converters.onnx_rounding._LEVELS4", 2)  # three levels in place of sixteen

    with pytest.raises(ParityError, match="perplexity|next tokens|total variation"):
        made(model, tmp_path, "int4-weights")

    report = json.loads((tmp_path / "int4-weights.report.json").read_text())
    figures = report["candidates"][0]["parity"]["text-generation"]
    assert figures["total_variation_mean"] > 0.2


@pytest.fixture
def newer(tmp_path: Path) -> str:
    """A device like generic-x86-64 whose engine is as new as the cache in int8 needs."""
    file = tmp_path / "newer.toml"
    file.write_text(
        'extends = "generic-x86-64"\nname = "newer"\ntitle = "A newer engine"\nformats = ["onnx"]\n\n'
        '[[engines]]\nname = "onnxruntime"\nversion = ">=1.32"\npython = ">=3.10"\n'
    )
    return str(file)


def test_a_cache_in_int8_takes_a_quarter_of_the_memory_and_says_the_same(
    model: Path, opened: Predictor, newer: str, tmp_path: Path
) -> None:
    out = satchel.convert(
        model, device=newer, format="onnx", quantize="int8-weights-kv8", prefer="size", out=tmp_path / "kv8.satchel"
    )

    with load(out, threads=1) as narrow:
        sizes = [each.graphs["model"].new_state(1, 64).nbytes for each in (narrow, opened)]
        assert sizes[0] * 4 == sizes[1]
        texts = [each.predict("Where is my order", max_new_tokens=8) for each in (narrow, opened)]
        figures = narrow.manifest.measured.parity["text-generation"]
    assert texts[0] == texts[1]
    assert abs(figures["perplexity_rise"]) < 0.05


def test_a_cache_in_int8_is_refused_before_the_work_where_the_engine_may_be_older(model: Path, tmp_path: Path) -> None:
    with pytest.raises(SupportError, match=r"needs onnxruntime >=1.32"):
        made(model, tmp_path, "int8-weights-kv8")


def test_scales_that_cut_the_cache_off_are_seen(
    model: Path, newer: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnx_cache, "_ROOM", 0.05)

    with pytest.raises(ParityError, match="perplexity|next tokens|total variation"):
        satchel.convert(
            model, device=newer, format="onnx", quantize="int8-weights-kv8", prefer="size", out=tmp_path / "cut.satchel"
        )
