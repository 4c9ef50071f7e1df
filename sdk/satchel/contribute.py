"""A run on a device as an entry of its profile: what may be passed on to others, and why something may not."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from satchel_device_profiles import DeviceProfile, MeasuredRun, load_profile
from satchel_runtimes.errors import LatencyError, ParityError, SupportError, UsageError

from .device_page import system_words
from .roofline import kind_of

__all__ = ["entries_of", "toml_of"]

Json = Any  # a run file's results

_FEWEST = 10  # runs of a length, which bench makes of any
_WIDEST = 0.2  # of the median that its interval may span: figures of others are compared with these


def entries_of(results: Sequence[Json], device: str | None = None) -> tuple[DeviceProfile, list[MeasuredRun]]:
    """The profile that the runs belong to, and an entry of each.

    Args:
        device: the profile; the one that the bundles were built for by default.

    Raises:
        UsageError: no runs, runs of several devices, or a profile that stands for many devices.
        ParityError: the golden samples differed there.
        SupportError: another kind of machine than the profile's, or an emulated one.
        LatencyError: the machine was busy, throttled, or too unsteady for its figures to say anything.
    """
    names = {device} if device else {each["bundle"]["device"] for each in results}
    if len(names) != 1:
        raise UsageError(
            "Cannot contribute the runs.",
            why=f"their bundles were built for {', '.join(sorted(names))}" if names else "the file holds none",
            fix="name the profile that they belong to with --device",
        )
    profile = load_profile(names.pop())
    if profile.generic:
        raise UsageError(
            f"Cannot contribute to {profile.name}.",
            why="it stands for any machine of its kind, and figures belong to one",
            fix="name the device's own profile with --device; one of yours may be a .toml file that extends this one",
        )
    return profile, [_entry(each, profile) for each in results]


def _entry(row: Json, profile: DeviceProfile) -> MeasuredRun:
    run, about, machine = row["run"], row["bundle"], row["run"]["machine"]
    what = f"{about['name']} {about['format']} {about['scheme']} on {row['on']}"
    _check(row, profile, what)
    cold, load, writing = run["cold"], row.get("sustained"), run.get("writing")
    board = row["device"]["machine"].get("model") or machine["processor"] or machine["machine"]
    where = f"{board}, {machine['cores']} cores, {system_words(machine['system'])}, {run['when'][:10]}"
    return MeasuredRun(
        model=_model(str(about["source"]["id"]), about["name"]),
        format=about["format"],
        scheme=about["scheme"],
        engine=run["engine"],
        where=where,
        satchel=str(run["versions"].get("satchel-runtimes") or run["versions"]["satchel"]),
        latency_ms={tokens: _round(each["p50_ms"]) for tokens, each in run["latency"].items()},
        interval_ms={
            tokens: (_round(each["low_ms"]), _round(each["high_ms"])) for tokens, each in run["latency"].items()
        },
        threads=run["threads"],
        shape=run["shape"] or None,
        tokens_per_second=_round(writing["per_second"]) if writing else None,
        cold_s=_round(cold["process_s"]) if cold else None,
        memory_mb=_round(cold["peak_rss_bytes"] / 2**20) if cold and cold["peak_rss_bytes"] else None,
        size_mb=_round(run["size_bytes"] / 2**20),
        sustained_s=_round(load["seconds"]) if load else None,
        sustained_first_ms=_round(load["first"]["p50_ms"]) if load else None,
        sustained_last_ms=_round(load["last"]["p50_ms"]) if load else None,
        joules_per_call=_round(load["joules_per_call"]) if load and load["joules_per_call"] else None,
    )


def _model(source: str, name: str) -> str:
    """An id of the Hub; of a folder of the user's own no more than its name."""
    return source if source.count("/") <= 1 and not source.startswith(("/", ".", "~")) else name


def _check(row: Json, profile: DeviceProfile, what: str) -> None:
    run = row["run"]
    machine = run["machine"]
    refused = f"Will not contribute {what}."
    if row["replay"]["finding"] != "same":
        raise ParityError(
            refused, why=row["replay"]["says"], fix="mend that first: figures of wrong answers are worth nothing"
        )
    if machine.get("emulated"):
        raise SupportError(
            refused,
            why=f"{machine['emulated']} stood for the processor; its times are no device's",
            fix="measure it on the device: satchel bench --on ssh://host",
        )
    kind = kind_of(machine["machine"])
    if kind != profile.kind:
        raise SupportError(
            refused,
            why=f"it was measured on {machine['machine']}; {profile.name} is {profile.kind}",
            fix="measure it on that device, or name the profile of this one with --device",
        )
    busy = max((each[0] for each in (run["load_before"], run["load_after"]) if each), default=0.0)
    if machine["cores"] and busy > machine["cores"] + 0.5:
        raise LatencyError(
            refused,
            why=f"the machine was busy: load {busy:.1f} on {machine['cores']} cores",
            fix="stop what else runs there, and measure again",
        )
    throttled = [
        *((row.get("sensors") or {}).get("throttled") or ()),
        *((row.get("sustained") or {}).get("throttled") or ()),
    ]
    now = [each for each in throttled if each.endswith("now")]
    if now:
        raise LatencyError(
            refused, why=f"the board says: {', '.join(dict.fromkeys(now))}", fix="mend its supply or its cooling"
        )
    if not run["latency"]:
        raise LatencyError(refused, why="it has no latency", fix="measure with --lengths that the model takes")
    for tokens, each in run["latency"].items():
        spread = (each["high_ms"] - each["low_ms"]) / each["p50_ms"] if each["p50_ms"] else float("inf")
        if each["n"] < _FEWEST or not spread <= _WIDEST:
            said = (
                f"{each['n']} runs"
                if each["n"] < _FEWEST
                else f"the median of {each['p50_ms']:.2f} ms is known to {spread:.0%}"
            )
            raise LatencyError(
                refused,
                why=f"at {run['shape'] or f'{tokens} tokens'}: {said}; at least {_FEWEST} runs and {_WIDEST:.0%} are wanted",
                fix="measure for longer, with --seconds, on a device that does nothing else",
            )


def _round(value: float) -> float:
    """Three digits, as many as a measurement has."""
    return float(f"{value:.3g}")


def toml_of(entries: Sequence[Mapping[str, Any]]) -> str:
    """What is added to the profile's file."""
    return "\n".join(
        "[[measured.runs]]\n" + "".join(f"{key} = {_value(each)}\n" for key, each in entry.items() if each is not None)
        for entry in entries
    )


def _value(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{json.dumps(key)} = {_value(each)}" for key, each in value.items()) + " }"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(_value(each) for each in value) + "]"
    return json.dumps(value, ensure_ascii=False)  # strings and numbers as TOML has them
