"""`bench`: what a bundle costs on this machine, with the spread of every figure and what it must be read with.

Several bundles are measured in turn, so that a machine that slows down slows all of them; only then is a ratio of two
latencies worth much.
"""

from __future__ import annotations

import dataclasses
import datetime
import functools
import importlib.metadata
import itertools
import os
import platform
import sys
import time
import uuid
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Callable, Optional

import numpy as np

import satchel_runtimes

from .cold import start_cold
from .errors import UsageError
from .golden import GoldenItem, read_items
from .measure import interleave, machine, median_interval, summarize
from .predictor import Predictor, load
from .run import Cold, Json, Run, Throughput, Writing
from .tasks import Task

__all__ = ["bench", "caller"]

_LIST = 32  # inputs in the list that throughput is measured with
_WRITTEN = 32  # tokens behind the first one that the speed of writing is measured with
_SETTLE = 8  # uncounted runs of a bundle after another's, until the processor's caches are its own again
_SENTENCE = "the small red car went over the old bridge and then down to the river where we had lunch with her"


def bench(
    *bundles: Path,
    threads: Optional[int] = None,
    trust: bool = False,
    delegate: Optional[str] = None,
    cores: Optional[str] = None,
    lengths: Sequence[int] = (16, 64, 128),
    max_seconds: float = 2.0,
    max_runs: int = 500,
    warmup: int = 5,
    cold_starts: int = 5,
    on_step: Optional[Callable[[str], None]] = None,
) -> tuple[Run, ...]:
    """Measure bundles here; of several, each call in turn with those of the others.

    Of a task that writes, latency and lists are to the first token, and the tokens behind it have a speed of their own.

    Args:
        bundles: folders, or the same as uncompressed zips.
        threads: of the engine; what the bundle prefers by default.
        trust, delegate, cores: as in `load`.
        lengths: tokens of the inputs, special tokens included. Those beyond what the model takes are left out.
        max_seconds, max_runs: each length stops at the first of these two, after ten runs at least; all share it.
        warmup: runs before each length that are not counted.
        cold_starts: fresh processes to start, after one that is not counted; none with 0.
        on_step: told in words what is being measured.

    Raises:
        SatchelError: a bundle cannot be loaded, or does not start in a fresh process.
    """
    if not lengths or min(lengths) < 1 or max_runs < 1:
        raise UsageError(
            "Cannot measure nothing.", why=f"lengths are {list(lengths)}, runs {max_runs}", fix="give numbers above 0"
        )
    tell = on_step or (lambda words: None)
    before, together = _load(), uuid.uuid4().hex
    tell("cold start in a fresh process")
    options: dict[str, Any] = {"threads": threads, "trust": trust, "delegate": delegate, "cores": cores}  # of load
    cold = _cold(bundles, options, cold_starts)
    with ExitStack() as stack:
        loaded = [stack.enter_context(load(bundle, **options, verify="once")) for bundle in bundles]
        samples: list[dict[int, np.ndarray]] = [{} for _ in loaded]
        inputs: list[list[GoldenItem]] = [[] for _ in loaded]
        spoken: list[dict[int, float]] = [{} for _ in loaded]
        for tokens in sorted({length for each in loaded for length in _lengths(each, lengths)}):
            found = [_of_length(each, tokens) for each in loaded]
            calls: dict[str, Callable[[], object]] = {}
            for place, (predictor, made) in enumerate(zip(loaded, found)):
                if made is not None:
                    inputs[place].append(made[0])
                    calls[str(place)] = _call(predictor, made[0].input, made[0].options)
            tell(f"latency at {_shape(loaded[0]) or f'{tokens} tokens'}")
            limits = {"warmup": warmup, "max_runs": max_runs, "settle": _SETTLE}
            times = interleave(calls, **limits, max_seconds=max_seconds) if calls else {}
            for place, made in enumerate(found):
                if made is not None:
                    samples[place][made[1]] = times[str(place)]
                    spoken[place] |= _spoken(loaded[place], *made)
        tell(f"throughput of a list of {_LIST}")
        lists = {
            str(place): _list_call(predictor, items or [_first_sample(predictor)])
            for place, (predictor, items) in enumerate(zip(loaded, inputs))
        }
        listed = interleave(lists, warmup=1, min_runs=3, max_runs=max_runs, max_seconds=max_seconds)
        writing = _writing(loaded, inputs, max_runs, max_seconds, tell)
        after = _load()
        return tuple(
            _run(
                predictor,
                samples[place],
                spoken[place],
                listed[str(place)],
                writing[place],
                cold[place],
                before,
                after,
                together,
            )
            for place, predictor in enumerate(loaded)
        )


def caller(predictor: Predictor, lengths: Sequence[int]) -> tuple[Callable[[], object], int]:
    """One call of the main task at the middle of the lengths that the model takes, and how many tokens that is."""
    found = [each for each in (_of_length(predictor, length) for length in _lengths(predictor, lengths)) if each]
    item, tokens = found[len(found) // 2] if found else (_first_sample(predictor), 0)
    return _call(predictor, item.input, item.options), tokens


def _writing(
    loaded: Sequence[Predictor],
    inputs: Sequence[Sequence[GoldenItem]],
    max_runs: int,
    max_seconds: float,
    tell: Callable[[str], None],
) -> list[Optional[Writing]]:
    """Tokens a second behind the first one: what many tokens take longer than one."""
    calls: dict[str, Callable[[], object]] = {}
    for place, (predictor, items) in enumerate(zip(loaded, inputs)):
        task = predictor.open_task(predictor.tasks[0])
        if task.generates and not task.speaks:
            item = (items or [_first_sample(predictor)])[0]
            for count in (1, 1 + _WRITTEN):
                exact = {**item.options, "max_new_tokens": count, "min_new_tokens": count}
                calls[f"{place} {count}"] = functools.partial(predictor.predict, item.input, **exact)
    if not calls:
        return [None] * len(loaded)
    tell(f"writing {_WRITTEN} tokens")
    times = interleave(calls, warmup=1, min_runs=3, max_runs=max_runs, max_seconds=max_seconds)
    return [_speed(times, place) for place in range(len(loaded))]


def _speed(times: Mapping[str, np.ndarray], place: int) -> Optional[Writing]:
    one, many = times.get(f"{place} 1"), times.get(f"{place} {1 + _WRITTEN}")
    if one is None or many is None:
        return None
    speeds = _WRITTEN / np.maximum(many - one, np.finfo(np.float64).tiny)
    low, high = median_interval(speeds)
    return Writing(_WRITTEN, float(np.median(speeds)), low, high, len(speeds))


def _run(
    predictor: Predictor,
    samples: Mapping[int, np.ndarray],
    spoken: dict[int, float],
    listed: np.ndarray,
    writing: Optional[Writing],
    cold: Optional[Cold],
    before: tuple[float, ...],
    after: tuple[float, ...],
    together: str,
) -> Run:
    manifest = predictor.manifest
    target, task = manifest.target, predictor.tasks[0]
    low, high = median_interval(_LIST / listed)
    about = {key: value for key, value in machine().items() if key != "load_average"}
    used = next(iter(predictor.graphs.values())).used
    return Run(
        bundle=manifest.name,
        device=target.device,
        format=target.format,
        scheme=target.scheme,
        engine=str(used["engine"]) + (f" with {used['delegate']}" if used["delegate"] else ""),
        task=task,
        threads=used["threads"],  # type: ignore[arg-type]  # an int or None
        latency={tokens: summarize(seconds) for tokens, seconds in samples.items()},
        throughput=Throughput(
            _LIST, predictor.open_task(task).batch_size, float(np.median(_LIST / listed)), low, high, len(listed)
        ),
        cold=cold,
        size_bytes=sum(each.bytes for each in manifest.files.values()),
        machine=about,
        load_before=before,
        load_after=after,
        versions={
            "satchel": manifest.toolchain.get("satchel"),
            "satchel-runtimes": satchel_runtimes.__version__,
            target.engine.name: str(used["engine"]).rpartition(" ")[2],
            "numpy": np.__version__,
            "tokenizers": _version("tokenizers"),
            "python": platform.python_version(),
        },
        when=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        together=together,
        samples=samples,
        shape=_shape(predictor),
        writing=writing,
        spoken_s=spoken,
    )


def _spoken(predictor: Predictor, item: GoldenItem, tokens: int) -> dict[int, float]:
    """How long the sound of an input is, in seconds; nothing of a task that does not speak."""
    if not predictor.open_task(predictor.tasks[0]).speaks:
        return {}
    answer = predictor.predict(item.input, **item.options)
    return {tokens: len(answer["audio"]) / answer["sampling_rate"]}


def _call(predictor: Predictor, given: Json, options: Mapping[str, Json]) -> Callable[[], object]:
    brief = {**options, **predictor.open_task(predictor.tasks[0]).brief}
    return lambda: predictor.predict(given, **brief)


def _list_call(predictor: Predictor, items: Sequence[GoldenItem]) -> Callable[[], object]:
    mixed = [items[i % len(items)].input for i in range(_LIST)]
    return _call(predictor, mixed, items[0].options)


def _shape(predictor: Predictor) -> str:
    return predictor.open_task(predictor.tasks[0]).shape


def _lengths(predictor: Predictor, lengths: Sequence[int]) -> Sequence[int]:
    """Those of a bundle that reads texts; of one that sees pictures or hears the size of its own."""
    task = predictor.open_task(predictor.tasks[0])
    return (task.size,) if task.size else lengths


def _first_sample(predictor: Predictor) -> GoldenItem:
    """Without what parity fixed for it: what is measured is what a user calls."""
    found = next(item for item in read_items(predictor.bundle) if item.task == predictor.tasks[0])
    begins = predictor.open_task(predictor.tasks[0]).begins
    return dataclasses.replace(found, options={n: each for n, each in found.options.items() if n not in begins})


def _of_length(predictor: Predictor, tokens: int) -> Optional[tuple[GoldenItem, int]]:
    """An input of the main task of that many tokens, and how many they are; None where the model takes fewer.

    It grows from the first word of the bundle's first golden sample, which holds what the task cannot do without (a
    mask, labels, a question). Plain words follow, and single letters to meet the number exactly.
    """
    task = predictor.open_task(predictor.tasks[0])
    first = _first_sample(predictor)
    if task.size:
        return (first, tokens) if tokens == task.size else None
    if tokens > getattr(task, "max_length", tokens):
        return None
    plain = list(itertools.islice(itertools.cycle(_SENTENCE.split()), tokens))
    for count in range(tokens, -1, -1):
        item = _with_words(first, plain[:count])
        found = _tokens_of(task, item)
        if found <= tokens:
            filled = _with_words(first, plain[:count] + ["a"] * (tokens - found))
            return (filled, tokens) if _tokens_of(task, filled) == tokens else (item, found)
    return None


def _with_words(item: GoldenItem, words: Sequence[str]) -> GoldenItem:
    def grown(text: str) -> str:
        return " ".join([*text.split()[:1], *words])

    if isinstance(item.input, str):
        return dataclasses.replace(item, input=grown(item.input))
    *_, last = item.input  # the context of a question, the second text of a pair
    return dataclasses.replace(item, input={**item.input, last: grown(item.input[last])})


def _tokens_of(task: Task, item: GoldenItem) -> int:
    return max(row.length for row in task.encode(item.input, task.check_options(item.options)))


def _cold(bundles: Sequence[Path], options: Mapping[str, object], starts: int) -> list[Optional[Cold]]:
    figures: list[list[dict[str, float]]] = [[] for _ in bundles]
    for turn in range(starts + 1 if starts else 0):
        for place, bundle in enumerate(bundles):
            begun = time.perf_counter()
            found = start_cold(bundle, **options).result()
            if turn:  # the first one hashes the files and brings them into the system's cache
                figures[place].append({**found, "process_s": time.perf_counter() - begun})
    return [_cold_of(each) if each else None for each in figures]


def _cold_of(figures: Sequence[Mapping[str, float]]) -> Cold:
    column = {name: np.array([each[name] for each in figures]) for name in figures[0]}
    middle = {name: float(np.median(each)) for name, each in column.items()}
    return Cold(
        n=len(figures),
        process_s=middle["process_s"],
        fastest_s=float(column["process_s"].min()),
        slowest_s=float(column["process_s"].max()),
        import_s=middle["import_s"],
        load_s=middle["load_s"],
        predict_s=middle["predict_s"],
        peak_rss_bytes=int(column["peak_rss_bytes"].max()),
    )


def _load() -> tuple[float, ...]:
    return tuple(round(each, 2) for each in os.getloadavg()) if hasattr(os, "getloadavg") else ()


def _version(package: str) -> Optional[str]:
    module = sys.modules.get(package)  # what ran, where the distribution has another name than its module
    try:
        return str(module.__version__) if module is not None else importlib.metadata.version(package)
    except (AttributeError, importlib.metadata.PackageNotFoundError):
        return None
