"""Whether two answers to one question are the same, whatever shape a task's answers have."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

__all__ = ["difference"]

_CLOSE = 1e-3  # of numbers: what a user sees of float32 in another order of sums, far from what a wrong graph does
_SAME_PIXELS = 0.995  # of masks and maps: a border may fall to the other side

Answer = Any  # of a task: dicts, lists, numbers, strings, arrays, pictures


def difference(ours: Answer, theirs: Answer, where: str = "answer") -> str:
    """The first difference in words; empty where they agree. Labels with scores may change places within a tie."""
    ours, theirs = _plain(ours), _plain(theirs)
    if isinstance(theirs, Mapping):
        if not isinstance(ours, Mapping) or set(ours) != set(theirs):
            return f"{where}: {_kind(ours)}, not {_kind(theirs)}"
        return next(filter(None, (difference(ours[key], theirs[key], f"{where}.{key}") for key in theirs)), "")
    if isinstance(theirs, (list, tuple)):
        if not isinstance(ours, (list, tuple)) or len(ours) != len(theirs):
            return f"{where}: {_kind(ours)}, not {_kind(theirs)}"
        if theirs and all(isinstance(each, Mapping) and {"label", "score"} <= set(each) for each in theirs):
            ours, theirs = _by_label(ours), _by_label(theirs)
        pairs = zip(ours, theirs, strict=True)
        return next(filter(None, (difference(a, b, f"{where}[{i}]") for i, (a, b) in enumerate(pairs))), "")
    if isinstance(theirs, np.ndarray):
        return _arrays(np.asarray(ours), theirs, where)
    if isinstance(theirs, float):
        alike = isinstance(ours, (int, float)) and (
            math.isclose(ours, theirs, rel_tol=_CLOSE, abs_tol=_CLOSE) or (math.isnan(ours) and math.isnan(theirs))
        )
        return "" if alike else f"{where}: {ours!r}, not {theirs!r}"
    return "" if ours == theirs else f"{where}: {ours!r}, not {theirs!r}"


def _plain(value: Answer) -> Answer:
    if hasattr(value, "detach"):
        value = value.detach().cpu().numpy()
    if hasattr(value, "convert") and hasattr(value, "size"):  # a picture of Pillow
        value = np.asarray(value)
    if isinstance(value, np.generic):
        value = value.item()
    return value


def _kind(value: Answer) -> str:
    if isinstance(value, Mapping):
        return f"keys {sorted(value)}"
    return f"{type(value).__name__} of {len(value)}" if isinstance(value, (list, tuple)) else repr(value)[:60]


def _by_label(found: list[Any]) -> list[Any]:
    # Detections may have a label several times: those go by their score.
    return sorted(found, key=lambda each: (str(each["label"]), -round(float(each["score"] or 0), 3)))


def _arrays(ours: np.ndarray, theirs: np.ndarray, where: str) -> str:
    if ours.shape != theirs.shape:
        return f"{where}: shape {ours.shape}, not {theirs.shape}"
    if not theirs.size:
        return ""
    if theirs.dtype.kind in "biu":
        same = float((ours == theirs).mean())
        near = theirs.dtype.kind == "u" and float(np.abs(ours.astype(int) - theirs.astype(int)).max()) <= 1
        return "" if same >= _SAME_PIXELS or near else f"{where}: {same:.1%} of the values are the same"
    largest = max(float(np.abs(theirs).max()), 1e-12)
    worst = float(np.abs(ours - theirs).max()) / largest
    return "" if worst <= _CLOSE else f"{where}: wrong by {worst:.2g} of the largest value"
