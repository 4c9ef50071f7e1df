"""Time by operator: read from the engine's own trace, apart from what is timed, and said plainly where there is none."""

from __future__ import annotations

import itertools
import json
import re
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from satchel.cli import cli
from satchel.convert import convert
from satchel.device_page import markdown_of, page_of
from satchel.on_devices import bench_on
from satchel_runtimes.bench import caller
from satchel_runtimes.bundle import open_bundle
from satchel_runtimes.errors import UsageError
from satchel_runtimes.predictor import Predictor
from satchel_runtimes.profile import profile, summarize_traces
from satchel_runtimes.sessions import SessionOptions

QUICKLY: dict[str, Any] = {"threads": 1, "lengths": [16], "max_seconds": 0.2, "max_runs": 10, "cold_starts": 0}


def at_16(predictor: Predictor) -> tuple[Any, int]:
    return caller(predictor, [16])


@pytest.fixture(scope="module")
def result(minilm_bundle: Path) -> dict[str, Any]:
    (found,) = bench_on(["local"], [minilm_bundle], {**QUICKLY, "profile": True})
    return dict(json.loads(json.dumps(found)))


def test_every_operator_of_the_graph_has_its_time(minilm_bundle: Path) -> None:
    found = profile(minilm_bundle, at_16, calls=5, threads=1)

    kinds = {each.operator: each for each in found.operators}
    assert kinds["DynamicQuantizeMatMul"].nodes + kinds["MatMulIntegerToFloat"].nodes == 36  # six of each of six layers
    assert [each.ms for each in found.operators] == sorted((each.ms for each in found.operators), reverse=True)
    inside = sum(each.ms for each in found.operators)
    assert 0 < inside <= found.ms and found.between_ms == pytest.approx(found.ms - inside)
    assert found.tokens == 16 and found.calls == 5 and found.tool.startswith("onnxruntime")
    assert found.slowest[0].ms >= found.slowest[-1].ms > 0


def test_a_profile_is_taken_after_all_that_is_timed(result: dict[str, Any], minilm_bundle: Path) -> None:
    said: list[str] = []
    bench_on(["local"], [minilm_bundle], {**QUICKLY, "profile": True, "sustain_s": 0.2}, tell=said.append)

    assert said[-1].endswith("time by operator") and not any("by operator" in each for each in said[:-1])
    assert result["profile"]["operators"]


def test_a_session_that_is_timed_writes_no_trace(
    minilm_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    found = bench_on(["local"], [minilm_bundle], QUICKLY)
    bench_on(["local"], [minilm_bundle], {**QUICKLY, "profile": True})

    assert "profile" not in found[0] and not list(tmp_path.iterdir())


def test_an_engine_without_a_profiler_says_so(tiny: Path, tmp_path: Path) -> None:
    bundle = convert(tiny, device="raspberry-pi-5", format="tflite", quantize="fp32", out=tmp_path / "tiny.satchel")

    (found,) = bench_on(["local"], [bundle], {**QUICKLY, "profile": True})

    assert "LiteRT" in found["profile"]["why"] and not found["profile"]["operators"]
    assert "no time by operator: LiteRT" in page_of([found]) and "none, LiteRT" in markdown_of([found])
    with pytest.raises(UsageError, match="Cannot profile"):
        Predictor(open_bundle(bundle), options=SessionOptions(profile="x"))


def test_the_report_has_a_table_a_chart_and_a_line(result: dict[str, Any]) -> None:
    page, text = page_of([result]), markdown_of([result])

    assert "Time by operator, run 1" in page and page.count('<tr><th scope="row">DynamicQuantizeMatMul') == 1
    shares = [float(each) for each in re.findall(r">([\d.]+)%</td>", page.partition("slowest nodes")[0])]
    assert 20 < sum(shares) <= 100.5
    assert re.search(r"- 1, time by operator at 16 tokens: \w+ \d+%", text)


def test_the_command_shows_it_and_needs_a_device(minilm_bundle: Path) -> None:
    quickly = ["--lengths", "16", "--seconds", "0.1", "--runs", "10", "--cold-starts", "0"]

    found = CliRunner().invoke(cli, ["bench", str(minilm_bundle), "--on", "local", "--profile", *quickly])

    assert found.exit_code == 0 and "by operator" in found.stdout and "Gelu" in found.stdout
    assert CliRunner().invoke(cli, ["bench", str(minilm_bundle), "--profile"]).exit_code == 2


def node(name: str, operator: str, start: int, length: int, thread: int = 1) -> dict[str, Any]:
    args = {"op_name": operator}
    return {"cat": "Node", "name": f"{name}_kernel_time", "ts": start, "dur": length, "tid": thread, "args": args}


def run(start: int, length: int) -> dict[str, Any]:
    return {"cat": "Session", "name": "model_run", "ts": start, "dur": length, "tid": 1, "args": {}}


def test_the_nodes_of_a_branch_are_not_counted_twice() -> None:
    one = [node("if", "If", 100, 50), node("inner", "Add", 110, 30), node("other", "Add", 200, 20), run(90, 200)]
    two = [{**each, "ts": each["ts"] + 1000} for each in one]

    found = summarize_traces("onnxruntime", {"model": one + two}, calls=1, tokens=0)

    assert {each.operator: (each.nodes, each.ms) for each in found.operators} == {
        "Add": (2, pytest.approx(0.05)),
        "If": (1, pytest.approx(0.02)),
    }
    assert found.ms == pytest.approx(0.2) and found.between_ms == pytest.approx(0.13)


def test_the_fastest_calls_count_and_not_what_came_before_them() -> None:
    slow_start = [node("a", "MatMul", 0, 50), run(0, 51)]
    counted = [[node("a", "MatMul", 10_000 * i, 100 + i), run(10_000 * i, 110 + i)] for i in range(1, 9)]

    found = summarize_traces("onnxruntime", {"model": [*slow_start, *itertools.chain(*counted)]}, calls=8, tokens=0)

    assert found.operators[0].ms == pytest.approx(0.1015)  # two of eight
    assert found.ms == pytest.approx(0.1115) and found.between_ms == pytest.approx(0.01)


def test_a_call_that_runs_a_graph_several_times_is_counted_whole() -> None:
    events = [each for i in range(9) for each in (node("a", "MatMul", 1000 * i, 100), run(1000 * i, 120))]
    prefill = [each for i in range(3) for each in (node("b", "Add", 3000 * i, 10), run(3000 * i, 12))]

    found = summarize_traces("onnxruntime", {"decode": events, "prefill": prefill}, calls=2, tokens=0)

    assert {each.component: each.ms for each in found.operators} == {
        "decode": pytest.approx(0.3),
        "prefill": pytest.approx(0.01),
    }
    assert found.ms == pytest.approx(0.372)
