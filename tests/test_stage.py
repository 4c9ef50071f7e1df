"""The long work happens in a process of its own: it tells its progress, its errors arrive whole, it can be stopped, and
what it made is kept and never trusted when something of it is missing."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from tests import warm_workers

from satchel import stage_cache
from satchel.options import Options, prepare
from satchel.pack import pack_twin
from satchel.stage_cache import stage_for, stages_folder
from satchel_converters import process
from satchel_converters import stage as stage_module
from satchel_converters.format import format_of
from satchel_converters.source import find_source
from satchel_converters.stage import Job, Stage, run_worker
from satchel_device_profiles import load_profile
from satchel_runtimes import errors
from satchel_runtimes.errors import Cancelled, IntegrityError, SatchelError

News = list[tuple[str, str, int, int]]


def job_of(model: Path, *tasks: str, opset: int | None = None, max_length: int | None = None) -> Job:
    writer = format_of("onnx")
    wanted = {"opset": str(opset)} if opset else {}
    plan = writer.plan(writer.schemes["fp32"], load_profile("raspberry-pi-5"), wanted)
    return Job(find_source(model), tasks or ("feature-extraction",), plan, max_length)


def silent(stage: str, message: str, step: int, total: int) -> None: ...


@pytest.fixture(scope="module")
def job(tiny: Path) -> Job:
    return job_of(tiny)


@pytest.fixture(scope="module")
def finished(job: Job, tmp_path_factory: pytest.TempPathFactory) -> tuple[Stage, News]:
    """A stage made by a real worker, and what it said meanwhile."""
    news: News = []
    stage = run_worker(job, tmp_path_factory.mktemp("stage"), lambda *each: news.append(each))
    return stage, news


@pytest.fixture
def processes(monkeypatch: pytest.MonkeyPatch) -> list[subprocess.Popen[bytes]]:
    """The workers that a test starts."""
    started: list[subprocess.Popen[bytes]] = []
    real = subprocess.Popen

    def start(*arguments: object, **options: object) -> subprocess.Popen[bytes]:
        started.append(real(*arguments, **options))  # type: ignore[call-overload]  # handed through
        return started[-1]

    monkeypatch.setattr(subprocess, "Popen", start)
    return started


@pytest.fixture(autouse=True)
def _cold_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is the process that is tested here."""
    monkeypatch.setattr(process, "_start", warm_workers.COLD)


@pytest.fixture
def worker_script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Put a shell script in the worker's place; its folder is $FOLDER."""

    def put(script: str) -> None:
        file = tmp_path / "worker.sh"
        file.write_text(f'#!/bin/sh\nFOLDER="$3"\n{script}\n')
        file.chmod(0o755)
        monkeypatch.setattr(sys, "executable", str(file))

    return put


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SATCHEL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


# What a worker makes and says


def test_a_stage_holds_the_float_graph_the_processors_and_the_references_answers(finished: tuple[Stage, News]) -> None:
    stage, _ = finished
    (graph,) = stage.twin.graphs

    assert graph.file in stage.twin.files
    assert {"config.json", "tokenizer.json"} <= set(stage.processors)
    assert len(stage.items) >= 64
    assert {"torch", "transformers", "onnx"} <= set(stage.toolchain)
    assert all((stage.folder / name).is_file() for name in (*stage.twin.files, *stage.processors))


def test_a_worker_tells_each_stage_in_its_order_and_every_golden_sample(finished: tuple[Stage, News]) -> None:
    stage, news = finished
    samples = [each for each in news if each[0] == "reference"]

    assert list(dict.fromkeys(name for name, *_ in news)) == ["load", "export", "reference"]
    assert news[0][1].startswith("tiny, ")
    assert samples[0][3] == len(stage.items)
    assert 0 < sum(step for *_, step, _ in samples) <= len(stage.items)


def test_a_worker_leaves_no_log_and_no_error_behind(finished: tuple[Stage, News]) -> None:
    names = os.listdir(finished[0].folder)

    assert "stage.json" in names
    assert not {"worker.log", "error.json"} & set(names)


# Errors


def test_what_a_real_worker_refuses_arrives_with_its_own_kind(tiny: Path, tmp_path: Path) -> None:
    with pytest.raises(IntegrityError, match="Cannot load .* for text-classification") as caught:
        run_worker(job_of(tiny, "text-classification"), tmp_path, silent)  # a model that has no such head

    assert caught.value.exit_code == 16
    assert "the checkpoint lacks 2 weights" in caught.value.why
    assert "--task" in caught.value.fix


@pytest.mark.parametrize("name", [name for name in errors.__all__ if name.endswith("Error")])
def test_every_kind_of_error_travels_with_its_words_and_exit_code(
    job: Job, tmp_path: Path, worker_script: Callable[[str], None], name: str
) -> None:
    kind = getattr(errors, name)
    words = {"kind": name, "what": "Cannot “do” it.", "why": "l'été\nis over", "fix": "wait"}
    (tmp_path / "words.json").write_text(json.dumps(words))
    worker_script(f'cp "{tmp_path}/words.json" "$FOLDER/error.json"; exit {kind.exit_code}')
    (tmp_path / "stage").mkdir()

    with pytest.raises(SatchelError) as caught:
        run_worker(job, tmp_path / "stage", silent)

    assert type(caught.value) is kind
    assert (caught.value.what, caught.value.why, caught.value.fix) == (words["what"], words["why"], words["fix"])


def test_a_bug_in_a_worker_stays_a_bug_and_shows_its_traceback(
    job: Job, tmp_path: Path, worker_script: Callable[[str], None]
) -> None:
    worker_script("echo 'Traceback (most recent call last): ZeroDivisionError' >&2; exit 1")

    with pytest.raises(RuntimeError, match="ZeroDivisionError"):
        run_worker(job, tmp_path, silent)


def test_a_worker_that_was_killed_is_not_a_bug(
    job: Job, tmp_path: Path, processes: list[subprocess.Popen[bytes]]
) -> None:
    with pytest.raises(SatchelError, match="The export was killed") as caught:
        run_worker(job, tmp_path, lambda *_: processes[0].send_signal(signal.SIGKILL))

    assert caught.value.exit_code == 1
    assert "got signal 9; most often the system was out of memory" in caught.value.why


@pytest.mark.parametrize("complaint", ["No space left on device", "File too large"])
def test_a_full_disk_in_a_worker_is_said_as_one(
    job: Job, tmp_path: Path, worker_script: Callable[[str], None], complaint: str
) -> None:
    worker_script(f"echo 'OSError: [Errno 28] {complaint}' >&2; exit 1")

    with pytest.raises(SatchelError, match="the disk is full") as caught:
        run_worker(job, tmp_path, silent)
    assert caught.value.exit_code == 1


# Stopping


def entries(folder: Path) -> list[str]:
    return sorted(os.listdir(folder)) if folder.is_dir() else []


def test_a_set_event_stops_a_worker_in_the_middle_and_nothing_stays(
    job: Job, own_cache: Path, processes: list[subprocess.Popen[bytes]]
) -> None:
    cancel = threading.Event()

    def at_the_export(stage: str, message: str, step: int, total: int) -> None:
        if stage == "export":
            cancel.set()

    with pytest.raises(Cancelled, match="its cancel event was set") as caught:
        stage_for(job, at_the_export, cancel, use_cache=True)

    assert caught.value.exit_code == 130
    assert processes[0].poll() == -signal.SIGKILL
    assert entries(stages_folder()) == []


def test_a_worker_that_says_nothing_is_stopped_as_quickly(
    job: Job, own_cache: Path, worker_script: Callable[[str], None]
) -> None:
    worker_script("exec sleep 60")
    cancel = threading.Event()
    threading.Timer(0.2, cancel.set).start()
    began = time.monotonic()

    with pytest.raises(Cancelled):
        stage_for(job, silent, cancel, use_cache=True)

    assert time.monotonic() - began < 10  # of 60; a busy machine may take its time
    assert entries(stages_folder()) == []


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_an_error_in_the_callback_or_ctrl_c_takes_the_worker_along(
    job: Job,
    own_cache: Path,
    worker_script: Callable[[str], None],
    processes: list[subprocess.Popen[bytes]],
    error: type[BaseException],
) -> None:
    worker_script("""echo '{"stage": "load", "message": "", "step": 0, "total": 0}'; exec sleep 60""")

    def fail(*_: object) -> None:
        raise error

    with pytest.raises(error):
        stage_for(job, fail, None, use_cache=True)

    assert processes[0].poll() == -signal.SIGKILL
    assert entries(stages_folder()) == []


# The cache


class Worked(Exception):
    """A worker was started."""


@pytest.fixture
def workers(finished: tuple[Stage, News], monkeypatch: pytest.MonkeyPatch) -> list[Job]:
    """Workers that copy the finished stage; the jobs that they were given."""
    jobs: list[Job] = []

    def work(job: Job, folder: Path, tell: object, cancel: object) -> Stage:
        jobs.append(job)
        shutil.copytree(finished[0].folder, folder, dirs_exist_ok=True)
        return stage_module.read_stage(folder)

    monkeypatch.setattr(stage_cache, "run_worker", work)
    return jobs


@pytest.mark.usefixtures("own_cache")
def test_a_second_conversion_starts_no_worker(job: Job, workers: list[Job]) -> None:
    first, first_was_there = stage_for(job, silent, None, use_cache=True)
    news: News = []
    second, second_was_there = stage_for(job, lambda *each: news.append(each), None, use_cache=True)

    assert (first_was_there, second_was_there) == (False, True)
    assert first == second
    assert len(workers) == 1
    assert [name for name, *_ in news] == ["cache"]


@pytest.mark.usefixtures("own_cache")
def test_the_cache_can_be_left_out_and_is_written_anew(job: Job, workers: list[Job]) -> None:
    stage_for(job, silent, None, use_cache=True)

    _, was_there = stage_for(job, silent, None, use_cache=False)

    assert not was_there
    assert len(workers) == 2
    assert stage_for(job, silent, None, use_cache=True)[1]
    assert len(entries(stages_folder())) == 1


@pytest.mark.usefixtures("own_cache")
def test_another_model_task_opset_or_length_is_another_stage(
    job: Job, tiny: Path, tmp_path: Path, workers: list[Job]
) -> None:
    other = Path(shutil.copytree(tiny, tmp_path / "other"))
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps({**config, "layer_norm_eps": 1e-5}))
    jobs = [
        job,
        job_of(other),
        job_of(tiny, "sentence-embedding", "feature-extraction"),
        job_of(tiny, opset=18),
        job_of(tiny, max_length=64),
        dataclasses.replace(job, source=dataclasses.replace(job.source, trust_remote_code=True)),
    ]

    answers = [stage_for(each, silent, None, use_cache=True)[1] for each in (*jobs, *jobs)]

    assert answers == [False] * len(jobs) + [True] * len(jobs)
    assert workers == jobs


@pytest.mark.usefixtures("own_cache")
def test_the_same_model_in_another_place_is_the_same_stage(
    job: Job, tiny: Path, tmp_path: Path, workers: list[Job]
) -> None:
    stage_for(job, silent, None, use_cache=True)
    moved = Path(shutil.copytree(tiny, tmp_path / "moved"))

    assert stage_for(job_of(moved), silent, None, use_cache=True)[1]


def gone(folder: Path, name: str) -> None:
    (folder / name).unlink()


def cut(folder: Path, name: str) -> None:
    os.truncate(folder / name, (folder / name).stat().st_size // 2)


@pytest.mark.usefixtures("own_cache")
@pytest.mark.parametrize("damage", [gone, cut])
@pytest.mark.parametrize("name", ["stage.json", "sizes.json", "model.onnx", "reference.safetensors", "tokenizer.json"])
def test_a_stage_that_lacks_something_is_made_again(
    job: Job, workers: list[Job], name: str, damage: Callable[[Path, str], None]
) -> None:
    stage, _ = stage_for(job, silent, None, use_cache=True)
    damage(stage.folder, name)

    again, was_there = stage_for(job, silent, None, use_cache=True)

    assert not was_there
    assert again == stage
    assert stage_for(job, silent, None, use_cache=True)[1]


@pytest.mark.usefixtures("own_cache")
@pytest.mark.parametrize("sizes", ["{}", "[]", "null", '{"stage.json": "big"}', "\x00"])
def test_a_stage_whose_list_of_files_is_scribbled_on_is_made_again(job: Job, workers: list[Job], sizes: str) -> None:
    stage, _ = stage_for(job, silent, None, use_cache=True)
    (stage.folder / "sizes.json").write_text(sizes)

    assert not stage_for(job, silent, None, use_cache=True)[1]


def test_a_conversion_that_was_faster_is_not_disturbed(
    job: Job, own_cache: Path, finished: tuple[Stage, News], monkeypatch: pytest.MonkeyPatch
) -> None:
    inodes: list[int] = []

    def slow(job: Job, folder: Path, tell: object, cancel: object) -> None:
        shutil.copytree(finished[0].folder, folder, dirs_exist_ok=True)
        if not inodes:  # while this one works, another finishes the same
            inodes.append(0)
            other, _ = stage_for(job, silent, None, use_cache=True)
            inodes[0] = (other.folder / "model.onnx").stat().st_ino

    monkeypatch.setattr(stage_cache, "run_worker", slow)

    stage, _ = stage_for(job, silent, None, use_cache=True)

    assert (stage.folder / "model.onnx").stat().st_ino == inodes[0]
    assert len(entries(stages_folder())) == 1


@pytest.mark.usefixtures("own_cache")
def test_what_killed_conversions_left_is_swept_after_a_day(job: Job, workers: list[Job]) -> None:
    for name, hours in (("old", 25), ("young", 1)):
        folder = stages_folder() / f".making-{name}"
        folder.mkdir(parents=True)
        (folder / "model.onnx").write_bytes(b"half")
        os.utime(folder, (time.time() - hours * 3600,) * 2)

    stage_for(job, silent, None, use_cache=True)

    assert [name for name in entries(stages_folder()) if name.startswith(".")] == [".making-young"]


@pytest.mark.usefixtures("own_cache")
def test_the_oldest_stages_go_first_when_the_cache_is_full(
    job: Job, tiny: Path, workers: list[Job], monkeypatch: pytest.MonkeyPatch
) -> None:
    stage, _ = stage_for(job, silent, None, use_cache=True)
    size = sum(file.stat().st_size for file in stage.folder.iterdir())
    monkeypatch.setattr(stage_cache, "_LIMIT_BYTES", size * 5 // 2)
    os.utime(stage.folder, (1, 1))

    others = [job_of(tiny, max_length=length) for length in (64, 65)]
    kept = [stage_for(each, silent, None, use_cache=True)[0].folder for each in others]

    assert entries(stages_folder()) == sorted(folder.name for folder in kept)


def test_a_twin_shares_no_file_with_its_stage(tiny: Path, finished: tuple[Stage, News], tmp_path: Path) -> None:
    stage, _ = finished
    prepared = prepare(Options(str(tiny), "raspberry-pi-5", out=tmp_path / "out.satchel"))

    plan = next(each.plan for each in prepared.candidates if each.plan)

    pack_twin(prepared, stage, plan, tmp_path)

    # onnx refuses weights that have a second name, so a link would stop whoever reads the stage next.
    assert {name: (stage.folder / name).stat().st_nlink for name in stage.twin.files} == dict.fromkeys(
        stage.twin.files, 1
    )


# A full disk: a limit on the size of a file gives the same error at the same places

CONVERT = """
import resource, sys
from pathlib import Path
from satchel.convert import convert
from satchel_runtimes.errors import SatchelError
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]), resource.RLIM_INFINITY))
try:
    convert(sys.argv[2], device="raspberry-pi-5", quantize="fp32", out=sys.argv[3], replace=True)
except SatchelError as error:
    print(error)
    sys.exit(error.exit_code)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="limits on files are POSIX")
def test_a_full_disk_at_any_moment_is_said_and_leaves_the_earlier_bundle(
    tiny: Path, tmp_path: Path, own_cache: Path
) -> None:
    out = tmp_path / "dist" / "tiny.satchel"
    out.mkdir(parents=True)
    (out / "bundle.json").write_text("the earlier one")

    def convert(limit: int) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", CONVERT, str(limit), str(tiny), str(out)]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    at_export = convert(1_000_000)
    assert (at_export.returncode, at_export.stderr) == (1, "")
    assert "the disk is full" in at_export.stdout
    assert "free some space" in at_export.stdout
    assert entries(stages_folder()) == []

    job_of_convert = job_of(tiny, "sentence-embedding", "feature-extraction")
    stage_for(job_of_convert, silent, None, use_cache=True)
    at_pack = convert(1_000_000)
    assert (at_pack.returncode, at_pack.stderr) == (1, "")
    assert "the disk is full" in at_pack.stdout
    assert len(entries(stages_folder())) == 1  # the finished stage was used and stays

    assert (out / "bundle.json").read_text() == "the earlier one"
    assert entries(out.parent) == ["tiny.report.json", "tiny.satchel"]
