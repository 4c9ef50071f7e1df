"""Tasks on pictures: sizes and pixels as transformers makes them, and the answers of its pipelines."""

from __future__ import annotations

import dataclasses
import io
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from benchmarks.matrix.agree import difference
from benchmarks.matrix.cell import OK, _expected, measure, model_of
from benchmarks.matrix.row import Row as MatrixRow
from benchmarks.matrix.rows import ROWS
from examples.real_models import photographs
from PIL import Image

from satchel_converters.capture import Loaded, capture, depth_anything, load_model, mobilevitv2, rt_detr
from satchel_converters.capture.rewrite import rewritten
from satchel_converters.capture.vit_mae import in_order, whole
from satchel_converters.pictures import draw
from satchel_converters.reference import torch_graphs
from satchel_converters.shapes import static_shapes
from satchel_converters.source import find_source, tasks_for
from satchel_converters.stage import open_tasks
from satchel_runtimes.errors import SupportError, UsageError
from satchel_runtimes.manifest import TensorSpec
from satchel_runtimes.tasks import Row, Task, task_class
from satchel_runtimes.tasks.image import ImageTask
from satchel_runtimes.tasks.image_steps import image_steps
from satchel_runtimes.tasks.maps import BICUBIC, BILINEAR, best_of, resized
from satchel_runtimes.tasks.task import ModelFacts, forward

_LABELS = {"0": "cat", "1": "dog"}

# The processors of glpn, dpt and depth_anything, detr, yolos, rt_detr, maskformer, mask2former, swin2sr.
ANY_SIZE: list[tuple[str, dict[str, Any]]] = [
    ("GLPN", {}),
    ("DPT", {"keep_aspect_ratio": True, "ensure_multiple_of": 14, "size": {"height": 120, "width": 200}}),
    ("DPT", {"ensure_multiple_of": 32, "size": {"height": 100, "width": 90}}),
    ("Detr", {"size": {"shortest_edge": 80, "longest_edge": 133}}),
    ("Detr", {"size": {"shortest_edge": 61, "longest_edge": 1333}}),
    ("Detr", {"size": {"height": 64, "width": 80}}),
    ("Yolos", {"size": {"shortest_edge": 80, "longest_edge": 133}}),
    ("Yolos", {"size": {"shortest_edge": 72, "longest_edge": 1333}}),
    ("RTDetr", {"size": {"height": 96, "width": 64}}),
    ("MaskFormer", {"size": {"shortest_edge": 80, "longest_edge": 133}}),
    ("Mask2Former", {"size": {"height": 70, "width": 70}}),
    ("Swin2SR", {}),
]


def _task(name: str, settings: dict[str, Any]) -> ImageTask:
    """The task's own steps for a processor, in the place where a bundle would give them."""
    kind = task_class(name)
    assert issubclass(kind, ImageTask)
    facts = ModelFacts(config={"id2label": _LABELS}, max_length=1, image_processor=settings)
    return kind(kind.entry(facts), SimpleNamespace(path=Path("here"), read=lambda name: b""))


def _settings(kind: str, options: dict[str, Any]) -> tuple[Any, dict[str, Any]]:  # Any: a class of transformers
    import transformers

    processor = getattr(transformers, f"{kind}ImageProcessorPil")(**options)
    return processor, json.loads(processor.to_json_string())


@pytest.mark.parametrize(("kind", "options"), ANY_SIZE)
def test_a_picture_of_any_size_has_the_pixels_of_the_processor_of_transformers(
    kind: str, options: dict[str, Any]
) -> None:
    processor, settings = _settings(kind, options)
    task = _task("depth-estimation", settings)
    pictures = [draw(number) for number in range(12)] + [Image.open(photographs()[0])]

    for picture in pictures:
        upright = task.picture(picture)
        expected = np.asarray(processor(upright, return_tensors="np")["pixel_values"][0])
        # The steps are computed in the same order and precision, so nothing may differ, not even a last bit.
        np.testing.assert_array_equal(task.pixels(upright), expected)


def test_a_model_that_reads_colours_by_number_gets_those_of_transformers() -> None:
    colours = [[red, green, blue] for red in (-0.8, 0.0, 0.8) for green in (-0.5, 0.5) for blue in (-0.4, 0.6)]
    processor, settings = _settings("ImageGPT", {"size": {"height": 16, "width": 12}, "clusters": colours})
    task = _task("image-classification", settings)

    for number in range(8):
        ours = task.encode(draw(number), task.options)[0].tensors["input_ids"]
        np.testing.assert_array_equal(ours, processor(draw(number).convert("RGB"), return_tensors="np")["input_ids"][0])


@pytest.mark.parametrize("kind", [BILINEAR, BICUBIC])
@pytest.mark.parametrize(("old", "new"), [((16, 24), (61, 97)), ((64, 64), (33, 50)), ((7, 5), (128, 1))])
def test_a_map_grows_and_shrinks_as_in_torch(kind: str, old: tuple[int, int], new: tuple[int, int]) -> None:
    maps = np.random.RandomState(0).randn(3, *old).astype(np.float32)
    expected = torch.nn.functional.interpolate(torch.from_numpy(maps)[None], new, mode=kind, align_corners=False)[0]

    ours = resized(maps, *new, kind)

    np.testing.assert_allclose(ours, expected.numpy(), atol=1e-5)  # float32 sums in another order
    if kind == BILINEAR:
        best, reached = best_of(maps, *new, 0.5)
        np.testing.assert_array_equal(best, expected.argmax(dim=0).numpy())
        np.testing.assert_array_equal(reached, (expected >= 0.5).sum(dim=(1, 2)).numpy())


def test_bands_of_a_large_picture_are_the_same_as_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    from satchel_runtimes.tasks import maps as module

    maps = np.random.RandomState(1).randn(5, 9, 11).astype(np.float32)
    best, reached = best_of(maps, 40, 30, 0.1)

    monkeypatch.setattr(module, "_BAND", 5 * 30 * 7)  # seven rows at a time

    again, counted = best_of(maps, 40, 30, 0.1)
    np.testing.assert_array_equal(again, best)
    np.testing.assert_array_equal(counted, reached)


class _Echo:
    """A graph that gives back what it gets, and remembers the shapes."""

    inputs = (TensorSpec("pixel_values", "float32", ("batch", 3, "height", "width"), 0.0),)
    outputs = inputs
    used: dict[str, Any] = {}

    def __init__(self) -> None:
        self.shapes: list[tuple[int, ...]] = []

    def new_state(self, batch: int = 1, capacity: int = 0) -> None: ...

    def close(self) -> None: ...

    def run(self, tensors: Any, state: object = None) -> Any:  # Any: tensors by name
        self.shapes.append(tensors["pixel_values"].shape)
        return dict(tensors)


def test_pictures_of_different_sizes_share_no_batch() -> None:
    sizes = [(4, 5), (6, 5), (4, 5), (4, 5)]
    rows = [Row({"pixel_values": np.full((3, *size), i, np.float32)}, 1) for i, size in enumerate(sizes)]
    echo = _Echo()

    found = dict(forward({"model": echo}, rows, 8))

    assert sorted(echo.shapes) == [(1, 3, 6, 5), (3, 3, 4, 5)]
    assert all((found[i]["pixel_values"] == i).all() and found[i]["pixel_values"].shape[1:] == sizes[i] for i in found)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("vision")


def _row(name: str) -> MatrixRow:
    return next(row for row in ROWS if row.name == name)


def _opened(name: str, folder: Path) -> tuple[MatrixRow, Loaded, Task]:
    row = _row(name)
    loaded = load_model(find_source(model_of(row, folder)), row.task)
    processors = folder / "processors" / name
    processors.mkdir(parents=True, exist_ok=True)
    loaded.processors.save(processors, {})
    entry = task_class(row.task).entry(loaded.processors.facts())
    return row, loaded, open_tasks((entry,), processors)[row.task]


@pytest.mark.parametrize(
    "name",
    [
        "vit image-feature-extraction",
        "vit_mae image-feature-extraction",
        "imagegpt image-classification",
        "dpt depth-estimation",
        "glpn, any size depth-estimation",
        "detr, any size object-detection",
        "rt_detr object-detection",
        "yolos, any size object-detection",
        "segformer image-segmentation",
        "maskformer image-segmentation",
        "mask2former image-segmentation",
        "swin2sr image-to-image",
    ],
)
def test_a_task_answers_as_the_pipeline_of_transformers(name: str, folder: Path) -> None:
    row, loaded, task = _opened(name, folder)
    graphs = torch_graphs(loaded, capture(loaded))
    options = task.check_options(row.options)

    answers = [task.run(graphs, (picture,), options)[0] for picture in row.inputs]
    answers += task.run(graphs, row.inputs, options)

    # Arrays within 1e-3 of their largest value, masks in 99.5 % of the pixels, all else the same.
    assert difference(answers, _expected(row, model_of(row, folder))) == ""


@pytest.mark.parametrize("subtask", ["panoptic", "semantic"])
def test_masks_serve_every_subtask(subtask: str, folder: Path) -> None:
    row, loaded, task = _opened("maskformer image-segmentation", folder)
    asked = dataclasses.replace(row, inputs=row.inputs[:2], options={**row.options, "subtask": subtask})
    graphs = torch_graphs(loaded, capture(loaded))

    answers = task.run(graphs, asked.inputs, task.check_options(asked.options))

    assert difference([*answers, *answers], _expected(asked, model_of(row, folder))) == ""
    assert any(answers)


def test_a_subtask_that_a_model_does_not_have_is_refused(folder: Path) -> None:
    row, loaded, task = _opened("segformer image-segmentation", folder)

    with pytest.raises(UsageError, match="semantic"):
        task.run(torch_graphs(loaded, capture(loaded)), row.inputs[:1], task.check_options({"subtask": "panoptic"}))


@pytest.mark.parametrize("threshold", [1.5, "high", True])
def test_a_threshold_is_a_share(threshold: Any, folder: Path) -> None:
    row, loaded, task = _opened("yolos, any size object-detection", folder)

    with pytest.raises(UsageError, match="threshold"):
        task.run(torch_graphs(loaded, capture(loaded)), row.inputs[:1], task.check_options({"threshold": threshold}))


def test_features_of_vit_mae_are_those_of_all_patches_in_their_order(folder: Path) -> None:
    _, loaded, _ = _opened("vit_mae image-feature-extraction", folder)
    pixels = torch.randn((2, 3, 64, 64), generator=torch.Generator().manual_seed(1))
    assert loaded.model.config.mask_ratio > 0

    with torch.no_grad():
        ours = in_order(loaded.model)(pixels).last_hidden_state
        expected = whole(loaded.model)(pixels).last_hidden_state

    assert ours.shape[1] == 17  # all 16 patches and the class token
    torch.testing.assert_close(ours, expected, atol=0, rtol=0)  # the same operations; a gather moves whole rows
    assert loaded.model.config.mask_ratio > 0


@pytest.mark.parametrize(
    ("name", "forwards"),
    [
        ("mobilevitv2 image-classification", mobilevitv2.FORWARDS),
        ("rt_detr object-detection", rt_detr.FORWARDS),
        ("depth_anything depth-estimation", depth_anything.FORWARDS),
    ],
)
def test_a_rewrite_is_the_model_that_it_stands_for(name: str, forwards: dict[str, Any], folder: Path) -> None:
    _, loaded, _ = _opened(name, folder)
    (component,) = capture(loaded)
    changed = rewritten(loaded.model, forwards)

    with torch.no_grad():
        expected = loaded.model(**component.example)
        found = [changed(**component.example) for _ in range(2)]  # what the first call keeps, the second takes

    for made in found:
        for output in component.outputs:  # the same operations in the same order, but for how patches are put together
            torch.testing.assert_close(made[output.name], expected[output.name], atol=1e-6, rtol=1e-5)


def test_the_task_of_a_model_that_sees_is_told_by_its_architecture(folder: Path) -> None:
    names = ["vit image-feature-extraction", "detr, any size object-detection", "segformer image-segmentation"]
    names += ["maskformer image-segmentation", "dpt depth-estimation", "swin2sr image-to-image"]

    for name in names:
        row = _row(name)
        assert tasks_for(find_source(model_of(row, folder)), None) == (row.task,)


def test_a_format_of_one_shape_refuses_pictures_of_any_size(folder: Path) -> None:
    _, loaded, _ = _opened("detr, any size object-detection", folder)
    (component,) = capture(loaded)

    with pytest.raises(SupportError, match="a size of its own") as refused:
        static_shapes(component, (128,))

    assert refused.value.exit_code == 14


def test_a_classifier_takes_one_size() -> None:
    with pytest.raises(SupportError, match="any size"):
        image_steps(_settings("GLPN", {})[1])


def _png(width: int, height: int) -> bytes:
    stream = io.BytesIO()
    Image.new("1", (width, height)).save(stream, "PNG")
    return stream.getvalue()


@pytest.mark.parametrize(
    ("kind", "size"),
    [
        ("Swin2SR", (20_000, 20_000)),  # refused before it is decoded: 1.2 GB of colours
        ("Swin2SR", (3_000, 3_000)),
        ("GLPN", (400, 20)),  # below one multiple of 32 nothing is left
        ("Detr", (40_000, 1)),
    ],
)
def test_a_picture_that_is_too_large_or_too_small_is_refused(kind: str, size: tuple[int, int]) -> None:
    task = _task("image-to-image", _settings(kind, {})[1])

    with pytest.raises(UsageError) as refused:
        task.encode(_png(*size), task.options)

    assert refused.value.fix


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "format"),
    [
        ("detr, any size object-detection", "onnx"),
        ("segformer image-segmentation", "tflite"),
        ("dpt depth-estimation", "torchscript"),
    ],
)
def test_a_bundle_answers_as_the_pipeline_of_transformers(name: str, format: str, folder: Path) -> None:
    cell = measure(_row(name), format, folder)

    assert cell.status == OK, cell.why
