"""One candidate from its stage to the verdicts on it: made, packed, replayed and measured in a folder of its own."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from satchel_converters.applying import apply_scheme
from satchel_converters.format import Plan, format_of
from satchel_converters.process import Room
from satchel_converters.stage import Job, Stage
from satchel_runtimes.errors import IntegrityError, ParityError, SatchelError, SupportError

from .gates import Budget, Evidence, first_refusal, judge_all
from .options import Candidate, Options, Prepared
from .pack import pack, seal
from .progress import Reporter
from .report import Outcome
from .stage_cache import stage_for
from .trial import try_candidate

__all__ = ["Stages", "attempt", "stopped"]


class Stages:
    """The stages that the candidates of one conversion share, each made when it is first asked for."""

    def __init__(self, prepared: Prepared, reporter: Reporter) -> None:
        self._prepared, self._reporter = prepared, reporter
        self._made: dict[tuple[str, str], Stage] = {}
        self._failed: dict[tuple[str, str], SatchelError] = {}  # the same export would only fail again
        self._rooms: dict[str, Room] = {each.format: each.room for each in prepared.candidates}

    def of(self, plan: Plan) -> Stage:
        """What `export` made for the plan: its own scheme where that is traced, otherwise the float32 twin."""
        key = plan.format, plan.scheme.name
        if not plan.scheme.traced:
            return self.twin(plan)
        if key in self._failed:
            raise self._failed[key]
        if key not in self._made:
            options = self._prepared.options
            room = self._rooms[plan.format]
            own = self._prepared.golden
            job = Job(self._prepared.source, self._prepared.tasks, plan, options.sequence_length, own, room=room)
            try:
                self._made[key], _ = stage_for(job, self._reporter.tell, self._reporter.cancel, use_cache=options.cache)
            except SatchelError as error:
                self._failed[key] = error
                raise
        return self._made[key]

    def twin(self, plan: Plan) -> Stage:
        """The same format in float32."""
        fp32 = format_of(plan.format).schemes["fp32"]
        return self.of(dataclasses.replace(plan, scheme=fp32))


def attempt(prepared: Prepared, candidate: Candidate, stages: Stages, folder: Path, reporter: Reporter) -> Outcome:
    """Make the candidate in `folder` and judge it.

    Raises:
        SatchelError: what ends a conversion whatever else could be tried, such as a full disk.
    """
    if candidate.plan is None:
        assert candidate.problem is not None  # a candidate has a plan or a problem
        return stopped(prepared.options, candidate.problem, candidate)
    plan = candidate.plan
    if candidate.room.toolchain is not None:
        reporter.tell("toolchain", f"{candidate.room.toolchain.name} in {candidate.room.toolchain.folder}")
    try:
        stage = stages.of(plan)
        reporter.tell("quantize" if candidate.scheme != "fp32" else "write", f"{candidate.format} {candidate.scheme}")
        calibration = stage.calibration(prepared.calibration, format_of(plan.format).run)
        artifact = apply_scheme(
            stage.twin, plan, folder, calibration, room=candidate.room, tell=reporter.tell, cancel=reporter.cancel
        )
        weights = sum((folder / name).stat().st_size for name in artifact.files)
        reporter.tell("pack", f"{weights / 2**20:.1f} MiB of graphs, processors, golden samples")
        pack(prepared, stage, artifact, plan, folder)
        evidence = try_candidate(prepared, stage, lambda: stages.twin(plan), plan, folder, reporter)
    except (SupportError, IntegrityError, ParityError) as problem:
        return stopped(prepared.options, problem, candidate)
    verdicts = judge_all(evidence, prepared.budget)
    what = f"{prepared.source.name} in {candidate.format} {candidate.scheme} for {prepared.profile.name}"
    refusal = first_refusal(verdicts, what)
    seal(folder, verdicts=verdicts, evidence=evidence)
    return Outcome(candidate.format, candidate.scheme, verdicts, refusal, evidence)


def stopped(options: Options, error: SatchelError, candidate: Candidate | None = None) -> Outcome:
    """What the gates say of a conversion that ended before there was anything to measure."""
    format = candidate.format if candidate else options.format or ""
    scheme = candidate.scheme if candidate else options.quantize or ""
    evidence = Evidence(options.device, scheme, "", problem=error)
    return Outcome(format, scheme, judge_all(evidence, Budget()), error)
