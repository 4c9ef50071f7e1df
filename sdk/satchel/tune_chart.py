"""The chart of a search: what each trial keeps of the model over its latency, the size of its dot being that of its bundle."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from satchel_runtimes.errors import UsageError
from satchel_runtimes.toolchain import need

from .tuned import Tuned

__all__ = ["check_chart", "write_chart"]

Json = Any  # a search's JSON

_KINDS = (".svg", ".png", ".pdf")
_INK, _MUTED, _LINE, _CHOSEN, _PARETO, _OTHER = "#1b1b1b", "#666666", "#dddddd", "#c2410c", "#1d6fb8", "#9aa5b1"
_LARGEST = 900  # points², the dot of the largest bundle
_STYLE = {
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "tune",
    "font.size": 10,
    "text.color": _INK,
    "axes.edgecolor": _LINE,
    "axes.labelcolor": _MUTED,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": _LINE,
    "grid.linewidth": 0.7,
    "xtick.color": _MUTED,
    "ytick.color": _MUTED,
    "xtick.minor.size": 0,
    "legend.frameon": False,
}


def check_chart(file: Path) -> None:
    """Raises: UsageError before the long work, for a file that is no picture; ToolchainError without matplotlib."""
    if file.suffix.lower() not in _KINDS:
        raise UsageError(
            f"Cannot draw {file}.", why="its name does not say how", fix=f"end it with {', '.join(_KINDS)}"
        )
    if not file.absolute().parent.is_dir():
        raise UsageError(f"Cannot draw {file}.", why=f"there is no folder {file.parent}", fix="make the folder first")
    need("matplotlib", extra="report", to="draw the search", of="satchel")


def write_chart(found: Tuned, file: Path) -> None:
    matplotlib = need("matplotlib", extra="report", to="draw the search", of="satchel")
    figures = need("matplotlib.figure", extra="report", to="draw the search", of="satchel")
    plain = found.to_plain()
    rows = [each for each in plain["trials"] if {"drop", "latency_ms", "size_mb"} <= set(each["figures"])]
    with matplotlib.rc_context(_STYLE):
        made = figures.Figure(figsize=(8, 5.4), layout="constrained")
        axes = made.add_subplot()
        if rows:
            _dots(axes, rows, plain)
            made.legend(loc="outside lower center", ncols=4, labelcolor=_INK, handletextpad=0.3)
        else:
            axes.text(0.5, 0.5, "No trial could be measured.", ha="center", transform=axes.transAxes)
        made.suptitle(f"{plain['model']} for {plain['device']}: {len(plain['trials'])} trials", x=0.02, ha="left")
        metadata = {".svg": {"Date": None}, ".pdf": {"CreationDate": None}}.get(file.suffix.lower())
        made.savefig(file, dpi=150, facecolor="white", metadata=metadata)


def _dots(axes: Any, rows: Sequence[Json], plain: Json) -> None:  # Any: matplotlib's
    kept = {each["number"]: _kept(each) for each in rows}
    largest = max(each["figures"]["size_mb"] for each in rows)
    pareto = [each for each in rows if each["number"] in plain["pareto"]]
    groups = (
        (
            "over a budget, or beaten by another",
            [each for each in rows if each["passed"] and each not in pareto],
            _OTHER,
        ),
        ("no other beats it", [each for each in pareto if each["number"] != plain["chosen"]], _PARETO),
        ("chosen", [each for each in rows if each["number"] == plain["chosen"]], _CHOSEN),
    )
    for label, group, colour in groups:
        for each in group:
            at = (each["figures"]["latency_ms"], kept[each["number"]])
            area = _LARGEST * each["figures"]["size_mb"] / largest
            axes.scatter(*at, s=area, color=colour, alpha=0.55, edgecolors="white", linewidths=0.8, zorder=2)
            axes.scatter(*at, s=7, color=colour, zorder=3)
        if group:
            axes.scatter([], [], s=60, color=colour, label=label)
    refused = [each for each in rows if not each["passed"]]
    if refused:
        xs, ys = [each["figures"]["latency_ms"] for each in refused], [kept[each["number"]] for each in refused]
        axes.scatter(xs, ys, s=45, marker="x", color=_OTHER, label="refused by a gate", zorder=3)
    _names(axes, rows, pareto, kept, plain["chosen"])
    _scale(axes, rows, kept, plain)


def _names(axes: Any, rows: Sequence[Json], pareto: Sequence[Json], kept: Json, chosen: int | None) -> None:
    """The chosen one in words; of the others the trial's number, where none stands too near."""
    xs, ys = _values(rows, kept)
    wide, high = math.log(max(xs) / min(xs)) or 1.0, max(ys) - min(ys) or 1.0
    named: list[tuple[float, float]] = []
    for each in sorted(pareto, key=lambda each: each["number"] != chosen):
        at = (each["figures"]["latency_ms"], kept[each["number"]])
        if any(abs(math.log(at[0] / x)) < 0.05 * wide and abs(at[1] - y) < 0.08 * high for x, y in named):
            continue
        named.append(at)
        own = each["number"] == chosen
        figures = each["figures"]
        words = (
            f"{each['words']}: {figures['latency_ms']:.2f} ms, {figures['size_mb']:.1f} MiB"
            if own
            else str(each["number"])
        )
        axes.annotate(
            words,
            at,
            (0, 17) if own else (9, -11),
            textcoords="offset points",
            color=_CHOSEN if own else _PARETO,
            fontweight="bold" if own else "normal",
            fontsize=9,
            zorder=4,
        )


def _values(rows: Sequence[Json], kept: Json) -> tuple[list[float], list[float]]:
    return [each["figures"]["latency_ms"] for each in rows], [kept[each["number"]] for each in rows]


def _scale(axes: Any, rows: Sequence[Json], kept: Json, plain: Json) -> None:
    metric = next((each["accuracy"]["metric"] for each in rows if each["accuracy"]), None)
    words = (
        f"{metric.replace('_', ' ')}, rows held out of training" if metric else "likeness to the model, of 100 (parity)"
    )
    axes.set_ylabel(words)
    xs, ys = _values(rows, kept)
    if max(xs) > 5 * min(xs):
        axes.set_xscale("log")
        ticks = [base * 10.0**power for power in range(-4, 6) for base in (1, 2, 5)]
        axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axes.set_xticks([], minor=True)
        axes.set_xlim(min(xs) * 0.8, max(xs) * 1.6)
    else:
        axes.margins(x=0.15)
    span = max(ys) - min(ys) or max(abs(max(ys)), 1.0) * 0.02
    axes.set_ylim(min(ys) - 0.15 * span, max(ys) + 0.25 * span)
    latency = plain["budgets"]["latency_ms"]
    if latency is not None and math.isfinite(latency):
        axes.axvline(latency, color=_MUTED, linewidth=1, linestyle="--", zorder=1)
        axes.annotate("max latency", (latency, axes.get_ylim()[0]), (3, 4), textcoords="offset points", color=_MUTED)
    best = max(
        (each for each in rows), key=lambda each: kept[each["number"]] + each["figures"]["drop"] * _per_point(each)
    )
    drop = plain["budgets"]["drop"]
    if drop is not None:
        floor = kept[best["number"]] + (best["figures"]["drop"] - drop) * _per_point(best)
        axes.axhline(floor, color=_MUTED, linewidth=1, linestyle="--", zorder=1)
        axes.annotate(
            "max drop", (axes.get_xlim()[1], floor), (-4, 4), textcoords="offset points", color=_MUTED, ha="right"
        )
    axes.ticklabel_format(axis="y", style="plain", useOffset=False)
    axes.set_xlabel("milliseconds, longest measured input")


def _kept(row: Json) -> float:
    """Higher is better: the accuracy itself, or what parity leaves of 100."""
    accuracy = row["accuracy"]
    return float(accuracy["value"]) if accuracy else 100 - float(row["figures"]["drop"])


def _per_point(row: Json) -> float:
    """How far a point of drop is on the axis."""
    return 0.01 if row["accuracy"] else 1.0
