"""Time by operator in a report: a table and a chart of each run that has it, and why another has not."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

from .drawing import INK, MUTED, SHIPS, WIDTH, Chart, figures, svg_of

__all__ = ["operator_charts", "operator_lines", "operator_section"]

Json = Any  # a run file's results

_FEW = 8  # operators that are named; a graph has some thirty kinds, and what follows is small


def operator_charts(rows: Sequence[tuple[int, Json]]) -> list[Chart]:
    """Within a style of the caller's."""
    return [_chart(number, row["profile"]) for number, row in rows if _has(row)]


def operator_section(results: Sequence[Json]) -> str:
    parts = []
    for number, row in enumerate(results, 1):
        if _has(row):
            parts.append(_table(number, row))
        elif row.get("profile"):
            parts.append(f"<p>Run {number}: no time by operator: {escape(row['profile']['why'])}.</p>")
    return f"<section><h2>Time by operator</h2>{''.join(parts)}</section>" if parts else ""


def operator_lines(results: Sequence[Json]) -> list[str]:
    """For Markdown: a line of the most expensive operators of each run."""
    lines = []
    for number, row in enumerate(results, 1):
        if _has(row):
            named = ", ".join(f"{name} {share:.0%}" for name, _, share in _few(row["profile"])[:5])
            lines.append(f"- {number}, time by operator at {_length(row)}: {named}")
        elif row.get("profile"):
            lines.append(f"- {number}, time by operator: none, {row['profile']['why']}")
    return lines


def _has(row: Json) -> bool:
    return bool(row.get("profile") and not row["profile"]["why"])


def _length(row: Json) -> str:
    return str(row["run"]["shape"] or f"{row['profile']['tokens']} tokens")


def _few(profile: Json) -> list[tuple[str, float, float]]:
    """Names, milliseconds and shares: the slowest kinds, then all others, then what lies between operators."""
    several = len({each["component"] for each in profile["operators"]}) > 1
    named = [
        (f"{each['operator']} ({each['component']})" if several else each["operator"], each["ms"], each["share"])
        for each in profile["operators"]
    ]
    rest = named[_FEW:]
    found = named[:_FEW]
    if rest:
        found.append((f"{len(rest)} other kinds", sum(ms for _, ms, _ in rest), sum(share for _, _, share in rest)))
    between = profile["between_ms"]
    return [*found, ("between operators", between, between / profile["ms"] if profile["ms"] else 0.0)]


def _chart(number: int, profile: Json) -> Chart:
    found = _few(profile)
    made = figures().Figure(figsize=(WIDTH, 0.7 + 0.28 * len(found)), layout="constrained")
    axes = made.add_subplot()
    for y, (name, ms, share) in enumerate(found):
        own = y < len(found) - 1 and not name.endswith(" other kinds")
        axes.barh(y, ms, height=0.7, color=SHIPS if own else MUTED)
        axes.annotate(f"{share:.0%}", (ms, y), (4, 0), textcoords="offset points", va="center", color=INK)
    axes.set_yticks(range(len(found)), [name for name, _, _ in found])
    axes.set_ylim(len(found) - 0.4, -0.6)
    axes.margins(x=0.14)
    axes.grid(axis="y", visible=False)
    axes.set_xlabel("milliseconds of one call")
    said = f"By {profile['tool']}'s own profiler, in a session of its own, over {profile['calls']} calls."
    return f"Time by operator, run {number}", said, svg_of(made, f"device-operators-{number}")


def _table(number: int, row: Json) -> str:
    profile, about = row["profile"], row["bundle"]
    several = len({each["component"] for each in profile["operators"]}) > 1
    kinds = [
        ([each["operator"], *([each["component"]] if several else [])], [str(each["nodes"]), *_figures(each)])
        for each in profile["operators"]
    ]
    nodes = [
        ([each["node"], *([each["component"]] if several else []), each["operator"]], _figures(each))
        for each in profile["slowest"]
    ]
    component = ["component"] if several else []
    said = (
        f"Run {number}: {about['name']} {about['format']} {about['scheme']} on {row['on']}, {profile['ms']:.2f} ms in the "
        f"engine at {_length(row)}, of which {profile['between_ms']:.2f} ms between operators"
    )
    return (
        f"<details><summary>{escape(said)}</summary>"
        + _rows(["operator", *component], ["nodes", "ms a call", "share"], kinds)
        + _rows(["slowest nodes", *component, "operator"], ["ms a call", "share"], nodes)
        + "</details>"
    )


def _figures(each: Json) -> list[str]:
    return [f"{each['ms']:.3f}", f"{each['share']:.1%}"]


def _rows(words: Sequence[str], figures: Sequence[str], rows: Sequence[tuple[list[str], list[str]]]) -> str:
    head = "".join(f'<th scope="col">{each}</th>' for each in words)
    head += "".join(f'<th scope="col" class="figure">{each}</th>' for each in figures)
    body = "".join(
        f'<tr><th scope="row">{escape(first)}</th>'
        + "".join(f"<td>{escape(each)}</td>" for each in rest)
        + "".join(f'<td class="figure">{each}</td>' for each in numbers)
        + "</tr>"
        for (first, *rest), numbers in rows
    )
    return (
        f'<div class="wide"><table class="operators"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'
    )
