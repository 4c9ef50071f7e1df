"""Runs on devices as people read them: a page that opens offline, Markdown for a build log, and what became slower."""

from __future__ import annotations

import copy
import dataclasses
import itertools
import json
import re
import xml.etree.ElementTree as ET
from importlib import resources
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.phones import MEASURED

from satchel.cli import cli
from satchel.device_page import markdown_of, page_of
from satchel.on_devices import bench_on, read_runs, write_runs
from satchel_benchmarks.comparison import regressions
from satchel_benchmarks.transports.browser_run import run_of_page
from satchel_runtimes.bundle import open_bundle
from satchel_runtimes.errors import UsageError
from satchel_runtimes.measure import Latency, summarize
from satchel_runtimes.profile import Profile
from satchel_runtimes.run import Run
from satchel_runtimes.sensors import Energy, Sensors
from satchel_runtimes.sustained import cool_down, sustain

QUICKLY: dict[str, Any] = {"threads": 1, "lengths": [16, 32], "max_seconds": 0.2, "max_runs": 20, "cold_starts": 1}


@pytest.fixture(scope="module")
def result(minilm_bundle: Path) -> dict[str, Any]:
    """A real run on this machine, by the agent."""
    (found,) = bench_on(["local"], [minilm_bundle], {**QUICKLY, "sustain_s": 0.4})
    return dict(found)


def other(result: dict[str, Any], factor: float, **about: str) -> dict[str, Any]:
    """The same with other times."""
    made = copy.deepcopy(result)
    made.update({name: value for name, value in about.items() if name == "on"})
    made["bundle"].update({name: value for name, value in about.items() if name != "on"})
    for each in made["run"]["latency"].values():
        for name in ("p50_ms", "p90_ms", "low_ms", "high_ms"):
            each[name] *= factor
    return made


def quiet(result: dict[str, Any]) -> dict[str, Any]:
    """As on a machine that nothing else used."""
    made = copy.deepcopy(result)
    made["run"].update(load_before=[0.1, 0.1, 0.1], load_after=[0.2, 0.1, 0.1])
    return made


def test_a_run_is_proved_and_then_measured_by_the_agent(result: dict[str, Any]) -> None:
    assert result["replay"]["finding"] == "same"
    assert set(result["run"]["latency"]) == {"16", "32"}
    assert result["sustained"]["windows"] and result["sustained"]["tokens"] == 32
    assert result["bundle"]["source"]["parameters"] == 22_713_216


def test_a_run_that_was_written_is_read_as_it_was(result: dict[str, Any], tmp_path: Path) -> None:
    write_runs([result], tmp_path / "runs.json")

    (again,) = read_runs(tmp_path / "runs.json")

    assert again == json.loads(json.dumps(result))
    assert Run.from_plain(again["run"]).to_plain() == again["run"]


class TestSchema:
    """`runs.schema.json` is what others read run files by."""

    @staticmethod
    def problems(text: str) -> list[str]:
        schema = json.loads((resources.files("satchel") / "runs.schema.json").read_text("utf-8"))
        jsonschema.Draft202012Validator.check_schema(schema)
        validator = jsonschema.Draft202012Validator(schema)
        return [f"{each.json_path}: {each.message[:200]}" for each in validator.iter_errors(json.loads(text))]

    def test_a_run_file_and_what_report_prints_are_by_the_schema(self, result: dict[str, Any], tmp_path: Path) -> None:
        file = tmp_path / "runs.json"
        write_runs([result, other(result, 1.0, on="ssh://pi")], file)

        printed = CliRunner().invoke(cli, ["report", str(file), str(file), "--json"])

        assert self.problems(file.read_text()) == [] and self.problems(printed.stdout) == []
        assert len(json.loads(printed.stdout)["results"]) == 4

    def test_so_is_a_run_of_a_page(self, minilm_bundle: Path, tmp_path: Path) -> None:
        manifest = open_bundle(minilm_bundle).manifest
        found = run_of_page(MEASURED, manifest, minilm_bundle, {"lengths": [16, 64]})
        about = bench_on(["local"], [minilm_bundle], {**QUICKLY, "profile": True})
        write_runs([{**about[0], **found}, *about], tmp_path / "runs.json")

        assert self.problems((tmp_path / "runs.json").read_text()) == []

    @pytest.mark.parametrize(
        ("path", "value"),
        [("on", None), ("run", {}), ("replay.finding", "fine"), ("run.latency", {"x": 1}), ("bundle.extra", 1)],
    )
    def test_what_is_not_by_it_is_found(self, result: dict[str, Any], tmp_path: Path, path: str, value: Any) -> None:
        wrong: Any = copy.deepcopy(result)
        *folders, name = path.split(".")
        place = wrong
        for each in folders:
            place = place[each]
        place[name] = value

        assert self.problems(json.dumps({"schema": 1, "results": [wrong]}))

    def test_it_knows_every_field_of_a_run(self) -> None:
        schema = json.loads((resources.files("satchel") / "runs.schema.json").read_text("utf-8"))
        for name, kind in {"run": Run, "latency": Latency, "profile": Profile}.items():
            fields = {each.name for each in dataclasses.fields(kind)} - {"samples"}  # those stay in memory
            assert set(schema["$defs"][name]["properties"]) == fields


class TestPage:
    def test_every_run_has_its_row_and_every_gate_its_verdict(self, result: dict[str, Any]) -> None:
        slower = other(result, 2.0, on="ssh://pi@board", scheme="fp32")

        page = page_of([result, slower])

        rows = re.findall(r"<tr[^>]*><td data-label=\"run\".*?</tr>", page)
        assert len(rows) == 2 and "ssh://pi@board" in rows[1]
        assert f"{result['run']['latency']['16']['p50_ms']:.2f}" in rows[0]
        assert page.count(">passed<") >= 4 and "not judged" in page
        assert all(title in page for title in ("Latency by length", "Size and memory", "Sustained"))

    def test_nothing_is_fetched_and_nothing_in_it_is_code(self, result: dict[str, Any]) -> None:
        bad = other(result, 1.0, on='ssh://<script>alert("x")</script>')

        page = page_of([bad])

        assert not re.search(r"""(?:src|href)=["'](?!#)|http(?!-equiv)|url\((?!#)""", page)
        assert page.count("<script>") == 1  # its own, which sorts
        assert "default-src 'none'" in page and "script-src 'sha256-" in page
        for drawing in re.findall(r"<svg.*?</svg>", page, flags=re.DOTALL):
            ET.fromstring(
                drawing.replace("<svg", '<svg xmlns:xlink="http://www.w3.org/1999/xlink"', 1)
            )  # as HTML knows it

    def test_a_board_that_answers_otherwise_is_said_first(self, result: dict[str, Any]) -> None:
        wrong = copy.deepcopy(result)
        wrong["replay"].update(
            finding="device", says="this machine computes something else than the one that built the bundle"
        )

        page = page_of([result, wrong])

        assert re.search(r'class="lead refused">[^<]*computes something else', page)

    def test_times_of_an_emulated_device_are_not_held_against_others(self, result: dict[str, Any]) -> None:
        slow = other(result, 0.01, on="ssh://pi")  # the fastest, if it counted
        slow["run"]["machine"]["emulated"] = "qemu-aarch64"

        page, text = page_of([result, slow]), markdown_of([result, slow])

        assert "ssh://pi (emulated)" in page and "ssh://pi (emulated)" in text
        assert f"on {result['on']}: " in text.splitlines()[0]
        assert "All were emulated" in markdown_of([slow]) and "Latency by length" not in page_of([slow])
        (verdict, *_) = regressions([result | {"on": "ssh://pi"}], [slow])
        assert not verdict.slower and "stood for the processor" in verdict.words

    def test_what_the_device_allows_is_drawn_where_its_profile_knows(self, result: dict[str, Any]) -> None:
        board = other(result, 1.0)
        board["run"]["machine"]["machine"] = "aarch64"  # the bundle is for a raspberry-pi-5, whose peaks are known

        assert "Roofline" in page_of([board])
        assert "Roofline" not in page_of([result])  # an x86 machine is no Pi

    def test_markdown_for_a_build_log(self, result: dict[str, Any], tmp_path: Path) -> None:
        write_runs([result], tmp_path / "runs.json")

        found = CliRunner().invoke(cli, ["report", str(tmp_path / "runs.json")])

        assert found.exit_code == 0 and found.stdout == markdown_of([result])
        head, rule, row = found.stdout.splitlines()[2:5]
        assert head.count("|") == rule.count("|") == row.count("|")

    @pytest.mark.parametrize(
        ("text", "said"),
        [
            ("{", "no run of satchel bench"),
            ('{"schema": 1, "results": [{}]}', "no run"),
            ('{"schema": 9}', "schema 9"),
            (None, "No such file"),
        ],
    )
    def test_a_file_that_is_no_run_is_refused(self, text: str | None, said: str, tmp_path: Path) -> None:
        file = tmp_path / "runs.json"
        if text is not None:
            file.write_text(text)

        found = CliRunner().invoke(cli, ["report", str(file), "-o", str(tmp_path / "report.html")])

        assert found.exit_code != 0 and said in found.stderr
        assert not (tmp_path / "report.html").exists()


class TestRegressions:
    def test_what_is_slower_beyond_its_spread_is_told(self, result: dict[str, Any]) -> None:
        old = quiet(result)
        for each in old["run"]["latency"].values():
            each.update(low_ms=each["p50_ms"] * 0.98, high_ms=each["p50_ms"] * 1.02)

        same, worse = (regressions([old], [quiet(other(old, factor))]) for factor in (1.0, 1.3))

        assert not any(each.slower for each in same)
        assert all(each.slower for each in worse) and "0.77 x as fast as before" in worse[0].words

    def test_a_busy_machine_gives_no_verdict(self, result: dict[str, Any]) -> None:
        old, new = quiet(result), other(quiet(result), 3.0)
        new["run"]["load_after"] = [64.0, 64.0, 64.0]

        assert all("busy" in each.words and not each.slower for each in regressions([old], [new]))

    def test_other_bundles_cannot_be_compared(self, result: dict[str, Any]) -> None:
        with pytest.raises(UsageError, match="none of these bundles"):
            regressions([other(result, 1.0, scheme="fp16")], [result])

    def test_the_command_ends_with_12(
        self, result: dict[str, Any], minilm_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        old = quiet(other(result, 0.01))  # as if it had been a hundred times as fast
        write_runs([old], tmp_path / "old.json")
        monkeypatch.setattr("satchel.on_devices.bench_on", lambda *given, **named: [quiet(result)])

        found = CliRunner().invoke(
            cli, ["bench", str(minilm_bundle), "--on", "local", "--compare", str(tmp_path / "old.json")]
        )

        assert found.exit_code == 12, found.output
        assert "slower than in" in found.stderr


class TestSensors:
    def test_what_a_board_tells_is_read_and_what_it_does_not_is_absent(self, tmp_path: Path) -> None:
        _put(tmp_path, "sys/class/thermal/thermal_zone0/temp", "48312\n")
        _put(tmp_path, "sys/class/thermal/thermal_zone0/type", "cpu-thermal\n")
        _put(tmp_path, "sys/class/thermal/thermal_zone1/temp", "91000\n")
        _put(tmp_path, "sys/class/thermal/thermal_zone1/type", "nvme\n")
        _put(tmp_path, "sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq", "1800000\n")

        assert Sensors(tmp_path).look() == {"celsius": 48.312, "mhz": 1800.0}
        assert Sensors(tmp_path / "empty").look() == {}

    def test_a_counter_of_joules_may_begin_again(self, tmp_path: Path) -> None:
        counter = _put(tmp_path, "sys/class/powercap/intel-rapl:0/energy_uj", "9000000")
        _put(tmp_path, "sys/class/powercap/intel-rapl:0/max_energy_range_uj", "10000000")
        energy = Energy.of(tmp_path)
        assert energy is not None and energy.name == "RAPL"

        counter.write_text("9500000")
        assert energy.joules() == pytest.approx(0.5)
        counter.write_text("250000")

        assert energy.joules() == pytest.approx(1.25)

    def test_watts_are_added_up_over_time(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        _put(tmp_path, "sys/class/hwmon/hwmon0/name", "ina219")
        meter = _put(tmp_path, "sys/class/hwmon/hwmon0/power1_input", "2000000")  # microwatts
        now = iter([10.0, 12.0, 13.0])
        monkeypatch.setattr("satchel_runtimes.sensors.time.perf_counter", lambda: next(now))
        energy = Energy.of(tmp_path)
        assert energy is not None and energy.name == "ina219"

        first = energy.joules()
        meter.write_text("4000000")

        assert first == pytest.approx(4.0)
        assert energy.joules() == pytest.approx(4.0 + 3.0)  # a second between 2 and 4 watts

    def test_a_warm_board_is_waited_for_and_no_longer_than_said(self, tmp_path: Path) -> None:
        zone = _put(tmp_path, "sys/class/thermal/thermal_zone0/temp", "70000")
        waits: list[float] = []

        def wait(seconds: float) -> None:
            waits.append(seconds)
            zone.write_text(str(70000 - 5000 * len(waits)))

        assert cool_down(50.0, 60, Sensors(tmp_path), lambda words: None, wait) == 4.0
        zone.write_text("90000")
        assert cool_down(50.0, 3, Sensors(tmp_path), lambda words: None, lambda seconds: None) == 3.0
        assert cool_down(None, 60, Sensors(tmp_path / "none"), lambda words: None, wait) == 0.0


@settings(max_examples=20, deadline=None)
@given(st.lists(st.floats(1e-4, 3e-3), min_size=1, max_size=30))
def test_a_load_counts_every_call_once(pauses: list[float]) -> None:
    left = itertools.cycle(pauses)
    calls = 0

    def call() -> None:
        nonlocal calls
        calls += 1
        end = next(left)
        np.linalg.norm(np.full(int(end * 1e5) + 1, 1.0))

    found = sustain(call, 0.02, window=0.005)

    assert sum(each.latency.n for each in found.windows) == calls
    assert found.first.n <= calls and found.windows[-1].seconds == pytest.approx(found.seconds, rel=0.2)


def test_the_first_and_the_last_minute_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """A board that becomes twice as slow after two minutes, by a clock of the test's own."""
    now = [0.0]
    monkeypatch.setattr("satchel_runtimes.sustained.time.perf_counter", lambda: now[0])

    def call() -> None:
        now[0] += 0.5 if now[0] < 120 else 1.0

    found = sustain(call, 240.0)

    assert found.first.p50_ms == pytest.approx(500.0)
    assert found.last.p50_ms == pytest.approx(1000.0)
    assert summarize(np.array([each.seconds for each in found.windows])).n == 24


def _put(root: Path, name: str, text: str) -> Path:
    file = root / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    return file
