"""The charts of runs on devices: each run has its number from the table, and a colour and a mark of its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .drawing import (
    INK,
    LINE,
    MUTED,
    PAPER,
    PASSES,
    REFUSED,
    SHIPS,
    STYLE,
    WIDTH,
    Chart,
    figures,
    log_axis,
    need_charts,
    svg_of,
)
from .operator_time import operator_charts
from .roofline import floor_ms

__all__ = ["charts_of", "emulated"]

Json = Any  # a run file's results

_COLOURS = (SHIPS, PASSES, REFUSED, INK, MUTED)
_MARKS = "osD^vP*X"
_MB = 2**20
_FAR = 30  # between the slowest and the fastest, lengths included


def charts_of(results: Sequence[Json]) -> list[Chart]:
    """Those that there is something to show of. Times of emulated runs would stand beside real ones, so they are left out."""
    matplotlib = need_charts()
    numbered = list(enumerate(results, 1))
    timed = [(number, each) for number, each in numbered if not emulated(each)]
    charts: list[Chart] = []
    with matplotlib.rc_context({**STYLE, "axes.grid.axis": "both"}):
        if timed:
            charts.append(_latency(timed))
        charts.append(_memory(numbered))
        if any(each.get("sustained") for _, each in timed):
            charts.append(_sustained(timed))
        if any(_accuracy(each) is not None for _, each in timed):
            charts.append(_pareto(timed))
        if any(_floors(each) for _, each in timed):
            charts.append(_roofline(timed))
        charts += operator_charts(timed)
    return charts


def emulated(row: Json) -> str | None:
    """What stood for the processor of a run; None where it was a real one."""
    found: str | None = row["run"]["machine"].get("emulated")
    return found


def _style(number: int) -> dict[str, Any]:
    return {"color": _COLOURS[(number - 1) % len(_COLOURS)], "marker": _MARKS[(number - 1) % len(_MARKS)]}


def _latency(rows: Sequence[tuple[int, Json]]) -> Chart:
    made = figures().Figure(figsize=(WIDTH, 3.2), layout="constrained")
    axes = made.add_subplot()
    for number, row in rows:
        found = {int(tokens): each for tokens, each in row["run"]["latency"].items()}
        lengths = sorted(found)
        style = _style(number)
        axes.plot(lengths, [found[each]["p50_ms"] for each in lengths], **style, label=str(number), markersize=6)
        low, high = ([found[each][name] for each in lengths] for name in ("low_ms", "high_ms"))
        axes.fill_between(lengths, low, high, color=style["color"], alpha=0.2, linewidth=0)
    axes.set_xlabel(rows[0][1]["run"]["shape"] or "tokens")
    _milliseconds(axes, [each["p50_ms"] for _, row in rows for each in row["run"]["latency"].values()])
    made.legend(loc="outside upper center", ncols=min(len(rows), 8), labelcolor=INK)
    first = " to the first token" if any(row["run"].get("writing") for _, row in rows) else ""
    said = f"The median of predict{first}, by the length of the input; the band is its 95 % interval. Numbers are the table's."
    return "Latency by length", said, svg_of(made, "device-latency")


def _milliseconds(axes: Any, values: Sequence[float]) -> None:
    """From zero; where a phone would press all boards to the ground, by powers."""
    if values and max(values) > _FAR * min(values) > 0:
        log_axis(axes, "milliseconds", "y")
    else:
        axes.set_ylim(bottom=0)
        axes.set_ylabel("milliseconds")


def _memory(rows: Sequence[tuple[int, Json]]) -> Chart:
    made = figures().Figure(figsize=(WIDTH, 0.9 + 0.5 * len(rows)), layout="constrained")
    axes = made.add_subplot()
    for y, (_, row) in enumerate(rows):
        cold = row["run"]["cold"]
        for shift, value, colour in (
            (-0.18, row["run"]["size_bytes"], PASSES),
            (0.18, cold and cold["peak_rss_bytes"], SHIPS),
        ):
            if value:
                axes.barh(y + shift, value / _MB, height=0.32, color=colour)
                axes.annotate(
                    f"{value / _MB:.0f}", (value / _MB, y + shift), (4, 0), textcoords="offset points", va="center"
                )
    axes.set_yticks(range(len(rows)), [str(number) for number, _ in rows])
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.margins(x=0.15)
    axes.grid(axis="y", visible=False)
    axes.set_xlabel("MiB")
    for name, colour in (("bundle on disk", PASSES), ("peak of a fresh process", SHIPS)):
        axes.barh([0], [0], color=colour, label=name)
    made.legend(loc="outside upper center", ncols=2, labelcolor=INK)
    return (
        "Size and memory",
        "What the bundle takes, and the most memory that a process held.",
        svg_of(made, "device-memory"),
    )


def _sustained(rows: Sequence[tuple[int, Json]]) -> Chart:
    warm = any(
        each["celsius"] is not None for _, row in rows for each in (row.get("sustained") or {"windows": ()})["windows"]
    )
    made = figures().Figure(figsize=(WIDTH, 4.2 if warm else 3.0), layout="constrained")
    parts = made.subplots(2 if warm else 1, 1, sharex=True, squeeze=False)[:, 0]
    for number, row in rows:
        windows = (row.get("sustained") or {"windows": ()})["windows"]
        if not windows:
            continue
        style = {**_style(number), "marker": None}
        minutes = [each["seconds"] / 60 for each in windows]
        parts[0].plot(minutes, [each["latency"]["p50_ms"] for each in windows], **style, label=str(number))
        if warm:
            parts[1].plot(minutes, [each["celsius"] for each in windows], **style)
    loads = [row["sustained"]["windows"] for _, row in rows if row.get("sustained")]
    _milliseconds(parts[0], [each["latency"]["p50_ms"] for windows in loads for each in windows])
    parts[-1].set_xlabel("minutes of load")
    if warm:
        parts[1].set_ylabel("°C")
    made.legend(loc="outside upper center", ncols=8, labelcolor=INK)
    said = "The median of each stretch of the load" + (", and the processor's temperature." if warm else ".")
    return "Sustained", said, svg_of(made, "device-sustained")


def _accuracy(row: Json) -> tuple[str, float] | None:
    """A metric on the user's data, as the bundle carries it."""
    found = row["bundle"]["measured"]["accuracy"] or {}
    name = next(iter(found), None)
    value = found[name].get("value") if isinstance(name, str) and isinstance(found[name], dict) else None
    return (str(name), float(value)) if value is not None else None


def _pareto(rows: Sequence[tuple[int, Json]]) -> Chart:
    made = figures().Figure(figsize=(WIDTH, 3.1), layout="constrained")
    axes = made.add_subplot()
    name = ""
    for number, row in rows:
        found = _accuracy(row)
        latency = row["run"]["latency"]
        if found is None or not latency:
            continue
        name, value = found
        style = _style(number)
        at = latency[min(latency, key=int)]["p50_ms"], value
        axes.scatter(*at, s=120, marker=style["marker"], color=style["color"], edgecolors=PAPER, zorder=3)
        axes.annotate(str(number), at, (8, 6), textcoords="offset points", color=INK, fontweight="bold")
    axes.margins(0.2)
    axes.set_ylabel(name)
    log_axis(axes, "milliseconds at the shortest input")
    return "Accuracy over latency", "Better is towards the upper left.", svg_of(made, "device-pareto")


def _floors(row: Json) -> dict[int, float]:
    return {int(tokens): each for tokens, each in floor_ms(row).items()}


def _roofline(rows: Sequence[tuple[int, Json]]) -> Chart:
    known = [(number, row) for number, row in rows if _floors(row)]
    made = figures().Figure(figsize=(WIDTH, 0.9 + 0.45 * len(known)), layout="constrained")
    axes = made.add_subplot()
    for y, (number, row) in enumerate(known):
        floors = _floors(row)
        tokens = max(floors)
        measured = row["run"]["latency"][str(tokens)]["p50_ms"]
        colour = _style(number)["color"]
        axes.plot([floors[tokens], measured], [y, y], color=colour, linewidth=2)
        axes.plot([floors[tokens]], [y], "|", color=colour, markersize=14, markeredgewidth=2)
        axes.plot([measured], [y], "o", color=colour, markersize=7)
        axes.annotate(
            f"{floors[tokens] / measured:.0%}", (measured, y), (8, 0), textcoords="offset points", va="center"
        )
    axes.set_yticks(range(len(known)), [f"{number}, {max(_floors(row))} tokens" for number, row in known])
    axes.set_ylim(len(known) - 0.4, -0.6)
    axes.margins(x=0.2)
    log_axis(axes, "milliseconds")
    axes.grid(axis="y", visible=False)
    axes.tick_params(colors=MUTED)
    axes.spines["bottom"].set_color(LINE)
    said = (
        "The dot is what was measured, the bar what the device's peak throughput and memory bandwidth allow by its profile; the "
        "share is how much of that was reached."
    )
    return "Roofline", said, svg_of(made, "device-roofline")
