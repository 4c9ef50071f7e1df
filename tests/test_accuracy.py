"""Metrics against the libraries that define them, and the gate that compares a candidate with its reference."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import random
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jiwer
import numpy as np
import onnx
import pytest
import scipy.stats
import seqeval.metrics
import sklearn.metrics
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.preprocessing import MultiLabelBinarizer
from tests import labelled
from tests.conversions import run, variant
from tests.test_gates import GOOD

import satchel
import satchel.convert  # the module, for a test that replaces one of its names
import satchel_benchmarks.accuracy as accuracy_module
from satchel.evaluate import evaluate
from satchel.gates import NOT_JUDGED, PASSED, REFUSED, Budget, judge_accuracy, judge_all
from satchel.pack import digests
from satchel_benchmarks.accuracy import Accuracy, measure
from satchel_benchmarks.metrics.texts import normalized
from satchel_converters.source import find_source
from satchel_runtimes.errors import AccuracyError, ParityError, UsageError
from satchel_runtimes.manifest import MANIFEST_NAME, Manifest

LABELS = ("a", "b", "c", "d", "e", "f", "g")
TAGS = ("O", "B-PER", "I-PER", "B-LOC", "I-LOC")


def figure(name: str, targets: Any, answers: Any, reference: Any = None) -> Accuracy:
    (found,) = measure((name,), targets, answers, reference)
    return found


def ranked(first: str) -> list[str]:
    return [first, *(label for label in LABELS if label != first)][:5]


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.sampled_from(LABELS), st.sampled_from(LABELS)), min_size=1, max_size=30))
def test_labels_are_judged_as_scikit_learn_does(rows: list[tuple[str, str]]) -> None:
    targets, said = [row[0] for row in rows], [row[1] for row in rows]
    answers = [ranked(each) for each in said]

    found = {each.metric: each for each in measure(("accuracy", "f1_micro", "f1_macro"), targets, answers)}

    assert found["accuracy"].value == pytest.approx(sklearn.metrics.accuracy_score(targets, said))
    for average in ("micro", "macro"):
        value = sklearn.metrics.f1_score(targets, said, average=average, zero_division=0)
        best = max(
            sklearn.metrics.f1_score(targets, [each] * len(targets), average=average, zero_division=0)
            for each in set(targets)
        )
        assert found[f"f1_{average}"].value == pytest.approx(value)
        assert found[f"f1_{average}"].chance == pytest.approx(best)
    for each in found.values():
        assert each.least <= each.value_low <= each.value_high <= (each.most or 1)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(*[st.sets(st.sampled_from(LABELS[:4]))] * 2), min_size=1, max_size=30))
def test_several_labels_to_a_row_are_judged_as_scikit_learn_does(rows: list[tuple[set[str], set[str]]]) -> None:
    targets, answers = [sorted(right) for right, _ in rows], [{"labels": sorted(said)} for _, said in rows]
    binarizer = MultiLabelBinarizer().fit([*targets, *(each["labels"] for each in answers)])
    right, said = binarizer.transform(targets), binarizer.transform([each["labels"] for each in answers])

    found = {each.metric: each.value for each in measure(("f1_micro", "f1_macro"), targets, answers)}

    for average in ("micro", "macro") if len(binarizer.classes_) > 1 else ():  # one column is binary to it
        value = sklearn.metrics.f1_score(right, said, average=average, zero_division=0)
        assert found[f"f1_{average}"] == pytest.approx(value)


def test_the_right_label_is_one_of_five() -> None:
    found = figure("top_5", ["a", "g", "f", "b"], [ranked("a"), ranked("g"), ranked("a"), ranked("a")])

    assert found.value == 0.75


@settings(deadline=None, max_examples=60)
@given(st.lists(st.lists(st.tuples(*[st.sampled_from(TAGS)] * 2), min_size=1, max_size=8), min_size=1, max_size=10))
def test_names_are_judged_as_seqeval_does(rows: list[list[tuple[str, str]]]) -> None:
    right, said = [[tag for tag, _ in row] for row in rows], [[tag for _, tag in row] for row in rows]
    targets = [{"tokens": ["w"] * len(row), "labels": row} for row in right]

    found = {each.metric: each for each in measure(("entity_f1", "token_accuracy"), targets, said)}

    assert found["token_accuracy"].value == pytest.approx(seqeval.metrics.accuracy_score(right, said))
    if any(tag.startswith("B-") for row in right for tag in row):
        value = seqeval.metrics.f1_score(right, said, zero_division=0)
        assert found["entity_f1"].value == pytest.approx(value)


def test_words_beyond_the_cut_have_no_name() -> None:
    target = {"tokens": ["Ada", "met", "Bob"], "labels": ["B-PER", "O", "B-PER"]}

    found = {
        each.metric: each.value for each in measure(("entity_f1", "token_accuracy"), [target], [["B-PER", "O", None]])
    }

    assert found == pytest.approx({"entity_f1": 2 / 3, "token_accuracy": 2 / 3})


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.integers(0, 5), st.floats(-1, 1, width=16)), min_size=3, max_size=30))
def test_similarities_are_judged_as_scipy_does(rows: list[tuple[int, float]]) -> None:
    targets, answers = [float(right) for right, _ in rows], [said for _, said in rows]

    found = figure("spearman", targets, answers)

    if len(set(targets)) == 1 or len(set(answers)) == 1:
        assert found.value == 0  # scipy says NaN: there is no order
    else:
        assert found.value == pytest.approx(scipy.stats.spearmanr(targets, answers).statistic)


SENTENCES = st.lists(st.sampled_from(["one", "two", "three"]), min_size=1, max_size=6).map(" ".join)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(SENTENCES, SENTENCES), min_size=1, max_size=10))
def test_transcripts_are_judged_as_jiwer_does(rows: list[tuple[str, str]]) -> None:
    targets, answers = [right.title() + "." for right, _ in rows], [said for _, said in rows]

    found = figure("wer", targets, answers)

    assert found.value == pytest.approx(jiwer.wer([right for right, _ in rows], answers))
    assert (found.chance, found.higher_is_better, found.most) == (1, False, None)


def test_answers_to_questions_are_judged_as_squad_does() -> None:
    right = [[{"text": "the Eiffel Tower"}, {"text": "Paris"}], [{"text": "in 1889"}], []]

    exact = figure("exact_match", right, ["Eiffel tower!", "1889", ""])
    overlap = figure("f1", right, ["an Eiffel tower, of iron", "1889", "nothing"])

    assert normalized("The  Eiffel-Tower, a tower.") == "eiffeltower tower"
    assert exact.value == pytest.approx(2 / 3)
    assert overlap.value == pytest.approx((2 * 2 / (2 + 4) + 2 / 3 + 0) / 3)
    assert exact.chance == pytest.approx(1 / 3)


def test_perplexity_is_that_of_masked_tokens_and_chance_that_of_their_frequency() -> None:
    answers = [
        {"nll": [math.log(4), math.log(2)], "tokens": [1, 2], "vocabulary": 10},
        {"nll": [math.log(8)], "tokens": [1], "vocabulary": 10},
        {"nll": [], "tokens": [], "vocabulary": 10},
    ]
    worse = [{**each, "nll": [value + math.log(1.1) for value in each["nll"]]} for each in answers]

    found = figure("perplexity", [None] * 3, worse, answers)

    assert found.reference == pytest.approx(4)  # the geometric mean of 4, 2 and 8
    assert found.drop == pytest.approx(10)  # per cent
    assert found.chance == pytest.approx(math.exp((2 * math.log(12 / 2) + math.log(12 / 1)) / 3))


def noisy(targets: list[str], wrong: float, seed: int) -> list[list[str]]:
    chosen = random.Random(seed)
    return [ranked(chosen.choice(LABELS) if chosen.random() < wrong else each) for each in targets]


def test_the_interval_of_a_drop_is_paired_and_far_tighter_than_the_metrics_own() -> None:
    targets = [random.Random(0).choice(LABELS) for _ in range(400)]
    reference = noisy(targets, 0.3, 1)
    answers = [ranked("a") if i % 100 == 0 else each for i, each in enumerate(reference)]  # all but four rows alike

    found = figure("accuracy", targets, answers, reference)

    assert found.drop is not None and found.low is not None and found.high is not None
    assert found.low <= found.drop <= found.high
    assert found.high - found.low < 100 * (found.value_high - found.value_low) / 3
    assert found == figure("accuracy", targets, answers, reference), "the seed is fixed"


def test_an_interval_holds_the_truth_as_often_as_it_says() -> None:
    truth, hits = 0.8, 0
    for seed in range(100):
        right = np.random.default_rng(seed).random(150) < truth
        found = figure("accuracy", ["a"] * 150, [ranked("a" if each else "b") for each in right])
        hits += found.value_low <= truth <= found.value_high

    assert 88 <= hits <= 100  # 95 expected; 88 is three standard deviations below


def test_resamples_in_blocks_are_resamples_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    targets = [random.Random(0).choice(LABELS) for _ in range(50)]
    at_once = figure("f1_macro", targets, noisy(targets, 0.4, 1))

    monkeypatch.setattr(accuracy_module, "_BLOCK", 50 * 7)

    assert figure("f1_macro", targets, noisy(targets, 0.4, 1)) == at_once


def test_rows_that_no_metric_fits_are_refused() -> None:
    with pytest.raises(UsageError, match="none of accuracy fits"):
        measure(("accuracy",), [1.0], [0.5])


# What the gate says


def some(**changes: Any) -> Accuracy:
    plain = Accuracy(
        "accuracy", "share", 0.9, 0.91, 1.0, 0.2, 1.8, 0.5, 400, 0.87, 0.93, reference_low=0.88, reference_high=0.94
    )
    return dataclasses.replace(plain, **changes)


@pytest.mark.parametrize(
    ("found", "limit", "status", "said"),
    [
        (some(), 2.0, PASSED, "at most 2 allowed"),
        (some(), 1.0, PASSED, "the interval is wide, it holds more than that"),
        (some(drop=1.1), 1.0, REFUSED, "the interval is wide, it holds less than that"),
        (some(drop=5.0, low=4.0, high=6.0), 1.0, REFUSED, "lost 5.00 points (4.00 to 6.00 lost), at most 1 allowed"),
        (some(drop=-2.0, low=-3.0, high=-1.0), 0.0, PASSED, "gained 2.00 points"),
        (some(drop=math.nan), 1.0, REFUSED, "nan"),
        (some(), None, NOT_JUDGED, "--max-drop"),
        (some(reference_low=0.5), 1.0, REFUSED, "the reference does not do this task"),
        (some(reference_low=0.5), None, REFUSED, "a constant answer has 0.5"),
        (some(reference=None, drop=None, low=None, high=None, reference_low=None), 1.0, NOT_JUDGED, "no reference"),
        (some(metric="wer", higher_is_better=False, chance=0.94), 2.0, REFUSED, "does not do this task"),
        (some(metric="perplexity", higher_is_better=False, most=None, chance=9, drop=3.0), 2.0, REFUSED, "lost 3.00%"),
    ],
)
def test_the_gate_compares_the_drop_with_the_budget_and_the_reference_with_chance(
    found: Accuracy, limit: float | None, status: str, said: str
) -> None:
    verdict = judge_accuracy(found, limit)

    assert (verdict.gate, verdict.status) == ("accuracy", status)
    assert said in verdict.why


def test_without_data_nothing_is_judged_and_a_requirement_for_it_is_refused() -> None:
    judged = {each.gate: each for each in judge_all(GOOD, Budget(require=frozenset({"accuracy"})))}["accuracy"]

    assert judged.status == REFUSED
    assert "no task data was given" in judged.why


# Real rows: a small classifier of Reuters R8


@pytest.fixture(scope="module")
def news(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return labelled.newsroom(tiny, tmp_path_factory.mktemp("models") / "news")


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """300 texts of the official test split."""
    return labelled.write_rows(tmp_path_factory.mktemp("data") / "test.jsonl", labelled.rows_of("test", 300))


def shuffled(name: str, size: int) -> Any:  # Any: a change of weights
    """The values of one weight in another order."""

    def change(weights: dict[str, np.ndarray]) -> None:
        value = weights[name]
        assert value.size > size
        weights[name] = np.random.default_rng(0).permutation(value.ravel()).reshape(value.shape)

    return change


@pytest.fixture(scope="module")
def broken(news: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The classifier with its encoder's layer shuffled, as a compression that went wrong leaves one."""
    name = "bert.encoder.layer.0.output.dense.weight"
    return variant(news, tmp_path_factory.mktemp("models") / "broken", weights=shuffled(name, 1000))


@pytest.fixture(scope="module")
def bundle(news: Path, rows: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("bundles") / "news.satchel"
    options: Mapping[str, Any] = {"format": "onnx", "quantize": "fp32"}
    return satchel.convert(news, device="raspberry-pi-5", out=out, data=rows, max_drop=0.5, **options)


@pytest.mark.int8_dot
def test_a_faithful_bundle_carries_its_accuracy_and_so_does_the_report(bundle: Path) -> None:
    measured = Manifest.parse((bundle / MANIFEST_NAME).read_bytes(), "").measured
    report = json.loads(bundle.with_name("news.report.json").read_text())

    assert measured.verdicts["accuracy"] == PASSED
    assert measured.accuracy is not None
    found = measured.accuracy["accuracy"]
    assert found["n"] == 300
    # The head was trained on 500 texts; the largest topic is under half of them.
    assert found["value"] == found["reference"] > 0.7
    assert found["chance"] < 0.55
    assert report["candidates"][-1]["accuracy"] == measured.accuracy


@pytest.mark.int8_dot
def test_the_model_itself_is_asked_once_and_shown_beside_the_bundle(bundle: Path, news: Path, rows: Path) -> None:
    said: list[str] = []

    found = evaluate(bundle, data=rows, reference=news, max_drop=0.0, progress=lambda news: said.append(news.stage))

    assert found.error is None
    assert [each.metric for each in found.metrics] == ["accuracy", "f1_micro", "f1_macro", "top_5"]
    assert (found.metrics[0].drop, found.metrics[0].low, found.metrics[0].high) == (0, 0, 0)
    assert "cache" in said and "load" not in said  # the conversion asked already


@pytest.mark.int8_dot
def test_a_bundle_with_a_shuffled_layer_is_exit_11(bundle: Path, news: Path, rows: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad.satchel"
    shutil.copytree(bundle, bad)
    model = onnx.load(bad / "model.onnx")
    for each in model.graph.initializer:
        if sorted(each.dims) == [32, 64]:  # both halves of the feed-forward block
            values = onnx.numpy_helper.to_array(each)
            mixed = np.random.default_rng(0).permutation(values.ravel()).reshape(values.shape)
            each.CopyFrom(onnx.numpy_helper.from_array(mixed, each.name))
    onnx.save(model, bad / "model.onnx")
    manifest = Manifest.parse((bad / MANIFEST_NAME).read_bytes(), "")
    (bad / MANIFEST_NAME).write_text(dataclasses.replace(manifest, files=digests(bad)).to_json())

    done = run("evaluate", bad, "--data", rows, "--reference", news, "--max-drop", "1.0")

    assert done.returncode == 11, done.stderr
    assert "at most 1 allowed" in done.stderr
    assert "accuracy" in done.stdout  # the figures are shown all the same


@pytest.mark.int8_dot
def test_without_the_model_the_bundles_figures_stand_alone_and_a_budget_cannot_be_judged(
    bundle: Path, rows: Path, tmp_path: Path
) -> None:
    alone = run("evaluate", bundle, "--data", rows, "--limit", "20", cwd=tmp_path)
    judged = run("evaluate", bundle, "--data", rows, "--limit", "20", "--max-drop", "1", cwd=tmp_path)

    assert alone.returncode == 0
    assert "no reference: the bundle was made of a local folder news" in alone.stdout
    assert judged.returncode == 2
    assert "--reference MODEL" in judged.stderr


def test_a_compression_that_went_wrong_is_judged_by_the_original_model(
    broken: Path, news: Path, rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Parity alone would pass: the bundle is a faithful copy of the model that was ruined."""
    module = sys.modules["satchel.convert"]  # the name in the package is the function
    prepare = module.prepare
    monkeypatch.setattr(
        module, "prepare", lambda options: dataclasses.replace(prepare(options), original=find_source(news))
    )

    with pytest.raises(AccuracyError, match="refused by accuracy") as caught:
        satchel.convert(
            broken,
            device="raspberry-pi-5",
            out=tmp_path / "m.satchel",
            format="onnx",
            quantize="fp32",
            data=rows,
            max_drop=1.0,
        )

    assert caught.value.exit_code == 11
    report = json.loads((tmp_path / "m.report.json").read_text())
    verdicts = {each["gate"]: each["status"] for each in report["candidates"][-1]["verdicts"]}
    assert (verdicts["parity"], verdicts["accuracy"]) == (PASSED, REFUSED)
    assert not (tmp_path / "m.satchel").exists()


@pytest.mark.int8_dot
def test_a_reference_at_chance_proves_nothing_whatever_the_bundle_says(
    bundle: Path, news: Path, tmp_path: Path
) -> None:
    """Labels that have nothing to do with the texts: the reference agrees with the bundle, and both are guessing."""
    mixed = labelled.rows_of("test", 300)
    labels = [row["label"] for row in mixed]
    random.Random(0).shuffle(labels)
    data = labelled.write_rows(
        tmp_path / "test.jsonl", [{**row, "label": label} for row, label in zip(mixed, labels, strict=True)]
    )

    judged = evaluate(bundle, data=data, reference=news, max_drop=5.0)

    assert judged.metrics[0].reference_at_chance
    assert judged.error is not None and judged.error.exit_code == 11
    assert "the reference does not do this task" in judged.error.why
    with pytest.raises(AccuracyError, match="does not do this task"):
        satchel.convert(
            news,
            device="raspberry-pi-5",
            quantize="fp32",
            data=data,
            out=tmp_path / "m.satchel",
            report=tmp_path / "r.json",
        )
    tried = json.loads((tmp_path / "r.json").read_text())["candidates"]
    assert len(tried) == 1, "the model is at fault, so TFLite does not have its turn"


@pytest.mark.int8_dot
@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--split", "training"), "choose one of train"),
        (("--split", "train"), "its train split is empty"),
        (("--limit", "0"), "no row would be left"),
        (("--task", "fill-mask"), "it serves text-classification"),
        (("--columns", "label=topic"), "it has no column topic"),
    ],
)
def test_bad_arguments_of_evaluate_are_exit_2(bundle: Path, rows: Path, options: tuple[str, ...], said: str) -> None:
    done = run("evaluate", bundle, "--data", rows, *options, "-q")

    assert done.returncode == 2
    assert said in done.stderr


@pytest.mark.int8_dot
def test_rows_without_a_label_are_counted(bundle: Path, tmp_path: Path) -> None:
    data = labelled.write_rows(tmp_path / "test.jsonl", [{"text": "profit rose"}, {"text": "a merger", "label": "acq"}])

    with pytest.raises(UsageError, match="1 of 2 rows have no label"):
        evaluate(bundle, data=data)


@pytest.mark.slow
def test_int8_of_minilm_loses_at_most_a_point_on_reuters_r8(minilm: Path, tmp_path: Path) -> None:
    """The whole official split, with its rows that are in both parts left out of training."""
    model = labelled.newsroom(minilm, tmp_path / "news", 2000)

    # This head is very sure of itself; on built-in texts, which are no news at all, int8 turns an answer of it over, and
    # parity says so. What counts here is what the accuracy gate says.
    with contextlib.suppress(ParityError):
        satchel.convert(
            model,
            device="generic-x86-64",
            out=tmp_path / "news.satchel",
            format="onnx",
            quantize="int8-dynamic",
            data=labelled.reuters(),
            drop_overlaps=True,
            max_drop=1.0,
        )

    (candidate,) = json.loads((tmp_path / "news.report.json").read_text())["candidates"]
    found = candidate["accuracy"]["accuracy"]
    assert {each["gate"]: each["status"] for each in candidate["verdicts"]}["accuracy"] == PASSED
    assert found["n"] == 2189
    assert found["reference"] > 0.9
    assert found["drop"] <= 1.0
