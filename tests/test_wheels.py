"""What users install: two wheels, and a thin one that runs a bundle where nothing else is."""

from __future__ import annotations

import ast
import configparser
import io
import json
import os
import runpy
import shutil
import subprocess
import sys
import tokenize
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# Loads a bundle, answers, and replays its golden samples; run inside the clean environment.
DEVICE_PROGRAM = """
import importlib.util, json, sys
absent = {name: importlib.util.find_spec(name) is None for name in ("torch", "transformers", "click", "satchel")}
from satchel_runtimes import load
from satchel_runtimes.golden import replay
with load(sys.argv[1]) as model:
    answer = model.predict("Where is my order?")
    again = replay(model)
figures = {task: parity.figures for task, parity in again.artifact.items()}
print(json.dumps({"absent": absent, "shape": list(answer.shape), "passed": again.passed, "artifact": figures}))
"""


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    out = tmp_path_factory.mktemp("wheels")
    # setuptools leaves build/ and egg-info beside the sources: build from a copy of what git would ship.
    tree = out / "tree"
    ignore = shutil.ignore_patterns(".*", "__pycache__", "*.egg-info", "build", "dist", "node_modules", "*.satchel")
    shutil.copytree(ROOT, tree, ignore=ignore)
    page = tree / "benchmarks" / "satchel_benchmarks" / "page"  # where make wheels puts what make web has built
    (page / "app" / "parts").mkdir(parents=True, exist_ok=True)
    for name in ("index.html", "app/page.js", "app/parts/engine.wasm"):
        (page / name).write_text("built")
    for folder in (tree, tree / "runtimes"):
        build = [sys.executable, "-m", "build", "--no-isolation", "--wheel", "--outdir", str(out), str(folder)]
        done = subprocess.run(build, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return {wheel.name.partition("-")[0]: wheel for wheel in out.glob("*.whl")}


def members(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def metadata(wheel: Path) -> str:
    with zipfile.ZipFile(wheel) as archive:
        return archive.read(next(name for name in archive.namelist() if name.endswith("METADATA"))).decode()


def test_the_full_wheel_needs_the_thin_one_of_its_own_version_and_does_not_contain_it(wheels: dict[str, Path]) -> None:
    version = configparser_version()

    assert f"Requires-Dist: satchel-runtimes=={version}" in metadata(wheels["satchel"])
    assert not any(name.startswith("satchel_runtimes/") for name in members(wheels["satchel"]))
    assert {name.partition("/")[0] for name in members(wheels["satchel_runtimes"])} == {
        "satchel_runtimes",
        f"satchel_runtimes-{version}.dist-info",
    }


def test_the_wheels_carry_their_data_and_their_types(wheels: dict[str, Path]) -> None:
    full, thin = members(wheels["satchel"]), members(wheels["satchel_runtimes"])

    assert "satchel_runtimes/bundle.schema.json" in thin
    assert "satchel_device_profiles/data/raspberry-pi-5.toml" in full
    assert "satchel/page.css" in full
    assert "satchel/runs.schema.json" in full
    for name in ("index.html", "app/page.js", "app/parts/engine.wasm"):
        assert f"satchel_benchmarks/page/{name}" in full
    assert "satchel_converters/toolchains/tflite.txt" in full
    for package in ("satchel", "satchel_converters", "satchel_device_profiles", "satchel_benchmarks"):
        assert f"{package}/py.typed" in full
    assert "satchel_runtimes/py.typed" in thin
    for name in full | thin:
        assert name.partition("/")[0].startswith("satchel"), f"{name} would land in everybody's site-packages"


def test_the_thin_wheel_is_thin(wheels: dict[str, Path]) -> None:
    assert wheels["satchel_runtimes"].stat().st_size < 300_000  # a task is 2 to 7 kB


def test_the_thin_wheel_is_the_sources_without_comments_line_by_line(wheels: dict[str, Path]) -> None:
    def code(source: str) -> str:
        tree = ast.parse(source)
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and len(node.body) > 1 and ast.get_docstring(node):
                del node.body[0]
        return ast.dump(tree, include_attributes=True)

    with zipfile.ZipFile(wheels["satchel_runtimes"]) as archive:
        packed = {name: archive.read(name).decode() for name in archive.namelist() if name.endswith(".py")}

    assert len(packed) > 100
    for name, text in packed.items():
        assert code(text) == code((ROOT / "runtimes" / name).read_text("utf-8")), name
    tokens = tokenize.generate_tokens(io.StringIO(packed["satchel_runtimes/bench.py"]).readline)
    assert tokenize.COMMENT not in {token.type for token in tokens}
    public = ast.parse(packed["satchel_runtimes/predictor.py"])
    documented = {
        node.name for node in ast.walk(public) if isinstance(node, ast.FunctionDef) and ast.get_docstring(node)
    }
    assert {"load", "predict"} <= documented


def test_one_version_everywhere() -> None:
    import satchel
    import satchel_runtimes

    runtimes = tomllib.loads((ROOT / "runtimes/pyproject.toml").read_text())["project"]

    assert runtimes["version"] == configparser_version() == satchel.__version__ == satchel_runtimes.__version__


def test_the_thin_wheel_runs_a_bundle_where_nothing_else_is(
    wheels: dict[str, Path], minilm_bundle: Path, tmp_path: Path
) -> None:
    python = clean_environment(tmp_path / "venv", sys.executable)
    install(python, f"{wheels['satchel_runtimes']}[onnx,text]", "-c", str(ROOT / "constraints.txt"))
    # tokenizers asks for huggingface_hub, and that for click; neither is used to run a bundle.
    subprocess.run([python, "-m", "pip", "uninstall", "-q", "-y", "click", "huggingface_hub"], check=True)

    found = on_device(python, minilm_bundle, tmp_path)

    assert all(found["absent"].values())
    assert found["shape"] == [384]
    assert found["passed"]


@pytest.mark.slow
@pytest.mark.parametrize("engine", [["onnxruntime"], ["onnxruntime==1.17.3", "numpy<2"]], ids=["newest", "oldest"])
def test_the_thin_wheel_runs_on_python_3_9_with_the_newest_and_the_oldest_engine(
    wheels: dict[str, Path], minilm_bundle: Path, tmp_path: Path, engine: list[str]
) -> None:
    python39 = find_python("3.9")
    if python39 is None:
        pytest.skip("there is no Python 3.9 on this machine")
    python = clean_environment(tmp_path / "venv", python39)
    install(python, f"{wheels['satchel_runtimes']}[onnx,text]", *engine)

    found = on_device(python, minilm_bundle, tmp_path)

    assert found["passed"], found


@pytest.mark.slow
def test_the_old_tflite_runtime_runs_what_it_computes_rightly_and_nothing_else(
    wheels: dict[str, Path], minilm: Path, tmp_path: Path
) -> None:
    import satchel

    found_python = find_python("3.11") or find_python("3.9")
    if found_python is None:
        pytest.skip("tflite-runtime ends at Python 3.11, and there is none on this machine")
    python = clean_environment(tmp_path / "venv", found_python)
    install(python, f"{wheels['satchel_runtimes']}[tflite-legacy,text]")
    bundles = {
        scheme: satchel.convert(
            minilm,
            device="generic-x86-64",
            format="tflite",
            quantize=scheme,
            prefer="size",
            out=tmp_path / f"{scheme}.satchel",
        )
        for scheme in ("fp32", "fp16", "int8-weights", "int8-dynamic")
    }

    for scheme in ("fp32", "fp16", "int8-weights"):
        found = on_device(python, bundles[scheme], tmp_path)
        assert found["passed"], (scheme, found)
    program = tmp_path / "device.py"
    refused = subprocess.run([python, program, bundles["int8-dynamic"]], capture_output=True, text=True, check=False)
    assert "ToolchainError" in refused.stderr
    assert "computes some of its operators wrongly" in refused.stderr


@pytest.mark.slow
def test_a_language_model_talks_where_there_is_no_torch(wheels: dict[str, Path], tmp_path: Path) -> None:
    import satchel

    real = runpy.run_path(str(ROOT / "examples" / "real_models.py"))
    bundle = satchel.convert(
        real["smollm2"](), device="generic-x86-64", quantize="fp32", prefer="size", out=tmp_path / "smollm2.satchel"
    )
    schema = tmp_path / "answer.json"
    schema.write_text(json.dumps({"type": "object", "properties": {"capital": {"enum": ["Rome", "Paris"]}}}))
    python = clean_environment(tmp_path / "venv", sys.executable)
    thin = f"{wheels['satchel_runtimes']}[onnx,text,chat,structured]"
    install(python, thin, str(wheels["satchel"]), "-c", str(ROOT / "constraints.txt"))

    said = talk(python, bundle, "What is the capital of France?\nAnd what is 2+2?\n", "--max-new-tokens", "30")
    as_json = talk(python, bundle, "What is the capital of France?\n", "--json-schema", str(schema))

    assert subprocess.run([python, "-c", "import torch"], capture_output=True, check=False).returncode
    assert "Paris" in said.splitlines()[0] and len(said.splitlines()) >= 2
    assert json.loads(as_json) in ({"capital": "Paris"}, {"capital": "Rome"}, {})


def talk(python: str, bundle: Path, lines: str, *options: str) -> str:
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [str(Path(python).parent / "satchel"), "chat", str(bundle), *options]
    done = subprocess.run(command, input=lines, capture_output=True, text=True, env=clean, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def configparser_version() -> str:
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg")
    return parser["metadata"]["version"]


def find_python(version: str) -> str | None:
    found = shutil.which(f"python{version}")
    homes = sorted((Path.home() / ".pyenv" / "versions").glob(f"{version}.*/bin/python"))
    return str(homes[-1]) if homes else found


def clean_environment(folder: Path, python: str) -> str:
    subprocess.run([python, "-m", "venv", str(folder)], check=True)
    return str(folder / "bin" / "python")


def install(python: str, *what: str) -> None:
    command = [python, "-m", "pip", "install", "-q", "--disable-pip-version-check", *what]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]


def on_device(python: str, bundle: Path, tmp_path: Path) -> dict[str, object]:
    program = tmp_path / "device.py"
    program.write_text(DEVICE_PROGRAM)
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [python, program, bundle], capture_output=True, text=True, env=clean, cwd=tmp_path, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found: dict[str, object] = json.loads(done.stdout)
    return found
