"""Whether two sets of answers are the same, as the task means them.

An answer is a set of named arrays; each has a kind that says how it is compared:

    vector        cosine (embeddings, features)
    distribution  total variation along the last axis, and the top entry must agree unless the reference is near a tie
    independent   largest difference of probabilities, and each side of 0.5 must agree unless the reference is near it
    next          the same of a language model, where some of the top entries may change if it was quantized
    loss          how much the perplexity over all samples rose; natural logarithms
    number        error over the spread of the reference over all samples
    sound         mean difference of decibels, of all frames and bands of hearing
    raw           largest error over the reference's largest magnitude (float32 and float16 only)

What is compared lies in a `Record`, which can also hold a part of a large array: seeded positions, the norm, and the top
entries. So a build machine, which has everything, and a device, which has the golden file, run the same code.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Optional

import numpy as np

from .tasks.task import DISTRIBUTION, INDEPENDENT, LOSS, NEXT, NUMBER, SOUND, VECTOR, WIDE

__all__ = [
    "CLASSES",
    "RAW",
    "SAME_ARTIFACT",
    "Limits",
    "Parity",
    "Record",
    "judge",
    "numeric_class",
    "record",
    "spread_positions",
]

RAW = "raw"
_KEPT_PER_ROW = 32  # entries of a wide distribution that a thinned record keeps: the likeliest ones


@dataclass(frozen=True)
class Limits:
    """How far an artifact may be from the reference. None: not judged by this."""

    cosine_mean: float
    cosine_p05: float
    variation_mean: float  # total variation, or difference of independent probabilities, mean over samples
    variation_p95: float
    margin: float  # a lead of the top answer below this counts as a tie
    number_error: float
    relative_error: Optional[float]
    # Of language models: how many of the next tokens that were clear may be others, and how far the perplexity may rise.
    next_tokens_changed: float = 0.0
    perplexity_rise: float = 1e-3
    sound_mean: float = 0.05  # decibels, mean over samples
    sound_p95: float = 0.1


# Float limits are those of onnxruntime against torch on real models (1e-6 seen) with room for other kernels. int8 and
# int4 were measured on all-MiniLM-L6-v2: cosine 0.99 / 0.98 for int8, 0.94 to 0.97 for int4.
# Sounds of 1 dB of difference on average, and 2 dB in few places, are transparent: listeners do not tell them apart (Paliwal & Atal
# 1993, https://doi.org/10.1109/89.221363). A rounded model may reach that; int4 twice as much.
# bf16 was measured there too, in torch on a CPU over 205 texts: with all operators cast, cosine 0.99996 / 0.99994 and an error of
# 0.011 of the largest value; with matrix multiplications alone, 0.99999 / 0.99998 and 0.006. The limits leave room for models of
# many more layers and for other kernels.
CLASSES: Mapping[str, Limits] = {
    "fp32": Limits(0.9999, 0.9999, 1e-3, 1e-3, 2e-3, 1e-3, 1e-4),
    "fp16": Limits(0.999, 0.999, 1e-2, 2e-2, 3e-2, 1e-2, 1e-2, 0.0, 0.01, 0.25, 0.5),
    "bf16": Limits(0.9995, 0.999, 2e-2, 4e-2, 5e-2, 3e-2, 4e-2, 0.01, 0.02, 0.5, 1.0),
    "int8": Limits(0.985, 0.975, 0.10, 0.25, 0.25, 0.15, None, 0.02, 0.05, 1.0, 2.0),
    "int4": Limits(0.95, 0.91, 0.20, 0.40, 0.40, 0.30, None, 0.10, 0.12, 2.0, 4.0),
}

# The same artifact on another device: float kernels agree to 1e-6; dynamic int8 rounds differently per engine and CPU
# (cosine 0.997 seen between x86, WASM and aarch64).
SAME_ARTIFACT: Mapping[str, Limits] = {
    "fp32": CLASSES["fp32"],
    "fp16": CLASSES["fp16"],
    "bf16": CLASSES["bf16"],
    "int8": Limits(0.995, 0.99, 0.05, 0.15, 0.15, 0.08, None, 0.02, 0.03, 0.5, 1.0),
    "int4": Limits(0.995, 0.99, 0.05, 0.15, 0.15, 0.08, None, 0.02, 0.03, 0.5, 1.0),
}


def numeric_class(scheme: str) -> str:
    """fp32, fp16, bf16, int8 or int4, from a scheme's name."""
    return scheme.partition("-")[0]


@dataclass(frozen=True)
class Record:
    """One array of one sample, whole or in part."""

    kind: str
    shape: tuple[int, ...]
    values: np.ndarray  # float32: all of them, flat, or those at `positions`
    positions: Optional[np.ndarray]
    norm: float
    peak: float  # largest finite magnitude
    top: Optional[np.ndarray]  # distribution: index of the largest entry per row
    lead: Optional[np.ndarray]  # how far it leads the second


@dataclass(frozen=True)
class Parity:
    """What a comparison found. `figures` are by kind; `why` is empty when it passed."""

    passed: bool
    figures: Mapping[str, float]
    limits: Mapping[str, float]
    samples: int
    why: str = ""
    where: str = ""


def record(kind: str, array: np.ndarray, *, keep: Optional[int] = None, seed: int = 0) -> Record:
    """Take what a comparison needs from an array; at most about `keep` values of it.

    Positions are spread over the array (`spread_positions`); of a wide distribution the likeliest entries are kept.
    """
    whole = np.asarray(array, dtype=np.float32)
    flat = whole.ravel()
    finite = flat[np.isfinite(flat)]
    top = lead = None
    if kind in WIDE:
        rows = whole.reshape(-1, whole.shape[-1]) if whole.size else whole.reshape(0, 1)
        top = rows.argmax(axis=1) if len(rows) else np.zeros(0, np.int64)
        ordered = np.partition(rows, max(rows.shape[1] - 2, 0), axis=1) if len(rows) else rows
        lead = ordered[:, -1] - ordered[:, -2] if rows.shape[1] > 1 else np.full(len(rows), np.inf, np.float32)
    positions = None
    if keep is not None and flat.size > keep:
        positions = _positions(kind, whole, keep, seed)
        flat = flat[positions]
    return Record(
        kind,
        whole.shape,
        flat,
        positions,
        float(np.linalg.norm(finite)),
        float(np.abs(finite).max(initial=0.0)),
        top,
        lead,
    )


def _positions(kind: str, whole: np.ndarray, keep: int, seed: int) -> np.ndarray:
    if kind not in WIDE:
        return spread_positions(whole.size, keep, seed)
    width = whole.shape[-1]
    rows = whole.reshape(-1, width)
    per_row = min(width, _KEPT_PER_ROW)
    chosen = spread_positions(len(rows), max(1, keep // per_row), seed)
    likely = np.argpartition(-rows[chosen], per_row - 1, axis=1)[:, :per_row]
    kept: np.ndarray = np.sort((chosen[:, None] * width + likely).ravel())
    return kept


def spread_positions(size: int, keep: int, seed: int) -> np.ndarray:
    """One position out of each of `keep` equal parts of `range(size)`, int64, ascending.

    Integer arithmetic alone (Knuth's multiplicative hash), so a runtime in any language finds the same ones.
    """
    if keep >= size:
        whole: np.ndarray = np.arange(size)
        return whole
    edges = np.arange(keep + 1, dtype=np.int64) * size // keep
    hashed = (np.arange(keep, dtype=np.int64) + seed * 7919 + 1) * 2654435761 % 2**32
    drawn: np.ndarray = edges[:-1] + hashed % (edges[1:] - edges[:-1])
    return drawn


Sample = Mapping[str, Record]


def judge(
    reference: Sequence[Sample], answers: Sequence[Mapping[str, np.ndarray]], limits: Limits, *, what: str = "single"
) -> Parity:
    """Compare each answer with the reference's record of the same sample.

    Args:
        reference: one mapping of records per sample.
        answers: the same names with the whole arrays of the artifact.
        limits: of the artifact's numeric class.
        what: how the answers were made, for the messages ("single", "in batches").
    """
    broken = _broken_reference(reference)
    if broken:
        return Parity(False, {}, {}, len(reference), broken, "reference")
    limits = _widened(limits) if any(_thinned(each) for each in reference) else limits
    kinds = (VECTOR, DISTRIBUTION, NEXT, INDEPENDENT, LOSS, NUMBER, SOUND, RAW)
    found: dict[str, list[float]] = {kind: [] for kind in kinds}
    changed: list[bool] = []
    before: list[float] = []  # of each text, what the reference lost per token
    spread = _spread(reference)
    flips: list[str] = []
    worst: dict[str, tuple[float, str]] = {}
    for index, (records, arrays) in enumerate(zip(reference, answers)):
        for name, expected in records.items():
            where = f"sample {index}, {name}, {what}"
            if name not in arrays:
                return Parity(False, {}, {}, len(reference), f"the output {name!r} is missing", where)
            actual = np.asarray(arrays[name], dtype=np.float32)
            if actual.shape != expected.shape:
                why = f"the shape is {actual.shape}, the reference's is {expected.shape}"
                return Parity(False, {}, {}, len(reference), why, where)
            if np.isnan(actual).any():
                return Parity(False, {}, {}, len(reference), "the answer holds NaN", where)
            distance = _distance(expected, actual, spread.get(name, 0.0))
            found[expected.kind].append(distance)
            bad = -distance if expected.kind == VECTOR else distance
            if expected.kind not in worst or bad > worst[expected.kind][0]:
                worst[expected.kind] = (bad, where)
            if expected.kind == NEXT:
                changed += _changed(expected, actual, limits.margin)
            elif _flipped(expected, actual, limits.margin):
                flips.append(where)
            if expected.kind == LOSS:
                before.append(float(expected.values.mean()) if expected.values.size else 0.0)
    return _verdict(found, flips, changed, before, worst, limits, len(reference))


def _thinned(records: Sample) -> bool:
    return any(each.kind == VECTOR and each.positions is not None for each in records.values())


def _widened(limits: Limits) -> Limits:
    """A cosine over a few hundred positions of a vector scatters around that of all: measured on MiniLM's token features,
    the fifth percentile of 1 - cosine over 500 of 10,000 positions was up to 1.3 times that over all of them."""
    mean, p05 = 1 - 1.1 * (1 - limits.cosine_mean), 1 - 1.5 * (1 - limits.cosine_p05)
    return replace(limits, cosine_mean=mean, cosine_p05=p05)


def _verdict(
    found: Mapping[str, Sequence[float]],
    flips: Sequence[str],
    changed: Sequence[bool],
    before: Sequence[float],
    worst: Mapping[str, tuple[float, str]],
    limits: Limits,
    samples: int,
) -> Parity:
    figures: dict[str, float] = {}
    allowed: dict[str, float] = {}
    why = where = ""

    def hold(name: str, value: float, limit: Optional[float], kind: str, *, least: bool = False) -> None:
        nonlocal why, where
        figures[name] = value
        if limit is None:
            return
        allowed[name] = limit
        good = value >= limit if least else value <= limit  # false for NaN
        if not good and not why:
            why = (
                f"{name.replace('_', ' ')} is {value:.4g}, {'at least' if least else 'at most'} {limit:.4g} is allowed"
            )
            where = worst[kind][1]

    if flips:
        why, where = "the top answer differs where the reference is not near a tie", flips[0]
    figures["flipped_answers"] = float(len(flips))
    allowed["flipped_answers"] = 0.0
    if found[VECTOR]:
        hold("cosine_mean", float(np.mean(found[VECTOR])), limits.cosine_mean, VECTOR, least=True)
        hold("cosine_p05", float(np.percentile(found[VECTOR], 5)), limits.cosine_p05, VECTOR, least=True)
        hold("cosine_min", float(np.min(found[VECTOR])), None, VECTOR)
    for kind in (*WIDE, INDEPENDENT):
        if found[kind]:
            word = "total_variation" if kind in WIDE else "probability_error"
            hold(f"{word}_mean", float(np.mean(found[kind])), limits.variation_mean, kind)
            hold(f"{word}_p95", float(np.percentile(found[kind], 95)), limits.variation_p95, kind)
    if found[NEXT]:
        hold("next_tokens_changed", float(np.mean(changed or [False])), limits.next_tokens_changed, NEXT)
    if found[LOSS]:
        hold("perplexity_rise", float(np.expm1(np.mean(found[LOSS]))), limits.perplexity_rise, LOSS)
        figures["perplexity_reference"] = float(np.exp(np.mean(before)))
        figures["perplexity"] = float(np.exp(np.mean(before) + np.mean(found[LOSS])))
    if found[SOUND]:
        hold("decibels_mean", float(np.mean(found[SOUND])), limits.sound_mean, SOUND)
        hold("decibels_p95", float(np.percentile(found[SOUND], 95)), limits.sound_p95, SOUND)
    if found[NUMBER]:
        hold("number_error", float(np.max(found[NUMBER])), limits.number_error, NUMBER)
    if found[RAW]:
        hold("relative_error", float(np.max(found[RAW])), limits.relative_error, RAW)
    return Parity(not why, figures, allowed, samples, why, where)


def _broken_reference(reference: Sequence[Sample]) -> str:
    if not reference:
        return "there is no sample to compare"
    for index, records in enumerate(reference):
        for name, expected in records.items():
            if np.isnan(expected.values).any():
                return f"the reference model itself answers NaN (sample {index}, {name}); nothing can be proved with it"
    if len(reference) > 1:
        first = reference[0]
        alike = all(_alike(first, other) for other in reference[1:])
        if alike:
            return "the reference model gives the same answer to every sample; agreement would prove nothing"
    return ""


def _alike(first: Sample, other: Sample) -> bool:
    # Judged by what the user sees; raw states differ even where every answer is the same. A kit's answers are raw alone.
    seen = {name: each for name, each in first.items() if each.kind != RAW} or first
    for name, expected in seen.items():
        if name not in other:
            return False
        theirs = other[name]
        if expected.shape != theirs.shape or expected.positions is not None:
            return False
        scale = max(expected.peak, theirs.peak, 1e-30)
        equal = expected.values == theirs.values  # infinities too, whose difference is not a number
        difference = np.where(equal, 0.0, expected.values) - np.where(equal, 0.0, theirs.values)
        if not float(np.abs(difference).max(initial=0.0)) <= 1e-6 * scale:
            return False
    return True


def _spread(reference: Sequence[Sample]) -> dict[str, float]:
    """Standard deviation of each number over all samples."""
    values: dict[str, list[np.ndarray]] = {}
    for records in reference:
        for name, expected in records.items():
            if expected.kind == NUMBER:
                values.setdefault(name, []).append(expected.values)
    return {name: float(np.concatenate(parts).std()) for name, parts in values.items()}


def _distance(expected: Record, actual: np.ndarray, spread: float) -> float:
    ours = actual.ravel()
    if expected.positions is not None:
        ours = ours[expected.positions]
    theirs = expected.values
    equal = ours == theirs  # equal infinities are equal, and inf - inf is not a number
    difference = np.where(equal, 0.0, np.abs(np.where(equal, 0.0, ours) - np.where(equal, 0.0, theirs)))
    if expected.kind == VECTOR:
        return _cosine(np.where(np.isinf(ours) & equal, 0.0, ours), np.where(np.isinf(theirs) & equal, 0.0, theirs))
    if expected.kind in WIDE:
        width = expected.shape[-1] if expected.shape else 1
        rows = ours.size // width if expected.positions is None else len(np.unique(expected.positions // width))
        return float(difference.sum() / 2 / max(rows, 1))
    if expected.kind == LOSS:
        return float((ours - theirs).mean()) if ours.size else 0.0
    if expected.kind == SOUND:
        return float(difference.mean()) if difference.size else 0.0
    largest = float(difference.max(initial=0.0))
    if expected.kind == NUMBER:
        return largest / max(spread, 1e-12)
    if expected.kind == RAW:
        return largest / max(expected.peak, 1e-30)
    return largest


def _cosine(ours: np.ndarray, theirs: np.ndarray) -> float:
    a: np.ndarray = ours.astype(np.float64)
    b: np.ndarray = theirs.astype(np.float64)
    norms = float(np.linalg.norm(a) * np.linalg.norm(b))
    if norms == 0.0:
        return 1.0 if not a.any() and not b.any() else 0.0
    return float(a @ b) / norms


def _changed(expected: Record, actual: np.ndarray, margin: float) -> list[bool]:
    """For each row whose top answer is clear, whether it is another one."""
    if expected.top is None or expected.lead is None or not actual.size:
        return []
    tops = actual.reshape(-1, actual.shape[-1]).argmax(axis=1)
    found: list[bool] = (tops != expected.top)[expected.lead >= margin].tolist()
    return found


def _flipped(expected: Record, actual: np.ndarray, margin: float) -> bool:
    if expected.kind == DISTRIBUTION:
        return any(_changed(expected, actual, margin))
    if expected.kind == INDEPENDENT:
        ours = actual.ravel() if expected.positions is None else actual.ravel()[expected.positions]
        clear = np.abs(expected.values - 0.5) >= margin / 2
        return bool((((ours > 0.5) != (expected.values > 0.5)) & clear).any())
    return False
