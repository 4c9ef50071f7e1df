"""Every gate fires on a model, a session or an installation that is broken on purpose, and on nothing else."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from tests.bundles import model_of
from tests.conversions import append_node, damage, one_layer, refused, run, variant

import satchel
from satchel import trial
from satchel.convert import run as converted
from satchel.gates import GATES, Budget, Evidence, first_refusal, judge_all
from satchel.options import Options
from satchel_converters import onnx as onnx_format
from satchel_converters.format import Artifact, Calibration, Plan
from satchel_converters.process import Tell
from satchel_converters.samples import TEXTS
from satchel_runtimes.bundle import Bundle
from satchel_runtimes.errors import (
    AccuracyError,
    Cancelled,
    IntegrityError,
    LatencyError,
    ParityError,
    SatchelError,
    SizeError,
    SupportError,
    ToolchainError,
    UsageError,
)
from satchel_runtimes.manifest import Graph
from satchel_runtimes.measure import Latency, Ratio
from satchel_runtimes.parity import CLASSES, Parity
from satchel_runtimes.sessions import Session, Tensors
from satchel_runtimes.sessions import onnx as onnx_session

HERE = "generic-x86-64" if trial.machine_kind() == "x86-64" else "generic-arm64"
ELSEWHERE = "raspberry-pi-5"  # on a machine with its instruction sets only the ratio is judged


@pytest.fixture(autouse=True)
def short_measuring(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which gate fires does not hang on exact figures: the fewest runs, at lengths that take milliseconds."""
    monkeypatch.setattr(trial, "LENGTHS", (8, 16))
    monkeypatch.setattr(trial, "_MEASURE_SECONDS", 0.01)


@pytest.fixture(scope="session")
def topics() -> Path:
    """MiniLM with a head for four topics."""
    return model_of("text_classifier")


@pytest.fixture(scope="session")
def classifier(topics: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its first layer alone, with the same head: it knows little, and is converted in a third of the time."""
    return one_layer(topics, tmp_path_factory.mktemp("models") / "one-layer")


@pytest.fixture
def two_labels(classifier: Path, tmp_path: Path) -> Path:
    """The same with the first two topics only."""

    def keep_two(weights: dict[str, np.ndarray]) -> None:
        for name in ("classifier.weight", "classifier.bias"):
            weights[name] = weights[name][:2].copy()

    labels = dict(enumerate(json.loads((classifier / "config.json").read_text())["id2label"].values()))
    names = {str(i): labels[i] for i in range(2)}
    config = {"id2label": names, "label2id": {name: i for i, name in enumerate(names.values())}}
    return variant(classifier, tmp_path / "two-labels", weights=keep_two, config=config)


class TestParity:
    def test_weights_perturbed_after_the_export(
        self, classifier: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def perturb(model: onnx.ModelProto) -> None:
            random = np.random.default_rng(0)
            for each in model.graph.initializer:
                value = numpy_helper.to_array(each)
                if value.dtype == np.float32 and value.size > 100_000:
                    noisy = value + random.normal(0, 0.3 * value.std(), value.shape)
                    each.CopyFrom(numpy_helper.from_array(noisy.astype(np.float32), each.name))

        damage(monkeypatch, perturb)

        refusal = refused(classifier, tmp_path / "out", ParityError, quantize="fp32")

        assert "refused by parity" in refusal.error.what
        assert "fix: try a scheme" in str(refusal.error)
        assert refusal.verdict("parity")["value"] > refusal.verdict("parity")["limit"]

    def test_a_small_perturbation_of_an_embedding_model(
        self, minilm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def perturb(model: onnx.ModelProto) -> None:
            scale = 1 + 0.02 * np.random.default_rng(0).normal(size=384).astype(np.float32)
            append_node(model, "Mul", scale)

        damage(monkeypatch, perturb)

        refusal = refused(minilm, tmp_path / "out", ParityError, quantize="fp32")

        assert refusal.verdict("parity")["unit"] == "cosine_mean"
        assert refusal.verdict("parity")["value"] < refusal.verdict("parity")["limit"] == CLASSES["fp32"].cosine_mean

    @pytest.mark.parametrize("scheme", ["fp32", "int8-dynamic"])
    def test_a_weight_that_is_nan(
        self, classifier: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scheme: str
    ) -> None:
        damage(monkeypatch, lambda model: append_node(model, "Add", np.array([0, 0, np.nan, 0], np.float32)))

        refusal = refused(classifier, tmp_path / "out", ParityError, quantize=scheme)

        assert "the answer holds NaN" in refusal.error.why
        assert "sample 0" in refusal.error.why

    def test_outputs_that_are_swapped(self, two_labels: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        damage(monkeypatch, lambda model: append_node(model, "Gather", np.array([1, 0]), axis=1))

        refusal = refused(two_labels, tmp_path / "out", ParityError, quantize="int8-dynamic")

        assert "the top answer differs" in refusal.error.why
        assert refusal.verdict("parity")["value"] > 36  # of 72 samples; the rest is within int8's margin of a tie
        assert refusal.verdict("parity")["unit"] == "flipped_answers"

    def test_a_flipped_label_that_hides_in_a_small_error(
        self, topics: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        bundle = satchel.convert(topics, device=ELSEWHERE, quantize="fp32", out=tmp_path / "whole.satchel")
        with satchel.load(bundle) as model:
            answers = [each[:2] for each in model.predict(list(TEXTS), top_k=None)]
        first, second = min(
            (each for each in answers if each[0]["score"] - each[1]["score"] > 0.01),
            key=lambda each: each[0]["score"] - each[1]["score"],
        )
        labels = json.loads((topics / "config.json").read_text())["label2id"]
        just_enough = np.zeros(4, np.float32)
        just_enough[labels[second["label"]]] = 1.05 * np.log(first["score"] / second["score"])
        damage(monkeypatch, lambda model: append_node(model, "Add", just_enough))

        refusal = refused(topics, tmp_path / "out", ParityError, quantize="fp32")

        figures = refusal.report["candidates"][0]["parity"]["text-classification"]
        assert "the top answer differs where the reference is not near a tie" in refusal.error.why
        assert figures["relative_error"] < 0.05
        assert 1 <= figures["flipped_answers"] <= 3

    def test_a_reference_that_answers_every_sample_alike(self, classifier: Path, tmp_path: Path) -> None:
        def zero_the_head(weights: dict[str, np.ndarray]) -> None:
            weights["classifier.weight"][:] = 0

        model = variant(classifier, tmp_path / "headless", weights=zero_the_head)

        refusal = refused(model, tmp_path / "out", ParityError, quantize="fp32")

        assert "the same answer to every sample" in refusal.error.why
        assert "the checkpoint" in refusal.error.fix

    def test_a_reference_that_is_nan_for_some_texts(self, classifier: Path, tmp_path: Path) -> None:
        order = 2344  # the id of "order", which the export's own example does not hold

        def break_a_word(weights: dict[str, np.ndarray]) -> None:
            weights["bert.embeddings.word_embeddings.weight"][order] = np.nan

        model = variant(classifier, tmp_path / "speechless", weights=break_a_word)

        refusal = refused(model, tmp_path / "out", ParityError, quantize="fp32")

        assert "the reference model itself answers NaN (sample 0" in refusal.error.why
        assert "the checkpoint" in refusal.error.fix

    def test_a_reference_that_is_always_nan(self, classifier: Path, tmp_path: Path) -> None:
        def break_the_head(weights: dict[str, np.ndarray]) -> None:
            weights["classifier.bias"][:] = np.nan

        model = variant(classifier, tmp_path / "mute", weights=break_the_head)

        refusal = refused(model, tmp_path / "out", ParityError, quantize="fp32")

        assert "NaN" in refusal.error.why

    def test_an_output_that_is_missing(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        whole = onnx_format.FORMAT

        def forget_the_end(twin: Artifact, plan: Plan, out: Path, calibration: Calibration, tell: Tell) -> Artifact:
            artifact = whole.apply(twin, plan, out, calibration, tell)
            (graph,) = artifact.graphs
            _drop_output(out / graph.file, "end_logits")
            kept = tuple(each for each in graph.outputs if each.name != "end_logits")
            return dataclasses.replace(artifact, graphs=(dataclasses.replace(graph, outputs=kept),))

        monkeypatch.setattr(onnx_format, "FORMAT", dataclasses.replace(whole, apply=forget_the_end))

        refusal = refused(model_of("question_answering"), tmp_path / "out", ParityError, quantize="fp32")

        assert "the output 'end_logits' is missing; it has start_logits" in refusal.error.why

    def test_a_graph_that_is_not_what_its_manifest_says(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        damage(monkeypatch, lambda model: _drop(model, "end_logits"))

        refusal = refused(model_of("question_answering"), tmp_path / "out", IntegrityError, quantize="fp32")

        assert "the manifest says" in refusal.error.why

    def test_a_list_that_answers_otherwise_than_its_items(
        self, classifier: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The mean over the batch is taken away from every row: nothing where there is one row, if one is spared."""

        def mix_rows(model: onnx.ModelProto) -> None:
            name = model.graph.output[0].name
            append_node(model, "CumSum", np.array(0))  # each row is the sum of those before it
            assert model.graph.output[0].name == name

        damage(monkeypatch, mix_rows)

        refusal = refused(classifier, tmp_path / "out", ParityError, quantize="fp32")

        assert "in batches" in refusal.error.why
        single = refusal.report["candidates"][0]["parity"]["text-classification"]
        assert single["flipped_answers"] == 0


def _drop_output(file: Path, name: str) -> None:
    model = onnx.load(file)
    _drop(model, name)
    onnx.save(model, file)


def _drop(model: onnx.ModelProto, name: str) -> None:
    kept = [each for each in model.graph.output if each.name != name]
    del model.graph.output[:]
    model.graph.output.extend(kept)


class _Sleeping:
    """A session that sleeps at the lengths at which it is measured."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def __getattr__(self, name: str) -> Any:  # Any: whatever a session has
        return getattr(self._session, name)

    def run(self, tensors: Mapping[str, np.ndarray], state: object | None = None) -> Tensors:
        if tensors["input_ids"].shape in ((1, 8), (1, 16)):
            time.sleep(0.1)  # float32 takes 3 ms
        return self._session.run(tensors, state)


class TestLatency:
    @pytest.fixture
    def sleeping_int8(self, monkeypatch: pytest.MonkeyPatch) -> None:
        whole = onnx_session.open_session

        def open_session(bundle: Bundle, graphs: tuple[Graph, ...], threads: int | None) -> Session:
            opened = whole(bundle, graphs, threads)
            return _Sleeping(opened) if bundle.manifest.target.scheme == "int8-dynamic" else opened

        monkeypatch.setattr(onnx_session, "open_session", open_session)

    def test_a_scheme_for_speed_that_is_slower_than_its_float_twin(
        self, classifier: Path, tmp_path: Path, sleeping_int8: None
    ) -> None:
        refusal = refused(classifier, tmp_path / "out", LatencyError, device=HERE, quantize="int8-dynamic")

        verdict = refusal.verdict("latency")
        assert "times as fast as float32" in refusal.error.why
        assert "--prefer size keeps it" in refusal.error.why
        assert verdict["value"] < verdict["limit"] == 1
        assert verdict["unit"] == "x float32"
        assert verdict["where"]

    def test_prefer_size_keeps_it(self, classifier: Path, tmp_path: Path, sleeping_int8: None) -> None:
        bundle = satchel.convert(
            classifier, device=HERE, quantize="int8-dynamic", prefer="size", out=tmp_path / "slow.satchel"
        )

        assert satchel.load(bundle).manifest.measured.verdicts["latency"] == "passed"

    def test_without_a_scheme_the_next_one_is_taken(
        self, classifier: Path, tmp_path: Path, sleeping_int8: None
    ) -> None:
        done = converted(Options(str(classifier), HERE, tmp_path / "model.satchel"))

        first, *_, last = done.report["candidates"]
        assert (first["scheme"], first["passed"]) == ("int8-dynamic", False)
        assert last["passed"] and done.report["chosen"]["scheme"] == last["scheme"] != "int8-dynamic"

    def test_a_budget_is_kept_where_this_machine_is_the_judge(self, classifier: Path, tmp_path: Path) -> None:
        refusal = refused(
            classifier, tmp_path / "out", LatencyError, device=HERE, quantize="fp32", max_latency_ms=0.001
        )

        verdict = refusal.verdict("latency")
        assert verdict["value"] > verdict["limit"] == 0.001
        assert verdict["unit"] == "ms"
        assert "at most 0.001 allowed" in refusal.error.why

    def test_a_budget_of_another_device_is_not_judged_here(self, classifier: Path, tmp_path: Path) -> None:
        done = converted(
            Options(str(classifier), ELSEWHERE, tmp_path / "pi.satchel", quantize="fp32", max_latency_ms=0.001)
        )

        verdict = next(each for each in done.report["candidates"][0]["verdicts"] if each["gate"] == "latency")
        assert verdict["status"] == "not_judged"
        assert f"this machine is not {ELSEWHERE}; estimate from its facts" in verdict["why"]
        assert verdict["unit"] == "ms, estimated"

    def test_a_latency_that_must_be_judged_and_cannot_be(self, classifier: Path, tmp_path: Path) -> None:
        refusal = refused(
            classifier, tmp_path / "out", LatencyError, quantize="fp32", max_latency_ms=50, require=("latency",)
        )

        assert "--require latency wants it judged" in refusal.error.why


class TestSizeAndMemory:
    def test_a_bundle_over_its_budget(self, classifier: Path, tmp_path: Path) -> None:
        refusal = refused(classifier, tmp_path / "out", SizeError, quantize="int8-dynamic", max_size_mb=1)

        verdict = refusal.verdict("size")
        assert "the budget is 1" in refusal.error.why
        assert verdict["value"] > 10 and verdict["limit"] == 1 and verdict["unit"] == "MiB"

    def test_the_dry_run_says_so_before(self, classifier: Path, tmp_path: Path) -> None:
        done = run(
            "convert", classifier, "--device", ELSEWHERE, "--max-size-mb", "1", "--dry-run", "--json", cwd=tmp_path
        )

        assert done.returncode == 0
        sized = [each for each in json.loads(done.stdout)["candidates"] if each["size_bytes"]]
        assert {each["format"] for each in sized} >= {"onnx", "tflite"}
        assert all(each["refused"] and "the budget is 1" in each["why"] for each in sized)
        assert not any(tmp_path.iterdir())

    def test_a_device_with_less_memory_than_the_bundle_is_large(self, classifier: Path, tmp_path: Path) -> None:
        small = tmp_path / "thermostat.toml"
        small.write_text(
            'extends = "generic-arm64"\nname = "thermostat"\ntitle = "A thermostat"\nmemory_mb = 10\n', encoding="utf-8"
        )

        refusal = refused(classifier, tmp_path / "out", SizeError, device=str(small), quantize="int8-dynamic")

        assert "the memory of thermostat is 10" in refusal.error.why

    def test_a_process_over_its_budget_of_memory(self, classifier: Path, tmp_path: Path) -> None:
        refusal = refused(
            classifier, tmp_path / "out", SizeError, device=HERE, quantize="int8-dynamic", max_memory_mb=20
        )

        verdict = refusal.verdict("memory")
        assert "refused by memory" in refusal.error.what
        assert verdict["value"] > verdict["limit"] == 20
        assert "peak of a fresh process" in verdict["why"]

    def test_memory_of_another_device_is_not_judged_here(self, classifier: Path, tmp_path: Path) -> None:
        options = {"device": ELSEWHERE, "quantize": "int8-dynamic", "max_memory_mb": 20}

        bundle = satchel.convert(classifier, out=tmp_path / "pi.satchel", **options)

        assert satchel.load(bundle).manifest.measured.verdicts["memory"] == "not_judged"


class TestSupport:
    def test_a_head_that_no_task_serves(self, classifier: Path, tmp_path: Path) -> None:
        config = {"architectures": ["BertForNextSentencePrediction"]}
        model = variant(classifier, tmp_path / "other-head", config=config)

        refusal = refused(model, tmp_path / "out", SupportError)

        assert "BertForNextSentencePrediction has none of the heads" in refusal.error.why
        assert refusal.verdict("support")["status"] == "refused"
        assert refusal.verdict("parity")["status"] == "not_judged"

    def test_a_scheme_that_the_oldest_engine_of_the_device_lacks(self, classifier: Path, tmp_path: Path) -> None:
        refusal = refused(
            classifier, tmp_path / "out", SupportError, device="raspberry-pi-zero-2w", quantize="int8-weights"
        )

        assert "it needs onnxruntime >=1.22; the profile promises >=1.17" in refusal.error.why
        assert refusal.verdict("support")["status"] == "refused"

    def test_a_compiler_that_is_not_here_is_named_with_the_way_around_it(
        self, classifier: Path, tmp_path: Path
    ) -> None:
        refusal = refused(classifier, tmp_path / "out", ToolchainError, device="inf2")

        assert "'torch_neuronx' is not installed" in refusal.error.why
        assert "--kit" in refusal.error.fix

    def test_an_opset_that_the_engine_cannot_read(self, classifier: Path, tmp_path: Path) -> None:
        refusal = refused(classifier, tmp_path / "out", SupportError, opset=21)

        assert "leave --opset out, or choose 18 to 20" in refusal.error.fix


class TestToolchain:
    def test_a_package_that_is_missing(self, classifier: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        find = importlib.util.find_spec
        monkeypatch.setattr(
            importlib.util, "find_spec", lambda name, *rest: None if name == "onnxscript" else find(name)
        )

        refusal = refused(classifier, tmp_path / "out", ToolchainError)

        assert "the package 'onnxscript' is not installed" in refusal.error.why
        assert "pip install 'satchel[convert]'" in refusal.error.fix
        assert refusal.verdict("toolchain")["status"] == "refused"

    @pytest.mark.parametrize("cached", [True, False], ids=["cached", "afresh"])
    def test_a_stub_in_place_of_a_package(self, classifier: Path, tmp_path: Path, cached: bool) -> None:
        stub = tmp_path / "stubs" / "onnx"
        stub.mkdir(parents=True)
        (stub / "__init__.py").write_text("raise RuntimeError('WRONG PACKAGE: install it from the vendor')")
        out = tmp_path / "out" / "model.satchel"
        cache = [] if cached else ["--no-cache"]

        done = run("convert", classifier, "--device", ELSEWHERE, "-o", out, *cache, path=[stub.parent])

        assert done.returncode == 15, done.stderr
        assert "is a stub: it has the name, not the code" in done.stderr
        assert "fix: pip uninstall onnx" in done.stderr
        assert [each.name for each in out.parent.iterdir()] == ["model.report.json"]


class TestIntegrity:
    def test_weights_that_were_cut_short(self, classifier: Path, tmp_path: Path) -> None:
        model = variant(classifier, tmp_path / "half")
        weights = model / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[:-1000])

        refusal = refused(model, tmp_path / "out", IntegrityError)

        assert "its header says" in refusal.error.why
        assert "download the model again" in refusal.error.fix
        assert refusal.verdict("integrity")["status"] == "refused"

    def test_a_checkpoint_without_the_head_that_the_task_needs(self, minilm: Path, tmp_path: Path) -> None:
        refusal = refused(minilm, tmp_path / "out", IntegrityError, task="text-classification")

        assert "the checkpoint lacks 2 weights" in refusal.error.why
        assert "--task" in refusal.error.fix

    def test_weights_of_other_shapes_than_the_config_says(self, classifier: Path, tmp_path: Path) -> None:
        model = variant(classifier, tmp_path / "other-shapes", config={"intermediate_size": 768})

        refusal = refused(model, tmp_path / "out", IntegrityError)

        assert "another shape than config.json says" in refusal.error.why

    def test_pickled_weights(self, classifier: Path, tmp_path: Path) -> None:
        model = variant(classifier, tmp_path / "pickled")
        (model / "model.safetensors").rename(model / "pytorch_model.bin")

        refusal = refused(model, tmp_path / "out", IntegrityError)

        assert "satchel reads safetensors only" in refusal.error.why


class TestNoFalseAlarm:
    def test_int8_minilm_passes_on_odd_inputs(self, minilm: Path, tmp_path: Path) -> None:
        odd = [text for text in TEXTS if not text.isascii() or not text.strip() or "SELECT" in text or "def " in text]
        assert len(odd) > 16

        bundle = satchel.convert(minilm, device=ELSEWHERE, quantize="int8-dynamic", out=tmp_path / "m.satchel")

        assert satchel.load(bundle).manifest.measured.verdicts["parity"] == "passed"

    def test_the_first_refusal_leaves_nothing_where_nothing_was(self, classifier: Path, tmp_path: Path) -> None:
        with pytest.raises(SizeError):
            satchel.convert(
                classifier,
                device=ELSEWHERE,
                format="onnx",
                quantize="fp32",
                max_size_mb=1,
                out=tmp_path / "out" / "m.satchel",
            )

        assert [each.name for each in (tmp_path / "out").iterdir()] == ["m.report.json"]


# -- The gates as functions ------------------------------------------------------------------------------------------

SAME = Parity(True, {"cosine_mean": 0.99, "flipped_answers": 0.0}, {"cosine_mean": 0.985, "flipped_answers": 0.0}, 72)
OTHER = dataclasses.replace(SAME, passed=False, figures={**SAME.figures, "cosine_mean": 0.5}, why="cosine", where="s 3")

GOOD = Evidence(
    device="generic-x86-64",
    scheme="int8-dynamic",
    purpose="speed",
    toolchain="torch 2.13.0",
    engine="onnxruntime >=1.22",
    reference={"sentence-embedding": SAME},
    batched={"sentence-embedding": SAME},
    size_bytes=24 * 2**20,
    latency={16: Latency(100, 2.0, 2.2, 2.4, 1.9, 2.1), 128: Latency(100, 20.0, 22.0, 24.0, 19.0, 21.0)},
    speedup={16: Ratio(2.5, 2.4, 2.6, 100), 128: Ratio(2.2, 2.1, 2.3, 100)},
    peak_rss_bytes=110 * 2**20,
    device_memory_mb=4096,
    here="a processor, 2 cores",
    absolute_counts=True,
    ratio_counts=True,
)
NO_BUDGET = Budget()
SLOW = {16: Ratio(0.8, 0.7, 0.9, 100)}


def _problem(kind: type[SatchelError]) -> dict[str, Any]:
    return {"problem": kind("Cannot.", why="for a reason", fix="mend it"), "reference": {}, "size_bytes": None}


def _code(evidence: Evidence, budget: Budget = NO_BUDGET) -> int:
    error = first_refusal(judge_all(evidence, budget), "a model")
    return error.exit_code if error else 0


def _verdict(gate: str, evidence: Evidence, budget: Budget = NO_BUDGET) -> Any:  # Any: a Verdict, with every field
    return {each.gate: each for each in judge_all(evidence, budget)}[gate]


def test_good_evidence_passes_every_gate_that_was_judged() -> None:
    verdicts = judge_all(GOOD, Budget(size_mb=30, latency_ms=25, memory_mb=200))

    assert {each.gate: each.status for each in verdicts} == {
        **dict.fromkeys(GATES, "passed"),
        "accuracy": "not_judged",
    }
    assert all(each.why for each in verdicts)


@pytest.mark.parametrize(
    ("gate", "change", "budget", "code", "value", "limit", "unit"),
    [
        ("toolchain", _problem(ToolchainError), {}, 15, None, None, ""),
        ("integrity", _problem(IntegrityError), {}, 16, None, None, ""),
        ("support", _problem(SupportError), {}, 14, None, None, ""),
        ("parity", _problem(ParityError), {}, 10, None, None, ""),
        ("parity", {"reference": {"t": OTHER}}, {}, 10, 0.5, 0.985, "cosine_mean"),
        ("parity", {"batched": {"t": OTHER}}, {}, 10, 0.5, 0.985, "cosine_mean"),
        ("latency", {}, {"latency_ms": 19.9}, 12, 20.0, 19.9, "ms"),
        ("latency", {"speedup": SLOW}, {}, 12, 0.8, 1.0, "x float32"),
        ("size", {}, {"size_mb": 23}, 13, 24.0, 23, "MiB"),
        ("size", {"device_memory_mb": 16}, {}, 13, 24.0, 16, "MiB"),
        ("memory", {}, {"memory_mb": 100}, 13, 110.0, 100, "MiB"),
        ("memory", {"device_memory_mb": 64}, {"memory_mb": 100}, 13, 110.0, 64, "MiB"),
    ],
)
def test_each_gate_refuses_with_its_own_code_and_figures(
    gate: str, change: dict[str, Any], budget: dict[str, Any], code: int, value: float, limit: float, unit: str
) -> None:
    evidence = dataclasses.replace(GOOD, **change)

    verdict = _verdict(gate, evidence, Budget(**budget))

    assert verdict.status == "refused"
    assert (verdict.value, verdict.limit, verdict.unit) == (value, limit, unit)
    assert verdict.why
    assert _code(evidence, Budget(**budget)) == code


def test_the_exit_code_is_the_first_refusal_in_the_order_of_the_gates() -> None:
    everything = Budget(size_mb=1, latency_ms=1, memory_mb=1, require=frozenset({"accuracy"}))
    bad = dataclasses.replace(GOOD, reference={"t": OTHER}, speedup=SLOW)

    healed = [
        _code(dataclasses.replace(bad, problem=ToolchainError("", why="", fix=""))),
        _code(dataclasses.replace(bad, problem=IntegrityError("", why="", fix=""))),
        _code(dataclasses.replace(bad, problem=SupportError("", why="", fix=""))),
        _code(bad, everything),
        _code(dataclasses.replace(bad, reference=GOOD.reference), everything),
        _code(dataclasses.replace(bad, reference=GOOD.reference), dataclasses.replace(everything, require=frozenset())),
        _code(GOOD, Budget(size_mb=1, memory_mb=1)),
        _code(GOOD, Budget(memory_mb=1)),
        _code(GOOD),
    ]

    assert healed == [15, 16, 14, 10, 11, 12, 13, 13, 0]
    assert list(GATES) == ["toolchain", "integrity", "support", "parity", "accuracy", "latency", "size", "memory"]


@pytest.mark.parametrize("kind", [ToolchainError, IntegrityError, SupportError, ParityError, Cancelled, UsageError])
def test_what_stopped_a_conversion_is_one_refusal_and_no_gate_passes_unseen(kind: type[SatchelError]) -> None:
    stopped = Evidence("generic-x86-64", "fp32", "", problem=kind("Cannot.", why="for a reason", fix="mend it"))

    statuses = [each.status for each in judge_all(stopped, Budget())]

    assert "passed" not in statuses
    assert statuses.count("refused") == (0 if kind in (Cancelled, UsageError) else 1)


@pytest.mark.parametrize(
    ("gate", "change", "kind"),
    [
        ("accuracy", {}, AccuracyError),
        ("latency", {"absolute_counts": False, "ratio_counts": False}, LatencyError),
        ("latency", {"latency": {}, "speedup": {}}, LatencyError),
        ("memory", {"absolute_counts": False}, SizeError),
    ],
)
def test_a_required_gate_that_cannot_be_judged_refuses(
    gate: str, change: dict[str, Any], kind: type[SatchelError]
) -> None:
    elsewhere = dataclasses.replace(GOOD, **change)
    required = Budget(require=frozenset({gate}))

    assert _verdict(gate, elsewhere).status == "not_judged"
    assert _verdict(gate, elsewhere, required).status == "refused"
    assert f"--require {gate} wants it judged" in _verdict(gate, elsewhere, required).why
    assert isinstance(first_refusal(judge_all(elsewhere, required), "a model"), kind)


@pytest.mark.parametrize("gate", [each for each in GATES if each != "accuracy"])
def test_a_required_gate_that_was_judged_passes(gate: str) -> None:
    assert _verdict(gate, GOOD, Budget(require=frozenset({gate}))).status == "passed"


def test_a_ratio_counts_where_the_instruction_sets_are_the_same_and_a_budget_does_not() -> None:
    alike = dataclasses.replace(GOOD, absolute_counts=False)

    assert _verdict("latency", alike).status == "passed"
    assert _verdict("latency", alike, Budget(latency_ms=1)).status == "not_judged"
    assert _verdict("latency", dataclasses.replace(alike, speedup=SLOW)).status == "refused"
    assert _verdict("latency", dataclasses.replace(alike, speedup=SLOW, ratio_counts=False)).status == "not_judged"


@pytest.mark.parametrize(
    "change",
    [
        {"speedup": {16: Ratio(0.95, 0.85, 1.01, 100)}},  # the upper bound reaches 1: it may be as fast
        {"speedup": SLOW, "purpose": "size"},
        {"speedup": SLOW, "purpose": "reference"},
    ],
)
def test_only_a_scheme_for_speed_that_is_surely_slower_is_refused(change: dict[str, Any]) -> None:
    assert _verdict("latency", dataclasses.replace(GOOD, **change)).status == "passed"


def test_a_slow_scheme_is_kept_where_size_is_preferred_but_not_over_its_budget() -> None:
    slow = dataclasses.replace(GOOD, speedup=SLOW)

    assert _verdict("latency", slow, Budget(prefer="size")).status == "passed"
    assert _verdict("latency", slow, Budget(prefer="size", latency_ms=1)).status == "refused"


def test_a_figure_at_its_limit_passes() -> None:
    budget = Budget(size_mb=24, latency_ms=20, memory_mb=110)

    assert _code(GOOD, budget) == 0


def test_every_refusal_names_the_gate_and_a_way_out() -> None:
    cases: list[tuple[Callable[[], Evidence], Budget]] = [
        (lambda: dataclasses.replace(GOOD, reference={"t": OTHER}), Budget()),
        (lambda: GOOD, Budget(latency_ms=1)),
        (lambda: GOOD, Budget(size_mb=1)),
        (lambda: GOOD, Budget(memory_mb=1)),
        (lambda: GOOD, Budget(require=frozenset({"accuracy"}))),
    ]

    for make, budget in cases:
        error = first_refusal(judge_all(make(), budget), "MiniLM in onnx int8-dynamic")
        assert error is not None
        assert error.what.startswith("MiniLM in onnx int8-dynamic: refused by ")
        assert error.why and error.fix and error.fix != "see the report"
