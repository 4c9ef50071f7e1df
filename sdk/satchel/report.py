"""The report of a conversion: what was tried, what each gate said, and what was shipped. JSON, beside the bundle."""

from __future__ import annotations

import dataclasses
import datetime
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from satchel_converters.compress import COMPRESSION
from satchel_runtimes.errors import SatchelError
from satchel_runtimes.measure import machine

from .gates import Evidence, Verdict
from .options import Options, Prepared
from .recipe import recipe_of

if TYPE_CHECKING:
    from .choice import Choice

__all__ = ["Outcome", "write_report"]


@dataclasses.dataclass(frozen=True)
class Outcome:
    """One candidate: the verdicts on it, and the error where it was refused."""

    format: str
    scheme: str
    verdicts: tuple[Verdict, ...]
    refusal: SatchelError | None = None
    evidence: Evidence | None = None


def write_report(
    path: Path,
    options: Options,
    prepared: Prepared | None,
    outcomes: Sequence[Outcome],
    choice: Choice | None,
    error: SatchelError | None,
    seconds: Mapping[str, float],
) -> dict[str, Any]:
    chosen = choice.chosen if choice else None
    report = {
        "satchel_report": 1,
        "when": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "model": options.model,
        "device": options.device,
        "tasks": prepared.tasks if prepared else None,
        "source_bytes": sum(file.stat().st_size for file in prepared.reference.weights) if prepared else None,
        "compression": _compression(prepared),
        "bundle": str(prepared.out) if prepared and chosen and not options.kit else None,
        "kit": str(prepared.out) if prepared and chosen and options.kit else None,
        "chosen": {"format": chosen.format, "scheme": chosen.scheme} if chosen else None,
        "choice": choice.why if choice and chosen else None,
        "recipe": recipe_of(options, prepared, chosen, path.parent) if prepared else None,
        "candidates": [_outcome(each) for each in outcomes],
        "exit_code": error.exit_code if error else 0,
        "error": {"what": error.what, "why": error.why, "fix": error.fix} if error else None,
        "seconds": {stage: round(value, 3) for stage, value in seconds.items()},
        "machine": machine(),
    }
    text = json.dumps(report, indent=1, ensure_ascii=False) + "\n"
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        beside.write_text(text)
        os.replace(beside, path)
    except OSError:
        # A full disk is what is being reported; the error itself goes to the caller in any case.
        beside.unlink(missing_ok=True)
        if error is None:
            raise
    return report


def _compression(prepared: Prepared | None) -> dict[str, Any] | None:
    """What became of the model before it was exported; None where it is the original."""
    if prepared is None or prepared.original is None:
        return None
    made = prepared.source.json(COMPRESSION)
    return {name: made[name] for name in ("parameters", "removed", "notes", "training", "seconds") if name in made}


def _outcome(outcome: Outcome) -> dict[str, Any]:
    evidence = outcome.evidence
    figures: dict[str, Any] = {}
    if evidence is not None:
        figures = {
            "notes": evidence.notes,
            "size_bytes": evidence.size_bytes,
            "peak_rss_bytes": evidence.peak_rss_bytes,
            "parity": {task: dict(parity.figures) for task, parity in evidence.reference.items()},
            "parity_in_batches": {task: dict(parity.figures) for task, parity in evidence.batched.items()},
            "shape": evidence.shape or None,
            "accuracy": {each.metric: each.to_plain() for each in evidence.metrics},
            "latency_ms": {str(tokens): dataclasses.asdict(each) for tokens, each in evidence.latency.items()},
            "speedup": {str(tokens): dataclasses.asdict(each) for tokens, each in evidence.speedup.items()},
            "estimate_ms": {str(tokens): value for tokens, value in evidence.estimate_ms.items()},
        }
    return {
        "format": outcome.format,
        "scheme": outcome.scheme,
        "passed": outcome.refusal is None,
        "why": outcome.refusal.why if outcome.refusal else "",
        "verdicts": [dataclasses.asdict(verdict) for verdict in outcome.verdicts],
        **figures,
    }
