"""The charts of a comparison, as inline SVG that takes its colours from the page and needs no script.

Drawn small, at the width of a phone, and set side by side on a larger screen. Candidates keep their numbers from the table.
"""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from typing import Any

from satchel_runtimes.toolchain import need

__all__ = ["Chart", "charts_of", "need_charts"]

Json = Any  # a comparison's JSON
Chart = tuple[str, str, str]  # title, what it shows, SVG

_WIDTH = 4.3  # inches of 72 pixels: about what a phone has

# Colours that stand for the page's own, which change with dark and light and in print.
_COLOURS = {
    "#010101": "var(--ink)",
    "#020202": "var(--muted)",
    "#030303": "var(--line)",
    "#040404": "var(--ships)",
    "#050505": "var(--passes)",
    "#060606": "var(--refused)",
    "#070707": "var(--paper)",
}
_INK, _MUTED, _LINE, _SHIPS, _PASSES, _REFUSED, _PAPER = _COLOURS
_VERDICTS = {"ships": (_SHIPS, "*", 330), "passes": (_PASSES, "o", 190), "refused": (_REFUSED, "X", 230)}
_STYLE = {
    "svg.fonttype": "none",  # text stays text
    "font.size": 9.5,
    "text.color": _INK,
    "axes.edgecolor": _LINE,
    "axes.labelcolor": _MUTED,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.grid": True,
    "axes.grid.axis": "x",
    "axes.axisbelow": True,
    "grid.color": _LINE,
    "grid.linewidth": 0.7,
    "xtick.color": _MUTED,
    "ytick.color": _INK,
    "ytick.major.size": 0,
    "xtick.minor.size": 0,
    "legend.frameon": False,
}
_LENGTH_MARKS = "osD^vP"

# What is drawn of parity, by the figure that its task has: both figures, and whether 1 minus the figure is the distance.
_PARITY = (
    ("cosine_mean", "cosine_p05", True, "1 − cosine to the model"),
    ("total_variation_mean", "total_variation_p95", False, "total variation from the model"),
    ("probability_error_mean", "probability_error_p95", False, "difference of probabilities"),
    ("number_error", "number_error", False, "error over the spread"),
)
_FLOOR = 1e-7  # rounding: what is closer is drawn here


def need_charts() -> Any:  # Any: a module
    """Raises: ToolchainError where the package that draws is missing."""
    return need("matplotlib", extra="report", to="write an HTML report", of="satchel")


def charts_of(found: Json) -> list[Chart]:
    """Those that there is something to show of."""
    matplotlib = need_charts()
    figure = need("matplotlib.figure", extra="report", to="write an HTML report", of="satchel")
    rows = [(number, row) for number, row in enumerate(found["rows"], 1)]
    measured = [(number, row) for number, row in rows if row["latency_ms"]]
    judged = [(number, row) for number, row in rows if _distances(row, found["tasks"][0])]
    charts: list[Chart] = []
    with matplotlib.rc_context(_STYLE):
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
                markerfacecolor=colour if filled else _PAPER,
                markersize=6,
            )
            if y == 0:
                axes.annotate(str(tokens), (found["p50_ms"], y), (0, 9), textcoords="offset points", ha="center")
    _log(axes, "milliseconds, input in to answer out")
    marks = f"{_listed(lengths)} tokens (the numbers above the first row)"
    said = (
        f"Each row has a mark for {rows[0][1]['shape'] or marks}. The mark is the median, "
        "the thick bar its 95 % interval, the thin line reaches to the slowest tenth. The scale is logarithmic."
    )
    return "Latency by length", said, _svg(made, "latency")


def _size(figure: Any, rows: Sequence[tuple[int, Json]]) -> Chart:
    made = figure.Figure(figsize=(_WIDTH, 3.1), layout="constrained")
    axes = made.add_subplot()
    lengths = [max(int(tokens) for tokens in row["latency_ms"]) for _, row in rows]
    tokens = min(lengths)
    for number, row in rows:
        colour, mark, area = _VERDICTS[_verdict(row)]
        found = row["latency_ms"].get(str(tokens)) or row["latency_ms"][max(row["latency_ms"], key=int)]
        at = (found["p50_ms"], row["size_bytes"] / 2**20)
        axes.scatter(*at, s=area, marker=mark, color=colour, edgecolors=_PAPER, linewidths=0.8, zorder=3)
        axes.annotate(
            str(number), at, (9, 7), textcoords="offset points", color=_INK, fontweight="bold", zorder=4, fontsize=10
        )
    for name in [each for each in _VERDICTS if each in {_verdict(row) for _, row in rows}]:
        colour, mark, _ = _VERDICTS[name]
        axes.scatter([], [], s=60, marker=mark, color=colour, label=name)
    made.legend(loc="outside upper center", ncols=3, labelcolor=_INK, handletextpad=0.2)
    axes.grid(axis="y")
    axes.set_ylim(0, 1.18 * max(row["size_bytes"] for _, row in rows) / 2**20)
    axes.set_ylabel("MiB on disk")
    axes.margins(x=0.12)
    _log(axes, f"milliseconds at {rows[0][1]['shape'] or f'{tokens} tokens'}")
    said = "Better is towards the lower left. The numbers are those of the table; shape and colour are the verdict."
    return "Size against latency", said, _svg(made, "size")


def _parity(figure: Any, rows: Sequence[tuple[int, Json]], task: str) -> Chart:
    made, axes = _rows_figure(figure, rows)
    words = ""
    for y, (_, row) in enumerate(rows):
        (typical, worst), limits, words = _distances(row, task) or ((0.0, 0.0), (None, None), "")
        colour = _colour(row)
        axes.plot([typical, worst], [y, y], color=colour, linewidth=1.5)
        axes.plot([typical], [y], "o", color=colour, markerfacecolor=_PAPER, markersize=6)
        axes.plot([worst], [y], "o", color=colour, markersize=6)
        if limits[1] is not None:
            axes.plot([limits[1]] * 2, [y - 0.32, y + 0.32], color=_INK, linewidth=2)
    _log(axes, words)
    said = (
        "Further left is closer to the model. The open mark is the mean, the full one the worst twentieth of the "
        f"samples; the upright bar is where the class of the numbers ends for that. Task: {task}."
    )
    return "Distance from the model", said, _svg(made, "parity")


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
    made = figure.Figure(figsize=(_WIDTH, 0.8 + 0.33 * len(rows)), layout="constrained")
    axes = made.add_subplot()
    axes.set_yticks(range(len(rows)), [f"{number}  {row['format']} {row['scheme']}" for number, row in rows])
    axes.set_ylim(len(rows) - 0.4, -0.8)
    return made, axes


def _log(axes: Any, label: str) -> None:
    axes.set_xscale("log")
    axes.set_xlabel(label)
    low, high = axes.get_xlim()
    if low > 1e-3:  # plain numbers for milliseconds, powers of ten where there are many
        ticks = [base * 10**power for power in range(-3, 6) for base in (1, 2, 5)]
        ticks = [tick for tick in ticks if low <= tick <= high]
        while len(ticks) > 7:
            ticks = ticks[::2]
        axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axes.set_xticks([], minor=True)
        axes.set_xlim(low, high)


def _verdict(row: Json) -> str:
    return row["status"] if row["status"] in _VERDICTS else "refused"


def _colour(row: Json) -> str:
    return _VERDICTS[_verdict(row)][0]


def _listed(numbers: Sequence[int]) -> str:
    *others, last = [str(each) for each in numbers]
    return f"{', '.join(others)} and {last}" if others else last


def _svg(figure: Any, name: str) -> str:
    """The drawing alone: no prolog, no metadata, no addresses, and no names that another drawing on the page has."""
    matplotlib = need_charts()
    out = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": name}):
        figure.savefig(out, format="svg", transparent=True)
    text = out.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = (
        re.sub(r' (?:xmlns(?::\w+)?|version|width|height)="[^"]*"', "", text.partition(">")[0])
        + text[text.index(">") :]
    )
    text = re.sub(r' id="[A-Za-z.]+\w*_\d+"', "", text)
    text = re.sub(r"font-family: [^;\"]*", "font-family: inherit", text)
    text = re.sub(r"font: ([^;\"]*?)(\d+(?:\.\d+)?px)[^;\"]*", r"font: \1\2 system-ui, sans-serif", text)
    for colour, variable in _COLOURS.items():
        text = text.replace(colour, variable)
    return text
