"""What only TFLite has: int8 graphs with calibrated ranges, int8 ends, and delegates."""

from __future__ import annotations

import json
import runpy
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import satchel
from satchel_converters import tflite
from satchel_converters.capture.efficientnet import simplify
from satchel_converters.component import Component, Input, Output
from satchel_converters.format import Artifact, Plan
from satchel_device_profiles import load_profile
from satchel_runtimes import load
from satchel_runtimes.bundle import Bundle
from satchel_runtimes.errors import ParityError, SupportError, UsageError
from satchel_runtimes.manifest import Golden, Manifest, Measured, Source, Target
from satchel_runtimes.sessions import Session, SessionOptions, open_session

ROOT = Path(__file__).parents[1]
DEVICE = "generic-x86-64"


def plan_of(scheme: str, io: str = "float32") -> Plan:
    return tflite.plan(tflite.SCHEMES[scheme], load_profile(DEVICE), {"io": io})


def component_of(function: Callable[[Any], Any]) -> Component:
    """A graph from one row of six numbers to as many."""
    import torch

    class Model(torch.nn.Module):
        def forward(self, values: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"result": function(values)}

    ends = Input("values", "float32", (1, 6)), Output("result", "float32", (1, 6))
    return Component("model", Model().eval(), ends[:1], ends[1:], {"values": torch.arange(6.0)[None]})


def test_an_identity_matrix_becomes_something_that_the_engine_has(tmp_path: Path) -> None:
    import torch

    component = component_of(lambda values: values @ (torch.eye(6) - 0.5 * torch.eye(6, 6)))

    assert tflite.export([component], plan_of("fp32"), tmp_path).files == ("model.tflite",)


def test_an_operator_that_no_runtime_has_is_refused_where_it_was_written(tmp_path: Path) -> None:
    import torch

    def product(values: torch.Tensor) -> torch.Tensor:
        places = torch.arange(6, dtype=torch.uint8)
        return values @ (places[:, None] == places).float()

    with pytest.raises(SupportError, match="IOTA") as refused:
        tflite.export([component_of(product)], plan_of("fp32"), tmp_path)

    assert refused.value.exit_code == 14


# A convnet: EfficientNet-Lite0 with its ImageNet weights, on photographs


@pytest.fixture(scope="module")
def pictures() -> list[np.ndarray]:
    """Five views of each of four photographs, as the checkpoint wants them."""
    from PIL import Image

    made = []
    for file in runpy.run_path(str(ROOT / "examples" / "real_models.py"))["photographs"]():
        with Image.open(file) as opened:
            whole = opened.convert("RGB")
        width, height = whole.size
        for left, top, right, bottom in (
            (0, 0, 1, 1),
            (0.1, 0.1, 0.9, 0.9),
            (0, 0, 0.7, 0.7),
            (0.3, 0.3, 1, 1),
            (0.2, 0, 1, 0.8),
        ):
            part = whole.crop((int(left * width), int(top * height), int(right * width), int(bottom * height)))
            values = np.asarray(part.resize((224, 224), Image.Resampling.BICUBIC), np.float32)
            made.append(((values - 127) / 128).transpose(2, 0, 1)[None].copy())
    return made


@pytest.fixture(scope="module")
def convnet(pictures: list[np.ndarray]) -> Component:
    import torch
    from transformers import EfficientNetForImageClassification

    folder = runpy.run_path(str(ROOT / "examples" / "real_models.py"))["efficientnet"]()
    model = simplify(EfficientNetForImageClassification.from_pretrained(folder).eval())

    class Logits(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, pixel_values: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"logits": self.model(pixel_values=pixel_values).logits}

    return Component(
        "model",
        Logits().eval(),
        (Input("pixel_values", "float32", (1, 3, 224, 224)),),
        (Output("logits", "float32", (1, 1000)),),
        {"pixel_values": torch.from_numpy(pictures[0])},
    )


@pytest.fixture(scope="module")
def float_graph(convnet: Component, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return tflite.export([convnet], plan_of("fp32"), tmp_path_factory.mktemp("convnet"))


def session_of(artifact: Artifact, plan: Plan) -> Session:
    files = Golden("a", "b", "c")
    manifest = Manifest(
        "convnet",
        Source("convnet", None, None, "efficientnet", "", 0),
        Target(DEVICE, "tflite", plan.scheme.name, plan.engine),
        (),
        artifact.graphs,
        files,
        Measured(0, ""),
        {},
        {name: None for name in artifact.files},  # type: ignore[misc]  # digests are of no interest here
    )
    return open_session(Bundle(artifact.folder, manifest, remembered=False), artifact.graphs, SessionOptions(threads=1))


@pytest.mark.parametrize("io", ["float32", pytest.param("int8", marks=pytest.mark.slow)])
def test_a_convnet_in_static_int8_keeps_its_answers(
    io: str, convnet: Component, float_graph: Artifact, pictures: list[np.ndarray], tmp_path: Path
) -> None:
    import torch

    def calibration(component: str) -> Iterator[Mapping[str, np.ndarray]]:
        assert component == "model"
        yield from ({"pixel_values": picture} for picture in pictures[::2])

    plan = plan_of("int8-static", io)
    artifact = tflite.apply(float_graph, plan, tmp_path, calibration)
    session = session_of(artifact, plan)

    with torch.inference_mode():
        expected = [convnet.module(torch.from_numpy(each))["logits"].numpy()[0] for each in pictures]
    found = [session.run({"pixel_values": each})["logits"][0] for each in pictures]

    assert all(each.dtype == np.float32 for each in found)
    cosines = [float(a @ b / np.linalg.norm(a) / np.linalg.norm(b)) for a, b in zip(expected, found, strict=True)]
    # The limits of the int8 class; measured 0.995 and 0.989.
    assert np.mean(cosines) > 0.985 and np.quantile(cosines, 0.05) > 0.975
    same = [a.argmax() == b.argmax() for a, b in zip(expected, found, strict=True)]
    assert np.mean(same) >= 0.9
    assert (tmp_path / "model.tflite").stat().st_size < 0.35 * (float_graph.folder / "model.tflite").stat().st_size


def test_a_convnet_gets_the_static_scheme_where_a_transformer_gets_the_dynamic_one(minilm: Path) -> None:
    from satchel_converters.source import find_source

    folder = runpy.run_path(str(ROOT / "examples" / "real_models.py"))["efficientnet"]()
    profile = load_profile(DEVICE)

    assert find_source(folder).convolutional
    assert not find_source(minilm).convolutional
    assert tflite.FORMAT.preferred(profile.schemes, True) == ("int8-static", "int8-weights", "fp32")
    assert tflite.FORMAT.preferred(profile.schemes, False) == profile.schemes


# Samples


def test_ranges_come_from_the_users_inputs(tiny: Path, tmp_path: Path) -> None:
    texts = tmp_path / "texts.txt"
    texts.write_text("the small red car\nwhere is my order?\n" * 4, "utf-8")
    graphs = {}
    for name, own in (("own", texts), ("built-in", None)):
        out = tmp_path / f"{name}.satchel"
        # A graph of 32 dimensions passes or not; what is looked at is the file.
        try:
            satchel.convert(
                tiny,
                device=DEVICE,
                format="tflite",
                quantize="int8-static",
                calibration=own,
                out=out,
                keep_failed=True,
                prefer="size",
            )
        except ParityError:
            pass
        graphs[name] = (out / "model.tflite").read_bytes()

    assert graphs["own"] != graphs["built-in"]


def test_a_calibration_without_a_single_input_is_refused(tiny: Path, tmp_path: Path) -> None:
    nothing = tmp_path / "nothing.txt"
    nothing.write_text("")

    with pytest.raises(UsageError, match="no samples"):
        satchel.convert(
            tiny,
            device=DEVICE,
            format="tflite",
            quantize="int8-static",
            calibration=nothing,
            out=tmp_path / "m.satchel",
        )


@pytest.mark.parametrize("format", ["tflite", "onnx"])
def test_int8_ends_need_int8_activations(format: str, tiny: Path, tmp_path: Path) -> None:
    with pytest.raises(SupportError, match="inputs and outputs"):
        satchel.convert(
            tiny, device=DEVICE, format=format, quantize="int8-dynamic", io_dtype="int8", out=tmp_path / "m.satchel"
        )


# Delegates


@pytest.fixture(scope="module")
def float_bundle(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("delegates") / "tiny.satchel"
    return satchel.convert(tiny, device=DEVICE, format="tflite", quantize="fp32", out=out)


@pytest.mark.parametrize(("asked", "runs"), [(None, "xnnpack"), ("xnnpack", "xnnpack"), ("none", None)])
def test_a_session_says_which_delegate_really_runs(asked: str | None, runs: str | None, float_bundle: Path) -> None:
    with load(float_bundle, delegate=asked, threads=2) as predictor:
        used = predictor.graphs["model"].used
        answer = predictor.predict("the small red car")

    assert used["delegate"] == runs
    assert used["threads"] == 2
    assert str(used["engine"]).startswith("ai-edge-litert 2.")
    with load(float_bundle) as plain:
        np.testing.assert_allclose(answer, plain.predict("the small red car"), atol=1e-5)


def test_a_delegate_that_is_not_there_is_refused_with_what_there_is(float_bundle: Path) -> None:
    with pytest.raises(UsageError, match="xnnpack, none") as caught:
        load(float_bundle, delegate="libedgetpu.so.99,device=usb")

    assert "libedgetpu.so.99" in str(caught.value)


DELEGATE = """
#include <stdint.h>
#include <stdlib.h>
/* As TfLiteDelegate in LiteRT's common.h; Prepare claims no operator. */
typedef struct delegate {
  void *data;
  int (*prepare)(void *, struct delegate *);
  void *copy_from, *copy_to, *free_buffer;
  int64_t flags;
  void *builder;
} delegate;
static int prepare(void *context, delegate *self) { return 0; }
delegate *tflite_plugin_create_delegate(char **keys, char **values, size_t n, void (*report)(const char *)) {
  delegate *made = calloc(1, sizeof(delegate));
  made->prepare = prepare;
  return made;
}
void tflite_plugin_destroy_delegate(delegate *self) { free(self); }
"""


def compiled(tmp_path: Path, code: str) -> Path:
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("there is no C compiler on this machine")
    (tmp_path / "delegate.c").write_text(code)
    library = tmp_path / "libdelegate.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", str(library), str(tmp_path / "delegate.c")], check=True)
    return library


def test_a_delegate_that_takes_nothing_is_no_silent_fallback(float_bundle: Path, tmp_path: Path) -> None:
    library = compiled(tmp_path, DELEGATE)

    with pytest.raises(SupportError, match="takes none"):
        load(float_bundle, delegate=str(library))


def test_a_library_that_makes_no_delegate_is_refused(float_bundle: Path, tmp_path: Path) -> None:
    library = compiled(tmp_path, "int nothing(void) { return 0; }")

    with pytest.raises(UsageError, match="Cannot use the delegate"):
        load(float_bundle, delegate=str(library))


def test_other_engines_have_no_delegates(minilm_bundle: Path) -> None:
    with pytest.raises(UsageError, match="no delegates"):
        load(minilm_bundle, delegate="xnnpack")


def manifest_of(bundle: Path) -> Any:  # Any: JSON
    return json.loads((bundle / "bundle.json").read_text())
