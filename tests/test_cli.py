"""The command: names and choices, input as users type it, output as pipelines read it, and never a traceback."""

from __future__ import annotations

import json
import os
import pty
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tests.bundles import model_of
from tests.conversions import append_node, change_answers, command, damage, digests, run, tail_of

from satchel.cli import _COMMANDS
from satchel.convert import convert
from satchel.trial import machine_kind
from satchel_converters.format import format_of, list_formats
from satchel_device_profiles import list_profiles
from satchel_runtimes import load
from satchel_runtimes.tasks import list_tasks

DEVICE = "raspberry-pi-5"


@pytest.fixture(scope="session")
def small_bundle(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle that loads in no time; its vectors mean nothing."""
    return convert(tiny, device=DEVICE, quantize="fp32", out=tmp_path_factory.mktemp("bundles") / "small.satchel")


@pytest.fixture
def own_bundle(small_bundle: Path, tmp_path: Path) -> Path:
    """A copy of it, to be damaged."""
    return Path(shutil.copytree(small_bundle, tmp_path / "own.satchel"))


@pytest.fixture(scope="session")
def qa_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("bundles") / "qa.satchel"
    return convert(model_of("question_answering"), device=DEVICE, quantize="fp32", out=out)


class TestHelp:
    def test_help_imports_nothing_heavy(self) -> None:
        code = (
            "import sys\nfrom satchel.cli import main\n"
            "try: main(['--help'])\nexcept SystemExit: pass\n"
            "print(sorted({'numpy', 'torch', 'onnx', 'onnxruntime', 'rich', 'transformers'} & set(sys.modules)))"
        )

        done = subprocess.run(
            [sys.executable, "-c", code], env=_environment(), capture_output=True, text=True, check=True
        )

        assert done.stdout.splitlines()[-1] == "[]"
        assert "Exit codes" in done.stdout

    @pytest.mark.parametrize("name", _COMMANDS)
    def test_every_command_explains_itself(self, name: str) -> None:
        done = run(name, "--help")

        assert done.returncode == 0
        assert done.stdout.startswith("Usage: ")
        assert done.stderr == ""

    def test_the_list_of_commands_is_in_the_help(self) -> None:
        text = run("--help").stdout

        assert all(f"  {name} " in text for name in _COMMANDS)

    def test_the_version_is_told(self) -> None:
        assert run("--version").stdout.strip().endswith("0.1.0")


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join(each for each in sys.path if each)}


class TestUsage:
    @pytest.mark.parametrize(
        ("arguments", "suggestion", "choice"),
        [
            (["convrt", "MODEL"], "convert", ""),
            (["convert", "MODEL"], "--device", ""),
            (["convert", "MODEL", "--device", "raspberry-pi5"], "raspberry-pi-5", "generic-x86-64"),
            (["convert", "MODEL", "--device", DEVICE, "--format", "onxx"], "did you mean 'onnx'", "onnx"),
            (["convert", "MODEL", "--device", DEVICE, "--quantize", "int8-dynamik"], "'int8-dynamic'", "int8-weights"),
            (["convert", "MODEL", "--device", DEVICE, "--quantize", "int2"], "", "int8-weights"),
            (
                ["convert", "MODEL", "--device", DEVICE, "--task", "text-classificaton"],
                "'text-classification'",
                "fill-mask",
            ),
            (["convert", "MODEL", "--device", DEVICE, "--quantise", "fp32"], "--quantize", ""),
            (["convert", "MODEL", "--device", DEVICE, "--prefer", "speed"], "", "latency, size"),
            (["convert", "MODEL", "--device", DEVICE, "--require", "speed"], "", "latency, size"),
            (["convert", "MODEL", "--device", DEVICE, "--max-size-mb", "many"], "", "not a valid float"),
            (["convert", "MODEL", "--device", DEVICE, "--sequence-length", "0"], "", "give a positive number"),
            (["convert", "no/such/folder", "--device", DEVICE], "", "config.json and model.safetensors"),
            (["devices", "raspberry-pi-55"], "raspberry-pi-5", "jetson-orin-nano"),
            (["devices", "mine.toml"], "", "there is no such file"),
            (["predict", "BUNDLE", "hello", "--task", "fill-mask"], "", "sentence-embedding"),
            (["predict", "BUNDLE", "hello", "--verify", "never"], "", "'always', 'once'"),
            (["predict", "BUNDLE", "hello", "--option", "top_k=3"], "", "Cannot use the option 'top_k'"),
            (["predict", "BUNDLE", "hello", "--option", "top_k"], "", "write NAME=VALUE"),
            (["predict", "BUNDLE", "hello", "--file", "x.txt"], "", "leave one out"),
            (["predict", "BUNDLE", "--file", "no-such-file.txt"], "", "Cannot read no-such-file.txt"),
            (["predict", "no.satchel", "hello"], "", "there is nothing at that path"),
            (["verify", "no.satchel"], "", "there is nothing at that path"),
            (["inspect", "no.satchel"], "", "there is nothing at that path"),
        ],
        ids=lambda value: " ".join(value)[-40:] if isinstance(value, list) else "",
    )
    def test_a_wrong_name_is_answered_with_the_near_ones_and_the_choices(
        self, tiny: Path, small_bundle: Path, tmp_path: Path, arguments: list[str], suggestion: str, choice: str
    ) -> None:
        given = [{"MODEL": str(tiny), "BUNDLE": str(small_bundle)}.get(each, each) for each in arguments]

        done = run(*given, cwd=tmp_path)

        assert done.returncode == 2, done.stderr
        assert done.stdout == ""
        assert suggestion in done.stderr and choice in done.stderr, done.stderr
        assert not any(tmp_path.iterdir())

    def test_an_existing_target_is_refused_in_words(self, tiny: Path, own_bundle: Path) -> None:
        before = digests(own_bundle.parent)

        done = run("convert", tiny, "--device", DEVICE, "-o", own_bundle)

        assert done.returncode == 2
        assert tail_of(done.stderr) == (
            f"Will not overwrite {own_bundle}.\n  why: it exists already\n  fix: add --replace, or choose another --out"
        )
        assert digests(own_bundle.parent) == before

    def test_underscores_are_taken_for_hyphens(self, tiny: Path, tmp_path: Path) -> None:
        done = run("convert", tiny, "--device", DEVICE, "--max_size_mb=1", "--dry_run", "--json", cwd=tmp_path)

        assert done.returncode == 0, done.stderr
        assert "refused" in done.stdout


class TestPredict:
    def test_texts_as_arguments(self, small_bundle: Path) -> None:
        done = run("predict", small_bundle, "Where is my order?", "It is late.", "--json")

        answers = [json.loads(line) for line in done.stdout.splitlines()]
        with load(small_bundle) as model:
            np.testing.assert_allclose(answers, model.predict(["Where is my order?", "It is late."]), atol=1e-6)

    def test_texts_in_a_file_and_on_standard_input_are_one_per_line(self, small_bundle: Path, tmp_path: Path) -> None:
        texts = tmp_path / "texts.txt"
        texts.write_text("Where is my order?\nÜber allen Gipfeln\n\n😀 last\r\n", encoding="utf-8")

        by_file = run("predict", small_bundle, "--file", texts, "--json")
        by_stdin = run("predict", small_bundle, "--json", stdin=texts.read_bytes())

        assert by_file.returncode == by_stdin.returncode == 0
        assert by_file.stdout == by_stdin.stdout
        assert len(by_file.stdout.splitlines()) == 4  # an empty line is an empty text, so lines and answers agree

    def test_json_lines_on_standard_input(self, qa_bundle: Path) -> None:
        asked = {"question": "Where was Anna born?", "context": "Anna was born in Krakow in 1975."}

        done = run("predict", qa_bundle, "--json", stdin=f"{json.dumps(asked)}\n".encode() * 2)

        first, second = (json.loads(line) for line in done.stdout.splitlines())
        assert first == second
        assert set(first) == {"score", "start", "end", "answer"}

    def test_an_answer_for_people_shows_the_input_and_the_shape(self, small_bundle: Path) -> None:
        done = run("predict", small_bundle, "Where is my order?")

        assert done.stdout.startswith("Where is my order?\n  float32 [32]: ")

    @pytest.mark.parametrize("text", ["", " ", "x" * 100_000, "word " * 20_000, '"', "{", "[", "-"])
    def test_any_text_is_answered(self, small_bundle: Path, text: str) -> None:
        done = run("predict", small_bundle, "--json", "--", text)

        assert done.returncode == 0, done.stderr
        assert len(json.loads(done.stdout)) == 32

    def test_a_long_line_on_standard_input_is_answered(self, small_bundle: Path) -> None:
        done = run("predict", small_bundle, "--json", stdin=b"word " * 20_000 + b"\n\n")

        assert [len(json.loads(line)) for line in done.stdout.splitlines()] == [32, 32]

    def test_nothing_on_standard_input_gives_nothing(self, small_bundle: Path) -> None:
        done = run("predict", small_bundle, stdin=b"")

        assert (done.returncode, done.stdout) == (0, "")

    def test_arguments_that_are_not_utf_8(self, small_bundle: Path) -> None:
        done = subprocess.run(
            [*map(os.fsencode, command("predict", small_bundle)), b"caf\xe9"],
            env=_environment(),
            capture_output=True,
            check=False,
        )

        _is_utf8_refusal(done.returncode, done.stderr.decode(), "an argument")

    def test_a_line_that_is_not_utf_8_is_named(self, small_bundle: Path, tmp_path: Path) -> None:
        data = b"fine\ncaf\xe9\n"
        (tmp_path / "latin.txt").write_bytes(data)

        by_stdin = run("predict", small_bundle, stdin=data)
        by_file = run("predict", small_bundle, "--file", tmp_path / "latin.txt")

        _is_utf8_refusal(by_stdin.returncode, by_stdin.stderr, "line 2 of standard input")
        _is_utf8_refusal(by_file.returncode, by_file.stderr, f"line 2 of {tmp_path / 'latin.txt'}")

    @pytest.mark.parametrize(
        "line",
        ['{"text": 3}', "[1, 2]", '{"question": "Who?"}', "[]", "{}", '[["a"]]', '{"question": 1, "context": 2}'],
    )
    def test_json_of_another_type_is_refused_with_what_the_task_takes(self, small_bundle: Path, line: str) -> None:
        done = run("predict", small_bundle, stdin=f"{line}\n".encode())

        assert done.returncode == 2, done.stderr
        assert done.stdout == ""
        assert "why: " in done.stderr and "fix: " in done.stderr

    def test_a_folder_is_not_a_file_of_texts(self, small_bundle: Path, tmp_path: Path) -> None:
        done = run("predict", small_bundle, "--file", tmp_path)

        assert done.returncode == 2
        assert f"Cannot read {tmp_path}." in done.stderr

    @pytest.mark.parametrize("json_", [["--json"], []])
    def test_a_closed_pipe_ends_it_quietly(self, small_bundle: Path, json_: list[str]) -> None:
        process = subprocess.Popen(
            [*command("predict", small_bundle, *json_), *["a text"] * 20_000],
            env=_environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        assert process.stdout is not None and process.stderr is not None
        process.stdout.readline()
        process.stdout.close()

        assert process.stderr.read() == b""
        assert process.wait(60) != 0
        process.stderr.close()

    def test_options_of_the_task_are_json_or_plain_words(self, qa_bundle: Path) -> None:
        asked = json.dumps({"question": "Where was Anna born?", "context": "Anna was born in Krakow in 1975."})

        done = run("predict", qa_bundle, "--option", "top_k=2", "--json", stdin=asked.encode())
        bad = run("predict", qa_bundle, "--option", "top_k=two", "--json", stdin=asked.encode())

        assert len(json.loads(done.stdout)) == 2
        assert bad.returncode == 2
        assert "top_k" in bad.stderr


def _is_utf8_refusal(code: int, said: str, where: str) -> None:
    assert code == 2
    assert f"Cannot read {where}." in said
    assert "it is not valid UTF-8" in said and "iconv" in said
    assert "Traceback" not in said


class TestVerify:
    def test_a_whole_bundle_answers_as_it_should(self, small_bundle: Path) -> None:
        done = run("verify", small_bundle)

        assert done.returncode == 0, done.stderr
        assert "files match their digests" in done.stdout
        assert "DIFFERENT" not in done.stdout
        assert "this machine computes what the build machine did, and fp32 keeps the model" in done.stdout

    @pytest.mark.parametrize("name", ["model.onnx", "tokenizer.json", "golden/reference.safetensors"])
    def test_a_flipped_bit_is_found_whatever_file_it_is_in(self, own_bundle: Path, name: str) -> None:
        data = bytearray((own_bundle / name).read_bytes())
        data[len(data) // 2] ^= 1
        (own_bundle / name).write_bytes(bytes(data))

        done = run("verify", own_bundle, "--json")

        assert done.returncode == 16
        assert done.stdout == ""
        assert name in done.stderr

    @pytest.mark.parametrize(
        ("side", "against", "finding", "words"),
        [
            ("artifact", "this artifact where it was built", "device", "this machine computes something else"),
            ("reference", "the converted model", "conversion", "it is the conversion to fp32 that costs more"),
        ],
    )
    def test_another_device_is_told_from_what_the_conversion_cost(
        self, own_bundle: Path, side: str, against: str, finding: str, words: str
    ) -> None:
        change_answers(own_bundle, side)

        done = run("verify", own_bundle)
        plain = run("verify", own_bundle, "--json")

        assert done.returncode == plain.returncode == 10
        assert f"against {against}" in done.stderr
        assert words in done.stderr
        assert "DIFFERENT" in done.stdout
        found = json.loads(plain.stdout)
        assert not found["passed"]
        assert {each["against"] for each in found["parity"] if not each["passed"]} >= {against}
        assert found["finding"] == finding
        assert words in found["says"]

    def test_a_machine_that_computes_something_else_says_nothing_about_the_conversion(self, own_bundle: Path) -> None:
        change_answers(own_bundle, "artifact")
        change_answers(own_bundle, "reference")

        found = json.loads(run("verify", own_bundle, "--json").stdout)

        assert found["finding"] == "device"


class TestJson:
    def test_convert_prints_its_report_and_nothing_else(self, tiny: Path, tmp_path: Path) -> None:
        done = run("convert", tiny, "--device", DEVICE, "--quantize", "fp32", "-o", tmp_path / "m.satchel", "--json")

        report = json.loads(done.stdout)
        assert report == json.loads((tmp_path / "m.report.json").read_text())
        assert report["bundle"] == str(tmp_path / "m.satchel")
        assert "Traceback" not in done.stderr and "verify: " in done.stderr

    def test_a_refused_conversion_prints_its_report_too(self, tiny: Path, tmp_path: Path) -> None:
        out = tmp_path / "m.satchel"

        only = ("--format", "onnx", "--quantize", "fp32")

        done = run("convert", tiny, "--device", DEVICE, *only, "-o", out, "--max-size-mb", "1", "--json")

        assert done.returncode == 13
        report = json.loads(done.stdout)
        assert (report["exit_code"], report["bundle"]) == (13, None)
        assert tail_of(done.stderr).startswith("tiny in onnx fp32 for raspberry-pi-5: refused by size.")

    @pytest.mark.parametrize("name", ["devices", "formats", "tasks", "doctor"])
    def test_lists(self, name: str) -> None:
        done = run(name, "--json")

        found = json.loads(done.stdout)
        assert done.stderr == ""
        if name == "devices":
            assert [each["name"] for each in found] == list(list_profiles())
        if name == "tasks":
            assert [each["name"] for each in found] == list(list_tasks())
        if name == "formats":
            assert [each["name"] for each in found] == list(list_formats())
            assert [each["name"] for each in found[0]["schemes"]] == list(format_of("onnx").schemes)
        if name == "doctor":
            assert {each["name"] for each in found["packages"]} >= {"torch", "onnxruntime", "tokenizers"}
            assert all(each["version"] or each["fix"] for each in found["packages"])

    def test_one_device(self) -> None:
        found = json.loads(run("devices", DEVICE, "--json").stdout)

        assert found["name"] == DEVICE
        assert found["memory_mb"] == 4096

    def test_inspect_prints_the_manifest(self, small_bundle: Path) -> None:
        done = run("inspect", small_bundle, "--json")

        assert json.loads(done.stdout) == json.loads((small_bundle / "bundle.json").read_text())

    def test_verify_prints_what_it_compared(self, small_bundle: Path) -> None:
        found = json.loads(run("verify", small_bundle, "--json").stdout)

        assert found["passed"] and found["finding"] == "same"
        assert len(found["parity"]) == 6  # two tasks, against the model, the artifact, and in batches


class TestLists:
    @pytest.mark.parametrize("name", ["devices", "formats", "tasks", "doctor"])
    def test_a_table_for_people(self, name: str) -> None:
        done = run(name)

        assert done.returncode == 0
        assert {"devices": "raspberry-pi-5", "formats": "int8-dynamic", "tasks": "fill-mask", "doctor": "torch"}[
            name
        ] in done.stdout

    def test_an_unknown_fact_of_a_device_is_absent(self) -> None:
        text = run("devices", "generic-x86-64").stdout

        assert "None" not in text
        assert "memory_mb" not in text

    def test_inspect_shows_the_parts(self, small_bundle: Path) -> None:
        text = run("inspect", small_bundle).stdout

        assert all(word in text for word in ("sentence-embedding", "model.onnx", "sha256", "input_ids", DEVICE))

    def test_inspect_marks_a_refused_bundle(self, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        damage(monkeypatch, lambda model: append_node(model, "Neg"))
        out = tmp_path / "m.satchel"
        with pytest.raises(Exception, match="refused by parity"):
            convert(tiny, device=DEVICE, format="onnx", quantize="fp32", out=out, keep_failed=True)

        seen, used, allowed = (
            run("inspect", out),
            run("predict", out, "hi"),
            run("predict", out, "hi", "--allow-failed"),
        )

        assert "REFUSED" in seen.stdout
        assert used.returncode == 16
        assert allowed.returncode == 0


class TestDryRun:
    def test_it_writes_nothing_and_says_what_would_be_tried(self, minilm: Path, tmp_path: Path) -> None:
        done = run("convert", minilm, "--device", "raspberry-pi-zero-2w", "--dry-run", cwd=tmp_path)

        assert done.returncode == 0, done.stderr
        assert "would be tried" in done.stdout
        assert "nothing was written" in done.stdout
        assert not any(tmp_path.iterdir())

    def test_it_refuses_what_the_conversion_would_refuse(self, tiny: Path, tmp_path: Path) -> None:
        done = run("convert", tiny, "--device", "inf2", "--dry-run", cwd=tmp_path)

        assert done.returncode == 15
        assert not any(tmp_path.iterdir())


class TestProgress:
    def test_a_log_gets_a_plain_line_per_stage_on_stderr(self, tiny: Path, tmp_path: Path) -> None:
        done = run("convert", tiny, "--device", DEVICE, "--quantize", "fp32", "-o", tmp_path / "m.satchel")

        stages = [line.partition(":")[0] for line in done.stderr.splitlines()]
        assert stages[0] == "source" and stages[-1] == "seal"
        assert len(stages) == len(set(stages))
        assert "\x1b" not in done.stderr and "\r" not in done.stderr
        assert "gate" in done.stdout and str(tmp_path / "m.satchel") in done.stdout

    def test_quiet_says_nothing(self, tiny: Path, tmp_path: Path) -> None:
        done = run("convert", tiny, "--device", DEVICE, "--quantize", "fp32", "-o", tmp_path / "m.satchel", "-q")

        assert done.stderr == ""

    def test_a_terminal_gets_bars(self, tiny: Path, tmp_path: Path) -> None:
        arguments = command("convert", tiny, "--device", DEVICE, "--quantize", "fp32", "-o", tmp_path / "m.satchel")

        code, seen = _on_a_terminal(arguments)

        assert code == 0, seen
        assert "\x1b" in seen
        assert "verify" in seen and "━" in seen
        assert "Traceback" not in seen


def _on_a_terminal(arguments: list[str]) -> tuple[int, str]:
    leader, follower = pty.openpty()
    environment = {name: value for name, value in _environment().items() if name != "CI"}
    process = subprocess.Popen(
        arguments,
        stdin=follower,
        stdout=follower,
        stderr=follower,
        env={**environment, "TERM": "xterm", "COLUMNS": "120"},
    )
    os.close(follower)
    seen = b""
    while True:
        try:
            part = os.read(leader, 65536)
        except OSError:  # Linux says so when the last writer has gone
            break
        if not part:
            break
        seen += part
    os.close(leader)
    return process.wait(60), seen.decode("utf-8", "replace")


def test_this_machine_judges_its_own_generic_profile() -> None:
    found = json.loads(run("doctor", "--json").stdout)

    assert f"generic-{machine_kind()}" in found["judges"]
