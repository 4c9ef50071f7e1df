"""A converter can live in an environment of its own: installed whole or not at all, used by `convert` through files, seeing
nothing of this environment, and stopped where it takes too much."""

from __future__ import annotations

import configparser
import dataclasses
import importlib.metadata
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import satchel
from satchel import stage_cache
from satchel.cli import cli
from satchel.convert import run
from satchel.options import Options, prepare
from satchel.stage_cache import stage_for, stages_folder
from satchel_converters import toolchains
from satchel_converters.applying import apply_scheme
from satchel_converters.format import format_of
from satchel_converters.process import HERE, Room
from satchel_converters.source import find_source
from satchel_converters.stage import Job, Stage, run_worker
from satchel_converters.toolchains import (
    MARKER,
    Installed,
    Toolchain,
    find_installed,
    list_toolchains,
    locked,
    toolchain_of,
    using,
)
from satchel_converters.toolchains.install import install, remove
from satchel_device_profiles import load_profile
from satchel_runtimes.bundle import sha256_of
from satchel_runtimes.errors import Cancelled, SatchelError, ToolchainError, UsageError

ROOT = Path(__file__).parents[1]


def silent(*_: object) -> None: ...


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SATCHEL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


# The data


def pins_of(file: Path) -> dict[str, str]:
    lines = [line.strip() for line in file.read_text().splitlines() if line.strip() and not line.startswith("#")]
    return {canonicalize_name(line.partition("==")[0]): line.partition("==")[2] for line in lines}


@pytest.mark.parametrize("name", list_toolchains())
def test_a_toolchain_has_the_pins_of_the_constraints_and_all_that_its_packages_need(name: str) -> None:
    toolchain = toolchain_of(name)
    pins, constraints = pins_of(toolchain.requirements), pins_of(ROOT / "constraints.txt")
    roots = [package for each in toolchain.formats for package in format_of(each).packages]

    assert pins == {package: constraints[package] for package in pins}
    assert set(pins) == closure(roots)
    assert toolchain.pins[0].startswith("torch==")


def closure(roots: list[str]) -> set[str]:
    """Packages and what they need, as they are installed here."""
    found: set[str] = set()
    todo = [(canonicalize_name(each), {""}) for each in roots]
    while todo:
        name, extras = todo.pop()
        if name not in found:
            found.add(name)
            for need in map(Requirement, importlib.metadata.requires(name) or ()):
                if need.marker is None or any(need.marker.evaluate({"extra": extra}) for extra in extras):
                    todo.append((canonicalize_name(need.name), need.extras or {""}))
    return found


def test_the_ranges_of_packages_and_python_are_those_of_the_distribution() -> None:
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    asked = [Requirement(line) for line in setup["options.extras_require"]["convert"].splitlines() if line]
    ranges = {each.name: str(each.specifier) for each in asked if each.specifier}

    for name in ("onnx", "tflite"):
        writer = format_of(name)
        assert writer.needs == {package: ranges[package] for package in writer.packages if package in ranges}
    for name in list_toolchains():
        assert set(toolchain_of(name).python.split(",")) == set(setup["options"]["python_requires"].split(","))


def test_other_pins_are_another_folder(own_cache: Path) -> None:
    toolchain = toolchain_of("tflite")
    newer = dataclasses.replace(toolchain, pins=("torch==3.0", *toolchain.pins[1:]))

    assert newer.folder != toolchain.folder
    assert newer.folder.parent == toolchain.folder.parent == own_cache / "toolchains"


# Installing: a toolchain of one package, whose wheel is made here


@pytest.fixture
def fake(tmp_path: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> Toolchain:
    with zipfile.ZipFile(tmp_path / "satcheltool-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("satcheltool.py", "ANSWER = 42\n")
        wheel.writestr("satcheltool-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: satcheltool\nVersion: 1.0\n")
        wheel.writestr(
            "satcheltool-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr("satcheltool-1.0.dist-info/RECORD", "")
    for name, value in {"NO_INDEX": "1", "FIND_LINKS": str(tmp_path), "CONFIG_FILE": os.devnull}.items():
        monkeypatch.setenv(f"PIP_{name}", value)
    data = tmp_path / "data"
    data.mkdir()
    (data / "fake.txt").write_text(head() + "satcheltool==1.0\n")
    monkeypatch.setattr(toolchains, "DATA", data)
    return toolchain_of("fake")


def head(disk_mb: int = 1) -> str:
    return f"# formats: onnx\n# python: >=3.11,<3.13\n# disk_mb: {disk_mb}\n# about: a test\n\n"


def satchel_command(*arguments: object) -> Result:
    return CliRunner().invoke(cli, [str(each) for each in arguments])


def test_install_list_and_remove(fake: Toolchain) -> None:
    before = json.loads(satchel_command("toolchain", "list", "--json").stdout)
    made = satchel_command("toolchain", "install", "fake")
    listed = json.loads(satchel_command("toolchain", "list", "--json").stdout)
    doctor = json.loads(satchel_command("doctor", "--json").stdout)["toolchains"]
    found = find_installed(fake)
    again = satchel_command("toolchain", "install", "fake", "-q")
    marker = (fake.folder / MARKER).stat().st_mtime_ns

    assert before[0]["installed"] is False
    assert before[0]["fix"] == "satchel toolchain install fake"
    assert (made.exit_code, made.stdout.strip()) == (0, str(fake.folder)), made.output
    assert "toolchain: Successfully installed satcheltool-1.0" in made.stderr
    assert found is not None and found.versions["satcheltool"] == "1.0"
    assert listed == doctor
    assert (listed[0]["installed"], listed[0]["folder"]) == (True, str(fake.folder))
    assert listed[0]["bytes"] > 1_000_000  # pip alone is more
    assert (again.exit_code, again.stderr) == (0, "")
    assert (fake.folder / MARKER).stat().st_mtime_ns == marker
    code = "import satcheltool, sys; print(satcheltool.ANSWER)"
    assert subprocess.run([found.python, "-I", "-c", code], capture_output=True, check=True).stdout == b"42\n"

    assert satchel_command("toolchain", "remove", "fake").stdout.strip() == str(fake.folder)
    assert not fake.folder.exists()
    assert find_installed(fake) is None
    assert "not installed" in satchel_command("toolchain", "remove", "fake").stderr


def test_what_is_half_made_is_never_used_and_swept_by_the_next_install(fake: Toolchain) -> None:
    for folder in (fake.folder, fake.folder.with_name("fake-0123456789ab")):
        (folder / "bin").mkdir(parents=True)
        (folder / "bin" / "python").symlink_to(sys.executable)
    stranger = fake.folder.with_name("fake-gpu-0123456789ab")  # of a toolchain whose name begins alike
    stranger.mkdir()

    assert find_installed(fake) is None
    (row,) = json.loads(satchel_command("toolchain", "list", "--json").stdout)
    assert len(row["left_over"]) == 2
    install(fake, silent)

    assert find_installed(fake) is not None
    left = sorted(each.name for each in fake.folder.parent.iterdir() if each.is_dir())
    assert left == sorted([fake.folder.name, stranger.name])


def test_ctrl_c_in_the_middle_leaves_nothing_that_could_be_used(fake: Toolchain) -> None:
    def at_pip(line: str) -> None:
        if line.startswith("Processing"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        install(fake, at_pip)

    assert not fake.folder.exists()
    with locked("fake", exclusive=True):
        pass  # the lock was given back


@pytest.mark.skipif(toolchains.fcntl is None, reason="no locks there")
def test_two_installs_at_once_are_kept_apart_and_so_are_a_conversion_and_a_removal(fake: Toolchain) -> None:
    with locked("fake", exclusive=True), pytest.raises(SatchelError, match="wait until that has ended"):
        install(fake, silent)
    fake.folder.mkdir()
    (fake.folder / MARKER).write_text("{}")
    with using(Installed("fake", fake.folder, "3.11.0", {}, 0)):
        with using(Installed("fake", fake.folder, "3.11.0", {}, 0)):
            pass  # two conversions may
        with pytest.raises(SatchelError, match="a conversion is using it"):
            remove("fake")
    assert remove("fake") == [fake.folder]


def test_a_toolchain_whose_python_has_gone_does_not_count(fake: Toolchain) -> None:
    (fake.folder / "bin").mkdir(parents=True)
    (fake.folder / "bin" / "python").symlink_to(fake.folder / "gone")
    (fake.folder / MARKER).write_text(json.dumps({"python": "3.11.0", "versions": {}, "bytes": 1}))

    assert find_installed(fake) is None


def no_such_version(fake: Toolchain, monkeypatch: pytest.MonkeyPatch) -> str:
    fake.requirements.write_text(head() + "satcheltool==9.9\n")
    return "No matching distribution found for satcheltool==9.9"


def no_network(fake: Toolchain, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.setenv("PIP_RETRIES", "1")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    fake.requirements.write_text(head() + "satcheltool==9.9\n")
    return "pip cannot reach its package index"


def no_space(fake: Toolchain, monkeypatch: pytest.MonkeyPatch) -> str:
    fake.requirements.write_text(head(disk_mb=10**9) + "satcheltool==1.0\n")
    return "the disk is full"


@pytest.mark.parametrize("trouble", [no_such_version, no_network, no_space])
def test_what_pip_complains_of_is_said_and_nothing_stays(
    fake: Toolchain, monkeypatch: pytest.MonkeyPatch, trouble: Callable[[Toolchain, pytest.MonkeyPatch], str]
) -> None:
    why = trouble(fake, monkeypatch)

    done = satchel_command("toolchain", "install", "fake", "-q")

    assert done.exit_code == 15
    assert "Cannot install the toolchain fake." in done.stderr
    assert f"why: {why}" in done.stderr.replace("ERROR: ", "").replace(
        "Could not find a version that satisfies the requirement satcheltool==9.9 (from versions: 1.0); ", ""
    )
    assert "fix: " in done.stderr
    assert not [each for each in fake.folder.parent.iterdir() if each.is_dir()]


def test_a_python_outside_the_range_or_none_at_all_is_refused_first(fake: Toolchain, tmp_path: Path) -> None:
    old = tmp_path / "python3.8"
    old.write_text("#!/bin/sh\necho 3.8.1\n")
    old.chmod(0o755)

    with pytest.raises(ToolchainError, match=r"it needs Python >=3\.11,<3\.13; .*python3\.8 is 3\.8\.1"):
        install(fake, silent, python=old)
    with pytest.raises(UsageError, match="it does not run"):
        install(fake, silent, python=tmp_path / "none")
    with pytest.raises(UsageError, match="satchel knows fake"):
        toolchain_of("tflight")
    assert not fake.folder.exists()


def test_a_worker_in_a_toolchain_sees_nothing_of_this_environment(fake: Toolchain, tiny: Path, tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(fake.folder)], check=True)
    (fake.folder / MARKER).write_text(json.dumps({"python": "3.11.0", "versions": {}, "bytes": 1}))
    installed = find_installed(fake)
    (tmp_path / "stage").mkdir()

    # satchel itself was found, and numpy, which lies beside it here, was not.
    with pytest.raises(RuntimeError, match="No module named 'numpy'") as caught:
        run_worker(job_of(tiny, Room(installed)), tmp_path / "stage", silent)
    assert "satchel_converters/worker.py" in str(caught.value)


# Converting: an environment that holds what this one holds, under the name of the real toolchain


def job_of(model: Path, room: Room = HERE) -> Job:
    writer = format_of("onnx")
    plan = writer.plan(writer.schemes["fp32"], load_profile("raspberry-pi-5"), {})
    return Job(find_source(model), ("feature-extraction",), plan, room=room)


@pytest.fixture
def onnx_toolchain(own_cache: Path) -> Installed:
    """Looks into this environment's packages, so it costs no install; that a real one does not, is shown above."""
    toolchain = toolchain_of("onnx")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(toolchain.folder)], check=True)
    (packages,) = toolchain.folder.glob("lib/python*/site-packages")
    (packages / "all.pth").write_text(str(Path(np.__file__).parents[1]))
    versions = {"torch": "2.13.0", "satchel-test": "1"}
    (toolchain.folder / MARKER).write_text(json.dumps({"python": "3.11.0", "versions": versions, "bytes": 1}))
    found = find_installed(toolchain)
    assert found is not None
    return found


@pytest.fixture
def without_onnxscript(monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "onnxscript" else find(name))


@pytest.fixture
def pythons(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The Python of every worker that is started."""
    started: list[str] = []
    real = subprocess.Popen

    def start(command: list[str], *rest: object, **options: object) -> subprocess.Popen[bytes]:
        if "satchel_converters.worker" in command:
            started.append(command[0])
        return real(command, *rest, **options)  # type: ignore[call-overload]  # handed through

    monkeypatch.setattr(subprocess, "Popen", start)
    return started


@pytest.mark.usefixtures("without_onnxscript")
def test_convert_uses_the_toolchain_of_a_format_whose_package_is_missing_here(
    tiny: Path, tmp_path: Path, onnx_toolchain: Installed, pythons: list[str]
) -> None:
    news: list[str] = []
    options = Options(str(tiny), "raspberry-pi-5", tmp_path / "a.satchel", "onnx", "int8-dynamic", prefer="size")

    done = run(options, progress=lambda each: news.append(f"{each.stage} {each.message}"))

    assert pythons == [str(onnx_toolchain.python)] * 2  # export, quantization
    assert f"toolchain onnx in {onnx_toolchain.folder}" in news
    assert satchel.load(done.bundle).predict("Where is my order?").shape == (32,)
    verdict = next(each for each in done.report["candidates"][0]["verdicts"] if each["gate"] == "toolchain")
    assert "onnxscript 0." in verdict["why"]


@pytest.mark.usefixtures("without_onnxscript")
def test_where_nothing_is_installed_the_error_names_both_ways(tiny: Path, tmp_path: Path, own_cache: Path) -> None:
    with pytest.raises(ToolchainError) as caught:
        satchel.convert(tiny, device="raspberry-pi-5", format="onnx", out=tmp_path / "a.satchel")

    assert caught.value.why == "the package 'onnxscript' is not installed"
    assert "pip install 'satchel[convert]'" in caught.value.fix
    assert "satchel toolchain install onnx" in caught.value.fix


def test_a_package_that_is_too_old_is_as_good_as_missing(
    tiny: Path, tmp_path: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = importlib.metadata.version
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "1.13.1" if name == "torch" else version(name))

    with pytest.raises(ToolchainError, match=r"it needs torch >=2\.11; 1\.13\.1 is installed"):
        satchel.convert(tiny, device="raspberry-pi-5", format="onnx", out=tmp_path / "a.satchel")


def test_the_engine_that_runs_what_was_made_must_be_here(
    tiny: Path, tmp_path: Path, onnx_toolchain: Installed, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "onnxruntime" else find(name))

    with pytest.raises(ToolchainError) as caught:
        satchel.convert(tiny, device="raspberry-pi-5", format="onnx", out=tmp_path / "a.satchel")

    assert caught.value.fix == "pip install 'satchel-runtimes[onnx]'"


def test_a_toolchain_can_be_named_and_must_serve_the_format_and_be_there(
    tiny: Path, tmp_path: Path, onnx_toolchain: Installed
) -> None:
    def convert(toolchain: str, **options: str) -> None:
        out = tmp_path / "a.satchel"
        satchel.convert(tiny, device="raspberry-pi-5", toolchain=toolchain, quantize="fp32", out=out, **options)  # type: ignore[arg-type]

    with pytest.raises(UsageError, match="it converts to tflite; this conversion makes onnx"):
        convert("tflite", format="onnx")
    with pytest.raises(UsageError, match="Cannot find the toolchain 'onx'"):
        convert("onx")
    with pytest.raises(ToolchainError, match="the toolchain tflite is not installed") as caught:
        convert("tflite", format="tflite")
    assert caught.value.fix == "satchel toolchain install tflite"

    prepared = prepare(Options(str(tiny), "raspberry-pi-5", tmp_path / "a.satchel", toolchain="onnx"))

    assert {each.format: each.room.toolchain for each in prepared.candidates} == {
        "onnx": onnx_toolchain,
        "tflite": None,
        "torchscript": None,
    }


@pytest.fixture(scope="module")
def finished(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Stage:
    return run_worker(job_of(tiny), tmp_path_factory.mktemp("stage"), silent)


@pytest.mark.usefixtures("own_cache")
def test_a_stage_is_found_again_by_the_versions_of_the_environment_that_made_it(
    tiny: Path, tmp_path: Path, finished: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    def work(job: Job, folder: Path, *_: object) -> None:
        shutil.copytree(finished.folder, folder, dirs_exist_ok=True)

    monkeypatch.setattr(stage_cache, "run_worker", work)
    one = Installed("onnx", tmp_path, "3.11.0", {"torch": "2.13.0"}, 1)
    other = dataclasses.replace(one, versions={"torch": "9.9"})
    rooms = (HERE, Room(seconds=5), Room(one), Room(one, memory_mb=5), Room(other))

    there = [stage_for(job_of(tiny, each), silent, None, use_cache=True)[1] for each in rooms]

    assert there == [False, True, False, True, False]  # limits change nothing of what is made


def test_a_scheme_is_made_alike_here_and_in_a_worker(
    tiny: Path, tmp_path: Path, finished: Stage, onnx_toolchain: Installed
) -> None:
    job, stage = job_of(tiny), finished
    plan = dataclasses.replace(job.plan, scheme=format_of("onnx").schemes["int8-dynamic"])
    made = {}
    for name, room in (("here", HERE), ("there", Room(onnx_toolchain, seconds=300))):
        out = tmp_path / name
        out.mkdir()
        artifact = apply_scheme(stage.twin, plan, out, stage.calibration(None), room=room, tell=silent)
        with (out / artifact.files[0]).open("rb") as file:
            made[name] = (artifact.graphs, artifact.files, artifact.folder == out, sha256_of(file))

    assert made["here"] == made["there"]


def test_calibration_samples_reach_a_worker_as_they_are(tiny: Path, tmp_path: Path) -> None:
    """int8-static takes its ranges from them, so the same samples give the same file."""
    tflite = format_of("tflite")
    profile = load_profile("generic-arm64")
    plan = tflite.plan(tflite.schemes["fp32"], profile, {})
    plan = dataclasses.replace(plan, buckets=(16,))
    job = Job(find_source(tiny), ("feature-extraction",), plan)
    stage, _ = stage_for(job, silent, None, use_cache=True)
    static = dataclasses.replace(plan, scheme=tflite.schemes["int8-static"])
    digests = []
    for room in (HERE, Room(seconds=300)):
        artifact = apply_scheme(stage.twin, static, tmp_path, stage.calibration(None), room=room, tell=silent)
        with (tmp_path / artifact.files[0]).open("rb") as file:
            digests.append(sha256_of(file))

    assert digests[0] == digests[1]


# Limits


@pytest.fixture
def greedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """In the worker's place: a process that starts a child, which takes 300 MB and sleeps. The child's id is in the file."""
    code = "import os, sys, time; held = b'x' * 300_000_000; open(sys.argv[1], 'w').write(str(os.getpid())); time.sleep(60)"
    (tmp_path / "greedy.py").write_text(code)
    file = tmp_path / "worker.sh"
    file.write_text(f'#!/bin/sh\n"{sys.executable}" "{tmp_path}/greedy.py" "{tmp_path}/pid"\nexit 0\n')
    file.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(file))
    yield tmp_path / "pid"


def has_ended(pid: int) -> bool:
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        stat = Path(f"/proc/{pid}/stat")
        if not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] == "Z":
            return True
        time.sleep(0.05)
    return False


needs_proc = pytest.mark.skipif(not Path("/proc/self/statm").is_file(), reason="memory is watched in /proc")


@needs_proc
@pytest.mark.parametrize(
    ("room", "why"),
    [
        (Room(memory_mb=150), r"it used \d+ MiB of memory; --max-convert-memory-mb allows 150"),
        (Room(seconds=2), "it took longer than the 2 seconds of --max-convert-seconds"),
    ],
    ids=["memory", "time"],
)
def test_a_worker_beyond_its_limit_is_stopped_with_its_children_and_nothing_stays(
    tiny: Path, own_cache: Path, greedy: Path, room: Room, why: str
) -> None:
    began = time.monotonic()

    with pytest.raises(SatchelError, match=why) as caught:
        stage_for(job_of(tiny, room), silent, None, use_cache=True)

    assert caught.value.exit_code == 1
    assert caught.value.what == "The export was stopped."
    assert time.monotonic() - began < 30  # of 60
    assert os.listdir(stages_folder()) == []
    if room.seconds is not None or greedy.exists():
        assert has_ended(int(greedy.read_text()))


@needs_proc
def test_a_worker_within_its_limits_is_left_alone(tiny: Path, tmp_path: Path) -> None:
    stage = run_worker(job_of(tiny, Room(memory_mb=16_000, seconds=600)), tmp_path, silent)

    assert stage.twin.files


@needs_proc
@pytest.mark.parametrize(
    "limit", [("--max-convert-memory-mb", "60"), ("--max-convert-seconds", "0.4")], ids=["memory", "time"]
)
def test_convert_keeps_its_limits_and_writes_its_report(tiny: Path, tmp_path: Path, limit: tuple[str, str]) -> None:
    """A real worker: torch alone takes more than this, and longer."""
    out = tmp_path / "a.satchel"

    done = satchel_command(
        "convert", tiny, "--device", "raspberry-pi-5", "--format", "onnx", "--no-cache", "-q", "-o", out, *limit
    )

    assert done.exit_code == 1
    assert "The export was stopped." in done.stderr
    assert limit[0] in done.stderr
    assert sorted(each.name for each in tmp_path.iterdir()) == ["a.report.json"]
    assert json.loads((tmp_path / "a.report.json").read_text())["exit_code"] == 1


def test_a_limit_that_is_no_limit_is_refused(tiny: Path) -> None:
    done = satchel_command("convert", tiny, "--device", "raspberry-pi-5", "--max-convert-seconds", "0")

    assert done.exit_code == 2
    assert "Cannot use --max-convert-seconds 0" in done.stderr


def test_a_cancelled_worker_takes_its_children_along(tiny: Path, tmp_path: Path, greedy: Path) -> None:
    import threading

    cancel = threading.Event()
    (tmp_path / "stage").mkdir()

    def when_it_runs() -> None:
        while not greedy.exists() or not greedy.read_text():
            time.sleep(0.05)
        cancel.set()

    threading.Thread(target=when_it_runs, daemon=True).start()
    with pytest.raises(Cancelled):
        run_worker(job_of(tiny), tmp_path / "stage", silent, cancel)

    assert has_ended(int(greedy.read_text()))


# The real one: make test-slow


@pytest.mark.slow
def test_an_environment_without_any_converter_converts_to_tflite_through_the_toolchain(
    minilm: Path, tmp_path: Path, own_cache: Path
) -> None:
    """Installs some 2 GB. This environment's own conversion has the same pins, so the files are the same to the byte."""
    python = tmp_path / "venv" / "bin" / "python"
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    light = ["numpy", "ai-edge-litert", "tokenizers", "click", "rich"]
    pip = [python, "-m", "pip", "install", "-q", "--disable-pip-version-check", "-c", ROOT / "constraints.txt", *light]
    subprocess.run(pip, check=True)
    ours = ("sdk", "converters", "runtimes", "device_profiles", "benchmarks")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(str(ROOT / each) for each in ours)}

    def there(*arguments: object) -> subprocess.CompletedProcess[str]:
        command = [str(python), "-m", "satchel", *map(str, arguments)]
        return subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)

    asked = (minilm, "--device", "raspberry-pi-5", "--format", "tflite", "--quantize", "int8-dynamic")
    without = there("convert", *asked, "-o", tmp_path / "there.satchel")
    assert without.returncode == 15
    assert "satchel toolchain install tflite" in without.stderr

    installed = there("toolchain", "install", "tflite")
    assert installed.returncode == 0, installed.stderr[-2000:]
    made = there("convert", *asked, "-o", tmp_path / "there.satchel")
    assert made.returncode == 0, made.stderr[-2000:]
    here = satchel.convert(
        minilm, device="raspberry-pi-5", format="tflite", quantize="int8-dynamic", out=tmp_path / "here.satchel"
    )

    bundles = [satchel.load(each) for each in (here, tmp_path / "there.satchel")]
    texts = ["Where is my order?", "The parcel was left at the neighbour's door. " * 8]
    first, second = (np.asarray(bundle.predict(texts)) for bundle in bundles)
    np.testing.assert_array_equal(first, second)
    assert bundles[0].manifest.toolchain == bundles[1].manifest.toolchain
    assert bundles[0].manifest.files["model.tflite"] == bundles[1].manifest.files["model.tflite"]
