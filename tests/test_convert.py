"""A conversion gives a bundle that was proved, or an error and nothing else, however it ends."""

from __future__ import annotations

import dataclasses
import json
import os
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from tests.bundles import model_of
from tests.conversions import append_node, command, damage, digests, tail_of

import satchel
from satchel import convert as convert_function
from satchel import stage_cache, trial
from satchel.convert import Done
from satchel.convert import run as converted
from satchel.dry_run import forecast
from satchel.options import Options
from satchel.progress import Progress
from satchel_device_profiles import load_profile
from satchel_runtimes.errors import Cancelled, IntegrityError, ParityError, SatchelError, SupportError, UsageError
from satchel_runtimes.manifest import Manifest

HERE = "generic-x86-64" if trial.machine_kind() == "x86-64" else "generic-arm64"
SCHEMES = ("fp32", "fp16", "int8-dynamic", "int8-weights")
NAN = np.array(np.nan, np.float32)


@pytest.fixture(autouse=True)
def short_measuring(monkeypatch: pytest.MonkeyPatch) -> None:
    _measure_shortly(monkeypatch)


def _measure_shortly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial, "LENGTHS", (8, 16))
    monkeypatch.setattr(trial, "_MEASURE_SECONDS", 0.01)


@dataclasses.dataclass(frozen=True)
class Shipped:
    """One scheme of MiniLM, with the news that came while it was made."""

    done: Done
    news: tuple[Progress, ...]

    @property
    def manifest(self) -> Manifest:
        return Manifest.parse((self.done.bundle / "bundle.json").read_bytes(), str(self.done.bundle))


@pytest.fixture(scope="module")
def shipped(minilm: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Shipped]:
    """MiniLM in every scheme for this machine."""
    found = {}
    folder = tmp_path_factory.mktemp("shipped")
    with pytest.MonkeyPatch.context() as monkeypatch:
        _measure_shortly(monkeypatch)
        for scheme in SCHEMES:
            news: list[Progress] = []
            options = Options(str(minilm), HERE, folder / f"{scheme}.satchel", quantize=scheme)
            found[scheme] = Shipped(converted(options, progress=news.append), tuple(news))
    return found


class TestSchemes:
    @pytest.mark.parametrize("scheme", SCHEMES)
    def test_minilm_passes_every_gate(self, shipped: dict[str, Shipped], scheme: str) -> None:
        manifest = shipped[scheme].manifest

        statuses = {**manifest.measured.verdicts}
        assert statuses.pop("accuracy") == "not_judged"
        assert set(statuses.values()) == {"passed"}
        assert not manifest.failed

    @pytest.mark.int8_dot
    @pytest.mark.parametrize("scheme", SCHEMES)
    def test_its_manifest_says_what_the_profile_wants(self, shipped: dict[str, Shipped], scheme: str) -> None:
        profile, target = load_profile(HERE), shipped[scheme].manifest.target
        graph = onnx.load(shipped[scheme].done.bundle / "model.onnx")

        assert (target.device, target.format, target.scheme) == (HERE, "onnx", scheme)
        assert (target.engine.name, target.engine.opset, target.engine.ir) == ("onnxruntime", 20, 9)
        assert target.engine.version == (">=1.22" if scheme == "int8-weights" else ">=1.17")
        assert target.engine.options == profile.session_options.get(scheme, {})
        assert {each.domain: each.version for each in graph.opset_import}[""] == target.engine.opset
        assert graph.ir_version == target.engine.ir

    @pytest.mark.int8_dot
    def test_int8_weights_have_the_sign_that_the_profile_names(self, shipped: dict[str, Shipped]) -> None:
        graph = onnx.load(shipped["int8-dynamic"].done.bundle / "model.onnx").graph
        quantized = {node.input[1] for node in graph.node if node.op_type == "MatMulInteger"}
        types = {each.data_type for each in graph.initializer if each.name in quantized}

        assert load_profile(HERE).int8_weights == "int8"
        assert types == {onnx.TensorProto.INT8}

    @pytest.mark.int8_dot
    def test_smaller_schemes_are_smaller(self, shipped: dict[str, Shipped]) -> None:
        size = {name: each.manifest.measured.size_bytes for name, each in shipped.items()}

        assert size["int8-dynamic"] < 0.3 * size["fp32"]
        assert size["int8-weights"] < 0.3 * size["fp32"]
        assert size["fp16"] < 0.55 * size["fp32"]

    def test_the_dry_run_said_sizes_within_fifteen_percent(
        self, shipped: dict[str, Shipped], minilm: Path, tmp_path: Path
    ) -> None:
        for scheme, each in shipped.items():
            options = Options(str(minilm), HERE, tmp_path / "m.satchel", format="onnx", quantize=scheme)
            (candidate,) = forecast(options)["candidates"]
            assert candidate["size_bytes"] == pytest.approx(each.manifest.measured.size_bytes, rel=0.15)

    @pytest.mark.parametrize("scheme", SCHEMES)
    def test_golden_files_take_a_megabyte_at_most(self, shipped: dict[str, Shipped], scheme: str) -> None:
        assert _size(shipped[scheme].done.bundle / "golden") <= 1_000_000

    def test_the_size_in_the_manifest_is_that_of_the_files(self, shipped: dict[str, Shipped]) -> None:
        each = shipped["int8-dynamic"]

        assert each.manifest.measured.size_bytes == _size(each.done.bundle) - _size(each.done.bundle / "bundle.json")

    def test_every_file_but_the_manifest_has_a_digest(self, shipped: dict[str, Shipped]) -> None:
        each = shipped["fp32"]
        found = digests(each.done.bundle)
        del found["bundle.json"]

        assert found == {name: digest.sha256 for name, digest in each.manifest.files.items()}

    @pytest.mark.int8_dot
    def test_the_report_names_what_was_shipped(self, shipped: dict[str, Shipped]) -> None:
        each = shipped["int8-dynamic"]
        report = json.loads(each.done.report_path.read_text())

        assert report == each.done.report | {"tasks": list(each.done.report["tasks"])}
        assert report["bundle"] == str(each.done.bundle)
        assert report["chosen"] == {"format": "onnx", "scheme": "int8-dynamic"}
        assert (report["exit_code"], report["error"]) == (0, None)
        assert report["candidates"][0]["speedup"]["16"]["value"] > 0

    def test_the_model_s_folder_is_nobody_s_business_on_a_device(
        self, shipped: dict[str, Shipped], minilm: Path
    ) -> None:
        text = (shipped["fp32"].done.bundle / "bundle.json").read_text()

        assert str(minilm.parent) not in text
        assert str(minilm.parent) not in onnx.load(
            shipped["fp32"].done.bundle / "model.onnx"
        ).SerializeToString().decode("latin-1")


def _size(path: Path) -> int:
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return sum(file.stat().st_size for file in files)


class TestCache:
    def test_a_second_scheme_starts_no_worker(
        self, shipped: dict[str, Shipped], minilm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(stage_cache, "run_worker", _never)

        bundle = satchel.convert(minilm, device=HERE, quantize="fp16", out=tmp_path / "m.satchel")

        assert digests(bundle)["model.onnx"] == digests(shipped["fp16"].done.bundle)["model.onnx"]

    def test_another_device_with_the_same_opset_starts_none_either(
        self, shipped: dict[str, Shipped], minilm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(stage_cache, "run_worker", _never)

        satchel.convert(minilm, device="raspberry-pi-4", quantize="int8-dynamic", out=tmp_path / "m.satchel")


def _never(*given: Any) -> Any:
    raise AssertionError("the stage was made again")


class TestProgress:
    @pytest.mark.int8_dot
    def test_stages_come_in_order(self, shipped: dict[str, Shipped]) -> None:
        news = shipped["int8-dynamic"].news

        assert _stages(news)[-5:] == ["quantize", "pack", "verify", "measure", "seal"]
        assert all(each.done <= each.total for each in news if each.total)
        last = [each for each in news if each.stage == "verify"][-1]
        assert last.done == last.total > 0

    def test_a_conversion_without_cache_tells_of_the_export(self, tiny: Path, tmp_path: Path) -> None:
        news: list[Progress] = []

        satchel.convert(
            tiny,
            device="raspberry-pi-5",
            quantize="fp32",
            out=tmp_path / "m.satchel",
            cache=False,
            progress=news.append,
        )

        expected = ["source", "load", "export", "reference", "write", "pack", "verify", "seal"]
        assert [each for each in _stages(news) if each != "measure"] == expected
        assert all(each.message for each in news)

    @pytest.mark.parametrize("stage", ["source", "export", "verify", "seal"])
    def test_a_callback_that_raises_stops_it_cleanly(self, tiny: Path, tmp_path: Path, stage: str) -> None:
        class Stop(Exception):
            pass

        def stop(news: Progress) -> None:
            if news.stage == stage:
                raise Stop

        making = _half_made()
        with pytest.raises(Stop):
            satchel.convert(
                tiny,
                device="raspberry-pi-5",
                out=tmp_path / "out" / "m.satchel",
                cache=stage != "export",
                progress=stop,
            )

        assert not (tmp_path / "out").exists() or not any((tmp_path / "out").iterdir())
        assert _half_made() == making

    @pytest.mark.parametrize("stage", ["source", "load", "quantize", "verify"])
    def test_a_cancelled_conversion_leaves_its_report_and_nothing_else(
        self, tiny: Path, tmp_path: Path, stage: str
    ) -> None:
        cancel = threading.Event()

        def cancel_at(news: Progress) -> None:
            if news.stage == stage:
                cancel.set()

        making = _half_made()
        with pytest.raises(Cancelled) as caught:
            satchel.convert(
                tiny,
                device="raspberry-pi-5",
                out=tmp_path / "m.satchel",
                cache=stage != "load",
                progress=cancel_at,
                cancel=cancel,
            )

        assert caught.value.exit_code == 130
        assert json.loads((tmp_path / "m.report.json").read_text())["exit_code"] == 130
        assert _names(tmp_path) == {"m.report.json"}
        assert _half_made() == making

    def test_cancelling_from_another_thread_does_not_wait_for_the_export(self, tiny: Path, tmp_path: Path) -> None:
        cancel = threading.Event()
        news: list[Progress] = []

        def soon(each: Progress) -> None:
            news.append(each)
            if each.stage == "load":
                threading.Timer(0.2, cancel.set).start()

        with pytest.raises(Cancelled):
            satchel.convert(
                tiny, device="raspberry-pi-5", out=tmp_path / "m.satchel", cache=False, progress=soon, cancel=cancel
            )

        assert news[-1].stage in ("load", "export")  # importing torch takes seconds


def _names(folder: Path) -> set[str]:
    return {each.name for each in folder.iterdir()}


def _stages(news: tuple[Progress, ...] | list[Progress]) -> list[str]:
    return list(dict.fromkeys(each.stage for each in news))


def _half_made() -> set[str]:
    folder = stage_cache.stages_folder()
    return {each.name for each in folder.iterdir() if each.name.startswith((".", "satchel-twin"))}


class TestChoice:
    def test_the_first_that_passes_is_shipped_and_the_refused_are_in_the_report(
        self, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        damage(monkeypatch, lambda model: append_node(model, "Mul", NAN), schemes=["int8-dynamic"])

        done = converted(Options(str(tiny), "raspberry-pi-5", tmp_path / "m.satchel"))

        schemes = load_profile("raspberry-pi-5").schemes
        first, second = done.report["candidates"]
        assert (first["scheme"], first["passed"]) == (schemes[0], False)
        assert "the answer holds NaN" in first["why"]
        assert (second["scheme"], second["passed"]) == (schemes[1], True)
        assert done.report["chosen"]["scheme"] == schemes[1]
        assert satchel.load(done.bundle).manifest.target.scheme == schemes[1]

    def test_where_none_passes_the_first_refusal_is_the_error(
        self, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        damage(monkeypatch, lambda model: append_node(model, "Mul", NAN))

        with pytest.raises(ParityError, match="int8-dynamic"):
            satchel.convert(tiny, device="raspberry-pi-5", format="onnx", out=tmp_path / "m.satchel")

        report = json.loads((tmp_path / "m.report.json").read_text())
        assert [each["scheme"] for each in report["candidates"]] == list(load_profile("raspberry-pi-5").schemes)
        assert all(
            [verdict["gate"] for verdict in each["verdicts"] if verdict["status"] == "refused"] == ["parity"]
            for each in report["candidates"]
        )

    def test_a_scheme_that_the_device_s_engine_lacks_is_passed_over_with_its_reason(
        self, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        old = tmp_path / "old.toml"
        schemes = '["int8-weights", "fp32"]'
        old.write_text(f'extends = "raspberry-pi-zero-2w"\nname = "old"\ntitle = "An old board"\nschemes = {schemes}\n')

        done = converted(Options(str(tiny), str(old), tmp_path / "m.satchel"))

        first, second = done.report["candidates"]
        assert [verdict["gate"] for verdict in first["verdicts"] if verdict["status"] == "refused"] == ["support"]
        assert second["passed"]


class TestKeepFailed:
    @pytest.fixture
    def failing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        damage(monkeypatch, lambda model: append_node(model, "Mul", np.float32([-1] * 32)))

    def test_a_kept_bundle_is_marked_and_not_loaded_by_accident(
        self, tiny: Path, tmp_path: Path, failing: None
    ) -> None:
        out = tmp_path / "m.satchel"

        with pytest.raises(ParityError):
            satchel.convert(tiny, device="raspberry-pi-5", format="onnx", quantize="fp32", out=out, keep_failed=True)

        with pytest.raises(IntegrityError, match="its gates refused it"):
            satchel.load(out)
        with satchel.load(out, allow_failed=True) as model:
            assert model.manifest.failed
            assert model.manifest.measured.verdicts["parity"] == "refused"
            assert model.predict("Where is my order?").shape == (32,)

    def test_it_never_takes_the_place_of_an_earlier_bundle(
        self, tiny: Path, bundle: Path, tmp_path: Path, failing: None
    ) -> None:
        before = digests(bundle)

        for _ in range(2):
            with pytest.raises(ParityError):
                satchel.convert(
                    tiny,
                    device="raspberry-pi-5",
                    format="onnx",
                    quantize="fp32",
                    out=bundle,
                    keep_failed=True,
                    replace=True,
                )

        assert digests(bundle) == before
        kept = bundle.with_name("copy.failed.satchel")
        assert satchel.load(kept, allow_failed=True).manifest.failed
        assert _names(tmp_path) == {bundle.name, kept.name, "copy.report.json"}


class TestExistingTarget:
    def test_it_is_refused_before_any_work(self, tiny: Path, bundle: Path, tmp_path: Path) -> None:
        before = digests(tmp_path)
        news: list[Progress] = []

        with pytest.raises(UsageError, match="add --replace"):
            satchel.convert(tiny, device="raspberry-pi-5", out=bundle, progress=news.append)

        assert _stages(news) == ["source"]
        assert digests(tmp_path) == before

    def test_a_named_report_is_written_all_the_same(self, tiny: Path, bundle: Path, tmp_path: Path) -> None:
        with pytest.raises(UsageError):
            satchel.convert(tiny, device="raspberry-pi-5", out=bundle, report=tmp_path / "why.json")

        assert json.loads((tmp_path / "why.json").read_text())["exit_code"] == 2

    def test_replace_exchanges_it(self, tiny: Path, bundle: Path, tmp_path: Path) -> None:
        satchel.convert(tiny, device="raspberry-pi-5", quantize="fp32", out=bundle, replace=True)

        assert satchel.load(bundle).manifest.name == "tiny"
        assert _names(tmp_path) == {bundle.name, "copy.report.json"}


class Running:
    """A conversion in a process of its own, which can be met at any of its stages."""

    def __init__(self, model: Path, out: Path, *options: str) -> None:
        arguments = command("convert", model, "--device", "raspberry-pi-5", "--quantize", "fp32", "-o", out, *options)
        self.process = subprocess.Popen(
            arguments,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(each for each in sys.path if each)},
            text=True,
            start_new_session=True,
            # A shell starts background jobs with Ctrl-C ignored, and children inherit that.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # noqa: PLW1509  # no threads yet
        )
        self.said = ""

    def reach(self, stage: str) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.said += line
            if line.startswith(f"{stage}:"):
                return
        raise AssertionError(f"it ended before {stage}:\n{self.said}")

    def end(self) -> int:
        _, said = self.process.communicate(timeout=120)
        self.said += said
        assert "Traceback" not in self.said, self.said
        return self.process.returncode


@pytest.fixture
def start() -> Iterator[Callable[..., Running]]:
    running: list[Running] = []

    def started(*given: Any) -> Running:
        running.append(Running(*given))
        return running[-1]

    yield started
    for each in running:
        if each.process.poll() is None:
            os.killpg(each.process.pid, signal.SIGKILL)
        each.process.communicate()


class TestInterruption:
    @pytest.mark.parametrize("stage", ["source", "load", "write", "verify"])
    def test_ctrl_c_leaves_the_earlier_bundle_and_no_traceback(
        self, tiny: Path, bundle: Path, tmp_path: Path, start: Callable[..., Running], stage: str
    ) -> None:
        before = digests(bundle)
        running = start(tiny, bundle, "--replace", *(["--no-cache"] if stage == "load" else []))

        running.reach(stage)
        os.killpg(running.process.pid, signal.SIGINT)  # as a terminal does: to every process of the group

        assert running.end() == 130
        assert "interrupted" in running.said.lower()
        assert digests(bundle) == before
        assert _names(tmp_path) <= {bundle.name, "copy.report.json"}

    @pytest.mark.parametrize("stage", ["load", "write", "verify"])
    def test_after_kill_9_the_earlier_bundle_is_there_and_the_next_run_works(
        self, tiny: Path, bundle: Path, tmp_path: Path, start: Callable[..., Running], stage: str
    ) -> None:
        before = digests(bundle)
        running = start(tiny, bundle, "--replace", *(["--no-cache"] if stage == "load" else []))

        running.reach(stage)
        os.killpg(running.process.pid, signal.SIGKILL)
        running.process.wait()

        assert digests(bundle) == before
        satchel.convert(tiny, device="raspberry-pi-5", quantize="fp32", out=bundle, replace=True)
        assert satchel.load(bundle).manifest.name == "tiny"
        assert _names(tmp_path) == {bundle.name, "copy.report.json"}

    def test_two_conversions_to_one_target_do_not_mix(
        self, tiny: Path, tmp_path: Path, start: Callable[..., Running]
    ) -> None:
        out = tmp_path / "m.satchel"
        running = start(tiny, out)
        running.reach("write")
        running.process.send_signal(signal.SIGSTOP)

        with pytest.raises(SatchelError, match="another conversion is writing to it") as caught:
            satchel.convert(tiny, device="raspberry-pi-5", out=out, report=tmp_path / "second.json")
        running.process.send_signal(signal.SIGCONT)

        assert caught.value.exit_code == 1
        assert running.end() == 0, running.said
        assert satchel.load(out).manifest.target.scheme == "fp32"


class TestFullDisk:
    @pytest.mark.parametrize("scheme", ["fp32", "int8-dynamic"])
    def test_what_cannot_be_written_is_not_half_written(
        self, tiny: Path, bundle: Path, tmp_path: Path, scheme: str
    ) -> None:
        satchel.convert(tiny, device="raspberry-pi-5", quantize="fp32", out=tmp_path / "first.satchel")  # the stage
        before = digests(bundle)

        done = _convert_with_files_of(600_000, tiny, bundle, "--replace", "--quantize", scheme)

        assert done.returncode == 1, done.stderr
        assert tail_of(done.stderr).startswith(f"Cannot write {bundle}.\n  why: the disk is full")
        assert "fix: free some space" in done.stderr
        assert digests(bundle) == before
        assert _names(tmp_path) == {bundle.name, "copy.report.json", "first.report.json", "first.satchel"}

    def test_a_stage_that_cannot_be_written_is_not_taken_for_one(self, tiny: Path, tmp_path: Path) -> None:
        making = _half_made()

        done = _convert_with_files_of(600_000, tiny, tmp_path / "m.satchel", "--no-cache")

        assert done.returncode == 1, done.stderr
        assert "why: the disk is full" in done.stderr
        assert _names(tmp_path) == {"m.report.json"}
        assert _half_made() == making


def _convert_with_files_of(most: int, model: Path, out: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Convert where no file may grow beyond a number of bytes, which is how a full disk shows."""
    done = subprocess.run(
        command("convert", model, "--device", "raspberry-pi-5", "-o", out, *options),
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (most, most)),
        env={**os.environ, "PYTHONPATH": os.pathsep.join(each for each in sys.path if each)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done


class TestOptions:
    def test_sequence_length_is_honoured(self, tiny: Path, tmp_path: Path) -> None:
        bundle = satchel.convert(
            tiny, device="raspberry-pi-5", quantize="fp32", sequence_length=12, out=tmp_path / "m.satchel"
        )

        with satchel.load(bundle) as model:
            assert model.manifest.tasks[0].option("tokenize", "max_length") == 12
            words = "one two three four five six seven eight nine ten"
            np.testing.assert_allclose(model.predict(words), model.predict(f"{words} eleven twelve"), atol=1e-6)
            assert model.predict(f"{words} eleven", task="feature-extraction").shape[1] == 12

    def test_a_sequence_longer_than_the_model_takes_is_cut_to_that(self, tiny: Path, tmp_path: Path) -> None:
        bundle = satchel.convert(
            tiny, device="raspberry-pi-5", quantize="fp32", sequence_length=100_000, out=tmp_path / "m.satchel"
        )

        assert satchel.load(bundle).manifest.tasks[0].option("tokenize", "max_length") <= 512

    def test_an_older_opset_is_written_where_it_is_asked_for(self, tiny: Path, tmp_path: Path) -> None:
        bundle = satchel.convert(
            tiny, device="raspberry-pi-5", quantize="int8-dynamic", opset=18, out=tmp_path / "m.satchel"
        )

        graph = onnx.load(bundle / "model.onnx")
        assert {each.domain: each.version for each in graph.opset_import}[""] == 18
        assert satchel.load(bundle).manifest.target.engine.opset == 18

    def test_threads_travel_in_the_bundle(self, tiny: Path, tmp_path: Path) -> None:
        bundle = satchel.convert(tiny, device="raspberry-pi-5", quantize="fp32", threads=2, out=tmp_path / "m.satchel")

        assert satchel.load(bundle).manifest.target.threads == 2

    def test_a_model_for_entailment_also_serves_zero_shot_classification(self, tmp_path: Path) -> None:
        bundle = satchel.convert(
            model_of("nli_classifier"), device="raspberry-pi-5", quantize="fp32", out=tmp_path / "m.satchel"
        )

        with satchel.load(bundle) as model:
            assert model.tasks == ("text-classification", "zero-shot-classification")
            answer = model.predict(
                "The striker scored twice.", task="zero-shot-classification", candidate_labels=["sports", "food"]
            )
        assert answer["labels"][0] == "sports"

    def test_a_vocabulary_wide_output_stays_small_and_sane(self, tmp_path: Path) -> None:
        """30,522 words for every token: whole, the answers to the golden samples would be 200 MB."""
        done = run_and_measure(model_of("masked_language_model"), tmp_path / "m.satchel", "--quantize", "fp32")

        assert _size(tmp_path / "m.satchel" / "golden") <= 1_000_000
        assert done.ru_maxrss < 1.5 * 2**20  # KiB; 0.9 GiB was seen, of which torch is most
        with satchel.load(tmp_path / "m.satchel") as model:
            assert len(model.predict("The capital is [MASK].")) == 5


def run_and_measure(model: Path, out: Path, *options: str) -> resource.struct_rusage:
    """Convert in a process of its own, and say what it and its workers took."""
    code = (
        "import json, resource, subprocess, sys; done = subprocess.run(sys.argv[1:]);"
        "print(json.dumps(resource.getrusage(resource.RUSAGE_CHILDREN))); sys.exit(done.returncode)"
    )
    arguments = command("convert", model, "--device", "raspberry-pi-5", "-o", out, "-q", "--json", *options)
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(each for each in sys.path if each)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return resource.struct_rusage(json.loads(done.stdout.splitlines()[-1]))


@pytest.fixture(scope="module")
def component(tiny: Path) -> Any:  # Any: a Component, which wants torch
    from satchel_converters.capture import capture, load_model
    from satchel_converters.source import find_source

    (found,) = capture(load_model(find_source(tiny), "sentence-embedding"))
    return found


class TestExportRoutes:
    def test_every_route_gives_the_same_answers(
        self, component: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from satchel_converters import onnx_export

        answers = []
        for place, (name, route) in enumerate(list(onnx_export._ROUTES.items())):
            monkeypatch.setattr(onnx_export, "_ROUTES", {name: route})
            folder = tmp_path / str(place)
            folder.mkdir()
            file, _ = onnx_export.export_component(component, 18, 8, folder)
            answers.append(_answer(folder / file))

        assert len(answers) >= 2
        for other in answers[1:]:
            np.testing.assert_allclose(other, answers[0], atol=1e-5)

    def test_a_route_that_raises_or_is_wrong_at_another_shape_is_passed_over(
        self, component: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from satchel_converters import onnx_export

        tried = []

        def remember(name: str, route: Any) -> Any:
            def wrapped(*given: Any) -> Any:
                tried.append(name)
                return route(*given)

            return wrapped

        routes = {
            "broken": _raises,
            "rigid": _right_at_the_traced_length,
            "whole": onnx_export._by_tracing,
            "spare": _raises,
        }
        monkeypatch.setattr(onnx_export, "_ROUTES", {name: remember(name, each) for name, each in routes.items()})

        file, weights = onnx_export.export_component(component, 18, 8, tmp_path)

        assert tried == ["broken", "rigid", "whole"]
        assert sorted(each.name for each in tmp_path.iterdir()) == sorted([file, weights])
        expected = component.module(**component.example)["last_hidden_state"].detach().numpy()
        np.testing.assert_allclose(_answer(tmp_path / file, component.example), expected, atol=1e-5)

    def test_where_every_route_fails_each_one_s_reason_is_told(
        self, component: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from satchel_converters import onnx_export

        monkeypatch.setattr(onnx_export, "_ROUTES", {"broken": _raises, "rigid": _right_at_the_traced_length})

        with pytest.raises(SupportError) as caught:
            onnx_export.export_component(component, 18, 8, tmp_path)

        assert caught.value.exit_code == 14
        assert "broken: RuntimeError: no such operator" in caught.value.why
        assert "rigid: wrong by" in caught.value.why
        assert "at a shape that was not traced" in caught.value.why


def _raises(*given: Any) -> Any:
    raise RuntimeError("no such operator\nand a long explanation")


def _right_at_the_traced_length(component: Any, opset: int, out: Path) -> Any:
    """An export of another module: what comes out is scaled by the number of tokens over that of the example."""
    import torch

    from satchel_converters.onnx_export import _by_tracing

    traced = component.example["input_ids"].numel()

    class Scaled(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = component.module

        def forward(self, **inputs: torch.Tensor) -> dict[str, torch.Tensor]:
            scale = inputs["input_ids"].numel() / traced
            return {name: value * scale for name, value in self.inner(**inputs).items()}

    return _by_tracing(dataclasses.replace(component, module=Scaled().eval()), opset, out)


def _answer(file: Path, example: Any = None) -> np.ndarray:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    if example is None:
        ids = np.arange(101, 131)[None].repeat(2, axis=0)
        values = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
    else:
        values = {name: value.numpy() for name, value in example.items()}
    answer: np.ndarray = session.run(None, values)[0]
    return answer


def test_convert_is_the_function_however_it_is_imported() -> None:
    code = "import satchel.convert, satchel.cli.convert, satchel; print(callable(satchel.convert))"

    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(each for each in sys.path if each)},
        capture_output=True,
        text=True,
        check=True,
    )

    assert done.stdout.strip() == "True"
    assert convert_function is satchel.convert
