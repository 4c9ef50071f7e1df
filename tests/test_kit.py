"""Compile kits: made here, finished by their own script where nothing of satchel is, and refused when anything is wrong.

"Verified by contract, not on hardware": the compilers are the fakes of tests/fake_neuron. The slow lane loads a kit in a
real torch 1.13.1.
"""

from __future__ import annotations

import ast
import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.bundles import model_of
from tests.conversions import REPORT, add_earlier, digests, run, variant

import satchel
from satchel_converters.component import Axis, Component, Input, Output
from satchel_converters.format import Plan, format_of
from satchel_converters.kit import FINISH
from satchel_converters.kit.trace import trace
from satchel_runtimes import load
from satchel_runtimes.errors import ParityError, SupportError, UsageError
from satchel_runtimes.golden import replay
from satchel_runtimes.manifest import Engine

FAKES = Path(__file__).parent / "fake_neuron"
SATCHEL = ("satchel", "satchel_converters", "satchel_runtimes", "satchel_device_profiles", "satchel_benchmarks")


@pytest.fixture(scope="module")
def kits(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A kit of the same model for the frozen chip and for the living one."""
    folder = tmp_path_factory.mktemp("kits")
    return {
        device: satchel.convert(tiny, device=device, kit=True, out=folder / f"{device}.kit")
        for device in ("inf1", "inf2")
    }


@pytest.fixture(params=["inf1", "inf2"])
def kit(request: pytest.FixtureRequest, kits: Mapping[str, Path], tmp_path: Path) -> Path:
    """A copy of a kit, alone in its folder; it may be damaged."""
    copied: Path = shutil.copytree(kits[request.param], tmp_path / "there" / "a.kit")
    return copied


@pytest.fixture
def one(kits: Mapping[str, Path], tmp_path: Path) -> Path:
    """A copy of the kit for inf2, where the device makes no difference."""
    copied: Path = shutil.copytree(kits["inf2"], tmp_path / "there" / "a.kit")
    return copied


def elsewhere(tmp_path: Path, *path: Path) -> dict[str, str]:
    """The environment of a machine without satchel: importing anything of it is an error there."""
    nothing = tmp_path / "nothing"
    nothing.mkdir(exist_ok=True)
    for name in SATCHEL:
        (nothing / f"{name}.py").write_text("raise ImportError('there is no satchel on this machine')\n")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "SATCHEL"))}
    return {**kept, "PYTHONPATH": os.pathsep.join(map(str, (nothing, *path)))}


def finish(
    kit: Path, tmp_path: Path, *arguments: str | Path, compiler: Path | None = FAKES
) -> subprocess.CompletedProcess[str]:
    """Run a kit's own script in a fresh process. A traceback is never an answer."""
    done = subprocess.run(
        [sys.executable, str(kit / "finish.py"), *map(str, arguments)],
        capture_output=True,
        text=True,
        env=elsewhere(tmp_path, *([compiler] if compiler else [])),
        cwd=tmp_path,
        timeout=300,
        check=False,
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done


def beside(kit: Path) -> list[str]:
    return sorted(each.name for each in kit.parent.iterdir())


def write_compiler(folder: Path, name: str, body: str) -> Path:
    """A package by the vendor's name that does what a test wants; `compile` is the honest way."""
    module = folder / "compiler" / name
    module.mkdir(parents=True)
    honest = """\
        import torch
        __version__ = "2.9.0.2.11" if __name__ == "torch_neuronx" else "1.13.1.2.9"
        def compile(model, inputs):
            return torch.jit.trace(model, inputs, check_trace=False)
        """
    (module / "__init__.py").write_text(textwrap.dedent(honest) + textwrap.dedent(body))
    return module.parent


# Making


def test_a_kit_is_self_contained_and_says_that_it_is_no_bundle(kits: Mapping[str, Path]) -> None:
    for device, kit in kits.items():
        names = {each.name for each in kit.iterdir()}
        readme = (kit / "README.txt").read_text()
        about = json.loads((kit / "kit.json").read_text())

        assert {"kit.json", "README.txt", "finish.py", "model.pt", "rows.safetensors", "bundle"} <= names
        assert not list(kit.rglob("bundle.json"))
        assert "not a bundle" in readme and "python finish.py" in readme
        assert about["device"] == device
        assert {each["bind"]["sequence"] for each in about["graphs"]} == {32, 128, 512}
        assert set(about["files"]) == {name for name in digests(kit) if name != "kit.json"}


def test_a_kit_tells_nothing_of_the_machine_that_made_it(kits: Mapping[str, Path], tiny: Path) -> None:
    for file in kits["inf1"].rglob("*"):
        content = file.read_bytes() if file.is_file() else b""
        for path in (Path(satchel.__file__).parents[2], Path(torch.__file__).parent, tiny.parent):
            assert str(path).encode() not in content, f"{file.name} names {path}"


@pytest.mark.parametrize("arguments", [["inspect"], ["verify"], ["predict", "--trust"]])
def test_a_kit_where_a_bundle_is_expected_is_refused_with_what_to_do(
    kits: Mapping[str, Path], arguments: list[str]
) -> None:
    command, *options = arguments
    text = ["hello"] if command == "predict" else []

    done = run(command, kits["inf1"], *text, *options)

    assert done.returncode == 2
    assert "it is a compile kit, not a bundle" in done.stderr
    assert "finish.py" in done.stderr


def test_the_command_writes_a_kit_and_its_report(tiny: Path, tmp_path: Path) -> None:
    done = run("convert", tiny, "--device", "inf1", "--kit", "-o", tmp_path / "model.kit", "--json")

    report = json.loads(done.stdout)
    assert done.returncode == 0
    assert report["kit"] == str(tmp_path / "model.kit") and report["bundle"] is None
    verdicts = {each["gate"]: each["status"] for each in report["candidates"][0]["verdicts"]}
    assert verdicts["support"] == verdicts["parity"] == "passed"
    assert verdicts["toolchain"] == verdicts["latency"] == "not_judged"
    assert json.loads((tmp_path / REPORT).read_text()) == report


def test_an_earlier_kit_is_replaced_only_when_asked(tiny: Path, one: Path) -> None:
    before = digests(one)

    with pytest.raises(UsageError, match="Will not overwrite"):
        satchel.convert(tiny, device="inf2", kit=True, out=one)
    assert digests(one) == before

    (one / "README.txt").write_text("an earlier one")
    satchel.convert(tiny, device="inf2", kit=True, out=one, replace=True)
    assert digests(one) == before


def test_a_format_whose_converter_works_here_has_no_kits(tiny: Path, tmp_path: Path) -> None:
    with pytest.raises(SupportError, match="leave --kit out"):
        satchel.convert(tiny, device="raspberry-pi-5", kit=True, out=tmp_path / "model.kit")

    assert not (tmp_path / "model.kit").exists()


@pytest.mark.parametrize("option", [{"max_latency_ms": 5.0}, {"require": ("latency",)}, {"keep_failed": True}])
def test_what_only_a_bundle_can_be_asked_is_refused_for_a_kit(
    tiny: Path, tmp_path: Path, option: Mapping[str, Any]
) -> None:
    with pytest.raises(UsageError, match="nothing is compiled yet"):
        satchel.convert(tiny, device="inf2", kit=True, out=tmp_path / "model.kit", **option)


def test_a_model_that_answers_nan_leaves_no_kit(tiny: Path, tmp_path: Path) -> None:
    def break_it(weights: dict[str, np.ndarray]) -> None:
        weights["embeddings.LayerNorm.bias"][:] = np.nan

    broken = variant(tiny, tmp_path / "broken", weights=break_it)

    with pytest.raises(ParityError, match="itself answers NaN"):
        satchel.convert(broken, device="inf1", kit=True, out=tmp_path / "out" / "model.kit")
    assert [each.name for each in (tmp_path / "out").iterdir()] == [REPORT]


# The trace


class _Scale(torch.nn.Module):
    """One input, one output, and whatever a test puts between."""

    def __init__(self, body: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.body = body

    def forward(self, **inputs: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"y": self.body(inputs["x"])}


def component(body: Callable[[torch.Tensor], torch.Tensor]) -> Component:
    axes = (Axis("batch"), Axis("sequence"))
    example = {"x": torch.arange(22.0).reshape(2, 11) + 1}
    return Component("model", _Scale(body), (Input("x", "float32", axes),), (Output("y", "float32", axes),), example)


def at(*lengths: int) -> Plan:
    return Plan("neuron", format_of("neuron").scheme("fp32"), Engine("torch-neuronx", ">=2.9"), buckets=lengths)


def test_an_operator_that_torch_1_13_1_lacks_is_refused(tmp_path: Path) -> None:
    def attend(x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.scaled_dot_product_attention(x[:, None, :, None], x[:, None, :, None], x[:, None, :, None])[:, 0, :, 0]  # fmt: skip

    with pytest.raises(SupportError, match=r"has no operator aten::scaled_dot_product_attention"):
        trace([component(attend)], at(8), tmp_path, reader="1.13.1")
    assert not list(tmp_path.iterdir())

    trace([component(attend)], at(8), tmp_path, reader=None)  # a newer torch has it


def test_a_model_that_bakes_its_length_in_gets_a_trace_per_length(tmp_path: Path) -> None:
    made = trace([component(lambda x: x / int(x.shape[1]))], at(4, 8), tmp_path, reader="1.13.1")

    assert made.files == ("model_sequence_4.pt", "model_sequence_8.pt")
    assert [graph.bind["sequence"] for graph in made.graphs] == [4, 8]


@pytest.mark.parametrize(("reader", "kept"), [(None, 0), ("1.13.1", 1)])
def test_what_a_trace_makes_lies_where_its_inputs_do(tmp_path: Path, reader: str | None, kept: int) -> None:
    """torch_neuronx traces it again, on a device of its own; torch_neuron does not."""
    made = trace([component(lambda x: x + torch.arange(x.shape[1]))], at(4, 8), tmp_path, reader=reader)

    script: Any = torch.jit.load(str(tmp_path / made.files[0]))
    nodes = script.inlined_graph
    devices = [each for each in nodes.findAllNodes("prim::Constant") if str(each.output().type()) == "Device"]
    assert len(devices) == kept
    assert script(torch.ones(1, 3))[0].tolist() == [[1, 2, 3]]


def test_a_trace_that_is_wrong_at_its_own_length_is_refused(tmp_path: Path) -> None:
    calls = iter(range(100))

    with pytest.raises(SupportError, match="is wrong by"):
        trace([component(lambda x: x * next(calls))], at(4), tmp_path, reader=None)
    assert not list(tmp_path.iterdir())


# Finishing


def test_a_finished_kit_is_a_bundle_that_answers_as_the_model(
    kit: Path, tmp_path: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = finish(kit, tmp_path)

    bundle = kit.parent / f"{tiny.name}.satchel"
    assert (done.returncode, done.stdout) == (0, f"{bundle}\n"), done.stderr
    assert beside(kit) == ["a.kit", f"{tiny.name}.satchel"]
    monkeypatch.syspath_prepend(str(FAKES))
    with load(bundle, trust=True) as model:
        found = replay(model)
        ours = model.predict(["Where is my order?", "The battery lasts nine hours."])
    assert found.passed, found
    theirs = reference(tiny, ["Where is my order?", "The battery lasts nine hours."])
    np.testing.assert_allclose(ours, theirs, atol=1e-5)  # unit vectors; float32 differs by 1e-6 between padded lengths


def reference(folder: Path, texts: list[str]) -> np.ndarray:
    """Mean pooling and unit length, as the model's own modules.json says, by transformers itself."""
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModel.from_pretrained(folder).eval()
    with torch.no_grad():
        states = [model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0].mean(0) for text in texts]
    return torch.nn.functional.normalize(torch.stack(states), dim=-1).numpy()


def test_a_finished_bundle_passes_satchel_verify(one: Path, tmp_path: Path, tiny: Path) -> None:
    finish(one, tmp_path)

    done = run("verify", one.parent / f"{tiny.name}.satchel", "--trust", "--json", path=[FAKES])

    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert {each["against"] for each in found["parity"] if each["passed"]} == {
        "the converted model",
        "this artifact where it was built",
        "the converted model, in batches",
    }


def test_a_device_that_computes_something_else_than_the_finishing_machine_is_found_out(
    one: Path, tmp_path: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    finish(one, tmp_path)
    monkeypatch.syspath_prepend(str(FAKES))

    with load(one.parent / f"{tiny.name}.satchel", trust=True) as model:
        session = model.graphs["model"]
        honest = session.run
        monkeypatch.setattr(session, "run", lambda tensors: {k: v * 1.001 for k, v in honest(tensors).items()})
        found = replay(model)

    assert [each.passed for each in found.artifact.values()] == [False, False]
    assert all("relative error" in each.why for each in found.artifact.values())


def test_config_json_has_the_section_that_other_loaders_read(one: Path, tmp_path: Path, tiny: Path) -> None:
    finish(one, tmp_path)

    config = json.loads((one.parent / f"{tiny.name}.satchel" / "config.json").read_text())
    assert config["hidden_size"] == 32
    assert config["neuron"]["compiler_version"] is not None


def test_nothing_of_satchel_can_be_imported_where_the_kit_is_finished(tmp_path: Path) -> None:
    for name in SATCHEL:
        done = subprocess.run(
            [sys.executable, "-c", f"import {name}"], env=elsewhere(tmp_path), capture_output=True, check=False
        )
        assert b"there is no satchel on this machine" in done.stderr


def test_the_report_names_what_was_compiled_and_how_close_it_is(one: Path, tmp_path: Path) -> None:
    done = finish(one, tmp_path, "--json", "--out", tmp_path / "named.satchel")

    report = json.loads(done.stdout)
    assert report["bundle"] == str(tmp_path / "named.satchel")
    assert [each["bind"]["sequence"] for each in report["graphs"]] == [32, 128, 512]
    assert 0 < report["parity"]["relative_error"] <= report["limits"]["relative_error"]


def test_what_a_compiler_prints_is_not_in_the_answer(one: Path, tmp_path: Path) -> None:
    compiler = write_compiler(
        tmp_path,
        "torch_neuronx",
        """
        import os
        def trace(func, example_inputs, **rest):
            print("Compiler status PASS")
            os.system("echo below Python")
            return compile(func, example_inputs)
        """,
    )

    done = finish(one, tmp_path, compiler=compiler)

    assert done.stdout == f"{one.parent / 'tiny.satchel'}\n"
    assert "Compiler status PASS" in done.stderr and "below Python" in done.stderr


def test_a_compile_box_does_the_long_part_and_the_device_the_rest(one: Path, tmp_path: Path) -> None:
    compiler = write_compiler(
        tmp_path,
        "torch_neuronx",
        """
        def trace(func, example_inputs, *, compiler_workdir, compiler_args, inline_weights_to_neff):
            print("compiling")
            return compile(func, example_inputs)
        """,
    )

    first = finish(one, tmp_path, "--workdir", tmp_path / "work", "--compile-only", compiler=compiler)
    assert (first.returncode, beside(one)) == (0, ["a.kit"])

    second = finish(one, tmp_path, "--workdir", tmp_path / "work", compiler=compiler)
    assert second.returncode == 0
    assert (first.stderr.count("compiling"), second.stderr.count("compiling")) == (3, 0)

    # A compiled file that was changed meanwhile is compiled again.
    next((tmp_path / "work").glob("*.neuron")).write_bytes(b"")
    third = finish(one, tmp_path, "--workdir", tmp_path / "work", "--replace", compiler=compiler)
    assert (third.returncode, third.stderr.count("compiling")) == (0, 1)


# What is refused, and what a refusal leaves


@pytest.mark.parametrize("name", ["model.pt", "rows.safetensors", "finish.py", "bundle/tokenizer.json"])
def test_a_file_that_was_altered_is_refused(one: Path, tmp_path: Path, name: str) -> None:
    content = bytearray((one / name).read_bytes())
    content[-2] ^= 1
    script = shutil.copy(one / "finish.py", tmp_path / "finish.py")
    (one / name).write_bytes(content)
    shutil.copy(script, one.parent / "finish.py")

    done = subprocess.run(
        [sys.executable, str(one.parent / "finish.py"), str(one)],
        env=elsewhere(tmp_path, FAKES),
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 16
    assert f"{name!r} was altered" in done.stderr
    assert not (one.parent / "tiny.satchel").exists()


def test_limits_that_were_altered_or_cut_off_are_refused(one: Path, tmp_path: Path) -> None:
    about = json.loads((one / "kit.json").read_text())
    about["limits"]["relative_error"] = 10.0
    (one / "kit.json").write_text(json.dumps(about))
    assert finish(one, tmp_path).returncode == 16

    (one / "kit.json").write_text(json.dumps(about)[:500])
    assert finish(one, tmp_path).returncode == 16

    (one / "rows.safetensors").unlink()
    assert finish(one, tmp_path).returncode == 16


def test_a_machine_without_the_toolchain_is_told_where_to_get_it(kit: Path, tmp_path: Path) -> None:
    done = finish(kit, tmp_path, compiler=None)

    assert done.returncode == 15
    assert "is not installed" in done.stderr and "pip install" in done.stderr
    assert "AWS Neuron's own pip repository" in done.stderr  # the public index has stubs
    assert beside(kit) == ["a.kit"]


@pytest.mark.parametrize(
    ("body", "why"),
    [
        ('raise RuntimeError("WRONG PACKAGE. Please install the package from the vendor")', "is a stub"),
        ("", "is a stub"),
        ('__version__ = "1.9.0"\ntrace = compile', r"1.9.0 is installed"),
        ("import a_part_that_is_missing", "'a_part_that_is_missing' is not installed"),
        ('raise OSError("libnrt.so.1: cannot open shared object file")', "cannot be imported: libnrt.so.1"),
    ],
)
def test_a_stub_or_another_version_is_refused(one: Path, tmp_path: Path, body: str, why: str) -> None:
    compiler = write_compiler(tmp_path, "torch_neuronx", body)

    done = finish(one, tmp_path, compiler=compiler)

    assert done.returncode == 15
    assert why in done.stderr and "pip install" in done.stderr
    assert beside(one) == ["a.kit"]


@pytest.mark.parametrize(
    "wrong",
    [
        "lambda y: y * 1.01",  # the direction is right, the size is not
        "lambda y: y + 0.01 * torch.ones_like(y)",
        "lambda y: y * float('nan')",
        "lambda y: y[:, :-1]",
        "lambda y: y.flip(1)",
    ],
)
def test_a_compiler_that_computes_something_else_is_refused(one: Path, tmp_path: Path, wrong: str) -> None:
    compiler = write_compiler(
        tmp_path,
        "torch_neuronx",
        f"""
        class Wrong(torch.nn.Module):
            def __init__(self, inner):
                super().__init__()
                self.inner = inner
            def forward(self, *inputs):
                return tuple(({wrong})(each) for each in self.inner(*inputs))
        def trace(func, example_inputs, **rest):
            return compile(Wrong(func), example_inputs)
        """,
    )

    done = finish(one, tmp_path, compiler=compiler)

    assert done.returncode == 10
    assert "do not answer as the model does" in done.stderr
    assert beside(one) == ["a.kit"]


def test_one_wrong_length_is_enough_to_refuse(one: Path, tmp_path: Path) -> None:
    compiler = write_compiler(
        tmp_path,
        "torch_neuronx",
        """
        class Wrong(torch.nn.Module):
            def __init__(self, inner):
                super().__init__()
                self.inner = inner
            def forward(self, *inputs):
                return tuple(each + 0.1 for each in self.inner(*inputs))
        def trace(func, example_inputs, **rest):
            return compile(Wrong(func) if example_inputs[0].shape[1] == 128 else func, example_inputs)
        """,
    )

    done = finish(one, tmp_path, compiler=compiler)

    assert done.returncode == 10
    assert "tokens, last_hidden_state" in done.stderr


def test_a_compiler_that_fails_is_said_with_its_words(one: Path, tmp_path: Path) -> None:
    compiler = write_compiler(
        tmp_path,
        "torch_neuronx",
        """
        def trace(func, example_inputs, **rest):
            raise RuntimeError("neuronx-cc failed with 70: NCC_EBVF030 the graph is too large")
        """,
    )
    out = add_earlier(tmp_path)
    before = digests(out)

    done = finish(one, tmp_path, "--out", out, "--replace", compiler=compiler)

    assert done.returncode == 14
    assert "NCC_EBVF030" in done.stderr
    assert digests(out) == before  # what was there is still there
    assert beside(one) == ["a.kit"]


def test_an_existing_target_is_exchanged_only_when_asked(one: Path, tmp_path: Path) -> None:
    out = add_earlier(tmp_path)
    before = digests(out)

    done = finish(one, tmp_path, "--out", out)
    assert (done.returncode, digests(out)) == (2, before)
    assert "--replace" in done.stderr

    done = finish(one, tmp_path, "--out", out, "--replace")
    assert done.returncode == 0
    assert len([name for name in digests(out) if name.endswith(".neuron")]) == 3
    assert not list(tmp_path.glob(".*"))


def test_a_folder_that_is_no_bundle_is_never_replaced(one: Path, tmp_path: Path) -> None:
    out = tmp_path / "photographs"
    out.mkdir()
    (out / "cat.jpg").write_bytes(b"cat")

    done = finish(one, tmp_path, "--out", out, "--replace")

    assert done.returncode == 2
    assert (out / "cat.jpg").read_bytes() == b"cat"


def test_a_bundle_over_its_size_budget_is_refused(tiny: Path, tmp_path: Path) -> None:
    kit = satchel.convert(tiny, device="inf2", kit=True, max_size_mb=1.0, out=tmp_path / "there" / "a.kit")

    done = finish(kit, tmp_path)

    assert done.returncode == 13
    assert "at most 1 allowed" in done.stderr
    assert [each for each in beside(kit) if each.endswith(".satchel")] == []


# What a shell starts in the background, a whole suite for instance, ignores interrupts, and so does all that it starts.
_HEARING = """import os, signal, sys
signal.signal(signal.SIGINT, signal.SIG_DFL)
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_leaves_nothing(one: Path, tmp_path: Path, number: signal.Signals) -> None:
    compiler = write_compiler(
        tmp_path,
        "torch_neuronx",
        """
        import time
        def trace(func, example_inputs, **rest):
            if example_inputs[0].shape[1] == 128:
                print("waiting", flush=True)
                time.sleep(60)
            return compile(func, example_inputs)
        """,
    )
    process = subprocess.Popen(
        [sys.executable, "-c", _HEARING, str(one / "finish.py")],
        env=elsewhere(tmp_path, compiler),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    for line in process.stderr:
        if "waiting" in line:
            break
    assert any(name.startswith(".") for name in beside(one))  # it works beside the target

    process.send_signal(number)
    out, said = process.communicate(timeout=30)

    assert (process.returncode, out) == (130, "")
    assert "Interrupted" in said
    assert beside(one) == ["a.kit"]


def test_what_a_killed_run_left_is_swept_by_the_next(one: Path, tmp_path: Path) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    (one.parent / f".tiny.satchel.finishing-{gone.pid}-work").mkdir()
    (one.parent / f".tiny.satchel.finishing-{os.getpid()}").mkdir()  # this one is alive

    finish(one, tmp_path)

    assert beside(one) == [f".tiny.satchel.finishing-{os.getpid()}", "a.kit", "tiny.satchel"]


# The script


def test_the_script_is_python_3_7() -> None:
    ast.parse(FINISH.read_text(), feature_version=(3, 7))


@pytest.mark.parametrize("version", ["3.7", "3.8", "3.9", "3.10"])
def test_the_script_compiles_in_each_python_of_the_frozen_toolchain(version: str, tmp_path: Path) -> None:
    python = shutil.which(f"python{version}")
    chosen = {**os.environ, "PYENV_VERSION": version}  # pyenv's names on PATH stand for nothing without it
    if python is None or subprocess.run([python, "-V"], capture_output=True, env=chosen, check=False).returncode:
        pytest.skip(f"python{version} is not on PATH")
    script = shutil.copy(FINISH, tmp_path)
    chosen.pop("PYTHONPATH", None)

    subprocess.run([python, "-m", "py_compile", script], env=chosen, check=True)
    said = subprocess.run([python, script, "--help"], env=chosen, check=True, capture_output=True, text=True).stdout

    assert "--workdir" in said


@pytest.mark.slow
@pytest.mark.parametrize("builder", ["question_answering", "masked_language_model"])
def test_rows_in_windows_and_outputs_as_wide_as_a_vocabulary_are_judged_too(
    builder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kit = satchel.convert(model_of(builder), device="inf1", kit=True, out=tmp_path / "there" / "a.kit")

    done = finish(kit, tmp_path)

    assert done.returncode == 0, done.stderr
    monkeypatch.syspath_prepend(str(FAKES))
    with load(done.stdout.strip(), trust=True) as model:
        assert replay(model).passed


@pytest.mark.slow
def test_a_real_torch_1_13_1_loads_the_kit_and_answers_as_the_model(minilm: Path, tmp_path: Path) -> None:
    """`make test-inf1` makes the environment and names its Python in SATCHEL_TORCH_1_13."""
    python = os.environ.get("SATCHEL_TORCH_1_13")
    if not python:
        pytest.skip("SATCHEL_TORCH_1_13 names no Python with torch 1.13.1")
    kit = satchel.convert(minilm, device="inf1", kit=True, out=tmp_path / "there" / "a.kit")
    compiler = write_compiler(
        tmp_path, "torch_neuron", "\ndef trace(model, inputs, **rest):\n    return compile(model, inputs)\n"
    )

    done = subprocess.run(
        [python, str(kit / "finish.py"), "--json"],
        env=elsewhere(tmp_path, compiler),
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["toolchain"]["torch, where it was compiled"].startswith("1.13.1")
    # float32 in torch 2.13 and 1.13.1, padded and not: 7e-7 of the largest value was seen.
    assert report["parity"]["relative_error"] < 1e-5
