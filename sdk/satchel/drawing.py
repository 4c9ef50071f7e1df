"""What all drawings of a page share: inline SVG that takes its colours from the page and needs no script.

Drawn small, at the width of a phone, and set side by side on a larger screen.
"""

from __future__ import annotations

import io
import re
from typing import Any

from satchel_runtimes.toolchain import need

__all__ = [
    "INK",
    "LINE",
    "MUTED",
    "PAPER",
    "PASSES",
    "REFUSED",
    "SHIPS",
    "STYLE",
    "WIDTH",
    "Chart",
    "figures",
    "log_axis",
    "need_charts",
    "svg_of",
]

Chart = tuple[str, str, str]  # title, what it shows, SVG

WIDTH = 4.3  # inches of 72 pixels: about what a phone has

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
INK, MUTED, LINE, SHIPS, PASSES, REFUSED, PAPER = _COLOURS
STYLE = {
    "svg.fonttype": "none",  # text stays text
    "font.size": 9.5,
    "text.color": INK,
    "axes.edgecolor": LINE,
    "axes.labelcolor": MUTED,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.grid": True,
    "axes.grid.axis": "x",
    "axes.axisbelow": True,
    "grid.color": LINE,
    "grid.linewidth": 0.7,
    "xtick.color": MUTED,
    "ytick.color": INK,
    "ytick.major.size": 0,
    "xtick.minor.size": 0,
    "legend.frameon": False,
}


def need_charts() -> Any:  # Any: a module
    """Raises: ToolchainError where the package that draws is missing."""
    return need("matplotlib", extra="report", to="write an HTML report", of="satchel")


def figures() -> Any:  # Any: a module
    """The classes of drawings, without a window system. Raises: ToolchainError as of `need_charts`."""
    return need("matplotlib.figure", extra="report", to="write an HTML report", of="satchel")


def log_axis(axes: Any, label: str, which: str = "x") -> None:
    """Of x or y, with plain numbers for milliseconds and powers of ten where there are many."""
    make = {name: getattr(axes, f"set_{which}{name}") for name in ("scale", "label", "ticks")}
    make["scale"]("log")
    make["label"](label)
    limits = getattr(axes, f"get_{which}lim"), getattr(axes, f"set_{which}lim")
    low, high = limits[0]()
    if low > 1e-3:
        ticks = [base * 10**power for power in range(-3, 6) for base in (1, 2, 5)]
        ticks = [tick for tick in ticks if low <= tick <= high]
        while len(ticks) > 7:
            ticks = ticks[::2]
        make["ticks"](ticks, [f"{tick:g}" for tick in ticks])
        make["ticks"]([], minor=True)
        limits[1](low, high)


def svg_of(figure: Any, name: str) -> str:
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
