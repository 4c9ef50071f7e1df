"""The charts of a comparison. Candidates keep their numbers from the table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .drawing import (
    INK,
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

__all__ = ["charts_of"]

Json = Any  # a comparison's JSON

_VERDICTS = {"ships": (SHIPS, "*", 330), "passes": (PASSES, "o", 190), "refused": (REFUSED, "X", 230)}
_LENGTH_MARKS = "osD^vP"

# What is drawn of parity, by the figure that its task has: both figures, and whether 1 minus the figure is the distance.
_PARITY = (
    ("cosine_mean", "cosine_p05", True, "1 − cosine to the model"),
    ("total_variation_mean", "total_variation_p95", False, "total variation from the model"),
    ("probability_error_mean", "probability_error_p95", False, "difference of probabilities"),
    ("number_error", "number_error", False, "error over the spread"),
)
_FLOOR = 1e-7  # rounding: what is closer is drawn here


def charts_of(found: Json) -> list[Chart]:
    """Those that there is something to show of."""
    matplotlib = need_charts()
    figure = figures()
    rows = [(number, row) for number, row in enumerate(found["rows"], 1)]
    measured = [(number, row) for number, row in rows if row["latency_ms"]]
    judged = [(number, row) for number, row in rows if _distances(row, found["tasks"][0])]
    charts: list[Chart] = []
    with matplotlib.rc_context(STYLE):
        if measured:
            charts.append(_latency(figure, measured))
            charts.append(_size(figure, measured))
        if judged:
            charts.append(_parity(figure, judged, found["tasks"][0]))
    return charts


def _latency(figure: Any, rows: Sequence[tuple[int, Json]]) -> Chart:
    made, axes = _rows_figure(figure, rows)
    lengths = sorted({int(tokens) for _, row in rows for tokens in row["latency_ms"]})
    for place, tokens in enumerate(lengths):
        for y, (_, row) in enumerate(rows):
            found = row["latency_ms"].get(str(tokens))
            if found is None:
                continue
            colour, filled = _colour(row), place == len(lengths) - 1
            axes.plot([found["low_ms"], found["high_ms"]], [y, y], color=colour, linewidth=5, alpha=0.35)
            axes.plot([found["p50_ms"], found["p90_ms"]], [y, y], color=colour, linewidth=1)
            axes.plot(
                [found["p50_ms"]],
                [y],
                _LENGTH_MARKS[place % len(_LENGTH_MARKS)],
                color=colour,
                markerfacecolor=colour if filled else PAPER,
                markersize=6,
            )
            if y == 0:
                axes.annotate(str(tokens), (found["p50_ms"], y), (0, 9), textcoords="offset points", ha="center")
    log_axis(axes, "milliseconds, input in to answer out")
    marks = f"{_listed(lengths)} tokens (the numbers above the first row)"
    said = (
        f"Each row has a mark for {rows[0][1]['shape'] or marks}. The mark is the median, "
        "the thick bar its 95 % interval, the thin line reaches to the slowest tenth. The scale is logarithmic."
    )
    return "Latency by length", said, svg_of(made, "latency")


def _size(figure: Any, rows: Sequence[tuple[int, Json]]) -> Chart:
    made = figure.Figure(figsize=(WIDTH, 3.1), layout="constrained")
    axes = made.add_subplot()
    lengths = [max(int(tokens) for tokens in row["latency_ms"]) for _, row in rows]
    tokens = min(lengths)
    for number, row in rows:
        colour, mark, area = _VERDICTS[_verdict(row)]
        found = row["latency_ms"].get(str(tokens)) or row["latency_ms"][max(row["latency_ms"], key=int)]
        at = (found["p50_ms"], row["size_bytes"] / 2**20)
        axes.scatter(*at, s=area, marker=mark, color=colour, edgecolors=PAPER, linewidths=0.8, zorder=3)
        axes.annotate(
            str(number), at, (9, 7), textcoords="offset points", color=INK, fontweight="bold", zorder=4, fontsize=10
        )
    for name in [each for each in _VERDICTS if each in {_verdict(row) for _, row in rows}]:
        colour, mark, _ = _VERDICTS[name]
        axes.scatter([], [], s=60, marker=mark, color=colour, label=name)
    made.legend(loc="outside upper center", ncols=3, labelcolor=INK, handletextpad=0.2)
    axes.grid(axis="y")
    axes.set_ylim(0, 1.18 * max(row["size_bytes"] for _, row in rows) / 2**20)
    axes.set_ylabel("MiB on disk")
    axes.margins(x=0.12)
    log_axis(axes, f"milliseconds at {rows[0][1]['shape'] or f'{tokens} tokens'}")
    said = "Better is towards the lower left. The numbers are those of the table; shape and colour are the verdict."
    return "Size against latency", said, svg_of(made, "size")


def _parity(figure: Any, rows: Sequence[tuple[int, Json]], task: str) -> Chart:
    made, axes = _rows_figure(figure, rows)
    words = ""
    for y, (_, row) in enumerate(rows):
        (typical, worst), limits, words = _distances(row, task) or ((0.0, 0.0), (None, None), "")
        colour = _colour(row)
        axes.plot([typical, worst], [y, y], color=colour, linewidth=1.5)
        axes.plot([typical], [y], "o", color=colour, markerfacecolor=PAPER, markersize=6)
        axes.plot([worst], [y], "o", color=colour, markersize=6)
        if limits[1] is not None:
            axes.plot([limits[1]] * 2, [y - 0.32, y + 0.32], color=INK, linewidth=2)
    log_axis(axes, words)
    said = (
        "Further left is closer to the model. The open mark is the mean, the full one the worst twentieth of the "
        f"samples; the upright bar is where the class of the numbers ends for that. Task: {task}."
    )
    return "Distance from the model", said, svg_of(made, "parity")


def _distances(row: Json, task: str) -> tuple[tuple[float, float], tuple[float | None, float | None], str] | None:
    """Mean and tail of the main task's distance, and their limits."""
    parity = row["parity"].get(task, {"figures": {}, "limits": {}})
    for *names, inverse, words in _PARITY:
        values = [parity["figures"].get(name) for name in names]
        if None not in values:
            limits = [parity["limits"].get(name) for name in names]
            if inverse:
                values = [1 - each for each in values]
                limits = [None if each is None else 1 - each for each in limits]
            near, far = (max(each, _FLOOR) for each in values)
            return (near, far), (limits[0], limits[1]), words
    return None


def _rows_figure(figure: Any, rows: Sequence[tuple[int, Json]]) -> tuple[Any, Any]:  # a figure and its axes
    made = figure.Figure(figsize=(WIDTH, 0.8 + 0.33 * len(rows)), layout="constrained")
    axes = made.add_subplot()
    axes.set_yticks(range(len(rows)), [f"{number}  {row['format']} {row['scheme']}" for number, row in rows])
    axes.set_ylim(len(rows) - 0.4, -0.8)
    return made, axes


def _verdict(row: Json) -> str:
    return row["status"] if row["status"] in _VERDICTS else "refused"


def _colour(row: Json) -> str:
    return _VERDICTS[_verdict(row)][0]


def _listed(numbers: Sequence[int]) -> str:
    *others, last = [str(each) for each in numbers]
    return f"{', '.join(others)} and {last}" if others else last
