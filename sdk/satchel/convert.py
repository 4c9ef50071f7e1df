"""The main job: a model in, a bundle that was proved out, or an error with the exit code of the gate that refused it."""

from __future__ import annotations

import dataclasses
import errno
import os
import shutil
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import satchel_runtimes
from satchel_converters.format import Plan, format_of
from satchel_converters.stage import Job, Stage
from satchel_runtimes.errors import (
    Cancelled,
    IntegrityError,
    ParityError,
    SatchelError,
    SupportError,
    ToolchainError,
    UsageError,
)

from .gates import Budget, Evidence, first_refusal, judge_all
from .options import Candidate, Options, Prepared, names_of, prepare
from .pack import pack, seal
from .progress import Callback, Reporter
from .publish import Target
from .report import Outcome, write_report
from .stage_cache import stage_for
from .trial import try_candidate

__all__ = ["convert", "run"]


def convert(
    model: str | Path,
    *,
    device: str,
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
    progress: Callback | None = None,
    cancel: threading.Event | None = None,
) -> Path:
    """Convert a model for a device and return the path of its bundle.

    Args:
        model: a local Hugging Face folder or a Hub id.
        device: a device profile's name, or the path of a profile in TOML.
        out: the bundle's folder; `<model>.satchel` in the current folder by default.
        format, quantize: one format or scheme. Without them the first in the profile's order that passes every gate.
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
        progress: called with each piece of news, in this thread. Raising from it stops the conversion.
        cancel: an event that stops the conversion soon after it is set.

    Raises:
        SatchelError: with the exit code of the gate that refused it; nothing is left behind but the report.
    """
    options = Options(
        str(model),
        device,
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
    )
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

    def report(chosen: Outcome | None = None, error: SatchelError | None = None) -> dict[str, Any]:
        reporter.finish()
        made = write_report(report_path, options, prepared, outcomes, chosen, error, reporter.seconds)
        if on_report is not None:
            on_report(made)
        return made

    try:
        reporter.tell("source", str(options.model))
        prepared = prepare(options)
        with Target(prepared.out, replace=options.replace) as target:
            chosen = _first_that_passes(prepared, target, reporter, outcomes)
            reporter.tell("seal", str(prepared.out))
            target.publish()
    except SatchelError as error:
        if not outcomes:
            outcomes.append(_stopped(options, error))
        # A mistyped option is no news about the bundle whose report may lie there.
        if not isinstance(error, UsageError) or options.report is not None:
            report(error=error)
        raise
    except KeyboardInterrupt:
        stopped = Cancelled(
            "The conversion was interrupted.", why="Ctrl-C", fix="run it again; finished stages are kept"
        )
        report(error=stopped)
        raise stopped from None
    except OSError as error:
        problem = _disk_problem(error, out)
        report(error=problem)
        raise problem from error
    return Done(prepared.out, report_path, report(chosen))


def _first_that_passes(prepared: Prepared, target: Target, reporter: Reporter, outcomes: list[Outcome]) -> Outcome:
    stages: dict[str, Stage] = {}
    refusals: list[SatchelError] = []
    for candidate in prepared.candidates:
        if candidate.plan is not None:  # otherwise --keep-failed keeps what the one before left
            shutil.rmtree(target.folder)
            target.folder.mkdir()
        outcome = _attempt(prepared, candidate, stages, target.folder, reporter)
        outcomes.append(outcome)
        if outcome.refusal is None:
            return outcome
        if isinstance(outcome.refusal, ToolchainError):
            raise outcome.refusal  # never skipped silently: what comes after it is not what the profile prefers
        refusals.append(outcome.refusal)
    if prepared.options.keep_failed and (target.folder / satchel_runtimes.manifest.MANIFEST_NAME).is_file():
        _keep(prepared.out, target, reporter)
    raise refusals[0]


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


def _attempt(
    prepared: Prepared, candidate: Candidate, stages: dict[str, Stage], folder: Path, reporter: Reporter
) -> Outcome:
    if candidate.plan is None:
        assert candidate.problem is not None  # a candidate has a plan or a problem
        return _stopped(prepared.options, candidate.problem, candidate)
    if candidate.format not in stages:
        stages[candidate.format] = _stage(prepared, candidate.plan, reporter)
    stage = stages[candidate.format]
    reporter.tell("quantize" if candidate.scheme != "fp32" else "write", f"{candidate.format} {candidate.scheme}")
    try:
        artifact = format_of(candidate.format).apply(stage.twin, candidate.plan, folder)
        weights = sum((folder / name).stat().st_size for name in artifact.files)
        reporter.tell("pack", f"{weights / 2**20:.1f} MiB of graphs, processors, golden samples")
        pack(prepared, stage, artifact, candidate.plan, folder)
        evidence = try_candidate(prepared, stage, candidate.plan, folder, reporter)
    except (SupportError, IntegrityError, ParityError) as problem:
        return _stopped(prepared.options, problem, candidate)
    verdicts = judge_all(evidence, prepared.budget)
    what = f"{prepared.source.name} in {candidate.format} {candidate.scheme} for {prepared.profile.name}"
    refusal = first_refusal(verdicts, what)
    seal(folder, verdicts=verdicts, evidence=evidence)
    return Outcome(candidate.format, candidate.scheme, verdicts, refusal, evidence)


def _stopped(options: Options, error: SatchelError, candidate: Candidate | None = None) -> Outcome:
    """What the gates say of a conversion that ended before there was anything to measure."""
    format = candidate.format if candidate else options.format or ""
    scheme = candidate.scheme if candidate else options.quantize or ""
    evidence = Evidence(options.device, scheme, "", problem=error)
    return Outcome(format, scheme, judge_all(evidence, Budget()), error)


def _stage(prepared: Prepared, plan: Plan, reporter: Reporter) -> Stage:
    writer = format_of(plan.format)
    reference = dataclasses.replace(plan, scheme=writer.schemes["fp32"])
    job = Job(prepared.source, prepared.tasks, reference, prepared.options.sequence_length)
    stage, _ = stage_for(job, reporter.tell, reporter.cancel, use_cache=prepared.options.cache)
    return stage


def _disk_problem(error: OSError, out: Path) -> SatchelError:
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
