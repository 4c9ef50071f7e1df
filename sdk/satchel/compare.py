"""Every format and scheme that a device may get, made and measured side by side, and the one that `convert` would ship."""

from __future__ import annotations

import dataclasses
import datetime
import tempfile
import threading
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from satchel_benchmarks.comparison import Comparison as Speed
from satchel_benchmarks.comparison import compare as speed
from satchel_converters.stage import REFERENCE_FULL, Stage
from satchel_runtimes.bench import bench
from satchel_runtimes.errors import Cancelled, SatchelError, SupportError, ToolchainError, UsageError
from satchel_runtimes.golden import GoldenItem, judge_tasks, records_from_bytes, records_of, run_items
from satchel_runtimes.manifest import MANIFEST_NAME
from satchel_runtimes.measure import machine
from satchel_runtimes.parity import CLASSES, Parity, Record, numeric_class
from satchel_runtimes.predictor import load
from satchel_runtimes.run import Run

from .agreement import Agreement, agreement
from .attempt import Stages, attempt, stopped
from .choice import Choice, choose
from .compared import NO_TOOLCHAIN, NOT_MADE, PASSES, REFUSED, SHIPS, Compared, Pair, Row
from .conclusion import notes_on, summary_of
from .convert import disk_problem
from .gates import REFUSED as GATE_REFUSED
from .options import Candidate, Options, Prepared, prepare
from .pack import seal
from .progress import Callback, Reporter
from .publish import Target
from .report import Outcome
from .trial import limits_for, stands_for

__all__ = ["compare"]

_ALL = 2**31  # values of an answer that are kept: these records stay in memory
_CLASSES = list(CLASSES)  # from tight to loose


def compare(
    model: str | Path,
    *,
    device: str,
    formats: Sequence[str] = (),
    schemes: Sequence[str] = (),
    out: str | Path | None = None,
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
    cache: bool = True,
    lengths: Sequence[int] = (16, 64, 128),
    seconds: float = 1.0,
    cold_starts: int = 3,
    data: str | Path | None = None,
    columns: Mapping[str, str] | None = None,
    drop_overlaps: bool = False,
    max_drop: float | None = None,
    progress: Callback | None = None,
    cancel: threading.Event | None = None,
) -> Compared:
    """Make every candidate of a device, measure all of them in turn, and say which one `convert` would ship and why.

    A candidate that is refused has a row too. Where nothing would ship, `error` of the result is what `convert` raises.

    Args:
        formats, schemes: only these; all of the profile's by default. A format whose toolchain is missing is an error
            if it is named here, and a row and a note otherwise.
        out: a folder that keeps the bundles, `<model>-<format>-<scheme>.satchel`, refused ones marked; none are kept
            by default.
        replace: exchange bundles of these names that are there already.
        lengths: tokens of the inputs that latency is measured with.
        seconds: time limit per length; all candidates share it.
        cold_starts: fresh processes to start of each.
        model, device and the others: as in `convert`.

    Raises:
        SatchelError: there is nothing to compare, the comparison was stopped, or a disk is full.
    """
    if not lengths or min(lengths) < 1 or seconds <= 0 or cold_starts < 1:
        raise UsageError(
            "Cannot measure nothing.",
            why=f"lengths are {list(lengths)}, seconds {seconds:g}, cold starts {cold_starts}",
            fix="give numbers above 0",
        )
    options = Options(
        str(model),
        device,
        task=task,
        revision=revision,
        trust_remote_code=trust_remote_code,
        opset=opset,
        sequence_length=sequence_length,
        threads=threads,
        max_latency_ms=max_latency_ms,
        max_size_mb=max_size_mb,
        max_memory_mb=max_memory_mb,
        prefer=prefer,
        require=tuple(require),
        replace=True,  # of `convert`'s bundle, which is not written here
        cache=cache,
        formats=tuple(formats),
        schemes=tuple(schemes),
        data=Path(data) if data else None,
        columns=columns,
        drop_overlaps=drop_overlaps,
        max_drop=max_drop,
    )
    reporter = Reporter(progress, cancel)
    home = Path(out) if out is not None else None
    try:
        reporter.tell("source", str(model))
        prepared = prepare(options)
        _named_toolchains(prepared)
        with tempfile.TemporaryDirectory(prefix="satchel-compare-") as scratch, ExitStack() as stack:
            targets = {
                (each.format, each.scheme): stack.enter_context(
                    Target(_place(home or Path(scratch), prepared, each), replace=replace)
                )
                for each in prepared.candidates
                if each.plan is not None
            }
            made = _make_all(prepared, targets, reporter)
            runs = _bench(made, lengths, seconds, cold_starts, threads, reporter)
            if home is not None:
                made = [_keep(each, targets, reporter) for each in made]
        return _compared(prepared, made, runs, reporter)
    except KeyboardInterrupt:
        raise Cancelled(
            "The comparison was interrupted.", why="Ctrl-C", fix="run it again; finished stages are kept"
        ) from None
    except OSError as error:
        raise disk_problem(error, home or Path(tempfile.gettempdir())) from error


def _place(folder: Path, prepared: Prepared, candidate: Candidate) -> Path:
    return folder / f"{prepared.source.name}-{candidate.format}-{candidate.scheme}.satchel"


def _named_toolchains(prepared: Prepared) -> None:
    """Raises: ToolchainError for a format that the caller named, before the long work."""
    for each in prepared.candidates if prepared.options.formats else ():
        if isinstance(each.problem, ToolchainError):
            raise each.problem


@dataclasses.dataclass(frozen=True)
class _Answers:
    """What one candidate said to the golden samples, and how many tokens it read of each."""

    items: Sequence[GoldenItem]
    answers: Sequence[Mapping[str, np.ndarray]]
    records: Sequence[Mapping[str, Record]]
    tokens: Sequence[int]
    agreement: Mapping[str, tuple[Agreement, ...]]
    max_tokens: int | None


@dataclasses.dataclass(frozen=True)
class _Made:
    """One candidate after its attempt; the folder is None where there is no bundle in it."""

    candidate: Candidate
    outcome: Outcome
    folder: Path | None
    answers: _Answers | None = None
    size_bytes: int | None = None
    kept: Path | None = None

    @property
    def label(self) -> str:
        return f"{self.candidate.format} {self.candidate.scheme}"


def _make_all(prepared: Prepared, targets: Mapping[tuple[str, str], Target], reporter: Reporter) -> list[_Made]:
    stages = Stages(prepared, reporter)
    made = []
    for place, candidate in enumerate(prepared.candidates, 1):
        reporter.tell("candidate", f"{candidate.format} {candidate.scheme}, {place} of {len(prepared.candidates)}")
        target = targets.get((candidate.format, candidate.scheme))
        folder = target.folder if target is not None else Path()
        try:
            outcome = attempt(prepared, candidate, stages, folder, reporter)
        except Cancelled:
            raise
        except SatchelError as error:  # it ends a conversion; `choose` sees to that
            if isinstance(error, ToolchainError) and prepared.options.formats:
                raise
            outcome = stopped(prepared.options, error, candidate)
        whole = target is not None and (folder / MANIFEST_NAME).is_file()
        answers = None
        if whole and candidate.plan is not None and outcome.evidence is not None:
            reporter.tell("answers", f"{candidate.format} {candidate.scheme}")
            answers = _answers(prepared, stages.of(candidate.plan), candidate.scheme, folder)
        size = sum(each.stat().st_size for each in folder.rglob("*") if each.is_file()) if whole else None
        made.append(_Made(candidate, outcome, folder if whole else None, answers, size))
    return made


def _answers(prepared: Prepared, stage: Stage, scheme: str, folder: Path) -> _Answers:
    """The golden samples once more, all values of them: what lies in the bundle is a part."""
    reference = records_from_bytes((stage.folder / REFERENCE_FULL).read_bytes(), REFERENCE_FULL)
    with load(folder, threads=prepared.options.threads, trust=True) as predictor:
        tasks = {name: predictor.open_task(name) for name in predictor.tasks}
        answers = run_items(tasks, predictor.graphs, stage.items)
    tokens = [
        max(row.length for row in tasks[item.task].encode(item.input, tasks[item.task].check_options(item.options)))
        for item in stage.items
    ]
    limits = limits_for(prepared.profile, scheme)
    alike = {}
    for name in tasks:
        places = [i for i, item in enumerate(stage.items) if item.task == name]
        alike[name] = agreement([reference[i] for i in places], [answers[i] for i in places], limits)
    longest = getattr(next(iter(tasks.values())), "max_length", None)
    return _Answers(stage.items, answers, records_of(tasks, stage.items, answers, keep=_ALL), tokens, alike, longest)


def _bench(
    made: Sequence[_Made],
    lengths: Sequence[int],
    seconds: float,
    cold_starts: int,
    threads: int | None,
    reporter: Reporter,
) -> dict[str, Run]:
    """All that answered, in turn; also those that were refused: by how much is what one wants to know."""
    measured = {each.label: each.folder for each in made if each.folder is not None and each.answers is not None}
    if not measured:
        return {}
    runs = bench(
        *measured.values(),
        threads=threads,
        trust=True,
        lengths=lengths,
        max_seconds=seconds,
        cold_starts=cold_starts,
        on_step=lambda words: reporter.tell("bench", f"{words}, {len(measured)} bundles in turn"),
    )
    return dict(zip(measured, runs, strict=True))


def _keep(made: _Made, targets: Mapping[tuple[str, str], Target], reporter: Reporter) -> _Made:
    if made.folder is None:
        return made
    target = targets[made.candidate.format, made.candidate.scheme]
    reporter.tell("keep", str(target.path))
    if made.outcome.refusal is not None:
        seal(made.folder, failed=True)
    target.publish()
    return dataclasses.replace(made, kept=target.path)


def _compared(prepared: Prepared, made: Sequence[_Made], runs: Mapping[str, Run], reporter: Reporter) -> Compared:
    choice = choose(each.outcome for each in made)
    rows = tuple(_row(each, choice, runs) for each in made)
    ships = next((row for row in rows if row.status == SHIPS), None)
    reporter.tell("agree", f"{len(runs)} candidates with each other")
    pairs = _pairs(prepared, made)
    reporter.finish()
    before = rows[: rows.index(ships)] if ships else rows
    absolute, _ = stands_for(prepared.profile)
    return Compared(
        model=prepared.source.name,
        device=prepared.profile.name,
        tasks=prepared.tasks,
        rows=rows,
        pairs=pairs,
        ships=ships,
        summary=summary_of(prepared, ships, choice),
        reasons=tuple(f"{row.label}: {row.words()}" for row in before),
        notes=notes_on(prepared, rows, pairs, ships, absolute=absolute),
        error=choice.error,
        when=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        seconds=reporter.seconds,
        machine=machine(),
    )


def _row(made: _Made, choice: Choice, runs: Mapping[str, Run]) -> Row:
    outcome, evidence, run = made.outcome, made.outcome.evidence, runs.get(made.label)
    refusal = outcome.refusal
    gate = next((each.gate for each in outcome.verdicts if each.status == GATE_REFUSED), "")
    peak = evidence.peak_rss_bytes if evidence else None
    return Row(
        made.candidate.format,
        made.candidate.scheme,
        _status(outcome, choice, gate),
        gate=gate,
        why=refusal.why if refusal else "",
        fix=refusal.fix if refusal else "",
        exit_code=refusal.exit_code if refusal else 0,
        bundle=str(made.kept) if made.kept else None,
        max_tokens=made.answers.max_tokens if made.answers else None,
        size_bytes=evidence.size_bytes if evidence else made.size_bytes,
        peak_rss_bytes=run.cold.peak_rss_bytes if run and run.cold else peak,
        run=run,
        against_fp32=_speed(runs.get(f"{made.candidate.format} fp32"), run),
        against_first=_speed(next(iter(runs.values()), None), run),
        parity=evidence.reference if evidence else {},
        parity_in_batches=evidence.batched if evidence else {},
        agreement=made.answers.agreement if made.answers else {},
        verdicts=outcome.verdicts,
    )


def _status(outcome: Outcome, choice: Choice, gate: str) -> str:
    if outcome.refusal is None:
        return SHIPS if outcome is choice.chosen else PASSES
    if isinstance(outcome.refusal, ToolchainError):
        return NO_TOOLCHAIN
    return NOT_MADE if isinstance(outcome.refusal, SupportError) or not gate else REFUSED


def _speed(base: Run | None, run: Run | None) -> tuple[Speed, ...]:
    return speed(base, run) if base is not None and run is not None and base is not run else ()


def _pairs(prepared: Prepared, made: Sequence[_Made]) -> tuple[Pair, ...]:
    told = [(each, each.answers) for each in made if each.answers is not None]
    return tuple(
        _pair(prepared, one, other, theirs, ours)
        for place, (one, theirs) in enumerate(told)
        for other, ours in told[place + 1 :]
    )


def _pair(prepared: Prepared, one: _Made, other: _Made, theirs: _Answers, ours: _Answers) -> Pair:
    scheme = max(one.candidate.scheme, other.candidate.scheme, key=lambda each: _CLASSES.index(numeric_class(each)))
    limits = limits_for(prepared.profile, scheme)
    places = [i for i, (a, b) in enumerate(zip(theirs.tokens, ours.tokens, strict=True)) if a == b]
    parity: dict[str, Parity] = {}
    alike: dict[str, tuple[Agreement, ...]] = {}
    for name in prepared.tasks:
        own = [i for i in places if theirs.items[i].task == name]
        records, answers = [theirs.records[i] for i in own], [ours.answers[i] for i in own]
        for task, found in judge_tasks([theirs.items[i] for i in own], records, answers, limits).items():
            if found.where == "reference":  # the judge speaks of the first as of the model
                found = dataclasses.replace(found, why=f"{one.label} answers NaN, or the same to every sample")
            parity[task] = found
        if own:
            alike[name] = agreement(records, answers, limits)
    return Pair(one.label, other.label, numeric_class(scheme), parity, alike, len(theirs.tokens) - len(places))
