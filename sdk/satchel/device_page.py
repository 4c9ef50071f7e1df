"""The report of runs on devices: a page, a text for a build log, and the same as JSON."""

from __future__ import annotations

import re
from collections.abc import Sequence
from html import escape
from typing import Any

from satchel_runtimes.errors import UsageError

from .device_charts import charts_of, emulated
from .operator_time import operator_lines, operator_section
from .page import charts_section, facts, page

__all__ = ["markdown_of", "page_of", "system_words"]

Json = Any  # a run file's results

_MB = 2**20
# A click on a column's head sorts by it; what has no number goes last.
_SORT = """document.querySelectorAll('table.sortable thead th').forEach((head, place) => {
  head.tabIndex = 0;
  const sort = () => {
    const body = head.closest('table').tBodies[0], down = head.ariaSort !== 'ascending';
    const key = row => { const cell = row.cells[place], n = parseFloat(cell.dataset.value ?? cell.textContent);
      return Number.isNaN(n) ? cell.textContent : n; };
    [...body.rows].sort((a, b) => { const [x, y] = [key(a), key(b)];
      const order = typeof x === typeof y ? (x < y ? -1 : x > y ? 1 : 0) : typeof x === 'number' ? -1 : 1;
      return down ? order : -order; }).forEach(row => body.append(row));
    head.parentNode.querySelectorAll('th').forEach(each => each.ariaSort = 'none');
    head.ariaSort = down ? 'ascending' : 'descending';
  };
  head.addEventListener('click', sort);
  head.addEventListener('keydown', event => { if (event.key === 'Enter') sort(); });
});"""

_READING = {
    "golden samples": "the bundle's own samples, replayed on the device before anything was measured: same, or what differs.",
    "ms at …": "median of predict, input in and answer out, with its 95 % interval; of a task that writes, to the first token.",
    "tokens/s": "tokens a second behind the first one, one text at a time.",
    "cold": "a fresh process from its start to its exit, with one answer; the median.",
    "by operator": "the engine's own clock around each of its operators, in a session of its own after everything that was timed.",
    "peak": "the most memory that a fresh process held, Python and the engine included.",
    "minute": "median of the first and of the last minute of the load.",
    "emulated": "another processor computed what this one would: its answers count, and its times are no device's.",
    "verdicts": "what the gates said where the bundle was built.",
}


def page_of(results: Sequence[Json]) -> str:
    """Raises: UsageError without results; ToolchainError without the package that draws."""
    heads, rows = _table(results)
    names = sorted({each["bundle"]["name"] for each in results})
    title = f"{', '.join(names)} on {_count(len({each['on'] for each in results}), 'device')}"
    good = all(each["replay"]["finding"] == "same" for each in results)
    lead = _lead(results)
    parts = [
        f"<h1>{escape(title)}</h1>",
        f'<p class="lead {"ships" if good else "refused"}">{escape(lead)}</p>',
        _verdicts(results),
        _html_table(heads, rows),
        charts_section(charts_of(results)),
        operator_section(results),
        *(_device(number, each) for number, each in _devices(results)),
        facts("How to read it", _READING),
    ]
    return page(title, "report", parts, _SORT)


def markdown_of(results: Sequence[Json]) -> str:
    """A table for a build log."""
    heads, rows = _table(results)
    lines = [
        f"**{_lead(results)}**",
        "",
        "| " + " | ".join(heads) + " |",
        "|" + "---|" * len(heads),
        *("| " + " | ".join(words.replace("|", "\\|") for words, _ in row) + " |" for row in rows),
        "",
        *(f"- {number}: {_machine(each)}" for number, each in _devices(results)),
        *operator_lines(results),
    ]
    return "\n".join(lines) + "\n"


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _lead(results: Sequence[Json]) -> str:
    if not results:
        raise UsageError(
            "There is nothing to report.", why="the files hold no runs", fix="name files that bench --out wrote"
        )
    wrong = [each for each in results if each["replay"]["finding"] != "same"]
    if wrong:
        return f"{wrong[0]['bundle']['name']} on {wrong[0]['on']}: {wrong[0]['replay']['says']}"
    real = [each for each in results if not emulated(each)]
    if not real:
        return "Every run computes what its build machine did. All were emulated: their times are no device's."
    fastest = min(real, key=_shortest)
    about = fastest["bundle"]
    words = f"{about['format']} {about['scheme']} on {fastest['on']}"
    return (
        f"Every run computes what its build machine did. The fastest is {words}: "
        f"{_shortest(fastest):.2f} ms at {_length(fastest, first=True)}."
    )


def _shortest(row: Json) -> float:
    latency = row["run"]["latency"]
    return float(latency[min(latency, key=int)]["p50_ms"]) if latency else float("inf")


def _length(row: Json, *, first: bool) -> str:
    tokens = (min if first else max)(row["run"]["latency"], key=int, default="")
    return row["run"]["shape"] or f"{tokens} tokens"


Cell = tuple[str, float | None]  # words, and the number that it is sorted by


def _table(results: Sequence[Json]) -> tuple[list[str], list[list[Cell]]]:
    lengths = sorted({int(tokens) for each in results for tokens in each["run"]["latency"]})
    writes = any(each["run"].get("writing") for each in results)
    sustained = any(each.get("sustained") for each in results)
    energy = any((each.get("sustained") or {}).get("joules_per_call") for each in results)
    shapes = [next((each["run"]["shape"] for each in results if str(n) in each["run"]["latency"]), "") for n in lengths]
    heads = ["run", "bundle", "format", "scheme", "on", "golden samples"]
    heads += [f"ms at {shape or tokens}" for tokens, shape in zip(lengths, shapes, strict=True)]
    heads += ["tokens/s"] if writes else []
    heads += ["cold s", "peak MiB", "MiB"]
    heads += ["first minute ms", "last minute ms"] if sustained else []
    heads += ["mJ a call"] if energy else []
    rows = []
    for number, each in enumerate(results, 1):
        run, about = each["run"], each["bundle"]
        cold, writing, load = run["cold"], run.get("writing"), each.get("sustained")
        row: list[Cell] = [(str(number), number)]
        row += [(str(each_), None) for each_ in (about["name"], about["format"], about["scheme"], _on(each))]
        row.append((each["replay"]["finding"], None))
        row += [_latency(run["latency"].get(str(tokens))) for tokens in lengths]
        row += [_number(writing and writing["per_second"], 1)] if writes else []
        row += [
            _number(cold and cold["process_s"], 2),
            _number(cold and cold["peak_rss_bytes"] and cold["peak_rss_bytes"] / _MB, 0),
        ]
        row.append(_number(run["size_bytes"] / _MB, 1))
        row += [_number(load and load[part]["p50_ms"], 2) for part in ("first", "last")] if sustained else []
        joules = load and load["joules_per_call"]
        row += [_number(joules and joules * 1e3, 1)] if energy else []
        rows.append(row)
    return heads, rows


def _latency(found: Json) -> Cell:
    return (
        (f"{found['p50_ms']:.2f} ({found['low_ms']:.2f}–{found['high_ms']:.2f})", found["p50_ms"])
        if found
        else ("–", None)
    )


def _number(value: float | None, digits: int) -> Cell:
    return ("–", None) if value is None else (f"{value:.{digits}f}", value)


def _html_table(heads: Sequence[str], rows: Sequence[Sequence[Cell]]) -> str:
    head = "".join(f'<th scope="col">{escape(each)}</th>' for each in heads)
    body = []
    for row in rows:
        unreal = ' class="emulated"' if any(words.endswith("(emulated)") for words, _ in row) else ""
        cells = "".join(
            f'<td data-label="{escape(name)}"'
            + (f' data-value="{value}"' if value is not None else "")
            + f"{_none(words)}>{_with_interval(words)}</td>"
            for name, (words, value) in zip(heads, row, strict=True)
        )
        body.append(f"<tr{unreal}>{cells}</tr>")
    return (
        '<section><h2>Runs</h2><p>A click on a head sorts by it.</p><div class="wide"><table class="rows sortable"><thead>'
        f"<tr>{head}</tr></thead><tbody>{''.join(body)}</tbody></table></div></section>"
    )


def _with_interval(words: str) -> str:
    value, _, interval = escape(words).partition(" (")
    return f"{value}<small>{interval.rstrip(')')}</small>" if interval else value


def _none(words: str) -> str:
    return ' class="none"' if words == "–" else ""


def _verdicts(results: Sequence[Json]) -> str:
    """Each gate of each bundle, as it was judged where that was built."""
    bundles = {
        (each["bundle"]["name"], each["bundle"]["format"], each["bundle"]["scheme"]): each["bundle"] for each in results
    }
    gates = list(dict.fromkeys(gate for about in bundles.values() for gate in about["measured"]["verdicts"]))
    if not gates:
        return ""
    head = "".join(f'<th scope="col">{escape(gate)}</th>' for gate in gates)
    lines = []
    for name, about in bundles.items():
        cells = "".join(_verdict(about["measured"]["verdicts"].get(gate, "–")) for gate in gates)
        lines.append(f'<tr><th scope="row">{escape(" ".join(name))}</th>{cells}</tr>')
    return (
        '<section><h2>Verdicts of the build</h2><div class="wide"><table class="matrix"><thead><tr><td></td>'
        f"{head}</tr></thead><tbody>{''.join(lines)}</tbody></table></div></section>"
    )


def _verdict(said: str) -> str:
    tone = {"refused": ' class="refused"', "passed": ' class="passes"'}.get(said, "")
    return f"<td{tone}>{escape(said.replace('_', ' '))}</td>"


def _devices(results: Sequence[Json]) -> list[tuple[str, Json]]:
    """Each device once, with the numbers of its runs."""
    numbers: dict[str, list[str]] = {}
    first: dict[str, Json] = {}
    for number, each in enumerate(results, 1):
        numbers.setdefault(each["on"], []).append(str(number))
        first.setdefault(each["on"], each)
    return [(", ".join(numbers[on]), each) for on, each in first.items()]


def _on(row: Json) -> str:
    """The place, and in brackets what its figures must not be taken for."""
    return f"{row['on']} (emulated)" if emulated(row) else str(row["on"])


def system_words(system: str) -> str:
    """Its name and version; what builders of kernels add to that is nobody's business."""
    found = re.match(r"([A-Za-z]+)-(\d+(?:\.\d+)*)", system)
    return f"{found[1]} {found[2]}" if found else system


def _machine(row: Json) -> str:
    about = row["run"]["machine"]
    memory = f", {about['memory_bytes'] / 2**30:.0f} GiB" if about.get("memory_bytes") else ""
    board = row["device"]["machine"].get("model")
    processor = board or about["processor"] or about["machine"]
    return f"{_on(row)}: {processor}, {about['cores']} cores{memory}, {row['run']['engine']}, {system_words(about['system'])}"


def _browser(told: Json) -> str:
    """What a page was given there, where a browser measured."""
    if not told:
        return ""
    isolated = (
        "isolated: with threads and an exact clock"
        if told.get("isolated")
        else "not isolated: one thread, a coarse clock"
    )
    return ", ".join(str(each) for each in (isolated, told.get("screen")) if each)


def _device(number: str, row: Json) -> str:
    run, sensors = row["run"], row.get("sensors") or row["device"].get("sensors", {})
    versions = ", ".join(f"{name} {version}" for name, version in sorted(run["versions"].items()) if version)
    throttled = sensors.get("throttled")
    return facts(
        f"Run {number}: {_on(row)}",
        {
            "machine": _machine(row).partition(": ")[2],
            "emulated": f"by {emulated(row)}; its times are no device's" if emulated(row) else "",
            "threads": run["threads"] or "the engine's choice",
            "browser": _browser(row["device"].get("browser")),
            "load": f"{run['load_before'][0]:.1f} before, {run['load_after'][0]:.1f} after"
            if run["load_before"]
            else "",
            "governor": sensors.get("governor"),
            "temperature": f"{sensors['celsius']:.0f} °C afterwards" if "celsius" in sensors else "",
            "throttling": ", ".join(throttled) if throttled else "none" if throttled == [] else "",
            "golden samples": row["replay"]["says"],
            "versions": versions,
            "when": run["when"],
        },
    )
