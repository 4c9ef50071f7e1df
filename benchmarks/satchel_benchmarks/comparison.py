"""How two runs of `bench` compare, and a table of them for people."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from satchel_runtimes.errors import UsageError
from satchel_runtimes.measure import FEWEST, Latency, Ratio, ratio
from satchel_runtimes.run import Cold, Json, Run, Throughput, Writing

__all__ = ["Comparison", "Regression", "compare", "regressions", "table"]

_MB = 2**20


@dataclass(frozen=True)
class Comparison:
    """How many times faster the other run is at one length; `ratio` is None where `why` says that there is none."""

    tokens: int
    ratio: Ratio | None
    why: str
    how: str  # "in turn", or "separate runs" for figures that were not taken together


def compare(one: Run | Mapping[str, Json], other: Run | Mapping[str, Json]) -> tuple[Comparison, ...]:
    """How many times faster `other` is than `one`, by length; runs as `bench` gives them or as their JSON was read.

    Runs that were measured in turn are compared pair by pair. From separate runs the intervals of both medians are
    joined, which knows nothing of what else the machine did meanwhile: a busy one is refused.
    """
    if isinstance(one, Run) and isinstance(other, Run) and one.together == other.together:
        pairs = {t: ratio(one.samples[t], other.samples[t]) for t in sorted(set(one.samples) & set(other.samples))}
        return tuple(Comparison(t, None if r.why else r, r.why, "in turn") for t, r in pairs.items())
    first, second = (run.to_plain() if isinstance(run, Run) else run for run in (one, other))
    why = _unlike(first, second)
    found = []
    for tokens in sorted(int(key) for key in set(first["latency"]) | set(second["latency"])):
        latencies = [run["latency"].get(str(tokens)) for run in (first, second)]
        if None in latencies:
            found.append(Comparison(tokens, None, "only one of the runs has this length", "separate runs"))
            continue
        made = _joined(*latencies)
        words = why or made.why
        found.append(Comparison(tokens, None if words else made, words, "separate runs"))
    return tuple(found)


@dataclass(frozen=True)
class Regression:
    """How a figure compares with that of an earlier run on the same device; `slower` beyond what both spread."""

    what: str
    slower: bool
    words: str


def regressions(old: Sequence[Mapping[str, Json]], new: Sequence[Mapping[str, Json]]) -> list[Regression]:
    """Each latency of the results of `bench --on` beside that of the same bundle, scheme and device in an earlier file.

    Raises:
        UsageError: nothing in the two can be compared.
    """
    earlier = {_place(each): each for each in old}
    found = []
    for each in new:
        before = earlier.get(_place(each))
        if before is None:
            continue
        about = f"{each['on']} {each['bundle']['name']} {each['bundle']['format']} {each['bundle']['scheme']}"
        why = _unlike(before["run"], each["run"])
        for tokens in sorted(set(before["run"]["latency"]) & set(each["run"]["latency"]), key=int):
            made = _joined(before["run"]["latency"][tokens], each["run"]["latency"][tokens])
            slower = not why and made.n >= FEWEST and made.high < 1
            spread = f"{made.value:.2f} x as fast as before ({made.low:.2f} to {made.high:.2f})"
            words = spread if slower or not (why or made.why) else f"not compared: {why or made.why}"
            found.append(Regression(f"{about} at {each['run']['shape'] or f'{tokens} tokens'}", slower, words))
    if not found:
        raise UsageError(
            "Cannot compare the runs.",
            why="the earlier file has none of these bundles on these devices",
            fix="name the file of an earlier run with the same --on",
        )
    return found


def _place(result: Mapping[str, Json]) -> tuple[str, ...]:
    about = result["bundle"]
    return result["on"], about["name"], about["format"], about["scheme"]


def _unlike(first: Mapping[str, Json], second: Mapping[str, Json]) -> str:
    for name in ("processor", "machine", "cores"):
        if first["machine"][name] != second["machine"][name]:
            return f"the machines differ: {name} {first['machine'][name]} and {second['machine'][name]}"
    for run in (first, second):
        if run["machine"].get("emulated"):
            return f"{run['machine']['emulated']} stood for the processor, and its times are no device's"
    for name in ("threads", "task"):
        if first[name] != second[name]:
            return f"the {name} differ: {first[name]} and {second[name]}"
    for run in (first, second):
        load = max([each[0] for each in (run["load_before"], run["load_after"]) if each], default=0.0)
        if load > (run["machine"]["cores"] or math.inf):
            return f"the machine was busy: load {load:.1f} on {run['machine']['cores']} cores; measure both in turn"
    return ""


def _joined(first: Mapping[str, Json], second: Mapping[str, Json]) -> Ratio:
    """A ratio of medians from separate runs: on a logarithmic scale the two errors add as squares."""
    value = first["p50_ms"] / second["p50_ms"]
    down = math.hypot(math.log(first["p50_ms"] / first["low_ms"]), math.log(second["high_ms"] / second["p50_ms"]))
    up = math.hypot(math.log(first["high_ms"] / first["p50_ms"]), math.log(second["p50_ms"] / second["low_ms"]))
    return Ratio(value, value * math.exp(-down), value * math.exp(up), min(first["n"], second["n"]))


def table(runs: Sequence[Run]) -> list[tuple[str, ...]]:
    """Rows for people: names of the figures, then a column for each run; the first row is the head."""
    lengths = sorted({tokens for run in runs for tokens in run.latency})
    first = " to the first token" if any(run.writing for run in runs) else ""
    rows = [("", *(f"{run.bundle} {run.format} {run.scheme}" for run in runs))]
    for tokens in lengths:
        shape = next((run.shape for run in runs if tokens in run.latency), "")
        rows.append(
            (f"{shape or f'{tokens} tokens'}{first}, ms", *(_latency_words(run.latency.get(tokens)) for run in runs))
        )
    for tokens in sorted({tokens for run in runs for tokens in run.spoken_s}):
        rows.append((f"{tokens} tokens, seconds for one of sound", *(_real_time_words(run, tokens) for run in runs)))
    if first:
        rows.append(("tokens/s behind it", *(_writing_words(run.writing) for run in runs)))
    rows.append(("inputs/s of a list", *(_list_words(run.throughput) for run in runs)))
    colds = [run.cold for run in runs]
    rows.append(("cold start, s", *(_cold_words(each) for each in colds)))
    rows.append(
        (
            "peak memory, MiB",
            *(f"{each.peak_rss_bytes / _MB:.0f}" if each and each.peak_rss_bytes else "–" for each in colds),
        )
    )
    rows.append(("size, MiB", *(f"{run.size_bytes / _MB:.1f}" for run in runs)))
    rows.append(("threads", *(str(run.threads or "the engine's choice") for run in runs)))
    rows.append(("engine", *(run.engine for run in runs)))
    return rows


def _latency_words(found: Latency | None) -> str:
    if found is None:
        return "–"
    tail = f"; p99 {found.p99_ms:.2f}" if found.p99_ms is not None else ""
    return f"{found.p50_ms:.2f} ({found.low_ms:.2f} to {found.high_ms:.2f}); p90 {found.p90_ms:.2f}{tail}; n {found.n}"


def _list_words(found: Throughput | None) -> str:
    return f"{found.per_second:.3g} ({found.low:.3g} to {found.high:.3g}); list of {found.inputs}" if found else "–"


def _writing_words(found: Writing | None) -> str:
    return f"{found.per_second:.1f} ({found.low:.1f} to {found.high:.1f}); n {found.n}" if found else "–"


def _real_time_words(run: Run, tokens: int) -> str:
    """The real-time factor: below 1 it speaks as fast as one listens."""
    found, seconds = run.latency.get(tokens), run.spoken_s.get(tokens)
    return f"{found.p50_ms / 1000 / seconds:.3f} of {seconds:.1f} s" if found and seconds else "–"


def _cold_words(found: Cold | None) -> str:
    return f"{found.process_s:.2f} ({found.fastest_s:.2f} to {found.slowest_s:.2f}); n {found.n}" if found else "–"
