"""The main job: a model in, a bundle that was proved out, or an error with the exit code of the gate that refused it."""

from __future__ import annotations

import dataclasses
import errno
import os
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import satchel_runtimes
from satchel_runtimes.errors import Cancelled, SatchelError, UsageError

from .attempt import Stages, attempt, stopped
from .choice import Choice, choose
from .compressing import wanted_of, with_compression
from .kit import make_kit
from .options import AUTO, Options, Prepared, names_of, prepare
from .pack import seal
from .progress import Callback, Reporter
from .publish import Target
from .race import best_of
from .recipe import check_digests, given_in, options_from, recipe_of, write_recipe
from .report import Outcome, write_report

__all__ = ["convert", "disk_problem", "run"]


def convert(
    model: str | Path | None = None,
    *,
    device: str | None = None,
    out: str | Path | None = None,
    format: str | None = None,
    quantize: str | None = None,
    task: str | None = None,
    revision: str | None = None,
    trust_remote_code: bool = False,
    opset: int | None = None,
    sequence_length: int | None = None,
    threads: int | None = None,
    max_latency_ms: float | None = None,
    max_size_mb: float | None = None,
    max_memory_mb: float | None = None,
    prefer: str = "latency",
    require: Sequence[str] = (),
    replace: bool = False,
    keep_failed: bool = False,
    cache: bool = True,
    report: str | Path | None = None,
    calibration: str | Path | None = None,
    io_dtype: str = "float32",
    kit: bool = False,
    toolchain: str | None = None,
    max_convert_memory_mb: float | None = None,
    max_convert_seconds: float | None = None,
    calibration_method: str | None = None,
    min_cosine: float | None = None,
    data: str | Path | None = None,
    columns: Mapping[str, str] | None = None,
    drop_overlaps: bool = False,
    max_drop: float | None = None,
    prune: str | None = None,
    distill: str | None = None,
    recipe: str | Path | None = None,
    write_recipe: str | Path | None = None,
    vocoder: str | Path | None = None,
    speaker: str | Path | None = None,
    progress: Callback | None = None,
    cancel: threading.Event | None = None,
) -> Path:
    """Convert a model for a device and return the path of its bundle.

    Args:
        model: a local Hugging Face folder or a Hub id.
        device: a device profile's name, or the path of a profile in TOML.
        out: the bundle's folder; `<model>.satchel` in the current folder by default.
        format, quantize: one format or scheme. Without them the first in the profile's order that passes every gate;
            with quantize="auto" the fastest of those that pass, or the smallest with prefer="size".
        task: the main task; inferred from the architecture by default.
        revision: branch, tag or commit of a Hub id.
        trust_remote_code: run modelling code from the repository; a Hub id then needs a commit in `revision`.
        opset: an older ONNX opset than the profile's engine reads.
        sequence_length: texts are cut at this many tokens, if the model takes as many.
        threads: of the engine on the device; the profile's preference by default.
        max_latency_ms, max_size_mb, max_memory_mb: budgets, in milliseconds for the longest measured input and in MiB.
        prefer: "latency", or "size" to keep a scheme for speed that is slower than float.
        require: gates that must be judged; "latency" refuses a conversion whose latency this machine cannot judge.
        replace: exchange an existing bundle of that name, in one step.
        keep_failed: keep what was refused, marked so that no runtime loads it by accident; beside an earlier bundle of
            that name, never in its place.
        cache: start from the stages of an earlier conversion of the same model.
        report: where the report goes; beside the bundle by default. A refusal writes it too, a usage error only if
            this names it.
        calibration: a file of inputs, one per line as for `satchel predict --file`, from which a static scheme takes the
            ranges of its activations; built-in texts by default.
        io_dtype: "int8" stores float inputs and outputs of int8-static as int8, for an application that runs the graph
            itself; satchel's sessions take and give float32 all the same.
        kit: make a compile kit, which is finished where the vendor's compiler is, and return its path.
        toolchain: convert in this toolchain's own environment (`satchel toolchain list`); by default that is used where
            this environment lacks a package of the format.
        max_convert_memory_mb, max_convert_seconds: what each process of the conversion (export, quantization) may use;
            it is stopped beyond.
        calibration_method: how onnx int8-static takes ranges from the samples: minmax, percentile or entropy.
        min_cosine: what the worst calibration sample must reach in int8-mixed, which keeps more layers precise until it
            does; by default what the parity gate asks in the mean.
        data: labelled rows, a file or folder as docs/data.md says. Each candidate is judged on the evaluation split, beside
            the model itself on the same rows; the calibration split takes the place of the built-in texts.
        columns: part of the task -> name of the data's column, in place of the names that the task knows.
        drop_overlaps: leave rows out of training and calibration that evaluation has as well, instead of refusing the data.
        max_drop: points of the task's metric that a candidate may lose against the model; the profile's by default.
        prune: what is removed before the export, on the train split of `data`: "vocabulary,ffn=0.5" (docs/pruning.md).
        distill: how the smaller model learns from the original: "layers=3,epochs=3" (docs/distillation.md).
        recipe: a TOML file with any of these by name. What is given here, and is not the default, goes before it.
        vocoder: of a model that writes spectrograms (SpeechT5): a local Hugging Face folder or a Hub id; by default the folder
            "vocoder" in the model's own.
        speaker: a .npy file with the embedding of the speaker whose voice the bundle has where a caller names no other.
        write_recipe: a file for the recipe that makes this bundle again.
        progress: called with each piece of news, in this thread. Raising from it stops the conversion.
        cancel: an event that stops the conversion soon after it is set.

    Raises:
        SatchelError: with the exit code of the gate that refused it; nothing is left behind but the report.
    """
    options = Options(
        str(model) if model is not None else "",
        device or "",
        Path(out) if out else None,
        format,
        quantize,
        task,
        revision,
        trust_remote_code,
        opset,
        sequence_length,
        threads,
        max_latency_ms,
        max_size_mb,
        max_memory_mb,
        prefer,
        tuple(require),
        replace,
        keep_failed,
        cache,
        Path(report) if report else None,
        Path(calibration) if calibration else None,
        io_dtype,
        kit,
        toolchain=toolchain,
        max_convert_memory_mb=max_convert_memory_mb,
        max_convert_seconds=max_convert_seconds,
        calibration_method=calibration_method,
        min_cosine=min_cosine,
        data=Path(data) if data else None,
        columns=columns,
        drop_overlaps=drop_overlaps,
        max_drop=max_drop,
        prune=prune,
        distill=distill,
        write_recipe=Path(write_recipe) if write_recipe else None,
        vocoder=str(vocoder) if vocoder is not None else None,
        speaker=Path(speaker) if speaker else None,
    )
    options = options_from(Path(recipe) if recipe else None, given_in(options))
    return run(options, progress=progress, cancel=cancel).bundle


@dataclasses.dataclass(frozen=True)
class Done:
    """A finished conversion."""

    bundle: Path
    report_path: Path
    report: dict[str, Any]


def run(
    options: Options,
    *,
    progress: Callback | None = None,
    cancel: threading.Event | None = None,
    on_report: Callable[[dict[str, Any]], None] | None = None,
) -> Done:
    """`convert`, with the report; `on_report` gets that of a refusal too."""
    reporter = Reporter(progress, cancel)
    out, report_path = names_of(options)
    outcomes: list[Outcome] = []
    prepared: Prepared | None = None

    def report(choice: Choice | None = None, error: SatchelError | None = None) -> dict[str, Any]:
        reporter.finish()
        made = write_report(report_path, options, prepared, outcomes, choice, error, reporter.seconds)
        if on_report is not None:
            on_report(made)
        return made

    try:
        reporter.tell("source", str(options.model))
        wanted_of(options.prune, options.distill)  # a bad word is found before the model is
        prepared = prepare(options)
        check_digests(prepared)
        with Target(prepared.out, replace=options.replace) as target:
            prepared = with_compression(prepared, reporter)
            if options.kit:
                choice = Choice(make_kit(prepared, target, reporter, outcomes), None)
            else:
                choice = (_best if options.quantize == AUTO else _first_that_passes)(
                    prepared, target, reporter, outcomes
                )
            if options.write_recipe is not None:
                write_recipe(
                    options.write_recipe, recipe_of(options, prepared, choice.chosen, options.write_recipe.parent)
                )
            reporter.tell("seal", str(prepared.out))
            target.publish()
    except SatchelError as error:
        if not outcomes:
            outcomes.append(stopped(options, error))
        # A mistyped option is no news about the bundle whose report may lie there.
        if not isinstance(error, UsageError) or options.report is not None:
            report(error=error)
        raise
    except KeyboardInterrupt:
        interrupted = Cancelled(
            "The conversion was interrupted.", why="Ctrl-C", fix="run it again; finished stages are kept"
        )
        report(error=interrupted)
        raise interrupted from None
    except OSError as error:
        problem = disk_problem(error, out)
        report(error=problem)
        raise problem from error
    return Done(prepared.out, report_path, report(choice))


def _first_that_passes(prepared: Prepared, target: Target, reporter: Reporter, outcomes: list[Outcome]) -> Choice:
    stages = Stages(prepared, reporter)

    def attempts() -> Iterator[Outcome]:
        for candidate in prepared.candidates:
            if candidate.plan is not None:  # otherwise --keep-failed keeps what the one before left
                shutil.rmtree(target.folder)
                target.folder.mkdir()
            outcomes.append(attempt(prepared, candidate, stages, target.folder, reporter))
            yield outcomes[-1]

    return _of(choose(attempts()), prepared, target, reporter)


def _best(prepared: Prepared, target: Target, reporter: Reporter, outcomes: list[Outcome]) -> Choice:
    """`--quantize auto`: every candidate in a folder of its own inside the staging folder, then one of them takes it."""
    stages = Stages(prepared, reporter)
    folders: dict[int, Path] = {}  # by the outcome's id: outcomes hold what cannot be hashed

    def attempts() -> Iterator[Outcome]:
        for place, candidate in enumerate(prepared.candidates, 1):
            reporter.tell("candidate", f"{candidate.format} {candidate.scheme}, {place} of {len(prepared.candidates)}")
            folder = target.folder / f".candidate-{place}"
            folder.mkdir()
            outcomes.append(attempt(prepared, candidate, stages, folder, reporter))
            folders[id(outcomes[-1])] = folder
            yield outcomes[-1]

    def best(passed: Sequence[Outcome]) -> tuple[Outcome, str]:
        reporter.tell("choose", f"{len(passed)} candidates pass")
        return best_of(prepared, lambda outcome: folders[id(outcome)])(passed)

    choice = choose(attempts(), best)
    kept = folders[id(choice.chosen or outcomes[-1])]
    for folder in folders.values():
        if folder != kept:
            shutil.rmtree(folder)
    for each in list(kept.iterdir()):
        each.rename(target.folder / each.name)
    kept.rmdir()
    return _of(choice, prepared, target, reporter)


def _of(choice: Choice, prepared: Prepared, target: Target, reporter: Reporter) -> Choice:
    """Raises: SatchelError where nothing ships."""
    if choice.chosen is not None:
        return choice
    assert choice.error is not None  # there is no conversion without candidates
    if prepared.options.keep_failed and (target.folder / satchel_runtimes.manifest.MANIFEST_NAME).is_file():
        _keep(prepared.out, target, reporter)
    raise choice.error


def _keep(out: Path, target: Target, reporter: Reporter) -> None:
    """A refused bundle never takes the place of an earlier one."""
    seal(target.folder, failed=True)
    if not out.exists():
        reporter.tell("keep", f"{out}, refused")
        target.publish()
        return
    beside = out.with_name(f"{out.name.removesuffix('.satchel')}.failed.satchel")
    reporter.tell("keep", f"{beside}, refused")
    shutil.rmtree(beside, ignore_errors=True)
    os.rename(target.folder, beside)


def disk_problem(error: OSError, out: Path) -> SatchelError:
    """What a full disk, or a path that cannot be written, is called."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return SatchelError(
            f"Cannot write {out}.",
            why=f"the disk is full ({error.strerror})",
            fix="free some space, or choose another --out",
        )
    return SatchelError(
        f"Cannot write {out}.",
        why=f"{error.strerror or error}: {error.filename or ''}".rstrip(": "),
        fix="check the path and its permissions",
    )
