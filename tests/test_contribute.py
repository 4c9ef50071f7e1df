"""Runs that are passed on: an entry that a profile's reader takes, and what is refused because others would be misled."""

from __future__ import annotations

import copy
import json
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from satchel.cli import cli
from satchel.contribute import entries_of, toml_of
from satchel.on_devices import bench_on, write_runs
from satchel_device_profiles import load_profile
from satchel_runtimes.errors import LatencyError, ParityError, SatchelError, SupportError, UsageError

OPTIONS: dict[str, Any] = {"threads": 1, "lengths": [16], "max_seconds": 0.2, "max_runs": 10, "cold_starts": 1}


@pytest.fixture(scope="module")
def measured(minilm_bundle: Path) -> dict[str, Any]:
    (found,) = bench_on(["local"], [minilm_bundle], {**OPTIONS, "sustain_s": 0.3})
    return dict(json.loads(json.dumps(found)))


@pytest.fixture
def result(measured: dict[str, Any]) -> dict[str, Any]:
    """As a quiet Raspberry Pi 5 would have measured it: this machine is none, and not always quiet."""
    made = copy.deepcopy(measured)
    made["run"]["machine"]["machine"] = "aarch64"
    made["device"]["machine"]["model"] = "Raspberry Pi 5 Model B Rev 1.0"
    made["run"].update(load_before=[0.1, 0.1, 0.1], load_after=[1.0, 0.4, 0.2])
    for each in made["run"]["latency"].values():
        each.update(low_ms=each["p50_ms"] * 0.98, high_ms=each["p50_ms"] * 1.02)
    return made


def contribute(result: dict[str, Any], folder: Path, *options: str) -> Any:
    write_runs([result], folder / "runs.json")
    return CliRunner().invoke(cli, ["devices", "contribute", str(folder / "runs.json"), *options])


def test_an_entry_is_what_a_profile_reads(result: dict[str, Any], tmp_path: Path) -> None:
    found = contribute(result, tmp_path)

    assert found.exit_code == 0, found.output
    own = tmp_path / "own.toml"
    own.write_text(f'extends = "raspberry-pi-5"\nname = "my-pi"\ntitle = "My Pi"\n\n{found.stdout}')
    (entry,) = load_profile(str(own)).measured.runs
    assert entry.model == "all-MiniLM-L6-v2"  # the bundle was made of a folder, whose path is nobody's business
    assert entry.latency_ms["16"] == pytest.approx(result["run"]["latency"]["16"]["p50_ms"], rel=1e-2)
    low, high = entry.interval_ms["16"]
    assert low < entry.latency_ms["16"] < high
    assert "Raspberry Pi 5 Model B" in entry.where and entry.threads == 1
    assert entry.sustained_s is not None and entry.sustained_last_ms is not None
    shown = CliRunner().invoke(cli, ["devices", str(own)])
    assert shown.exit_code == 0 and "Raspberry Pi 5 Model B" in shown.stdout


def test_the_same_as_json(result: dict[str, Any], tmp_path: Path) -> None:
    found = json.loads(contribute(result, tmp_path, "--json").stdout)

    assert found["device"] == "raspberry-pi-5"
    assert found["runs"][0]["scheme"] == "int8-dynamic"


def emulated(run: dict[str, Any]) -> None:
    run["run"]["machine"]["emulated"] = "qemu-aarch64"


def other_answers(run: dict[str, Any]) -> None:
    run["replay"].update(finding="device", says="this machine computes something else")


def another_machine(run: dict[str, Any]) -> None:
    run["run"]["machine"]["machine"] = "x86_64"


def busy(run: dict[str, Any]) -> None:
    run["run"]["load_after"] = [64.0, 3.0, 1.0]


def throttled(run: dict[str, Any]) -> None:
    run["sensors"]["throttled"] = ["under-voltage now", "throttled since boot"]


def unsteady(run: dict[str, Any]) -> None:
    run["run"]["latency"]["16"]["high_ms"] *= 1.5


def too_few(run: dict[str, Any]) -> None:
    run["run"]["latency"]["16"]["n"] = 3


def empty(run: dict[str, Any]) -> None:
    run["run"]["latency"] = {}


@pytest.mark.parametrize(
    ("change", "kind", "why"),
    [
        (emulated, SupportError, "qemu-aarch64 stood for the processor"),
        (other_answers, ParityError, "something else"),
        (another_machine, SupportError, "raspberry-pi-5 is arm64"),
        (busy, LatencyError, "busy"),
        (throttled, LatencyError, "under-voltage now"),
        (unsteady, LatencyError, "is known to"),
        (too_few, LatencyError, "3 runs"),
        (empty, LatencyError, "no latency"),
    ],
)
def test_what_would_mislead_others_is_refused(
    result: dict[str, Any], tmp_path: Path, change: Callable[[dict[str, Any]], None], kind: type[SatchelError], why: str
) -> None:
    change(result)

    found = contribute(result, tmp_path)

    assert found.exit_code == kind.exit_code and why in found.stderr and not found.stdout
    with pytest.raises(kind):
        entries_of([result])


def test_a_profile_of_many_devices_is_none_that_figures_belong_to(result: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="stands for any machine"):
        entries_of([result], "generic-arm64")
    assert entries_of([result], "raspberry-pi-4")[0].name == "raspberry-pi-4"
    with pytest.raises(UsageError, match="holds none"):
        entries_of([])


def test_one_of_several_runs(result: dict[str, Any], tmp_path: Path) -> None:
    wrong = copy.deepcopy(result)
    emulated(wrong)
    write_runs([wrong, result], tmp_path / "runs.json")
    command = ["devices", "contribute", str(tmp_path / "runs.json")]

    assert CliRunner().invoke(cli, command).exit_code == 14
    assert CliRunner().invoke(cli, [*command, "--number", "2"]).exit_code == 0
    assert CliRunner().invoke(cli, [*command, "--number", "3"]).exit_code == 2


def test_toml_says_what_it_was_given() -> None:
    entry = {
        "model": 'a "quoted" \\ name é',
        "latency_ms": {"16": 1.5},
        "interval_ms": {"16": (1.4, 1e-05)},
        "threads": None,
    }

    (again,) = tomllib.loads(toml_of([entry]))["measured"]["runs"]

    assert again == {"model": entry["model"], "latency_ms": {"16": 1.5}, "interval_ms": {"16": [1.4, 1e-05]}}
