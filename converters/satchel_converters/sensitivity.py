"""Which layers a lower precision hurts, and the fewest of them to keep in a better one. Knows no format.

A format gives the names of its layers with what it costs to keep each, a callable that makes the model with a set of layers
kept, and a callable that scores what was made. Where all of them lowered are below the limit, every layer is lowered alone, which tells
its damage; then the layers with the most damage per cost are kept until the limit is met, and those that turn out not to be needed are given back.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

from .process import Tell

__all__ = ["LayerFigure", "Scan", "scan_layers"]

V = TypeVar("V")


@dataclass(frozen=True)
class LayerFigure:
    """One layer: what the score loses when it alone is in the lower precision, and what keeping it costs."""

    name: str
    damage: float
    cost: float
    kept: bool


@dataclass(frozen=True)
class Scan:
    """What a scan found, the layer with the most damage per cost first; no layers where the limit is met with all of them lowered."""

    layers: tuple[LayerFigure, ...]
    limit: float
    plain: float  # the score with every layer in the lower precision
    score: float  # with the chosen ones kept

    @property
    def kept(self) -> frozenset[str]:
        return frozenset(each.name for each in self.layers if each.kept)

    @property
    def met(self) -> bool:
        """False where even all layers kept do not reach the limit."""
        return self.score >= self.limit

    def notes(self) -> dict[str, Any]:  # Any: JSON
        """As the bundle and the report carry it."""
        return {
            "limit": self.limit,
            "plain": self.plain,
            "score": self.score,
            "layers": [asdict(e) for e in self.layers],
        }


def scan_layers(
    layers: Mapping[str, float],
    make: Callable[[frozenset[str]], V],
    score: Callable[[V], float],
    limit: float,
    tell: Tell,
) -> Scan:
    """Find the layers to keep in the better precision, at little cost, so that the score reaches the limit.

    Args:
        layers: each layer's name and what keeping it costs, in any one unit above zero (bytes, estimated time).
        make: the model with these layers in the better precision and all others in the lower.
        score: of what was made, against the float model on calibration samples; more is better.
        limit: the score to reach.
        tell: gets one step per model that is made.
    """
    seen: dict[frozenset[str], float] = {}
    every = frozenset(layers)

    def of(kept: frozenset[str], what: str) -> float:
        if kept not in seen:
            seen[kept] = score(make(kept))
        tell("sensitivity", what, 1, len(layers) + 2)
        return seen[kept]

    plain = of(frozenset(), "all layers lowered")
    if plain >= limit:  # then nobody asks which layer is worst
        return Scan((), limit, plain, plain)
    whole = of(every, "no layer lowered")
    damage = {name: whole - of(every - {name}, name) for name in layers}
    order = sorted(layers, key=lambda name: damage[name] / layers[name], reverse=True)

    def first(count: int) -> frozenset[str]:
        return frozenset(order[:count])

    # Keeping more is taken to never hurt, so the shortest sufficient prefix is found by halving.
    low, high = 0, len(order)
    while low < high:
        middle = (low + high) // 2
        if of(first(middle), f"{middle} layers kept") >= limit:
            high = middle
        else:
            low = middle + 1
    kept = first(low)
    for name in sorted(kept, key=lambda each: layers[each], reverse=True):
        if of(kept, "") >= limit and of(kept - {name}, f"without {name}") >= limit:
            kept -= {name}
    figures = tuple(LayerFigure(name, damage[name], layers[name], name in kept) for name in order)
    return Scan(figures, limit, plain, of(kept, f"{len(kept)} layers kept"))
