"""A recipe is every option of a conversion in one file, and the one that a conversion writes makes its bundle again."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.conversions import append_node, damage, digests, refused, run, tail_of, variant

import satchel
from satchel.cli.convert import convert as command
from satchel.convert import run as convert_run
from satchel.options import Options
from satchel.recipe import options_from, read_recipe, toml_of
from satchel_runtimes.bundle import open_bundle
from satchel_runtimes.errors import IntegrityError, ParityError, UsageError

# Latency is never judged here: a cut-down model may well be slower in int8.
BOARD = (
    'extends = "generic-x86-64"\nname = "board"\ntitle = "A board"\ngeneric = true\n'
    'formats = ["onnx"]\nschemes = ["int8-dynamic", "fp32"]\n'
)

plain = st.one_of(st.booleans(), st.integers(-(2**63), 2**63 - 1), st.floats(allow_nan=False), st.text())
values = st.one_of(plain, st.lists(st.text()), st.dictionaries(st.text(), plain))


@pytest.fixture
def device(tmp_path: Path) -> Path:
    file = tmp_path / "board.toml"
    file.write_text(BOARD)
    return file


@pytest.fixture
def recipe(tmp_path: Path) -> Callable[[str], Path]:
    def write(text: str) -> Path:
        file = tmp_path / "recipe.toml"
        file.write_text(text, "utf-8")
        return file

    return write


class TestWriting:
    @given(st.dictionaries(st.text(), values))
    def test_whatever_is_written_is_read_again(self, table: dict[str, Any]) -> None:
        assert tomllib.loads(toml_of(table)) == table


class TestReading:
    def test_every_option_of_convert_is_a_key_but_the_leave_to_run_code(self, recipe: Callable[[str], Path]) -> None:
        beside = {"recipe", "write_recipe", "dry_run", "json_", "quiet", "no_cache", "trust_remote_code"}
        options = {each.name.rstrip("_") for each in command.params if each.name and each.name not in beside}
        with pytest.raises(UsageError) as caught:
            read_recipe(recipe("colour = 1"))

        known = set(caught.value.fix.rpartition("use one of: ")[2].split(", "))

        assert options <= known
        # `cache` is --no-cache; --data and what goes with it is no option of the command yet.
        assert known - options <= {"cache", "sha256", "data", "columns", "drop_overlaps", "max_drop"}

    def test_paths_are_relative_to_the_recipe_and_names_are_no_paths(
        self, tmp_path: Path, recipe: Callable[[str], Path]
    ) -> None:
        (tmp_path / "models" / "own").mkdir(parents=True)

        found = read_recipe(
            recipe('model = "models/own"\ndevice = "raspberry-pi-5"\nout = "made/x.satchel"\ncalibration = "rows.txt"')
        )
        hub = read_recipe(recipe('model = "sentence-transformers/all-MiniLM-L6-v2"\ndevice = "boards/mine.toml"'))

        assert found["model"] == str(tmp_path / "models" / "own")
        assert (found["device"], found["out"]) == ("raspberry-pi-5", tmp_path / "made" / "x.satchel")
        assert found["calibration"] == tmp_path / "rows.txt"
        assert hub["model"] == "sentence-transformers/all-MiniLM-L6-v2"
        assert hub["device"] == str(tmp_path / "boards" / "mine.toml")

    def test_a_table_is_the_specification_of_the_command_line(self, recipe: Callable[[str], Path]) -> None:
        found = read_recipe(recipe('[prune]\nffn = 0.5\nvocabulary = true\nby = "taylor"\n[distill]\nminutes = 1'))

        assert (found["prune"], found["distill"]) == ("ffn=0.5,vocabulary,by=taylor", "minutes=1")

    def test_what_is_given_beside_it_wins(self, recipe: Callable[[str], Path]) -> None:
        file = recipe('model = "a"\ndevice = "inf2"\nthreads = 2\nmax-size-mb = 30\nrequire = ["latency"]')

        options = options_from(file, {"device": "raspberry-pi-5", "threads": 4})

        assert options == Options("a", "raspberry-pi-5", threads=4, max_size_mb=30.0, require=("latency",))

    @pytest.mark.parametrize(
        "text, why, fix",
        [
            ("threds = 2", "'threds' is no option", "did you mean 'threads'"),
            ('threads = "2"', "'threads' is '2', not a whole number", "give a whole number"),
            ("threads = true", "not a whole number", "give a whole number"),
            ("max_size_mb = nan", "not a number", "give a number"),
            ("replace = 1", "not true or false", "give true or false"),
            ("device = 5", "not a string", "give a string"),
            ("formats = ['onnx']", "'formats' is no option", "did you mean 'format'"),
            ("[prune]\nffn = [1]", "'prune.ffn' is [1]", "flat"),
            ("trust-remote-code = true", "a file does not decide", "--trust-remote-code"),
            ("[sha256]\nweights = 'x'", "'sha256.weights' is not known", "model"),
            ("model = ", "Invalid value", "TOML"),
            ('model = "\\ud800"', "", "TOML"),
        ],
    )
    def test_what_it_may_not_say_is_named(self, text: str, why: str, fix: str, recipe: Callable[[str], Path]) -> None:
        with pytest.raises(UsageError) as caught:
            read_recipe(recipe(text))

        assert why in caught.value.why
        assert fix in caught.value.fix

    def test_a_recipe_that_is_not_there_or_names_no_model(self, tmp_path: Path, recipe: Callable[[str], Path]) -> None:
        gone = run("convert", "--recipe", tmp_path / "gone.toml")
        neither = run("convert", "--recipe", recipe('device = "inf2"'))
        nothing = run("convert", "--device", "raspberry-pi-5")

        assert [each.returncode for each in (gone, neither, nothing)] == [2, 2, 2]
        assert "there is no such file" in gone.stderr
        assert "without a model" in neither.stderr and "recipe.toml" in tail_of(neither.stderr)
        assert "without a model" in nothing.stderr


class TestAgain:
    def test_the_recipe_of_a_conversion_makes_the_same_files(self, tiny: Path, device: Path, tmp_path: Path) -> None:
        first = satchel.convert(
            tiny,
            device=str(device),
            out=tmp_path / "a.satchel",
            prefer="size",
            threads=1,
            write_recipe=tmp_path / "r.toml",
        )

        again = satchel.convert(recipe=tmp_path / "r.toml", out=tmp_path / "b.satchel")

        ours, theirs = digests(first), digests(again)
        assert {name for name in ours if ours[name] != theirs[name]} <= {"bundle.json"}  # latencies are new
        assert open_bundle(again).manifest.target == open_bundle(first).manifest.target
        report = json.loads((tmp_path / "a.report.json").read_text())
        assert report["recipe"] == tomllib.loads((tmp_path / "r.toml").read_text())

    def test_a_model_that_has_changed_is_refused_and_another_model_is_not(
        self, tiny: Path, device: Path, tmp_path: Path
    ) -> None:
        own = variant(tiny, tmp_path / "own")
        satchel.convert(
            own, device=str(device), quantize="fp32", out=tmp_path / "a.satchel", write_recipe=tmp_path / "r.toml"
        )
        config = json.loads((own / "config.json").read_text())
        (own / "config.json").write_text(json.dumps({**config, "note": "new"}))

        with pytest.raises(IntegrityError, match="has changed since") as caught:
            satchel.convert(recipe=tmp_path / "r.toml", out=tmp_path / "b.satchel")
        forecast = run("convert", "--recipe", tmp_path / "r.toml", "--dry-run")
        other = satchel.convert(tiny, recipe=tmp_path / "r.toml", out=tmp_path / "c.satchel")

        assert "[sha256]" in caught.value.fix
        assert not (tmp_path / "b.satchel").exists()
        assert forecast.returncode == 16
        assert other.is_dir()

    def test_a_refusal_writes_none(self, tiny: Path, device: Path, tmp_path: Path, monkeypatch: Any) -> None:
        damage(monkeypatch, lambda model: append_node(model, "Mul", np.linspace(-1, 1, 32, dtype=np.float32)))

        refusal = refused(tiny, tmp_path / "out", ParityError, device=str(device), write_recipe=tmp_path / "r.toml")

        assert not (tmp_path / "r.toml").exists()
        assert "format" not in refusal.report["recipe"] or refusal.report["recipe"]["format"] == "onnx"


class TestAuto:
    def test_the_fastest_that_passes_is_shipped_whatever_comes_first(
        self, tiny: Path, device: Path, tmp_path: Path
    ) -> None:
        """Blocks of int8 weights, the first here, take 1.4 times as long as float32 in a graph this small."""
        device.write_text(BOARD.replace("int8-dynamic", "int8-weights"))

        reports: list[dict[str, Any]] = []
        options = Options(str(tiny), str(device), tmp_path / "m.satchel", quantize="auto")
        done = convert_run(options, on_report=reports.append)

        (report,) = reports
        assert [each["passed"] for each in report["candidates"]] == [True, True]
        assert report["choice"].startswith("the fastest of 2 that pass every gate, run in turn here")
        assert report["recipe"]["quantize"] == "fp32"
        manifest = open_bundle(done.bundle).manifest
        assert (manifest.target.format, manifest.target.scheme) == (
            report["chosen"]["format"],
            report["chosen"]["scheme"],
        )
        assert sorted(each.name for each in tmp_path.iterdir()) == ["board.toml", "m.report.json", "m.satchel"]
        assert not list(done.bundle.glob(".candidate*"))

    def test_with_prefer_size_it_is_the_smallest(self, tiny: Path, device: Path, tmp_path: Path) -> None:
        device.write_text(BOARD.replace('"int8-dynamic", "fp32"', '"fp32", "int8-dynamic"'))

        bundle = satchel.convert(tiny, device=str(device), out=tmp_path / "m.satchel", quantize="auto", prefer="size")

        assert open_bundle(bundle).manifest.target.scheme == "int8-dynamic"

    def test_where_this_machine_is_not_the_device_it_is_an_estimate_and_says_so(
        self, tiny: Path, tmp_path: Path
    ) -> None:
        done = run(
            *("convert", tiny, "--device", "raspberry-pi-5", "--format", "onnx", "--quantize", "auto"),
            *("-o", tmp_path / "m.satchel", "--json", "-q"),
        )

        report = json.loads(done.stdout)
        assert done.returncode == 0
        assert report["chosen"]["scheme"] == "int8-dynamic"
        assert "by estimate from the facts of raspberry-pi-5, which this machine is not" in report["choice"]

    def test_a_candidate_that_a_gate_refuses_takes_no_part(
        self, tiny: Path, device: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        turn = np.linspace(-1, 1, 32, dtype=np.float32)
        damage(monkeypatch, lambda model: append_node(model, "Mul", turn), schemes=["int8-dynamic"])

        bundle = satchel.convert(tiny, device=str(device), out=tmp_path / "m.satchel", quantize="auto", prefer="size")

        assert open_bundle(bundle).manifest.target.scheme == "fp32"

    def test_where_none_passes_the_error_is_the_first_ones(
        self, tiny: Path, device: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        damage(monkeypatch, lambda model: append_node(model, "Mul", np.linspace(-1, 1, 32, dtype=np.float32)))

        refusal = refused(tiny, tmp_path / "out", ParityError, device=str(device), quantize="auto", prefer="size")

        assert "int8-dynamic" in refusal.error.what
        assert len(refusal.report["candidates"]) == 2

    def test_a_kit_cannot_be_raced(self, tiny: Path) -> None:
        with pytest.raises(UsageError, match="--quantize auto with --kit"):
            satchel.convert(tiny, device="inf2", kit=True, quantize="auto")
