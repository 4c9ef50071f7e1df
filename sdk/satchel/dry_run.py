"""What a conversion would do, what it would refuse before starting, and how large the result would be."""

from __future__ import annotations

from typing import Any

from satchel_runtimes.tasks import task_class

from .gates import Evidence, judge_all
from .options import Candidate, Options, Prepared, prepare
from .recipe import check_digests
from .trial import estimate

__all__ = ["forecast"]

_BESIDE_WEIGHTS = 1.02  # graph structure, tokenizer and golden samples of MiniLM are 2 % of its float weights


def forecast(options: Options) -> dict[str, Any]:
    """The plan as JSON. Nothing is written and no toolchain is imported.

    Raises:
        SatchelError: what `convert` would refuse before it starts.
    """
    prepared = prepare(options)
    check_digests(prepared)
    return {
        "model": prepared.source.name,
        "device": prepared.profile.name,
        "tasks": prepared.tasks,
        "parameters": prepared.source.parameters,
        "out": str(prepared.out),
        "report": str(prepared.report),
        "candidates": [_candidate(each, prepared) for each in prepared.candidates],
    }


def _candidate(candidate: Candidate, prepared: Prepared) -> dict[str, Any]:
    about: dict[str, Any] = {"format": candidate.format, "scheme": candidate.scheme, "refused": False, "why": ""}
    if candidate.plan is None:
        problem = candidate.problem
        why = f"{problem.what} {problem.why}" if problem else ""
        return {**about, "refused": True, "why": why, "size_bytes": None, "estimate_ms": {}, "engine": ""}
    plan = candidate.plan
    size = int(
        prepared.source.parameters * plan.scheme.bytes_per_weight
        + prepared.source.parameters * 4 * (_BESIDE_WEIGHTS - 1)
    )
    evidence = Evidence(
        prepared.profile.name,
        plan.scheme.name,
        plan.scheme.purpose,
        size_bytes=size,
        device_memory_mb=prepared.profile.memory_mb,
    )
    verdict = next(each for each in judge_all(evidence, prepared.budget) if each.gate == "size")
    return {
        **about,
        "refused": verdict.status == "refused",
        "why": f"size: {verdict.why}" if verdict.status == "refused" else "",
        "size_bytes": size,
        "estimate_ms": estimate(prepared.profile, prepared.source.parameters, plan.scheme, prepared.options.threads)
        if "text" in task_class(prepared.tasks[0]).modality
        else {},
        "engine": str(plan.engine),
    }
