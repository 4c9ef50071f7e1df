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
from satchel_converters.pictures import draw
from satchel_converters.reference import reference_answers, torch_graphs
from satchel_converters.samples import golden_items
from satchel_converters.source import find_source, tasks_for
from satchel_converters.stage import open_tasks
from satchel_runtimes import Predictor, load
from satchel_runtimes.errors import ParityError, SupportError, UsageError
from satchel_runtimes.golden import run_items
from satchel_runtimes.tasks import Task

TASK = "zero-shot-image-classification"
BY_NAME = {row.architecture: row for row in ROWS if row.task == TASK}


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
        asked = row.architecture == "clip" and row.task == "image-text-retrieval"  # that one is named with --task
        assert tasks_for(find_source(model_of(row, folder)), None) == (TASK if asked else row.task,)


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


# Other tasks over two towers


@pytest.fixture(scope="module")
def others(folder: Path) -> Iterator[Mapping[str, Predictor]]:
    made = {}
    for task in ("image-text-retrieval", "zero-shot-audio-classification"):
        row = next(row for row in ROWS if row.task == task)
        model = model_of(row, folder)
        bundle = satchel.convert(
            model,
            device="generic-x86-64",
            quantize="fp32",
            prefer="size",
            task=task,
            out=folder / f"{task}.satchel",
        )
        made[task] = load(bundle, threads=1)
    yield made
    for each in made.values():
        each.close()


class TestRetrieval:
    def test_texts_of_a_picture_and_pictures_of_a_text_have_the_same_cosines(
        self, others: Mapping[str, Predictor]
    ) -> None:
        model = others["image-text-retrieval"]
        pictures = [draw(number).convert("RGB") for number in (4301, 4302, 4303)]
        texts = ["a cat", "the house under the tree"]

        by_picture = [model.predict({"image": each, "texts": texts}) for each in pictures]
        by_text = [model.predict({"images": pictures, "text": each}) for each in texts]

        for i, found in enumerate(by_picture):
            for each in found:
                (same,) = [other for other in by_text[each["index"]] if other["index"] == i]
                assert abs(same["score"] - each["score"]) < 1e-5
                assert each["text"] == texts[each["index"]]
                assert -1 <= each["score"] <= 1

    def test_the_nearest_is_first(self, others: Mapping[str, Predictor]) -> None:
        found = others["image-text-retrieval"].predict(
            {"image": draw(4301).convert("RGB"), "texts": ["a cat", "a dog", "12 percent", "No."]}
        )

        assert [each["score"] for each in found] == sorted((each["score"] for each in found), reverse=True)

    @pytest.mark.parametrize(
        ("item", "said"),
        [
            ("picture.png", "takes {'image', 'texts'} or {'images', 'text'}"),
            ({"image": "a.png"}, "takes {'image', 'texts'}"),
            ({"image": "missing.png", "texts": ["a"]}, "No such file"),
            ({"image": draw(1), "texts": []}, "at least one"),
            ({"image": draw(1), "texts": "a cat"}, "a list of strings"),
            ({"images": [], "text": "a cat"}, "a list of pictures"),
        ],
    )
    def test_what_cannot_be_compared_is_refused_in_words(
        self, others: Mapping[str, Predictor], item: Any, said: str
    ) -> None:
        with pytest.raises(UsageError) as refused:
            others["image-text-retrieval"].predict(item)

        assert said in str(refused.value)


class TestSounds:
    LABELS = ("a bell", "rain on the roof")

    def test_a_long_sound_is_heard_from_its_beginning(self, others: Mapping[str, Predictor]) -> None:
        model = others["zero-shot-audio-classification"]
        long = np.random.RandomState(0).randn(11 * 48_000).astype(np.float32) / 10

        assert model.predict(long, candidate_labels=self.LABELS) == model.predict(
            long[: 10 * 48_000], candidate_labels=self.LABELS
        )

    def test_scores_are_shares(self, others: Mapping[str, Predictor]) -> None:
        found = others["zero-shot-audio-classification"].predict(
            np.random.RandomState(1).randn(20_000).astype(np.float32), candidate_labels=self.LABELS
        )

        assert sorted(each["label"] for each in found) == sorted(self.LABELS)
        assert abs(sum(each["score"] for each in found) - 1) < 1e-5

    def test_joined_pieces_that_are_drawn_by_chance_are_refused_before_the_work(self, folder: Path) -> None:
        model = folder / "clap-fusion"
        shutil.copytree(model_of(next(row for row in ROWS if row.architecture == "clap"), folder), model)
        file = model / "preprocessor_config.json"
        file.write_text(file.read_text().replace('"rand_trunc"', '"fusion"'))

        with pytest.raises(SupportError, match="drawn by chance"):
            satchel.convert(model, device="generic-x86-64", out=folder / "fusion.satchel")
