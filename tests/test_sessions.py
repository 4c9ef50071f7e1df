"""One contract for every engine: a new format joins `FORMATS` and inherits the tests."""

from __future__ import annotations

import json
import threading
import zipfile
from pathlib import Path

import numpy as np
import pytest
from tests.conversions import one_layer

import satchel
from satchel_converters.format import format_of, list_formats
from satchel_device_profiles import load_profile
from satchel_runtimes import load
from satchel_runtimes.bundle import sha256_of
from satchel_runtimes.errors import IntegrityError, SupportError, ToolchainError, UsageError

DEVICE = "generic-x86-64"
FORMATS = [name for name in list_formats() if name in load_profile(DEVICE).formats]


@pytest.fixture(scope="session")
def float_bundles(minilm: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """MiniLM's first layer in float32 in every format: a contract is about shapes, and six layers take three times as long."""
    out = tmp_path_factory.mktemp("formats")
    model = one_layer(minilm, out / "minilm")
    return {
        name: satchel.convert(model, device=DEVICE, format=name, quantize="fp32", out=out / f"{name}.satchel")
        for name in FORMATS
    }


@pytest.fixture(params=FORMATS)
def loaded(request: pytest.FixtureRequest, float_bundles: dict[str, Path]) -> satchel.Predictor:
    with load(float_bundles[request.param], threads=1, trust=True) as predictor:
        yield predictor


def rows(lengths: list[int], pad_to: int | None = None) -> dict[str, np.ndarray]:
    longest = pad_to or max(lengths)
    ids, mask = np.zeros((len(lengths), longest), np.int64), np.zeros((len(lengths), longest), np.int64)
    for place, length in enumerate(lengths):
        ids[place, :length] = (np.arange(length) * 37 + 1000 + place) % 20000
        mask[place, :length] = 1
    return {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}


@pytest.mark.parametrize("length", [1, 5, 16, 17, 63, 128])
def test_every_engine_gives_the_answers_of_the_others(float_bundles: dict[str, Path], length: int) -> None:
    answers = {}
    for name, bundle in float_bundles.items():
        with load(bundle, threads=1, trust=True) as predictor:
            answers[name] = predictor.graphs["model"].run(rows([length]))["last_hidden_state"]

    expected = answers.pop("onnx")
    for name, actual in answers.items():
        assert actual.shape == expected.shape == (1, length, 384), name
        # Two float32 engines differ by the order of their sums: 1e-6 of the largest value seen.
        np.testing.assert_allclose(actual, expected, atol=1e-5 * np.abs(expected).max(), err_msg=name)


def test_a_batch_gives_what_its_rows_give_alone(loaded: satchel.Predictor) -> None:
    session = loaded.graphs["model"]
    lengths = [3, 30, 17]

    together = session.run(rows(lengths))["last_hidden_state"]

    for place, length in enumerate(lengths):
        alone = session.run({name: value[place : place + 1, :length] for name, value in rows(lengths).items()})
        np.testing.assert_allclose(together[place, :length], alone["last_hidden_state"][0], atol=1e-4)


def test_results_belong_to_the_caller(loaded: satchel.Predictor) -> None:
    session = loaded.graphs["model"]
    first = session.run(rows([12]))["last_hidden_state"]
    kept = first.copy()

    session.run(rows([12], pad_to=12) | {"token_type_ids": np.ones((1, 12), np.int64)})

    np.testing.assert_array_equal(first, kept)


def test_threads_do_not_disturb_each_other(loaded: satchel.Predictor) -> None:
    texts = [f"sentence number {n} {'and more ' * n}" for n in range(8)]
    expected = [loaded.predict(text) for text in texts]
    found: dict[int, np.ndarray] = {}

    def work(place: int) -> None:
        for _ in range(5):
            found[place] = loaded.predict(texts[place])

    threads = [threading.Thread(target=work, args=(place,)) for place in range(len(texts))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    for place, answer in enumerate(expected):
        np.testing.assert_allclose(found[place], answer, atol=1e-6)


def test_a_closed_session_says_so(float_bundles: dict[str, Path]) -> None:
    for bundle in float_bundles.values():
        predictor = load(bundle, trust=True)
        session = predictor.graphs["model"]
        predictor.close()

        with pytest.raises(UsageError, match="closed"):
            session.run(rows([4]))


def test_a_zip_serves_as_the_folder_does(loaded: satchel.Predictor, tmp_path: Path) -> None:
    folder = loaded.bundle.path
    packed = tmp_path / "bundle.zip"
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_STORED) as archive:
        for file in folder.rglob("*"):
            if file.is_file():
                archive.write(file, file.relative_to(folder).as_posix())

    with load(packed, threads=1, trust=True) as zipped:
        np.testing.assert_allclose(zipped.predict("the same"), loaded.predict("the same"), atol=1e-6)


@pytest.mark.parametrize("name", FORMATS)
def test_a_file_that_is_not_of_its_format_is_refused_before_the_engine_sees_it(
    name: str, float_bundles: dict[str, Path], tmp_path: Path
) -> None:
    import shutil

    bundle = Path(shutil.copytree(float_bundles[name], tmp_path / "bundle"))
    manifest = json.loads((bundle / "bundle.json").read_text())
    file = manifest["graphs"][0]["file"]
    (bundle / file).write_bytes(b"\xff" * 4096)
    with (bundle / file).open("rb") as opened:
        manifest["files"][file] = {"bytes": 4096, "sha256": sha256_of(opened)}
    (bundle / "bundle.json").write_text(json.dumps(manifest))

    with pytest.raises(IntegrityError) as caught:
        load(bundle, trust=True)
    assert file in str(caught.value)


@pytest.mark.parametrize("name", FORMATS)
def test_an_engine_that_is_too_old_is_refused_with_the_install_command(
    name: str, float_bundles: dict[str, Path], tmp_path: Path
) -> None:
    import shutil

    bundle = Path(shutil.copytree(float_bundles[name], tmp_path / "bundle"))
    manifest = json.loads((bundle / "bundle.json").read_text())
    manifest["target"]["engine"]["version"] = ">=99.0"
    (bundle / "bundle.json").write_text(json.dumps(manifest))

    with pytest.raises(ToolchainError, match="pip install") as caught:
        load(bundle, trust=True)
    assert "99.0" in str(caught.value)


@pytest.mark.parametrize("name", FORMATS)
def test_a_bundle_names_the_toolchain_of_its_own_format(name: str, float_bundles: dict[str, Path]) -> None:
    manifest = json.loads((float_bundles[name] / "bundle.json").read_text())

    assert set(format_of(name).packages) <= set(manifest["toolchain"])


def test_lengths_of_a_static_format_share_their_weights(float_bundles: dict[str, Path]) -> None:
    bundle = float_bundles["tflite"]
    manifest = json.loads((bundle / "bundle.json").read_text())

    assert [graph["bind"]["sequence"] for graph in manifest["graphs"]] == [16, 32, 64, 128]
    assert {graph["file"] for graph in manifest["graphs"]} == {"model.tflite"}
    weights = manifest["source"]["parameters"] * 4
    assert (bundle / "model.tflite").stat().st_size < 1.05 * weights


def test_a_length_beyond_every_bucket_is_refused_by_the_session_and_cut_by_the_task(
    float_bundles: dict[str, Path],
) -> None:
    with load(float_bundles["tflite"], threads=1, trust=True) as predictor:
        with pytest.raises(UsageError, match="sequence 128"):
            predictor.graphs["model"].run(rows([129]))

        long = predictor.predict("word " * 500, task="feature-extraction")

    assert long.shape == (1, 128, 384)


def test_the_old_runtime_gets_no_scheme_that_it_computes_wrongly() -> None:
    import dataclasses

    profile = load_profile(DEVICE)
    old = dataclasses.replace(profile.engines[0], name="tflite-runtime", version=">=2.11")
    device = dataclasses.replace(profile, engines=(old,))
    tflite = format_of("tflite")

    with pytest.raises(SupportError, match="computes it wrongly"):
        tflite.plan(tflite.scheme("int8-dynamic"), device, {})
    assert tflite.plan(tflite.scheme("int8-weights"), device, {}).engine.name == "tflite-runtime"


@pytest.mark.parametrize(
    "scheme",
    [
        pytest.param("fp16", marks=pytest.mark.slow),
        "int8-dynamic",
        pytest.param("int8-weights", marks=pytest.mark.slow),
    ],
)
def test_every_tflite_scheme_of_minilm_passes_its_gates(minilm: Path, tmp_path: Path, scheme: str) -> None:
    bundle = satchel.convert(
        minilm, device=DEVICE, format="tflite", quantize=scheme, prefer="size", out=tmp_path / "minilm.satchel"
    )

    manifest = json.loads((bundle / "bundle.json").read_text())
    assert manifest["target"]["scheme"] == scheme
    assert manifest["measured"]["verdicts"]["parity"] == "passed"


def test_int4_of_minilm_is_refused_by_parity_and_leaves_nothing(minilm: Path, tmp_path: Path) -> None:
    # Measured: cosine 0.9 at the fifth percentile, where the class asks for 0.91. The gate is right to say no.
    with pytest.raises(satchel.SatchelError) as caught:
        satchel.convert(minilm, device=DEVICE, format="tflite", quantize="int4-weights", out=tmp_path / "m.satchel")

    assert caught.value.exit_code == 10
    assert not (tmp_path / "m.satchel").exists()
