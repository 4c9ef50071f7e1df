"""Text from Neuron by contract, not on hardware: caches in device memory, graphs of fixed sizes, one copy of the weights in the bundle.

The fakes keep a device's rule: outputs stay on it where all inputs lie there, and a tensor on it can only be moved or given to a graph.
"""

from __future__ import annotations

import importlib
import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from benchmarks.matrix.row import Row
from benchmarks.matrix.rows.generators import ROWS as GENERATORS
from benchmarks.matrix.rows.hearing import ROWS as HEARING
from benchmarks.matrix.rows.writers import ROWS
from click.testing import CliRunner
from tests.conversions import run
from tests.language_models import WORDS, Checkpoint
from tests.neuron_machine import FAKES

import satchel
from satchel.cli import cli
from satchel_converters.format import format_of
from satchel_device_profiles import load_profile
from satchel_runtimes import Predictor, load
from satchel_runtimes.bundle import sha256_of
from satchel_runtimes.errors import IntegrityError, SupportError, UsageError
from satchel_runtimes.golden import replay

# Shorter than a piece of a prompt, of a piece and a rest, and of more than the first cache holds.
LENGTHS = (1, 40, 150)


class Kept(Checkpoint):
    """A checkpoint and its bundle."""

    def __init__(self, folder: Path) -> None:
        super().__init__("llama", folder, max_position_embeddings=256)
        self.bundle = satchel.convert(folder, device="inf2", out=folder.with_suffix(".satchel"))

    def ids(self, tokens: int) -> np.ndarray:
        return np.array([self.reader(WORDS * 8)["input_ids"][:tokens]])


@pytest.fixture(scope="module")
def kept(fakes: Path, tmp_path_factory: pytest.TempPathFactory) -> Kept:
    # Two sizes of the cache: 128 tokens, and all that it can hold.
    return Kept(tmp_path_factory.mktemp("neuron-text") / "llama")


@pytest.fixture(scope="module")
def opened(kept: Kept) -> Iterator[Predictor]:
    with load(kept.bundle, trust=True) as predictor:
        yield predictor


@pytest.fixture(scope="module")
def spread(kept: Kept) -> Iterator[Predictor]:
    """On both devices of the machine, two cores of each."""
    with load(kept.bundle, trust=True, cores="0-3") as predictor:
        yield predictor


def given(ids: np.ndarray, first: int = 0) -> dict[str, np.ndarray]:
    positions = first + np.arange(ids.shape[1])[None].repeat(len(ids), 0)
    return {"input_ids": ids, "position_ids": positions, "logits_positions": np.full((len(ids), 1), ids.shape[1] - 1)}


def _brought_back(script: Any) -> Any:
    """A graph whose outputs come back to the host."""
    return lambda *tensors: [each.cpu() for each in script(*tensors)]


class TestTexts:
    @pytest.mark.parametrize("tokens", LENGTHS)
    def test_of_prompts_in_pieces_are_those_of_transformers(self, kept: Kept, opened: Predictor, tokens: int) -> None:
        text = kept.text_of(tokens)

        (found,) = opened.predict(text, max_new_tokens=10)

        assert found["generated_text"] == kept.expected(text, max_new_tokens=10)

    @pytest.mark.parametrize(
        "options",
        [
            {"num_beams": 3, "max_new_tokens": 12},  # caches go on from one another
            {"prompt_lookup_num_tokens": 3, "max_new_tokens": 12},  # guesses are forgotten
        ],
        ids=str,
    )
    def test_of_every_strategy_are_those_of_transformers(
        self, kept: Kept, opened: Predictor, spread: Predictor, options: Mapping[str, Any]
    ) -> None:
        expected = kept.expected(WORDS, **options)

        assert [each.predict(WORDS, **options)[0]["generated_text"] for each in (opened, spread)] == [expected] * 2

    def test_side_by_side_on_several_cores_are_those_alone(
        self, kept: Kept, opened: Predictor, spread: Predictor
    ) -> None:
        texts = [kept.text_of(each) for each in (3, 9, 33, 130, 7)]

        together = spread.predict(texts, max_new_tokens=6)

        assert together == [opened.predict(text, max_new_tokens=6) for text in texts]
        assert spread.graphs["model"].used["cores"] == "0,1,2,3"

    def test_longer_than_the_largest_cache_are_refused(self, opened: Predictor) -> None:
        with pytest.raises(UsageError, match="can hold 256 in all"):
            opened.predict(WORDS * 40)

    def test_of_a_conversation_are_those_of_predict(self, kept: Kept, opened: Predictor) -> None:
        chat = ["chat", str(kept.bundle), "--trust", "--cores", "1", "--max-new-tokens", "6"]

        found = CliRunner().invoke(cli, chat, input="Where is my order?\n")

        asked = [{"role": "user", "content": "Where is my order?"}]
        (answer,) = opened.predict(asked, max_new_tokens=6)
        assert found.exit_code == 0, found.output
        assert found.stdout.strip() == answer["generated_text"][-1]["content"].strip()


class TestCache:
    def test_never_leaves_the_device(self, kept: Kept, opened: Predictor) -> None:
        session: Any = opened.graphs["model"]
        state = session.new_state(2, 40)

        session.run(given(np.repeat(kept.ids(40), 2, 0)), state)

        held = [each for row in state.rows for each in row.past.values()]
        assert {str(each.device) for each in held} == {"neuron:0"}
        assert all(list(each.shape) == [1, 2, 128, 8] for each in held)
        with pytest.raises(RuntimeError, match="no lowering for neuron"):
            held[0] + 1

    def test_grows_from_one_capacity_to_the_next(self, kept: Kept, opened: Predictor) -> None:
        session: Any = opened.graphs["model"]
        ids = kept.ids(150)
        whole = session.run(given(ids), session.new_state(1, 150))["logits"]

        state = session.new_state(1, 10)
        for first, end in ((0, 100), (100, 140), (140, 150)):  # 128 lie between
            state.hold(end)
            found = session.run(given(ids[:, first:end], first), state)["logits"]

        assert state.capacity == 256
        # Sums over a cache of another size: float32 rounding.
        np.testing.assert_allclose(found, whole, atol=1e-4 * np.abs(whole).max())

    def test_of_one_text_is_another_than_that_of_its_copy(self, opened: Predictor) -> None:
        session: Any = opened.graphs["model"]
        state = session.new_state(2, 20)
        session.run(given(np.array([[5], [7]])), state)

        state.select(np.array([1, 1, 0]), 1)
        different = session.run(given(np.array([[9], [11], [9]]), 1), state)["logits"][:, 0]
        again = session.run(given(np.array([[4], [4], [4]]), 2), state)["logits"][:, 0]

        assert np.abs(different[0] - different[2]).max() > 1e-3
        assert np.abs(again[0] - again[1]).max() > 1e-3  # what was written of one is not in the other

    def test_holds_no_more_than_it_was_asked_to(self, opened: Predictor) -> None:
        session: Any = opened.graphs["model"]

        with pytest.raises(UsageError, match="holds 128 tokens of 1 text"):
            session.run(given(np.zeros((1, 1), np.int64), 128), session.new_state(1, 4))
        with pytest.raises(UsageError, match="at most 256 in all"):
            session.new_state(1, 4).hold(257)

    def test_that_comes_back_to_the_host_is_an_error(self, opened: Predictor, monkeypatch: pytest.MonkeyPatch) -> None:
        session: Any = opened.graphs["model"]
        state = session.new_state(1, 4)
        loaded = session._copies[0][1]
        astray = {file: _brought_back(each) for file, each in loaded.items()}
        monkeypatch.setattr(session, "_copies", [("neuron:0", astray)])

        with pytest.raises(SupportError, match="gave past_key_0 back on cpu"):
            session.run(given(np.zeros((1, 1), np.int64)), state)

    def test_of_a_closed_session_says_so(self, kept: Kept) -> None:
        predictor = load(kept.bundle, trust=True)
        session: Any = predictor.graphs["model"]
        predictor.close()
        predictor.close()

        with pytest.raises(UsageError, match="closed"):
            session.new_state(1, 4)


class TestGraphs:
    def test_take_one_shape_and_the_cache_of_that_shape_alone(self, opened: Predictor) -> None:
        """Else the tests above would prove nothing of pieces and capacities."""
        session: Any = opened.graphs["model"]
        (graph,) = [each for each in session._graphs if (each.bind["capacity"], each.bind["sequence"]) == (128, 32)]
        script = session._copies[0][1][graph.file]
        shapes = {spec.name: [graph.bind.get(str(axis), axis) for axis in spec.shape] for spec in graph.inputs}
        right = [torch.zeros(shapes[spec.name], dtype=getattr(torch, spec.dtype)) for spec in graph.inputs]
        assert script(*right)[0].shape[:2] == (1, 1)

        for wrong in (
            [right[0][:, :31], *right[1:]],
            [right[0].int(), *right[1:]],
            [*right[:-1], right[-1][:, :, :64]],  # a cache of another capacity
            [*right[:-1], right[-1].double()],
        ):
            with pytest.raises(torch.jit.Error, match="the graph was compiled for"):
                script(*wrong)
        with pytest.raises(torch.jit.Error, match="another core"):
            script(*[each.to("neuron:1") for each in right])

    def test_have_one_copy_of_their_weights(self, kept: Kept) -> None:
        manifest = json.loads((kept.bundle / "bundle.json").read_text())
        config = json.loads((kept.bundle / "config.json").read_text())["neuron"]

        shapes = {(each["bind"]["capacity"], each["bind"]["sequence"]) for each in manifest["graphs"]}
        assert shapes == {(128, 1), (128, 32), (256, 1), (256, 32)}
        assert {each["weights"] for each in manifest["graphs"]} == {"model/weights.zip"}
        assert config["inline_weights_to_neff"] is config["dynamic_batch_size"] is False
        parameters = sum(each.numel() for each in kept.model.parameters())
        weights = (kept.bundle / "model/weights.zip").stat().st_size
        assert (
            3.5 * parameters < weights < 7 * parameters
        )  # four bytes each; the code that all graphs have is beside them

    def test_whose_weights_are_others_are_refused(self, kept: Kept, tmp_path: Path) -> None:
        copy = Path(shutil.copytree(kept.bundle, tmp_path / "copy.satchel"))
        with zipfile.ZipFile(copy / "model/weights.zip", "w") as empty:
            empty.writestr("nothing", b"")
        manifest = json.loads((copy / "bundle.json").read_text())
        file = copy / "model/weights.zip"
        with file.open("rb") as read:
            manifest["files"]["model/weights.zip"] = {"bytes": file.stat().st_size, "sha256": sha256_of(read)}
        (copy / "bundle.json").write_text(json.dumps(manifest))

        with pytest.raises(IntegrityError, match="weights do not fit the graph"):
            load(copy, trust=True)

    def test_of_a_fake_compiler_run_nowhere_else(self, kept: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(importlib.import_module("torch_neuronx"), "SATCHEL_FAKE", False)

        with pytest.raises(IntegrityError, match="a fake compiler made it"):
            load(kept.bundle, trust=True)

    def test_are_refused_where_one_answers_wrongly(
        self, kept: Kept, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.setenv("FAKE_NEURON_WRONG", "32")  # that of a prompt's piece

        with pytest.raises(SupportError, match="the graph for 32 tokens is wrong by"):
            satchel.convert(kept.folder, device="inf2", quantize="fp32", out=tmp_path / "out", cache=False)


# What is not there


@pytest.mark.parametrize("scheme", ["bf16-matmult", "bf16"])
def test_inf1_refuses_what_writes_before_the_work(scheme: str) -> None:
    neuron = format_of("neuron")

    with pytest.raises(SupportError, match="keeps no tensors on the device") as caught:
        neuron.plan(neuron.scheme(scheme), load_profile("inf1"), {"generates": "yes"})
    assert caught.value.exit_code == 14 and "inf2" in caught.value.fix


def test_without_the_sdk_the_kit_is_named(no_sdk: None, kept: Kept, tmp_path: Path) -> None:
    done = run("convert", kept.folder, "--device", "inf2", "-o", tmp_path / "out.satchel")

    assert done.returncode == 15 and "--kit" in done.stderr
    assert not (tmp_path / "out.satchel").exists()


# Kits


@pytest.fixture(scope="module")
def kit(kept: Kept) -> Path:
    """As the command makes it in a process that finds no SDK."""
    out = kept.folder.with_suffix(".kit")
    done = run("convert", kept.folder, "--device", "inf2", "--kit", "-o", out)
    assert done.returncode == 0, done.stderr
    return out


def finish(kit: Path, *arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """In a process that finds the fakes and nothing of satchel's tests."""
    done = subprocess.run(
        [sys.executable, str(kit / "finish.py"), *map(str, arguments)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(FAKES), **environment},
        timeout=600,
        check=False,
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done


def test_a_finished_kit_writes_the_same_texts(kept: Kept, kit: Path, tmp_path: Path) -> None:
    done = finish(kit, "--out", tmp_path / "text.satchel")

    assert done.returncode == 0, done.stderr
    manifest = json.loads((tmp_path / "text.satchel" / "bundle.json").read_text())
    assert {each["weights"] for each in manifest["graphs"]} == {"model/weights.zip"}
    with load(tmp_path / "text.satchel", trust=True) as predictor:
        (found,) = predictor.predict(WORDS, max_new_tokens=10)
        assert found["generated_text"] == kept.expected(WORDS, max_new_tokens=10)
        assert replay(predictor).passed


def test_a_kit_says_each_call_of_each_golden_row(kit: Path) -> None:
    about = json.loads((kit / "kit.json").read_text())

    shapes = [(each["bind"]["capacity"], each["bind"]["sequence"]) for each in about["graphs"]]
    assert shapes == [(128, 1), (128, 32), (256, 1), (256, 32)]
    longest = max(about["rows"]["about"], key=lambda each: each["length"])
    assert longest["length"] > 40  # more than a piece, and the last eight tokens one by one
    used = [shapes[each["graph"]] for each in longest["calls"]]
    assert used[-8:] == [used[-1]] * 8 and used[-1][1] == 1 and used[0][1] == 32
    assert [each["answers"] for each in longest["calls"]][-9:] == [True] * 9


def test_a_kit_whose_step_is_wrong_is_refused(kit: Path, tmp_path: Path) -> None:
    done = finish(kit, "--out", tmp_path / "text.satchel", FAKE_NEURON_WRONG="1")

    assert done.returncode == 10 and "relative_error" in done.stderr
    assert not (tmp_path / "text.satchel").exists()


def test_a_kit_whose_cache_leaves_the_device_is_refused(kit: Path, tmp_path: Path) -> None:
    done = finish(kit, "--out", tmp_path / "text.satchel", FAKE_NEURON_HOST="1")

    assert done.returncode == 15 and "came back to the host" in done.stderr


# Architectures


BY_NAME = {each.architecture: each for each in (*ROWS, *GENERATORS, *HEARING)}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gpt2", "t5", "bart", "whisper"])
def test_an_architecture_writes_the_same_from_a_conversion_and_from_a_kit(
    fakes: Path, name: str, tmp_path: Path
) -> None:
    row: Row = BY_NAME[name]
    row.write(tmp_path / "model")
    assert row.oracle is not None
    expected = row.oracle(tmp_path / "model", row.inputs, row.options)[: len(row.inputs)]
    given: Mapping[str, Any] = {"device": "inf2", "task": row.task, "quantize": "fp32"}

    made = satchel.convert(tmp_path / "model", out=tmp_path / "made.satchel", **given)
    kit = satchel.convert(tmp_path / "model", out=tmp_path / "a.kit", kit=True, **given)
    done = finish(kit, "--out", tmp_path / "finished.satchel")

    assert done.returncode == 0, done.stderr
    for bundle in (made, tmp_path / "finished.satchel"):
        with load(bundle, trust=True) as predictor:
            assert [predictor.predict(each, **row.options) for each in row.inputs] == expected
            assert replay(predictor).passed
