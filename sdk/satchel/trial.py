"""Replay and measure one candidate through the runtime that the device uses, and collect the evidence."""

from __future__ import annotations

import dataclasses
import platform
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from satchel_converters.format import Plan, Scheme, format_of
from satchel_converters.stage import REFERENCE_FULL, Stage
from satchel_device_profiles import DeviceProfile
from satchel_runtimes.cold import start_cold
from satchel_runtimes.errors import ParityError
from satchel_runtimes.golden import golden_records, judge_tasks, read_items, records_from_bytes, run_items
from satchel_runtimes.measure import Latency, Ratio, interleave, machine, ratio, summarize
from satchel_runtimes.parity import CLASSES, Limits, Parity, numeric_class
from satchel_runtimes.predictor import Predictor, load
from satchel_runtimes.tasks import Row

from .evaluate import judge
from .gates import Evidence
from .options import Prepared
from .pack import pack_twin, write_artifact_answers
from .progress import Reporter

__all__ = [
    "call_of",
    "estimate",
    "first_rows",
    "lengths_of",
    "limits_for",
    "machine_kind",
    "stands_for",
    "try_candidate",
]

LENGTHS = (16, 128)  # tokens; a short question and a paragraph
_BATCH = 8
_LARGE_BYTES = 1 << 29  # of a bundle
_KINDS = {"x86_64": "x86-64", "AMD64": "x86-64", "aarch64": "arm64", "arm64": "arm64"}
_MEASURE_SECONDS = 0.5  # per length; ten rounds at least, and the interval that they leave decides


def try_candidate(
    prepared: Prepared, stage: Stage, twin: Callable[[], Stage], plan: Plan, folder: Path, reporter: Reporter
) -> Evidence:
    """All evidence about the bundle staged in `folder`. It was made here, so a format that is code is trusted."""
    profile = prepared.profile
    writer = format_of(plan.format)
    absolute, comparable = stands_for(profile)
    reporter.tell("verify", f"{len(stage.items)} golden samples, alone and in batches", total=2 * len(stage.items))
    threads = prepared.options.threads
    with start_cold(folder, threads=threads, trust=True) as cold:  # it imports the engine while this process does
        if sum(file.stat().st_size for file in folder.iterdir() if file.is_file()) > _LARGE_BYTES:
            cold.result()  # and of a large model only one of the two has the weights
        predictor = load(folder, threads=threads, trust=True)
        reference, batched, single = _replay(prepared, stage, plan, predictor, reporter)
        peak = cold.result()["peak_rss_bytes"]
    tasks = {name: predictor.open_task(name) for name in predictor.tasks}
    write_artifact_answers(folder, golden_records(tasks, stage.items, single))
    metrics = judge(prepared, predictor, reporter)
    latency: Mapping[int, Latency] = {}
    speedup: Mapping[int, Ratio] = {}
    if absolute or comparable:
        reporter.tell("measure", "latency against the float twin")
        latency, speedup = _measure(prepared, twin, plan, predictor)
    found, shape = predictor.manifest, tasks[predictor.tasks[0]].shape
    predictor.close()
    return Evidence(
        device=profile.name,
        scheme=plan.scheme.name,
        purpose=plan.scheme.purpose,
        toolchain=", ".join(f"{n} {stage.toolchain[n]}" for n in writer.packages_for(plan.engine.name)),
        engine=str(plan.engine),
        reference=reference,
        batched=batched,
        accuracy=metrics[0] if metrics else None,
        metrics=metrics,
        size_bytes=sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()),
        latency=latency,
        speedup=speedup,
        shape=shape,
        # How often a picture's model uses each weight the counts do not say.
        estimate_ms={} if shape else estimate(profile, found.source.parameters, plan.scheme, prepared.options.threads),
        peak_rss_bytes=peak,
        device_memory_mb=profile.memory_mb,
        here=_here(),
        absolute_counts=absolute,
        ratio_counts=comparable,
        notes=found.measured.notes,
    )


def stands_for(profile: DeviceProfile) -> tuple[bool, bool]:
    """Whether this machine can judge a profile's absolute figures, and its ratios."""
    kind, about = machine_kind(), machine()
    if about["emulated"]:
        return False, False
    absolute = profile.generic and profile.kind == kind
    flags = set(about["instruction_sets"])  # type: ignore[call-overload]  # a list of strings
    alike = profile.kind == kind and profile.instruction_sets is not None and set(profile.instruction_sets) <= flags
    return absolute, absolute or alike


def machine_kind() -> str:
    return _KINDS.get(platform.machine(), platform.machine())


def limits_for(profile: DeviceProfile, scheme: str) -> Limits:
    """The class's limits, where the profile sets others with those."""
    kind = numeric_class(scheme)
    own = dataclasses.asdict(getattr(profile.parity, kind))
    return dataclasses.replace(CLASSES[kind], **{name: value for name, value in own.items() if value is not None})


def _replay(
    prepared: Prepared, stage: Stage, plan: Plan, predictor: Predictor, reporter: Reporter
) -> tuple[Mapping[str, Parity], Mapping[str, Parity], list[dict[str, np.ndarray]]]:
    _check_outputs(stage, predictor)
    tasks = {name: predictor.open_task(name) for name in predictor.tasks}
    wanted = limits_for(prepared.profile, plan.scheme.name)
    reference = records_from_bytes((stage.folder / REFERENCE_FULL).read_bytes(), REFERENCE_FULL)

    def step() -> None:
        reporter.tell("verify", step=1)

    single = run_items(tasks, predictor.graphs, stage.items, on_sample=step)
    listed = run_items(tasks, predictor.graphs, stage.items, batch_size=_BATCH, on_sample=step)
    return (
        judge_tasks(stage.items, reference, single, wanted),
        judge_tasks(stage.items, reference, listed, wanted, what="in batches"),
        single,
    )


def _check_outputs(stage: Stage, predictor: Predictor) -> None:
    """Raises: ParityError for an output that the float graph has and the candidate lacks."""
    for graph in stage.twin.graphs:
        has = {spec.name for spec in predictor.graphs[graph.component].outputs}
        missing = [spec.name for spec in graph.answered if spec.name not in has]
        if missing:
            raise ParityError(
                f"{graph.file} does not answer as {predictor.manifest.name} does.",
                why=f"the output {missing[0]!r} is missing; it has {', '.join(sorted(has)) or 'none'}",
                fix="report this scheme and checkpoint; the graph that was exported in float32 has the output",
            )


def _measure(
    prepared: Prepared, twin: Callable[[], Stage], plan: Plan, predictor: Predictor
) -> tuple[Mapping[int, Latency], Mapping[int, Ratio]]:
    """Latency by tokens and, for a scheme that is not float32, speed against the twin, run in turn."""
    threads = prepared.options.threads or prepared.profile.threads
    twin_folder = Path(tempfile.mkdtemp(prefix="satchel-twin-", dir=twin().folder.parent))
    try:
        loaded = {"model": predictor}
        if plan.scheme.name != "fp32":
            pack_twin(prepared, twin(), plan, twin_folder)
            loaded["twin"] = load(twin_folder, threads=threads, trust=True)
        rows = first_rows(predictor)
        latency: dict[int, Latency] = {}
        speedup: dict[int, Ratio] = {}
        for tokens in lengths_of(predictor):
            calls = {name: call_of(each, rows, tokens) for name, each in loaded.items()}
            times = interleave(calls, warmup=3, settle=1, max_seconds=_MEASURE_SECONDS)
            latency[tokens] = summarize(times["model"])
            if "twin" in times:
                speedup[tokens] = ratio(times["twin"], times["model"])
        if "twin" in loaded:
            loaded["twin"].close()
        return latency, speedup
    finally:
        shutil.rmtree(twin_folder, ignore_errors=True)


def lengths_of(predictor: Predictor) -> Sequence[int]:
    task = predictor.open_task(predictor.tasks[0])
    if task.size:
        return (task.size,)
    longest = getattr(task, "max_length", LENGTHS[-1])
    return [length for length in LENGTHS if length <= longest] or [longest]


def first_rows(predictor: Predictor) -> Mapping[str, Row]:
    """The first row that the main task's golden samples have for each graph."""
    task = predictor.open_task(predictor.tasks[0])
    rows: dict[str, Row] = {}
    for item in read_items(predictor.bundle):
        if item.task == task.name and len(rows) < len(predictor.graphs):
            for row in task.encode(item.input, task.check_options(item.options)):
                rows.setdefault(row.component, row)
    return rows


def call_of(predictor: Predictor, rows: Mapping[str, Row], tokens: int) -> Callable[[], object]:
    """What is measured of the main task."""
    return predictor.open_task(predictor.tasks[0]).call(predictor.graphs, rows, tokens)


def estimate(
    profile: DeviceProfile, parameters: int, scheme: Scheme, threads: int | None, lengths: Sequence[int] = LENGTHS
) -> Mapping[int, float]:
    """Milliseconds by tokens, a floor from the profile's facts: two operations per weight and token, and every weight
    read once. Empty where a fact is not known."""
    integer = scheme.purpose == "speed" and numeric_class(scheme.name) == "int8"
    peak = profile.peak_int8_gops_per_core if integer else profile.peak_fp32_gflops_per_core
    if peak is None or profile.memory_bandwidth_gb_s is None:
        return {}
    cores = threads or profile.threads or profile.cores or 1
    reading = parameters * scheme.bytes_per_weight / (profile.memory_bandwidth_gb_s * 1e9) * 1e3
    return {tokens: max(reading, 2 * parameters * tokens / (peak * cores * 1e9) * 1e3) for tokens in lengths}


def _here() -> str:
    about = machine()
    return f"{about['processor']}, {about['cores']} cores"
