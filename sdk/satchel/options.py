"""What a conversion was asked for, and the candidates that follow from it and the device profile."""

from __future__ import annotations

import dataclasses
import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from satchel_converters.format import Format, Plan, Scheme, check_scheme, format_of
from satchel_converters.process import HERE, Room
from satchel_converters.source import SourceModel, find_source, tasks_for
from satchel_device_profiles import DeviceProfile, load_profile
from satchel_runtimes.errors import SatchelError, SupportError, ToolchainError, UsageError
from satchel_runtimes.tasks import Task, task_class
from satchel_runtimes.toolchain import is_stub, stub_error

from .data import Data, Labels, read_data, sample
from .gates import GATES, Budget
from .held_out import hold_out
from .inputs import read_inputs
from .room import check_room, room_for
from .voice import with_voice

__all__ = ["AUTO", "Candidate", "Options", "Prepared", "prepare"]

PREFERENCES = ("latency", "size")
IO_DTYPES = ("float32", "int8")
_GOLDEN_ROWS = 64
_CALIBRATION_ROWS = (8, 256)  # fewer leave ranges to luck; more than these change little and take long
LIMITS = ("max_convert_memory_mb", "max_convert_seconds")
AUTO = "auto"  # of `quantize`: all schemes, and of those that pass the fastest, or the smallest with prefer="size"


@dataclass(frozen=True)
class Options:
    """Arguments of `satchel.convert`, with the meaning that its docstring gives."""

    model: str
    device: str
    out: Path | None = None
    format: str | None = None
    quantize: str | None = None
    task: str | None = None
    revision: str | None = None
    trust_remote_code: bool = False
    opset: int | None = None
    sequence_length: int | None = None
    threads: int | None = None
    max_latency_ms: float | None = None
    max_size_mb: float | None = None
    max_memory_mb: float | None = None
    prefer: str = "latency"
    require: Sequence[str] = ()
    replace: bool = False
    keep_failed: bool = False
    cache: bool = True
    report: Path | None = None
    calibration: Path | None = None
    io_dtype: str = "float32"
    kit: bool = False
    formats: Sequence[str] = ()  # of a comparison: only these, in the profile's order
    schemes: Sequence[str] = ()
    toolchain: str | None = None
    max_convert_memory_mb: float | None = None
    max_convert_seconds: float | None = None
    data: Path | None = None
    columns: Mapping[str, str] | None = None  # part of the task -> column of the data
    drop_overlaps: bool = False
    max_drop: float | None = None  # points of the task's metric
    calibration_method: str | None = None
    min_cosine: float | None = None
    prune: str | None = None  # what `--prune` says
    distill: str | None = None
    held_out: bool = False  # judge on rows held out of training: a search must not see what its result is judged on
    write_recipe: Path | None = None
    vocoder: str | None = None  # of a model that writes spectrograms: a folder or a Hub id
    speaker: Path | None = None  # a file of numpy: the embedding of the voice that the bundle has
    sha256: Mapping[str, str] = field(default_factory=dict)  # what a recipe wants the model and the data to be


@dataclass(frozen=True)
class Candidate:
    """A format and scheme that could be shipped, or the reason why it cannot even be tried."""

    format: str
    scheme: str
    plan: Plan | None
    problem: SatchelError | None = None
    room: Room = HERE  # where it is made


@dataclass(frozen=True)
class Prepared:
    """All that is known before the long work starts."""

    options: Options
    source: SourceModel
    profile: DeviceProfile
    tasks: tuple[str, ...]
    candidates: tuple[Candidate, ...]
    budget: Budget
    out: Path
    report: Path
    calibration: tuple[Any, ...] | None = None  # inputs of the main task; None: the built-in ones
    data: Data | None = None
    original: SourceModel | None = None  # what `source` was compressed from; answers are judged by it

    @property
    def reference(self) -> SourceModel:
        """The model that answers on the user's data are compared with."""
        return self.original or self.source

    @property
    def golden(self) -> tuple[Any, ...]:
        """Inputs of the data that the bundle is proved on and carries; none where the built-in ones serve better.

        That is where there are too few for the limits of int8, where a row alone is no input of `predict` (a pair, a text
        that is to be masked), and for pictures, which are files.
        """
        rows = self.data.evaluation if self.data is not None and task_class(self.tasks[0]).rows_are_inputs else ()
        own = sample([each for each in rows if isinstance(each.input, (str, Mapping))], _GOLDEN_ROWS)
        return tuple(each.input for each in own) if len(own) >= _GOLDEN_ROWS else ()


def names_of(options: Options) -> tuple[Path, Path]:
    """Where the bundle and the report go."""
    name = Path(str(options.model).rstrip("/")).name or "model"
    out = Path(options.out) if options.out else Path(f"{name}.kit" if options.kit else f"{name}.satchel")
    stem = out.name.removesuffix(".satchel").removesuffix(".kit")
    report = Path(options.report) if options.report else out.with_name(f"{stem}.report.json")
    return out, report


def prepare(options: Options) -> Prepared:
    """Check every name and find the model; nothing heavy is imported and nothing is written.

    Raises:
        UsageError, SupportError, ToolchainError, IntegrityError: as the gates of these names.
    """
    if options.prefer not in PREFERENCES:
        raise _not_one_of("prefer", options.prefer, PREFERENCES)
    if options.io_dtype not in IO_DTYPES:
        raise _not_one_of("io-dtype", options.io_dtype, IO_DTYPES)
    for gate in options.require:
        if gate not in GATES:
            raise _not_one_of("require", gate, tuple(GATES))
    if options.max_drop is not None and not 0 <= options.max_drop < float("inf"):
        raise UsageError(
            f"Cannot use --max-drop {options.max_drop}.", why="it is below zero", fix="give points, such as 1"
        )
    for name in ("sequence_length", "threads", "max_latency_ms", "max_size_mb", "max_memory_mb", "min_cosine", *LIMITS):
        value = getattr(options, name)
        if value is not None and value <= 0:
            flag = name.replace("_", "-")
            raise UsageError(f"Cannot use --{flag} {value}.", why="it is not above zero", fix="give a positive number")
    _check_kit(options)
    out, report = names_of(options)
    profile = load_profile(options.device)
    for format in (options.format, *options.formats):
        if format is not None:
            format_of(format)
    for scheme in options.schemes:
        check_scheme(scheme)
    candidates = _candidates(options, profile)
    if out.exists() and not options.replace:
        raise UsageError(
            f"Will not overwrite {out}.", why="it exists already", fix="add --replace, or choose another --out"
        )
    source = find_source(options.model, revision=options.revision, trust_remote_code=options.trust_remote_code)
    tasks = tasks_for(source, options.task)
    main = task_class(tasks[0], source.facts.config)
    source = with_voice(source, main, options.vocoder, options.speaker)
    main.check_model(source.facts)
    candidates = _candidates(options, profile, convolutional=source.convolutional, task=main)
    candidates = tuple(
        replace(each, plan=replace(each.plan, task=tasks[0])) if each.plan is not None else each for each in candidates
    )
    limits = profile.budget
    budget = Budget(
        size_mb=options.max_size_mb if options.max_size_mb is not None else limits.size_mb,
        latency_ms=options.max_latency_ms if options.max_latency_ms is not None else limits.latency_ms,
        memory_mb=options.max_memory_mb if options.max_memory_mb is not None else limits.memory_mb,
        max_drop=options.max_drop if options.max_drop is not None else limits.accuracy_drop_points,
        prefer=options.prefer,
        require=frozenset(options.require),
    )
    data = _data(options, source, tasks[0])
    own = tuple(read_inputs(options.calibration)) if options.calibration is not None else None
    if own is None and data is not None:
        own = _calibration(data, [each.plan.scheme for each in candidates if each.plan])
    return Prepared(options, source, profile, tasks, candidates, budget, out, report, own, data)


def _calibration(data: Data, schemes: Sequence[Scheme]) -> tuple[Any, ...] | None:
    """Inputs of the data's calibration split; None, for the built-in ones, where it has too few and none must be its own.

    Raises:
        UsageError: too few rows for a scheme that fixes ranges by them.
    """
    fixed = any(each.ranges for each in schemes)
    if not any(each.calibrated for each in schemes) or (not fixed and len(data.calibration) < _CALIBRATION_ROWS[0]):
        return None
    rows = data.rows("calibration", least=_CALIBRATION_ROWS[0], to="calibrate a static scheme")
    return tuple(each.input for each in sample(rows, _CALIBRATION_ROWS[1]))


def _data(options: Options, source: SourceModel, task: str) -> Data | None:
    """Raises: UsageError for data that cannot be read, or that the accuracy gate cannot judge by."""
    if options.data is None:
        given = [name for name in ("columns", "max_drop") if getattr(options, name) is not None]
        if given:
            flag = given[0].replace("_", "-")
            raise UsageError(f"Cannot use --{flag}.", why="there is no data", fix="add --data, or leave it out")
        return None
    data = read_data(
        options.data,
        task_class(task),
        Labels.of(source.config, task),
        columns=options.columns,
        drop_overlaps=options.drop_overlaps,
    )
    data.rows("evaluation", to="judge the accuracy")
    return hold_out(data) if options.held_out else data


def _candidates(
    options: Options, profile: DeviceProfile, *, convolutional: bool = False, task: type[Task] = Task
) -> tuple[Candidate, ...]:
    """Every format and scheme in the profile's order, or those that the options name; `task` is the main one, once it is known."""
    formats = _chosen((options.format,) if options.format else options.formats, profile.formats)
    named = (options.quantize,) if options.quantize and options.quantize != AUTO else tuple(options.schemes)
    wanted = _chosen(named, profile.schemes)
    for name in formats:
        if name not in profile.formats:
            raise SupportError(
                f"Cannot convert to {name} for {profile.name}.",
                why=f"the device runs {', '.join(profile.formats)}",
                fix=f"leave --{'format' if options.format else 'formats'} out, or choose another device",
            )
    check_room(options.toolchain, options.max_convert_memory_mb, formats)
    found: list[Candidate] = []
    for name in formats:
        writer = _writer(name, profile)
        room, missing = _room(writer, options)
        missing = missing or (None if options.kit else _vendors_sdk_missing(writer, profile))
        for scheme in wanted if named else writer.preferred(wanted, convolutional, task.generates):
            made = Candidate(name, scheme, None, missing)
            if missing is None:
                made = _candidate(writer, scheme, profile, options, task)
            found.append(dataclasses.replace(made, room=room))
    if all(each.problem for each in found):
        problem = found[0].problem
        if problem is not None:
            raise problem
    return tuple(found)


def _chosen(given: Sequence[str], profile: Sequence[str]) -> tuple[str, ...]:
    """All of the profile's, or those that were named: in its order, and after them what it does not list."""
    if not given:
        return tuple(profile)
    return (
        *(each for each in profile if each in given),
        *(each for each in dict.fromkeys(given) if each not in profile),
    )


def _candidate(writer: Format, scheme: str, profile: DeviceProfile, options: Options, task: type[Task]) -> Candidate:
    wanted = {"io": options.io_dtype}
    if task.generates:
        wanted["generates"] = "yes"
    for name in ("opset", "calibration_method", "min_cosine"):
        if getattr(options, name) is not None:
            wanted[name] = str(getattr(options, name))
    try:
        if writer.name in task.cannot:
            raise SupportError(
                f"Cannot convert a model for {task.name} to {writer.name}.",
                why=task.cannot[writer.name],
                fix="convert to onnx",
            )
        if task.generates and not writer.caches:
            raise SupportError(
                f"Cannot convert what writes text to {writer.name}.",
                why="its graphs keep no cache between calls yet",
                fix="convert to onnx",
            )
        plan = writer.plan(writer.scheme(scheme), profile, wanted)
    except SupportError as problem:
        return Candidate(writer.name, scheme, None, problem)
    return Candidate(writer.name, scheme, plan)


def _writer(name: str, profile: DeviceProfile) -> Format:
    try:
        return format_of(name)
    except UsageError:
        raise SupportError(
            f"Cannot convert for {profile.name}.",
            why=f"the device runs {name}, and this version of satchel has no converter for it yet",
            fix="choose a device that runs onnx (satchel devices), or a later version of satchel",
        ) from None


def _vendors_sdk_missing(writer: Format, profile: DeviceProfile) -> ToolchainError | None:
    """What of a vendor's SDK is not here, or has the name and not the code, found without importing it.

    It stops a conversion when the format's turn comes, not before: a format that comes earlier may pass.
    """
    for engine in (each.name for each in profile.engines):
        for package in writer.compilers.get(engine, ()):
            what, fix = f"convert to {writer.name} for {profile.name}", writer.install[engine]
            if importlib.util.find_spec(package) is None:
                return ToolchainError(f"Cannot {what}.", why=f"the package '{package}' is not installed", fix=fix)
            if is_stub(package):
                return stub_error(package, what, fix)
    return None


def _room(writer: Format, options: Options) -> tuple[Room, SatchelError | None]:
    if options.kit:
        return Room(None, options.max_convert_memory_mb, options.max_convert_seconds), _kitless(writer)
    return room_for(
        writer, options.toolchain, memory_mb=options.max_convert_memory_mb, seconds=options.max_convert_seconds
    )


def _check_kit(options: Options) -> None:
    """Raises: UsageError for what is asked of a bundle's measurements, which a kit cannot have."""
    asked = {
        "--max-latency-ms": options.max_latency_ms is not None,
        "--max-memory-mb": options.max_memory_mb is not None,
        "--prefer": options.prefer != PREFERENCES[0],
        "--require": bool(options.require),
        "--keep-failed": options.keep_failed,
        "--quantize auto": options.quantize == AUTO,
        "--data": options.data is not None,
    }
    for name in (name for name, is_asked in asked.items() if options.kit and is_asked):
        raise UsageError(
            f"Cannot use {name} with --kit.",
            why="nothing is compiled yet, so nothing can be measured",
            fix=f"leave {name} out; bench and verify the bundle where it runs",
        )


def _kitless(writer: Format) -> SupportError | None:
    """A kit needs nothing of the format's toolchain, but a format that works with one."""
    if writer.recipe is not None:
        return None
    return SupportError(
        f"Cannot make a compile kit for {writer.name}.",
        why="its converter does all of its work on this machine",
        fix="leave --kit out, or choose a device whose compiler is its vendor's own, such as inf2",
    )


def _not_one_of(option: str, value: str, choices: Sequence[str]) -> UsageError:
    return UsageError(
        f"Cannot use --{option} {value}.", why="no such choice", fix=f"choose one of {', '.join(choices)}"
    )
