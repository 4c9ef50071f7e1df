"""How often two sets of answers lead to the same decision: what a person who chooses a model wants to read.

Stricter than parity in one respect: where the reference itself is near a tie, another answer counts as another answer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from satchel_runtimes.golden import Answers
from satchel_runtimes.parity import RAW, Limits, Record
from satchel_runtimes.tasks.task import INDEPENDENT, NUMBER, SOUND, VECTOR, WIDE

__all__ = ["Agreement", "agreement"]

Sample = Mapping[str, Record]

# Two texts may be as near to a third as rounding: a neighbour that the reference finds as close is as good an answer.
_AS_NEAR = 1e-3


@dataclass(frozen=True)
class Agreement:
    """Of how many samples the answer is the same, in the sense of `what`."""

    what: str
    same: int
    of: int


def agreement(reference: Sequence[Sample], answers: Sequence[Answers], limits: Limits) -> tuple[Agreement, ...]:
    """The first is the one to read: labels for what chooses, neighbours for embeddings, otherwise what lies in its class."""
    kinds = {each.kind for records in reference for each in records.values()} - {RAW}
    pairs = [
        [(each, np.asarray(arrays[name], np.float32)) for name, each in records.items() if each.kind != RAW]
        for records, arrays in zip(reference, answers, strict=True)
        if all(name in arrays and arrays[name].shape == each.shape for name, each in records.items())
    ]
    of = len(reference)  # a sample that is answered in another shape is answered otherwise
    found: list[Agreement] = []
    if kinds & {*WIDE, INDEPENDENT}:
        same = sum(all(_decides_alike(expected, actual) for expected, actual in each) for each in pairs)
        found.append(Agreement("top answer" if kinds & {*WIDE} else "labels", same, of))
    if SOUND in kinds:
        sounds = [[(e, a) for e, a in each if e.kind == SOUND] for each in pairs]
        same = sum(all(np.abs(_at(e, a) - e.values).mean() <= limits.sound_p95 for e, a in each) for each in sounds)
        found.append(Agreement(f"sound within {limits.sound_p95:g} dB", same, of))
    if NUMBER in kinds:
        numbers = [each.values for records in reference for each in records.values() if each.kind == NUMBER]
        limit = limits.number_error * float(np.concatenate(numbers).std())
        told = [[(e, a) for e, a in each if e.kind == NUMBER] for each in pairs]
        same = sum(all(float(np.abs(_at(e, a) - e.values).max()) <= limit for e, a in each) for each in told)
        found.append(Agreement("number within its class", same, of))
    if VECTOR in kinds:
        near = _neighbours(pairs) if len(pairs) == of else None
        if near is not None:
            found.append(Agreement("nearest neighbour", near, of))
        same = sum(all(_cosine(e, a) >= limits.cosine_p05 for e, a in each) for each in pairs)
        found.append(Agreement(f"cosine at least {limits.cosine_p05:g}", same, of))
    return tuple(found)


def _at(expected: Record, actual: np.ndarray) -> np.ndarray:
    flat: np.ndarray = actual.ravel()
    return flat if expected.positions is None else flat[expected.positions]


def _decides_alike(expected: Record, actual: np.ndarray) -> bool:
    if expected.kind in WIDE and expected.top is not None and actual.size:
        return bool((actual.reshape(-1, actual.shape[-1]).argmax(axis=1) == expected.top).all())
    if expected.kind == INDEPENDENT:
        return bool(((_at(expected, actual) > 0.5) == (expected.values > 0.5)).all())
    return True


def _cosine(expected: Record, actual: np.ndarray) -> float:
    ours, theirs = _at(expected, actual).astype(np.float64), expected.values.astype(np.float64)
    norms = float(np.linalg.norm(ours) * np.linalg.norm(theirs))
    return float(ours @ theirs) / norms if norms else float(not ours.any() and not theirs.any())


def _neighbours(pairs: Sequence[Sequence[tuple[Record, np.ndarray]]]) -> int | None:
    """Samples whose nearest other sample is the reference's too; None where they are not one vector each."""
    if len(pairs) < 3 or any(len(each) != 1 for each in pairs):
        return None
    records = [each[0][0] for each in pairs]
    if len({each.shape for each in records}) != 1 or len(records[0].shape) != 1 or records[0].positions is not None:
        return None
    theirs = _similarities(np.stack([each.values for each in records]))
    ours = _similarities(np.stack([each[0][1].ravel() for each in pairs]))
    chosen = theirs[np.arange(len(ours)), ours.argmax(axis=1)]
    told = ~np.isnan(ours).any(axis=1)
    return int((told & (chosen >= theirs.max(axis=1) - _AS_NEAR)).sum())


def _similarities(vectors: np.ndarray) -> np.ndarray:
    units = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    found: np.ndarray = units @ units.T
    np.fill_diagonal(found, -np.inf)
    return found
