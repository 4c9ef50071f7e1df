"""Models of two towers: one bundle with two graphs, whose answer is judged as a whole."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import transformers
from benchmarks.matrix.cell import OK, measure, model_of
from benchmarks.matrix.row import Row as MatrixRow
from benchmarks.matrix.rows.towers import ROWS

import satchel
from satchel_converters.capture import Loaded, capture, load_model
from satchel_converters.reference import reference_answers, torch_graphs
from satchel_converters.samples import golden_items
from satchel_converters.source import find_source, tasks_for
from satchel_converters.stage import open_tasks
from satchel_runtimes import Predictor, load
from satchel_runtimes.errors import ParityError, UsageError
from satchel_runtimes.golden import run_items
from satchel_runtimes.tasks import Task

TASK = "zero-shot-image-classification"
BY_NAME = {row.architecture: row for row in ROWS}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("towers")


@pytest.fixture(scope="module")
def clip(folder: Path) -> Iterator[Predictor]:
    model = model_of(BY_NAME["clip"], folder)
    bundle = satchel.convert(
        model, device="generic-x86-64", quantize="fp32", prefer="size", out=folder / "clip.satchel"
    )
    with load(bundle, threads=1) as opened:
        yield opened


def _opened(name: str, folder: Path) -> tuple[MatrixRow, Loaded, Mapping[str, Task]]:
    from satchel_converters.pictures import write_pictures

    row = BY_NAME[name]
    loaded = load_model(find_source(model_of(row, folder)), TASK)
    bundle = folder / f"files-{name}"
    shutil.rmtree(bundle, ignore_errors=True)
    bundle.mkdir()
    loaded.processors.save(bundle, {})
    write_pictures((TASK,), bundle)
    return row, loaded, open_tasks((loaded.task.entry(loaded.facts()),), bundle)


def test_each_tower_is_a_graph_of_the_bundle(clip: Predictor) -> None:
    graphs = {graph.component: graph.file for graph in clip.manifest.graphs}

    assert graphs == {"image_encoder": "image_encoder.onnx", "text_encoder": "text_encoder.onnx"}
    assert clip.tasks == (TASK,)


def test_the_task_is_told_by_the_architecture(folder: Path) -> None:
    for row in ROWS:
        assert tasks_for(find_source(model_of(row, folder)), None) == (TASK,)


@pytest.mark.parametrize("name", BY_NAME)
def test_answers_are_those_of_the_whole_model(name: str, folder: Path) -> None:
    row, loaded, tasks = _opened(name, folder)
    (task,) = tasks.values()
    whole: Any = loaded.model  # its forward compares the towers itself
    labels = row.options["candidate_labels"]
    texts = [f"This is a photo of {label}." for label in labels]
    filled = {"padding": "max_length", "max_length": 64} if name == "siglip" else {"padding": True}

    ours = task.run(torch_graphs(loaded, capture(loaded)), row.inputs, task.check_options(row.options))

    for picture, found in zip(row.inputs, ours, strict=True):
        pixels = loaded.processors.image_processor(picture.convert("RGB"), return_tensors="pt")
        tokens = loaded.tokenizer(texts, return_tensors="pt", **filled)
        logits = whole(**pixels, **tokens).logits_per_image[0]
        expected = logits.sigmoid() if name == "siglip" else logits.softmax(-1)
        by_label = {each["label"]: each["score"] for each in found}
        np.testing.assert_allclose([by_label[label] for label in labels], expected.tolist(), atol=1e-5)
        assert [each["score"] for each in found] == sorted(by_label.values(), reverse=True)


def test_what_the_towers_say_together_is_judged(folder: Path) -> None:
    _, loaded, tasks = _opened("clip", folder)
    items = golden_items((TASK,), loaded.facts())[:3]

    alone = run_items(tasks, torch_graphs(loaded, capture(loaded)), items)
    batched = run_items(tasks, torch_graphs(loaded, capture(loaded)), items, batch_size=4)

    for one, other in zip(alone, batched, strict=True):
        assert one["0/judged/scores"].shape == (3,)
        assert one["0/judged/scores"].sum() == pytest.approx(1)
        np.testing.assert_allclose(one["0/judged/scores"], other["0/judged/scores"], atol=1e-6)


def test_a_tokenizer_that_does_not_fit_is_found_beside_an_image_processor(folder: Path) -> None:
    _, loaded, tasks = _opened("clip", folder)
    items = golden_items((TASK,), loaded.facts())[:2]
    other = transformers.AutoTokenizer.from_pretrained(loaded.source.folder)
    other.add_tokens(["photo"])  # now one token of its own
    swapped = dataclasses.replace(loaded.processors, by_name={**loaded.processors.by_name, "tokenizer": other})

    with pytest.raises(ParityError, match="other ids"):
        reference_answers(dataclasses.replace(loaded, processors=swapped), capture(loaded), tasks, items)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"candidate_labels": []},
        {"candidate_labels": [1]},
        {"candidate_labels": ["cat"], "hypothesis_template": "a photo"},
        {"labels": ["cat"]},
    ],
)
def test_labels_that_cannot_be_are_refused(options: dict[str, Any], clip: Predictor) -> None:
    with pytest.raises(UsageError) as refused:
        clip.predict(BY_NAME["clip"].inputs[0], **options)

    assert refused.value.fix


@pytest.mark.parametrize("picture", ["no such file.png", b"no picture", 3, np.zeros((2, 2, 7), np.uint8)])
def test_what_is_no_picture_is_refused(picture: Any, clip: Predictor) -> None:
    with pytest.raises(UsageError):
        clip.predict(picture, candidate_labels=["cat"])


@pytest.mark.slow
@pytest.mark.parametrize("format", ["onnx", "torchscript", "tflite"])
@pytest.mark.parametrize("name", BY_NAME)
def test_a_bundle_answers_as_the_pipeline_of_transformers(name: str, format: str, folder: Path) -> None:
    cell = measure(BY_NAME[name], format, folder)

    assert cell.status == OK, cell.why
