"""Which trial of a search is taken, and what is said where none can be."""

from __future__ import annotations

import math
from collections.abc import Sequence

from satchel_runtimes.errors import SatchelError, ToolchainError

from .gates import GATES
from .search_space import words_of
from .tune_study import Limits, Tried

__all__ = ["GATE_KINDS", "figure_words", "nearest", "ranked"]

GATE_KINDS = tuple({kind for _, kind in GATES.values()} - {ToolchainError})
_ALIKE = 1.03  # latencies this close are one: between them the smaller drop decides
_GATE_OF = {"drop": "accuracy", "latency_ms": "latency", "size_mb": "size", "memory_mb": "memory"}
_SAID = {"drop": "points of drop", "latency_ms": "ms", "size_mb": "MiB", "memory_mb": "MiB of memory"}


def figure_words(tried: Tried) -> str:
    figures = tried.figures
    return f"{figures['drop']:.2f} points, {figures['latency_ms']:.2f} ms, {figures['size_mb']:.1f} MiB"


def ranked(tried: Sequence[Tried], limits: Limits, prefer: str) -> tuple[Tried, ...]:
    """Those that meet all budgets, the one to take first."""
    left = [each for each in tried if each.meets(limits)]
    if prefer == "size":
        return tuple(sorted(left, key=lambda each: (each.figures["size_mb"], each.figures["latency_ms"])))
    order: list[Tried] = []
    while left:
        fastest = min(each.figures["latency_ms"] for each in left)
        alike = [each for each in left if each.figures["latency_ms"] <= _ALIKE * fastest]
        order.append(min(alike, key=lambda each: (each.figures["drop"], each.figures["size_mb"])))
        left.remove(order[-1])
    return tuple(order)


def nearest(tried: Sequence[Tried], limits: Limits) -> SatchelError:
    """The error of a search that found nothing, with the kind of the first gate that the nearest trial does not pass."""
    passed = [each for each in tried if each.passed]
    if not passed:
        first = tried[0]
        kind = next((kind for kind in GATE_KINDS if kind.exit_code == first.exit_code), SatchelError)
        return kind(
            f"None of {len(tried)} trials passed its gates.",
            why=f"the first, {words_of(first.point)}: {first.why}",
            fix="satchel compare shows what each candidate lacks",
        )

    def over(each: Tried) -> float:
        return sum(max(0.0, excess) for excess in limits.excess(each.figures).values())

    best = min(passed, key=over)
    excess = limits.excess(best.figures)
    gates = list(GATES)
    name = min((name for name, by in excess.items() if by > 0), key=lambda each: gates.index(_GATE_OF[each]))
    value, limit = best.figures.get(name, math.inf), getattr(limits, name)
    return GATES[_GATE_OF[name]][1](
        f"None of {len(tried)} trials meets the budgets.",
        why=f"the nearest, {words_of(best.point)}, has {figure_words(best)}: {value:.4g} {_SAID[name]}, at most "
        f"{limit:g} allowed",
        fix="raise that budget, or give the search more --minutes; its trials are kept, and serve other budgets too",
    )
