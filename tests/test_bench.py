"""Figures are told with their spread, and a ratio that means nothing is not told at all."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from satchel_benchmarks.comparison import compare, table
from satchel_runtimes import load
from satchel_runtimes.bench import bench
from satchel_runtimes.errors import UsageError
from satchel_runtimes.measure import (
    Latency,
    Ratio,
    interleave,
    machine,
    median_interval,
    peak_rss_bytes,
    ratio,
    sample,
    summarize,
)
from satchel_runtimes.run import Run, Throughput

quickly = settings(max_examples=50, deadline=None, derandomize=True)
seconds = st.lists(st.floats(1e-6, 10.0), min_size=1, max_size=300).map(np.array)


def test_percentiles_are_those_of_the_samples() -> None:
    found = summarize(np.arange(1, 102) / 1000)

    assert (found.n, found.p50_ms, found.p90_ms, found.p99_ms) == pytest.approx((101, 51.0, 91.0, 100.0))


@pytest.mark.parametrize(("runs", "told"), [(99, False), (100, True)])
def test_the_tail_is_withheld_where_too_few_runs_reach_it(runs: int, told: bool) -> None:
    found = summarize(np.linspace(0.001, 0.002, runs))

    assert (found.p99_ms is not None) == told


@quickly
@given(seconds)
def test_the_median_lies_in_its_interval_and_the_interval_in_the_samples(values: np.ndarray) -> None:
    low, high = median_interval(values)

    # The middle of two numbers in floating point may lie a rounding beside them.
    slack = 1e-12
    assert values.min() - slack <= low <= high <= values.max() + slack
    found = summarize(values)
    assert found.p50_ms <= found.p90_ms
    assert found.low_ms == low * 1e3


def test_an_interval_covers_the_true_median_about_as_often_as_it_says() -> None:
    random = np.random.default_rng(7)

    covered = 0
    for _ in range(200):
        low, high = median_interval(random.lognormal(0.0, 0.3, 60))
        covered += low <= 1.0 <= high

    # 95 % of 200 is 190; 180 is four standard deviations below.
    assert covered >= 180


@quickly
@given(seconds, st.floats(0.1, 10.0))
def test_a_ratio_of_paired_runs_does_not_feel_a_machine_that_slows_down(values: np.ndarray, factor: float) -> None:
    found = ratio(values * factor, values)

    assert (found.value, found.low, found.high) == pytest.approx((factor, factor, factor))


def test_a_ratio_of_few_or_noisy_runs_is_refused_in_words() -> None:
    random = np.random.default_rng(3)
    steady = ratio(random.normal(2.0, 0.02, 40), random.normal(1.0, 0.01, 40))
    noisy = ratio(random.lognormal(0.7, 1.5, 12), random.lognormal(0.0, 1.5, 12))
    few = ratio(np.full(4, 2.0), np.full(4, 1.0))

    assert steady.meaningful and not steady.why
    assert not noisy.meaningful and "spread too much" in noisy.why
    assert not few.meaningful and "4 runs are too few" in few.why


def test_a_clock_that_stood_still_gives_no_ratio() -> None:
    with np.errstate(invalid="ignore"):
        found = ratio(np.zeros(20), np.zeros(20))

    assert not found.meaningful


class _Counted:
    """A call that keeps count."""

    def __init__(self, log: list[str], name: str) -> None:
        self.log, self.name = log, name

    def __call__(self) -> None:
        self.log.append(self.name)


def test_calls_take_turns_after_their_warm_up() -> None:
    log: list[str] = []
    calls = {name: _Counted(log, name) for name in "ab"}

    times = interleave(calls, warmup=2, min_runs=1, max_runs=3, max_seconds=60)

    assert "".join(log) == "abab" + "ababab"
    assert {name: len(each) for name, each in times.items()} == {"a": 3, "b": 3}


def test_calls_may_settle_before_they_are_counted() -> None:
    log: list[str] = []

    times = interleave({name: _Counted(log, name) for name in "ab"}, warmup=0, max_runs=1, settle=2)

    assert "".join(log) == "aaabbb"
    assert all(len(each) == 1 for each in times.values())


@pytest.mark.parametrize(
    ("limits", "runs"),
    [
        ({"min_runs": 10, "max_runs": 500, "max_seconds": 0.0}, 10),
        ({"min_runs": 10, "max_runs": 4, "max_seconds": 60.0}, 4),
        ({"min_runs": 1, "max_runs": 25, "max_seconds": 60.0}, 25),
    ],
)
def test_measuring_stops_at_the_first_limit(limits: dict[str, Any], runs: int) -> None:
    log: list[str] = []

    times = sample(_Counted(log, "x"), warmup=0, **limits)

    assert len(times) == len(log) == runs


def test_the_machine_and_the_peak_are_told() -> None:
    about = machine()

    assert {"system", "processor", "cores", "instruction_sets", "memory_bytes", "load_average", "python"} <= set(about)
    assert peak_rss_bytes() > 10 * 2**20  # numpy alone takes more


@pytest.fixture(scope="module")
def run(minilm_bundle: Path) -> Run:
    (found,) = bench(
        minilm_bundle, threads=1, lengths=(16, 64, 100_000), max_seconds=0.2, max_runs=12, warmup=1, cold_starts=1
    )
    return found


def test_a_run_tells_what_was_measured_and_what_it_must_be_read_with(run: Run, minilm_bundle: Path) -> None:
    manifest = load(minilm_bundle).manifest

    assert (run.bundle, run.scheme, run.task) == (manifest.name, manifest.target.scheme, "sentence-embedding")
    assert (run.device, run.format, run.threads) == (manifest.target.device, "onnx", 1)
    assert run.engine.startswith("onnxruntime 1.")
    assert set(run.latency) == {16, 64}, "a length beyond the model is left out"
    assert all(each.n >= 10 and each.p99_ms is None for each in run.latency.values())
    assert all(each.low_ms <= each.p50_ms <= each.high_ms <= each.p90_ms * 1.01 for each in run.latency.values())
    assert run.throughput.low <= run.throughput.per_second <= run.throughput.high
    assert run.cold is not None and run.cold.n == 1
    assert run.cold.process_s > run.cold.import_s + run.cold.load_s + run.cold.predict_s > 0
    assert run.cold.peak_rss_bytes > 20 * 2**20
    assert run.size_bytes == sum(each.bytes for each in manifest.files.values())
    assert {"satchel", "satchel-runtimes", "onnxruntime", "numpy", "tokenizers", "python"} == set(run.versions)
    assert all(run.versions.values())
    assert "load_average" not in run.machine and len(run.load_before) == len(run.load_after) == 3


def test_the_inputs_have_the_length_that_was_asked_for(minilm_bundle: Path) -> None:
    (found,) = bench(minilm_bundle, lengths=(3, 7, 33, 256), max_seconds=0, max_runs=1, warmup=0, cold_starts=0)

    assert set(found.latency) == {3, 7, 33, 256}
    assert found.cold is None


def test_a_bundle_is_measured_where_every_length_is_beyond_it(minilm_bundle: Path) -> None:
    (found,) = bench(minilm_bundle, lengths=(5000,), max_seconds=0, max_runs=1, warmup=0, cold_starts=0)

    assert found.latency == {}
    assert found.throughput.n == 1


def test_a_run_survives_its_json_and_a_table(run: Run) -> None:
    plain = json.loads(run.to_json())

    assert plain == run.to_plain()
    assert plain["latency"]["16"]["p50_ms"] == run.latency[16].p50_ms
    assert "samples" not in plain
    rows = table([run, run])
    assert {len(row) for row in rows} == {3}
    assert any("16 tokens" in row[0] for row in rows)
    assert dict(row[:2] for row in rows)["peak memory, MiB"] != "–"


def test_steps_are_told_while_they_are_taken(minilm_bundle: Path) -> None:
    said: list[str] = []

    bench(minilm_bundle, lengths=(16,), max_seconds=0, max_runs=1, warmup=0, cold_starts=1, on_step=said.append)

    assert len(said) == 3
    assert "cold start" in said[0] and "16 tokens" in said[1] and "throughput" in said[2]


@pytest.mark.parametrize("wrong", [{"lengths": ()}, {"lengths": (0,)}, {"max_runs": 0}])
def test_measuring_nothing_is_refused(minilm_bundle: Path, wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="measure nothing"):
        bench(minilm_bundle, **wrong)


def test_bundles_measured_in_turn_are_compared_pair_by_pair(minilm_bundle: Path) -> None:
    one, other = bench(minilm_bundle, minilm_bundle, lengths=(16,), max_runs=10, cold_starts=0)

    (found,) = compare(one, other)

    assert (found.tokens, found.how) == (16, "in turn")
    assert (found.ratio is None) == bool(found.why)
    if found.ratio is not None:
        assert found.ratio.value == float(np.median(one.samples[16] / other.samples[16]))


def _made(**fields: Any) -> Run:
    """A run of 10 ms and a narrow interval."""
    usual = Run(
        bundle="a",
        device="d",
        format="onnx",
        scheme="fp32",
        engine="e",
        task="t",
        threads=1,
        latency={16: Latency(50, 10.0, 11.0, None, 9.9, 10.1)},
        throughput=Throughput(32, 8, 100.0, 99.0, 101.0, 9),
        cold=None,
        size_bytes=1,
        machine={"processor": "p", "machine": "x86_64", "cores": 2},
        load_before=(0.5, 0.5, 0.5),
        load_after=(0.9, 0.5, 0.5),
        versions={},
        when="now",
        together="first",
        samples={},
    )
    return dataclasses.replace(usual, **fields)


def test_separate_runs_are_compared_by_their_medians_with_both_spreads() -> None:
    faster = {16: Latency(40, 5.0, 6.0, None, 4.9, 5.1)}

    (found,) = compare(_made(), json.loads(_made(together="second", latency=faster).to_json()))

    assert found.how == "separate runs" and found.ratio is not None
    assert (found.ratio.value, found.ratio.n) == (2.0, 40)
    # log-errors of 1 % and 2 % add to about 2.2 %
    assert found.ratio.low == pytest.approx(2.0 * math.exp(-0.0222), rel=1e-3)
    assert found.ratio.high == pytest.approx(2.0 * math.exp(0.0226), rel=1e-3)


@pytest.mark.parametrize(
    ("differs", "word"),
    [
        ({"machine": {"processor": "q", "machine": "x86_64", "cores": 2}}, "machines differ"),
        ({"threads": 2}, "threads differ"),
        ({"threads": None}, "threads differ"),
        ({"task": "u"}, "task differ"),
        ({"load_after": (3.5, 1.0, 1.0)}, "busy"),
        ({"latency": {16: Latency(40, 5.0, 6.0, None, 2.0, 9.0)}}, "spread too much"),
        ({"latency": {16: Latency(3, 5.0, 6.0, None, 4.9, 5.1)}}, "too few"),
        ({"latency": {64: Latency(40, 5.0, 6.0, None, 4.9, 5.1)}}, "only one of the runs"),
    ],
)
def test_runs_that_cannot_be_compared_give_words_instead_of_a_ratio(differs: dict[str, Any], word: str) -> None:
    found = compare(_made(), _made(together="second", **differs))

    assert found
    assert all(each.ratio is None and word in each.why for each in found)


@quickly
@given(st.floats(0.5, 100), st.floats(0.5, 100), st.floats(1.0, 1.1), st.floats(1.0, 1.1))
def test_a_comparison_turned_round_is_the_reciprocal(a: float, b: float, wide: float, narrow: float) -> None:
    first = _made(latency={16: Latency(50, a, a, None, a / wide, a * wide)})
    second = _made(together="second", latency={16: Latency(50, b, b, None, b / narrow, b * narrow)})

    (there,), (back,) = compare(first, second), compare(second, first)

    assert there.ratio is not None and back.ratio is not None
    assert there.ratio.value * back.ratio.value == pytest.approx(1.0)
    assert there.ratio.low * back.ratio.high == pytest.approx(1.0)


def test_a_refused_ratio_is_not_kept_beside_its_reason() -> None:
    assert Ratio(2.0, 1.9, 2.1, 3).why
    assert not Ratio(2.0, 1.9, 2.1, 30).why


@pytest.mark.parametrize(
    ("program", "emulator"),
    [
        ("/usr/bin/qemu-aarch64-static", "qemu-aarch64-static"),
        ("/opt/qemu/python3", None),
        ("/usr/bin/python3.11", None),
    ],
)
def test_a_processor_that_is_emulated_is_named(
    program: str, emulator: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("satchel_runtimes.measure.os.readlink", lambda path: program)

    assert machine()["emulated"] == emulator
