"""image-classification: pictures as transformers sees them, bundles that answer as its pipeline does, and what is no picture."""

from __future__ import annotations

import io
import json
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from examples.real_models import photographs
from PIL import Image
from tests.conversions import run
from tests.vision_models import LABELS, tiny_vision

import satchel
from satchel_converters.pictures import CALIBRATION_PICTURES, PICTURES, draw, write_pictures
from satchel_runtimes.errors import IntegrityError, ParityError, SupportError, UsageError
from satchel_runtimes.golden import read_items, replay
from satchel_runtimes.manifest import Step, TaskEntry
from satchel_runtimes.tasks import task_class
from satchel_runtimes.tasks.image import ImageTask, image_size, image_steps
from satchel_runtimes.tasks.task import ModelFacts

# The processors of vit and swin, deit, mobilenet v1 and v2, efficientnet, convnext and resnet, beit, dinov2, levit, mobilevit.
PROCESSORS: list[tuple[str, dict[str, Any]]] = [
    ("ViT", {}),
    ("ViT", {"size": 96, "resample": 3}),
    ("DeiT", {}),
    ("MobileNetV1", {}),
    ("MobileNetV2", {}),
    ("EfficientNet", {}),
    ("EfficientNet", {"rescale_offset": True, "do_center_crop": True}),
    ("EfficientNet", {"include_top": False, "size": {"shortest_edge": 256}, "do_center_crop": True}),
    ("ConvNext", {}),
    ("ConvNext", {"size": {"shortest_edge": 224}}),
    ("Beit", {}),
    ("Bit", {}),
    ("Bit", {"do_resize": False, "crop_size": {"height": 301, "width": 98}}),
    ("Levit", {}),
    ("MobileViT", {}),
    ("PoolFormer", {}),
    ("PoolFormer", {"size": {"height": 100, "width": 100}, "crop_pct": 0.8}),
    ("Pvt", {}),
    ("Segformer", {}),
    ("ViT", {"do_rescale": False}),
    ("ViT", {"do_normalize": False}),
]


@pytest.fixture(scope="session")
def vit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_vision("vit", tmp_path_factory.mktemp("vision") / "vit")


@pytest.fixture(scope="session")
def vit_bundle(vit: Path) -> Path:
    return satchel.convert(
        vit, device="generic-x86-64", format="onnx", quantize="fp32", out=vit.with_suffix(".satchel")
    )


@pytest.fixture(scope="session")
def mobilenet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_vision("mobilenet_v2", tmp_path_factory.mktemp("vision") / "mobilenet")


@pytest.fixture(scope="session")
def mobilenet_bundle(mobilenet: Path) -> Path:
    out = mobilenet.with_suffix(".satchel")
    return satchel.convert(mobilenet, device="generic-x86-64", format="tflite", quantize="fp32", out=out)


def settings_of(processor: Any) -> dict[str, Any]:  # Any: a transformers class
    found: dict[str, Any] = json.loads(processor.to_json_string())
    return found


def task_for(settings: Mapping[str, Any]) -> ImageTask:
    task = task_class("image-classification")
    facts = ModelFacts(config={"id2label": dict(enumerate(LABELS))}, max_length=1, image_processor=settings)
    made = task(task.entry(facts), SimpleNamespace(path=Path("here"), read=lambda name: b""))
    assert isinstance(made, ImageTask)
    return made


@pytest.fixture(scope="module")
def some_task() -> ImageTask:
    import transformers

    return task_for(settings_of(transformers.MobileNetV2ImageProcessorPil()))


@pytest.mark.parametrize(("kind", "options"), PROCESSORS)
def test_pixels_are_those_of_the_processor_of_transformers(kind: str, options: dict[str, Any]) -> None:
    import transformers

    processor = getattr(transformers, f"{kind}ImageProcessorPil")(**options)
    task = task_for(settings_of(processor))
    pictures = [Image.open(file) for file in photographs()] + [draw(number) for number in range(16)]

    for picture in pictures:
        ours = task.pixels(task.picture(picture))
        theirs = processor(picture.convert("RGB"), return_tensors="np")["pixel_values"][0]
        # The steps are computed in the same order and precision, so nothing may differ, not even a last bit.
        np.testing.assert_array_equal(ours, theirs)
        assert ours.shape == (3, *task.fixed)


def _oriented(picture: Image.Image) -> Image.Image:
    exif = Image.Exif()
    exif[0x0112] = 6  # taken with the camera on its side
    stream = io.BytesIO()
    picture.save(stream, "JPEG", exif=exif)
    return Image.open(stream)


@pytest.mark.parametrize("mode", ["L", "1", "P", "LA", "PA", "RGBA", "CMYK", "YCbCr", "exif"])
def test_every_mode_of_a_picture_is_read_as_the_pipeline_reads_it(mode: str, some_task: ImageTask) -> None:
    from transformers.image_utils import load_image

    whole = Image.open(photographs()[0])
    picture = (
        _oriented(whole)
        if mode == "exif"
        else whole.convert("RGBA").convert(mode)
        if mode != "CMYK"
        else whole.convert(mode)
    )

    np.testing.assert_array_equal(np.asarray(some_task.picture(picture)), np.asarray(load_image(picture)))


def test_a_path_bytes_a_picture_and_an_array_are_the_same_picture(some_task: ImageTask) -> None:
    file = photographs()[0]
    expected = np.asarray(Image.open(file).convert("RGB"))

    for given in (str(file), file, file.read_bytes(), Image.open(file), expected):
        np.testing.assert_array_equal(np.asarray(some_task.picture(given)), expected)


def test_an_animation_is_judged_by_its_first_picture(tmp_path: Path, some_task: ImageTask) -> None:
    frames = [Image.new("RGB", (20, 20), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "moving.gif", save_all=True, append_images=frames[1:])

    assert some_task.picture(tmp_path / "moving.gif").getpixel((3, 3)) == (254, 0, 0) or some_task.picture(
        tmp_path / "moving.gif"
    ).getpixel((3, 3)) == (255, 0, 0)


def test_a_picture_of_one_pixel_is_a_picture(some_task: ImageTask) -> None:
    assert some_task.pixels(some_task.picture(np.zeros((1, 1, 3), np.uint8))).shape == (3, 224, 224)


def _broken(folder: Path, name: str) -> Any:  # Any: whatever a user may pass
    stream = io.BytesIO()
    Image.open(photographs()[0]).save(stream, "PNG" if name == "half a png" else "JPEG")
    data = stream.getvalue()
    (folder / "text.jpg").write_text("this is no picture")
    (folder / "empty.jpg").write_bytes(b"")
    (folder / "half.jpg").write_bytes(data[: len(data) // 2])
    Image.fromarray(np.full((9, 9), 40_000, np.uint16)).save(folder / "wide.png")
    return {
        "no such file": str(folder / "nowhere.jpg"),
        "a folder": str(folder),
        "a text": str(folder / "text.jpg"),
        "an empty file": str(folder / "empty.jpg"),
        "half a jpeg": str(folder / "half.jpg"),
        "half a png": str(folder / "half.jpg"),
        "no bytes": b"",
        "a null in the path": "a\0b.jpg",
        "an address": "https://example.org/cat.jpg",
        "16 bits": str(folder / "wide.png"),
        "channels first": np.zeros((3, 20, 20), np.uint8),
        "a batch": np.zeros((2, 20, 20, 3), np.uint8),
        "floats": np.zeros((20, 20, 3), np.float32),
        "no pixels": np.zeros((0, 20, 3), np.uint8),
        "a line": np.zeros((1, 400_000, 3), np.uint8),  # its resized form would have gigabytes
        "a number": 17,
        "nothing": None,
        "a mapping": {"path": "x.jpg"},
    }[name]


@pytest.mark.parametrize(
    "name",
    [
        "no such file",
        "a folder",
        "a text",
        "an empty file",
        "half a jpeg",
        "half a png",
        "no bytes",
        "a null in the path",
        "an address",
        "16 bits",
        "channels first",
        "a batch",
        "floats",
        "no pixels",
        "a line",
        "a number",
        "nothing",
        "a mapping",
    ],
)
def test_what_is_no_picture_is_refused_in_words(name: str, tmp_path: Path, some_task: ImageTask) -> None:
    given = _broken(tmp_path, name)

    with pytest.raises(UsageError) as refused:
        some_task.encode(given, some_task.options)

    assert refused.value.why
    assert refused.value.fix


def test_a_picture_that_would_fill_the_memory_is_refused(some_task: ImageTask) -> None:
    stream = io.BytesIO()
    Image.new("1", (20_000, 20_000)).save(stream, "PNG")  # 50 kB that unpack to 1.2 GB of colours

    with pytest.raises(UsageError, match="Cannot read the picture"):
        some_task.encode(stream.getvalue(), some_task.options)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"do_pad": True}, "do_pad"),
        ({"do_color_quantize": True}, "do_color_quantize"),
        ({"do_resize": False, "do_center_crop": False}, "any size"),
        ({"do_center_crop": False}, "any size"),
        ({"size": {"max_height": 5, "max_width": 5}}, "max_height"),
        ({"crop_pct": 0.9}, "crop_pct"),
        ({"resample": 9}, "filter"),
    ],
)
def test_a_processor_with_an_unknown_step_is_refused(change: dict[str, Any], said: str) -> None:
    import transformers

    settings = settings_of(transformers.MobileNetV2ImageProcessorPil())

    with pytest.raises(SupportError, match=said):
        image_steps({**settings, **change})


def test_steps_of_a_newer_runtime_are_refused() -> None:
    entry = TaskEntry("image-classification", (Step("rgb"), Step("dewarp")), (Step("softmax"),))

    with pytest.raises(IntegrityError, match="dewarp"):
        task_class("image-classification")(entry, SimpleNamespace(path=Path("here"), read=lambda name: b""))


def test_the_built_in_pictures_are_alike_everywhere_and_small(tmp_path: Path) -> None:
    assert write_pictures(["text-classification"], tmp_path) == []
    names = write_pictures(["image-classification"], tmp_path)

    assert tuple(names) == PICTURES
    assert len(names) >= 64
    assert sum((tmp_path / name).stat().st_size for name in names) < 2**19
    shapes = {Image.open(tmp_path / name).size for name in names}
    assert len(shapes) > 8
    judged = {(tmp_path / name).read_bytes() for name in names}
    assert not judged & {(tmp_path / name).read_bytes() for name in CALIBRATION_PICTURES}
    assert [int(np.asarray(draw(number)).sum()) for number in range(8)] == [
        20421859,
        25383870,
        6426620,
        7536686,
        3802528,
        7355436,
        3818524,
        1511251,
    ]


def test_a_bundle_answers_as_the_pipeline_does(vit: Path, vit_bundle: Path) -> None:
    import transformers

    files = [str(file) for file in photographs()]
    processor = transformers.AutoImageProcessor.from_pretrained(vit, backend="pil")
    pipeline = transformers.pipeline("image-classification", model=str(vit), image_processor=processor)
    expected = pipeline(files)

    with satchel.load(vit_bundle) as model:
        answers = model.predict(files)
        single = model.predict(files[0])
        assert len(model.predict(files[0], top_k=2)) == 2
        assert len(model.predict(files[0], top_k=None)) == len(LABELS)

    assert [[each["label"] for each in answer] for answer in answers] == [[e["label"] for e in a] for a in expected]
    for answer, wanted in zip([single, *answers], [expected[0], *expected], strict=True):
        # float32 in two engines
        assert [each["score"] for each in answer] == pytest.approx([each["score"] for each in wanted], abs=1e-5)


def test_a_static_graph_answers_lists_and_single_pictures_alike(mobilenet_bundle: Path) -> None:
    pictures = [draw(number) for number in range(5)]

    with satchel.load(mobilenet_bundle) as model:
        alone = [model.predict(picture, top_k=None) for picture in pictures]
        assert model.predict(pictures, top_k=None) == alone
        assert len({answer[0]["label"] for answer in alone}) > 1


def test_a_bundle_carries_its_pictures_and_replays_them_alone(mobilenet_bundle: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(mobilenet_bundle, tmp_path / "copy.satchel")
    with satchel.load(copy) as model:
        assert model.manifest.measured.latency_ms.keys() == {"64"}
        items = read_items(model.bundle)
        assert replay(model).passed
    assert len(items) >= 64
    golden = [file for file in (copy / "golden").rglob("*") if file.is_file()]
    assert sum(file.stat().st_size for file in golden) < 2**20
    assert (copy / "preprocessor_config.json").is_file()

    (copy / items[5].input["file"]).write_bytes((copy / items[6].input["file"]).read_bytes())

    with pytest.raises(IntegrityError):
        satchel.load(copy)


def test_the_parity_gate_refuses_ranges_that_a_grey_wall_gave(
    mobilenet: Path, mobilenet_bundle: Path, tmp_path: Path
) -> None:
    Image.new("RGB", (64, 64), "grey").save(tmp_path / "grey.png")
    (tmp_path / "list.txt").write_text(f"{tmp_path / 'grey.png'}\n" * 16)

    with pytest.raises(ParityError):  # ranges of a grey wall cut everything else
        satchel.convert(
            mobilenet,
            device="generic-x86-64",
            format="tflite",
            quantize="int8-static",
            calibration=tmp_path / "list.txt",
            out=tmp_path / "grey.satchel",
        )

    report = json.loads((tmp_path / "grey.report.json").read_text())
    assert report["candidates"][0]["shape"] == "64x64"
    assert not (tmp_path / "grey.satchel").exists()


def test_steps_that_are_not_the_processors_are_refused(vit: Path) -> None:
    from satchel_converters.capture import load_model
    from satchel_converters.reference import _check_pixels
    from satchel_converters.source import find_source
    from satchel_runtimes.golden import GoldenItem

    loaded = load_model(find_source(vit), "image-classification")
    settings = settings_of(loaded.processors.image_processor)
    items = [GoldenItem("image-classification", photographs()[0], {})]
    _check_pixels(loaded, {"image-classification": task_for(settings)}, items)

    for change in ({"resample": 3}, {"image_mean": [0.5, 0.5, 0.501]}, {"size": {"height": 65, "width": 64}}):
        with pytest.raises(ParityError, match="other pixels"):
            _check_pixels(loaded, {"image-classification": task_for({**settings, **change})}, items)


def test_the_commands_take_pictures(vit_bundle: Path, tmp_path: Path) -> None:
    file = photographs()[0]
    (tmp_path / "list.txt").write_text(f"{file}\n{photographs()[1]}\n")

    answers = run("predict", vit_bundle, "--file", tmp_path / "list.txt", "--json", "--option", "top_k=1")
    missing = run("predict", vit_bundle, tmp_path / "nowhere.jpg")
    measured = run("bench", vit_bundle, "--cold-starts", "0", "--seconds", "0.1", "-q")

    assert answers.returncode == 0
    assert [json.loads(line)[0]["label"] in LABELS for line in answers.stdout.splitlines()] == [True, True]
    assert missing.returncode == 2
    assert "nowhere.jpg" in missing.stderr
    assert measured.returncode == 0
    assert "64x64, ms" in measured.stdout
    assert "tokens" not in measured.stdout


@pytest.mark.slow
@pytest.mark.parametrize("format", ["onnx", "tflite", "torchscript"])
@pytest.mark.parametrize("kind", ["vit", "mobilenet_v2", "resnet", "convnext"])
def test_every_family_converts_to_every_format(kind: str, format: str, tmp_path: Path) -> None:
    model = tiny_vision(kind, tmp_path / kind)

    bundle = satchel.convert(
        model, device="generic-x86-64", format=format, quantize="fp32", out=tmp_path / "out.satchel"
    )

    with satchel.load(bundle, trust=True) as loaded:
        assert replay(loaded).passed


def test_importing_the_task_needs_no_pillow() -> None:
    import subprocess

    code = "import sys; import satchel_runtimes.tasks.image_classification; sys.exit('PIL' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_size_of_what_the_steps_make_is_that_of_the_last_of_them() -> None:
    steps = (Step("resize", {"height": 256, "width": 256}), Step("center_crop", {"height": 224, "width": 200}))

    assert image_size(steps) == (224, 200)
