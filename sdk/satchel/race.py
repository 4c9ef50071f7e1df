"""Which of several bundles is the fastest: run in turn here, or by the profile's estimate where this is not the device."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from satchel_runtimes.measure import interleave, ratio
from satchel_runtimes.predictor import load

from .choice import Best
from .options import Prepared
from .report import Outcome
from .trial import call_of, first_rows, lengths_of, stands_for

__all__ = ["best_of", "race"]

_SECONDS = 1.0


def race(
    folders: Mapping[str, Path], *, threads: int | None = None, seconds: float = _SECONDS
) -> tuple[int, dict[str, np.ndarray]]:
    """Seconds of each run of the bundles' graphs in turn, on the longest input that all of them take, and its length."""
    with ExitStack() as stack:
        loaded = {
            name: stack.enter_context(load(folder, threads=threads, trust=True, allow_failed=True))
            for name, folder in folders.items()
        }
        tokens = min(max(lengths_of(each)) for each in loaded.values())
        calls = {name: call_of(each, first_rows(each), tokens) for name, each in loaded.items()}
        return tokens, interleave(calls, warmup=3, settle=1, max_seconds=seconds)


def best_of(prepared: Prepared, folder_of: Callable[[Outcome], Path]) -> Best:
    """The rule of `--quantize auto` among candidates that pass: the fastest, or the smallest with `prefer="size"`.

    What is not surely faster than one that the profile prefers does not take its place.
    """

    def best(passed: Sequence[Outcome]) -> tuple[Outcome, str]:
        if len(passed) == 1:
            return passed[0], "the only one that passes every gate"
        if prepared.options.prefer == "size":
            return _smallest(passed)
        if any(stands_for(prepared.profile)):
            return _fastest(passed, folder_of, prepared)
        return _estimated(passed, prepared)

    return best


def _smallest(passed: Sequence[Outcome]) -> tuple[Outcome, str]:
    sizes = [each.evidence.size_bytes or 0 for each in passed if each.evidence is not None]
    place = int(np.argmin(sizes))
    return passed[place], f"the smallest of {len(passed)} that pass every gate: {sizes[place] / 2**20:.1f} MiB"


def _fastest(
    passed: Sequence[Outcome], folder_of: Callable[[Outcome], Path], prepared: Prepared
) -> tuple[Outcome, str]:
    tokens, times = race(
        {_name(each): folder_of(each) for each in passed},
        threads=prepared.options.threads,
        seconds=_SECONDS * len(passed),
    )
    chosen = passed[0]
    for each in passed[1:]:
        if ratio(times[_name(chosen)], times[_name(each)]).low > 1:
            chosen = each
    found = ", ".join(f"{_name(each)} {np.median(times[_name(each)]) * 1e3:.2f} ms" for each in passed)
    why = f"the fastest of {len(passed)} that pass every gate, run in turn here on {tokens} tokens: {found}"
    return chosen, why


def _estimated(passed: Sequence[Outcome], prepared: Prepared) -> tuple[Outcome, str]:
    """From the profile's facts; candidates of one estimate, and all where the facts are not known, in its order."""
    device = prepared.profile.name
    found = [max(each.evidence.estimate_ms.items(), default=(0, np.inf))[1] for each in passed if each.evidence]
    if not np.isfinite(found).all():
        return passed[0], (
            f"the first that passes every gate: this machine is not {device}, and its profile does not have "
            "the facts for an estimate"
        )
    place = int(np.argmin(found))
    why = (
        f"the fastest of {len(passed)} that pass every gate, by estimate from the facts of {device}, which this machine "
        f"is not: {found[place]:.1f} ms or more; measure it there with satchel bench"
    )
    return passed[place], why


def _name(outcome: Outcome) -> str:
    return f"{outcome.format} {outcome.scheme}"
