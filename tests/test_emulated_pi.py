"""The thin wheel and the agent on aarch64, by emulation: what an x86 machine computes, a 64-bit Raspberry Pi does too."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from tests.conversions import change_answers
from tests.emulated import Emulated, NotHereError, make_emulated

from satchel.cli import cli
from satchel.convert import convert
from satchel.device_page import markdown_of
from satchel.on_devices import read_runs
from satchel_runtimes import load

pytestmark = [pytest.mark.slow, pytest.mark.pi]

ROOT = Path(__file__).parents[1]
TEXTS = ["Where is my order?", "the small red car went over the old bridge", "☃ naïve café 漢字"]

# Answers, and whether the golden samples are what they were on the machine that built the bundle.
PROGRAM = """
import json, platform, sys
from satchel_runtimes import load
from satchel_runtimes.golden import replay
with load(sys.argv[1], threads=1) as model:
    answers = [each.tolist() for each in model.predict(json.loads(sys.argv[2]))]
    found = replay(model).finding
print(json.dumps({"machine": platform.machine(), "answers": answers, "finding": found}))
"""


@pytest.fixture(scope="module")
def emulated() -> Emulated:
    try:
        return make_emulated()
    except NotHereError as refused:
        pytest.skip(f"no aarch64 can be emulated here: {refused}")


@pytest.fixture
def board(emulated: Emulated, monkeypatch: pytest.MonkeyPatch) -> Emulated:
    """The emulated Python as a board with nothing of satchel's on it."""
    monkeypatch.setenv("SATCHEL_SSH", emulated.client)
    shutil.rmtree(emulated.home / ".cache", ignore_errors=True)
    return emulated


@pytest.fixture(scope="module")
def thin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the thin wheel holds, as pip unpacks it."""
    out = tmp_path_factory.mktemp("thin")
    tree = out / "tree"
    shutil.copytree(ROOT / "runtimes", tree, ignore=shutil.ignore_patterns("web", "__pycache__", "build", "*.egg-info"))
    build = [sys.executable, "-m", "build", "--no-isolation", "--wheel", "--outdir", str(out), str(tree)]
    subprocess.run(build, capture_output=True, check=True)
    (wheel,) = out.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(out / "site")
    return out / "site"


@pytest.fixture(
    scope="module",
    params=[("onnx", "fp32", 1e-5), ("onnx", "int8-dynamic", 1e-2), ("tflite", "fp32", 1e-5)],
    ids=["onnx", "onnx-int8", "tflite"],
)
def made(request: pytest.FixtureRequest, tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, float]:
    """A small bundle, and how far its embeddings, of length 1, may lie from each other on two processors.

    float32 is summed in another order. The quantized activations of dynamic int8 then round to another step now and then,
    which is a 255th of their range.
    """
    form, scheme, allowed = request.param
    out = tmp_path_factory.mktemp("bundles") / f"tiny-{form}-{scheme}.satchel"
    return convert(tiny, device="raspberry-pi-5", format=form, quantize=scheme, prefer="size", out=out), allowed


def test_the_thin_wheel_answers_there_as_it_does_here(emulated: Emulated, thin: Path, made: tuple[Path, float]) -> None:
    bundle, allowed = made
    command = [str(emulated.python), "-c", PROGRAM, str(bundle), json.dumps(TEXTS)]

    done = subprocess.run(
        command, env={**os.environ, "PYTHONPATH": str(thin)}, capture_output=True, text=True, check=False
    )

    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    with load(bundle, threads=1) as model:
        here = np.array(model.predict(TEXTS))
    assert found["machine"] == "aarch64" and found["finding"] == "same"
    assert np.abs(np.array(found["answers"]) - here).max() <= allowed


def test_a_bundle_is_proved_and_measured_there_and_the_run_says_that_it_was_emulated(
    board: Emulated, made: tuple[Path, float], tmp_path: Path
) -> None:
    bundle, _ = made
    out = tmp_path / "runs.json"
    options = ["--lengths", "16", "--seconds", "0.1", "--runs", "3", "--cold-starts", "1", "--threads", "1"]

    found = CliRunner().invoke(cli, ["bench", str(bundle), "--on", board.target, *options, "-o", str(out)])

    assert found.exit_code == 0, found.output
    (result,) = read_runs(out)
    assert result["replay"]["finding"] == "same"
    assert result["run"]["machine"]["machine"] == "aarch64"
    assert result["run"]["machine"]["emulated"] == "qemu-aarch64"
    assert f"{board.target} (emulated)" in markdown_of([result]) and "fastest" not in markdown_of([result])


def test_inputs_are_answered_there(board: Emulated, made: tuple[Path, float]) -> None:
    bundle, allowed = made

    found = CliRunner().invoke(cli, ["run", str(bundle), TEXTS[0], "--on", board.target, "--json"])

    assert found.exit_code == 0, found.output
    with load(bundle) as model:
        assert np.abs(np.array(json.loads(found.stdout)) - model.predict(TEXTS[0])).max() <= allowed


def test_a_bundle_with_other_answers_is_refused_there(
    board: Emulated, made: tuple[Path, float], tmp_path: Path
) -> None:
    wrong = tmp_path / "wrong.satchel"
    shutil.copytree(made[0], wrong)
    change_answers(wrong, "artifact")

    found = CliRunner().invoke(cli, ["bench", str(wrong), "--on", board.target])

    assert found.exit_code == 10 and "computes something else" in found.stderr
