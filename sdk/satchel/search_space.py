"""What `satchel tune` may try, as plain data: the axes, the points that are tried first, and what is left out and why."""

from __future__ import annotations

import dataclasses
import itertools
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from satchel_runtimes.errors import ToolchainError

from .options import Options, Prepared
from .trial import stands_for

__all__ = ["Axis", "Point", "Space", "options_of", "space_of", "whole", "words_of"]

Value = str | int | float | bool
Point = Mapping[str, Value]  # by axis

_PRUNED = ("ffn", "heads", "layers", "channels")  # what training makes good; the vocabulary needs none
_SHARES: Mapping[str, tuple[float, ...]] = {
    "ffn": (0.0, 0.25, 0.5, 0.75),
    "heads": (0.0, 0.25, 0.5),
    "layers": (0.0, 0.34, 0.5),
    "channels": (0.0, 0.3, 0.5),
}
# What a share is taken of, as config.json counts it; below two there is nothing to take.
_COUNTS = {
    "ffn": ("intermediate_size", "n_inner", "hidden_dim", "encoder_ffn_dim"),
    "heads": ("num_attention_heads", "n_heads", "n_head", "encoder_attention_heads"),
    "layers": ("num_hidden_layers", "n_layers", "n_layer", "encoder_layers"),
}
_DISTILL = (1 / 30, 1 / 10)  # parts of the whole time that one trial may train


@dataclass(frozen=True)
class Axis:
    """One thing to choose. The first choice is to leave it as it is."""

    name: str
    choices: tuple[Value, ...]


@dataclass(frozen=True)
class Space:
    axes: tuple[Axis, ...]
    first: tuple[Point, ...]  # the obvious ones: the profile's own order without pruning, then one of each kind
    left_out: tuple[str, ...]

    def points(self) -> Iterator[Point]:
        """Every point, each once."""
        for values in itertools.product(*(axis.choices for axis in self.axes)):
            point = {axis.name: value for axis, value in zip(self.axes, values, strict=True)}
            if whole(point) == point:
                yield point


def space_of(prepared: Prepared, *, minutes: float, train: int) -> Space:
    """The space of a model on a device. `train` is the number of labelled rows to train on.

    Raises:
        ToolchainError: a format that the options name cannot be made here.
    """
    left_out: list[str] = []
    axes = [Axis("candidate", _candidates(prepared, left_out)), Axis("threads", _threads(prepared, left_out))]
    shares = _prunable(prepared, train, left_out)
    axes += [Axis(name, _SHARES[name]) for name in shares]
    if train and _has_vocabulary(prepared):
        axes.append(Axis("vocabulary", (False, True)))
    if shares:
        axes.append(Axis("distill", (0.0, *(round(minutes * part, 2) for part in _DISTILL))))
    base = {axis.name: axis.choices[0] for axis in axes}
    first = [{**base, "candidate": each} for each in axes[0].choices]
    for name in ("vocabulary", "ffn", "layers", "channels"):
        axis = next((each for each in axes if each.name == name), None)
        if axis is not None:
            point = {**base, name: 0.5 if name != "vocabulary" else True, "distill": axes[-1].choices[-1]}
            first.append(dict(whole({key: point[key] for key in base})))
    return Space(tuple(axes), tuple(first), tuple(left_out))


def _candidates(prepared: Prepared, left_out: list[str]) -> tuple[str, ...]:
    found = []
    for each in prepared.candidates:
        if each.problem is None:
            found.append(f"{each.format} {each.scheme}")
        elif isinstance(each.problem, ToolchainError) and prepared.options.formats:
            raise each.problem
        else:
            left_out.append(f"{each.format} {each.scheme}: {each.problem.why}; {each.problem.fix}")
    return tuple(found)


def _threads(prepared: Prepared, left_out: list[str]) -> tuple[int, ...]:
    """0 is the engine's own choice."""
    asked, own = prepared.options.threads, prepared.profile.threads or 0
    if asked:
        return (asked,)
    if not any(stands_for(prepared.profile)):
        left_out.append(f"threads: this machine is not {prepared.profile.name}, and an estimate knows no better number")
        return (own,)
    here = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    cores = min(here, prepared.profile.cores or here)
    return tuple(dict.fromkeys((own or cores, cores, max(1, cores // 2), 1)))


def _prunable(prepared: Prepared, train: int, left_out: list[str]) -> tuple[str, ...]:
    if not train:
        left_out.append("pruning and distillation: without labelled data nothing would train them, or judge their cost")
        return ()
    if prepared.source.convolutional:
        return ("channels",)
    found = []
    for name, keys in _COUNTS.items():
        count = next((prepared.source.config[key] for key in keys if key in prepared.source.config), 0)
        if isinstance(count, int) and count >= 2:
            found.append(name)
        else:
            left_out.append(f"{name}: the model has {'one' if count == 1 else 'none'} to choose from")
    return tuple(found)


def _has_vocabulary(prepared: Prepared) -> bool:
    return (prepared.source.folder / "tokenizer.json").is_file() and "vocab_size" in prepared.source.config


def whole(point: Point) -> Point:
    """The point without what has no effect: what is not pruned needs no training."""
    if point.get("distill") and not any(point.get(name) for name in _PRUNED):
        return {**point, "distill": 0.0}
    return point


def options_of(point: Point, base: Options, **others: Any) -> Options:  # Any: fields of Options
    """What a conversion must be asked for to make a point."""
    format, _, scheme = str(point["candidate"]).partition(" ")
    pruned = [f"{name}={point[name]:g}" for name in _PRUNED if point.get(name)]
    pruned += ["vocabulary"] if point.get("vocabulary") else []
    return dataclasses.replace(
        base,
        format=format,
        quantize=scheme,
        formats=(),
        schemes=(),
        threads=int(point["threads"]) or None,
        prune=",".join(pruned) or None,
        distill=f"minutes={point['distill']:g}" if point.get("distill") else None,
        **others,
    )


def words_of(point: Point) -> str:
    """For a table and the progress."""
    words = [str(point["candidate"])]
    words += [f"{name} −{100 * float(point[name]):.0f} %" for name in _PRUNED if point.get(name)]
    words += ["vocabulary trimmed"] if point.get("vocabulary") else []
    words += [f"distilled {point['distill']:g} min"] if point.get("distill") else []
    words += [f"{point['threads']} thread{'s' if point['threads'] != 1 else ''}"] if point["threads"] else []
    return ", ".join(words)
