"""How good a bundle is on a user's rows, beside the model that it was made of and beside chance."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from satchel_benchmarks.accuracy import Accuracy, measure
from satchel_converters.asking import Ask, answer_rows
from satchel_converters.source import SourceModel, find_source
from satchel_runtimes.errors import AccuracyError, IntegrityError, SatchelError, UsageError
from satchel_runtimes.examples import Example
from satchel_runtimes.manifest import Manifest, to_plain
from satchel_runtimes.predictor import Predictor, load
from satchel_runtimes.tasks import task_class

from .ask_reference import reference_answers
from .data import Data, Labels, read_data, sample
from .gates import PASSED, REFUSED, Verdict, judge_accuracy
from .options import Prepared
from .progress import Callback, Reporter

__all__ = ["Evaluation", "evaluate", "judge"]


@dataclass(frozen=True)
class Evaluation:
    """Every metric that fits the rows, the first of them the one that is judged."""

    bundle: str
    task: str
    data: str
    split: str
    n: int
    metrics: tuple[Accuracy, ...]
    verdict: Verdict
    reference: str | None  # the model that answered beside the bundle
    why_no_reference: str = ""
    columns: Mapping[str, str] | None = None

    def to_plain(self) -> dict[str, Any]:
        plain: dict[str, Any] = to_plain(self)
        return {**plain, "metrics": [each.to_plain() for each in self.metrics]}

    @property
    def error(self) -> AccuracyError | None:
        if self.verdict.status != REFUSED:
            return None
        fix = "judge on more rows, convert with a scheme that is closer to float32, or allow more with --max-drop"
        if self.verdict.where == "reference":
            fix = "check the labels of the data; or train the model for this task first"
        return AccuracyError(f"{self.bundle} is not accurate enough.", why=self.verdict.why, fix=fix)


def evaluate(
    bundle: str | Path,
    *,
    data: str | Path,
    reference: str | Path | None = None,
    split: str = "evaluation",
    columns: Mapping[str, str] | None = None,
    limit: int | None = None,
    max_drop: float | None = None,
    task: str | None = None,
    threads: int | None = None,
    trust: bool = False,
    cache: bool = True,
    progress: Callback | None = None,
    cancel: threading.Event | None = None,
) -> Evaluation:
    """Answer labelled rows with a bundle, and the same rows with the model that it was made of.

    Args:
        data: a file or folder, see docs/data.md.
        reference: a local folder or Hub id; by default what the bundle says that it was made of, where it can be found.
        split: "train", "calibration", "evaluation" or "all".
        columns: part of the task -> name of the column.
        limit: at most this many rows of the split, drawn with a fixed seed.
        max_drop: points that the first metric may lose against the reference; `error` of the result says if it lost
            more. None judges nothing.
        task: another of the bundle's tasks than its first.
        threads, trust: as in `satchel.load`.
        cache: take the reference's answers from an earlier run on the same rows.

    Raises:
        SatchelError: data that does not fit, or a bundle or reference that cannot be loaded.
    """
    if limit is not None and limit < 1:
        raise UsageError(f"Cannot use --limit {limit}.", why="no row would be left", fix="give a number above 0")
    if max_drop is not None and not 0 <= max_drop < float("inf"):
        raise UsageError(f"Cannot use --max-drop {max_drop}.", why="it is below zero", fix="give points, such as 1")
    reporter = Reporter(progress, cancel)
    with load(bundle, task=task, threads=threads, trust=trust) as predictor:
        name = task or predictor.tasks[0]
        reporter.tell("data", str(data))
        # Nothing is trained here, so a row that training has as well does no harm to what is measured.
        found = read_data(data, task_class(name), _labels(predictor, name), columns=columns, drop_overlaps=True)
        rows = _labelled(sample(found.rows(split, to="judge the bundle"), limit), name, found)
        source, why = _reference(reference, predictor.manifest)
        replies = None
        if source is not None:
            asked = Ask(source, name, found.labels)
            replies = reference_answers(asked, rows, reporter.tell, cancel, use_cache=cache)
        answers = _answers(predictor, name, rows, found.labels, reporter)
        metrics = _measured(name, rows, answers, replies)
    reporter.finish()
    verdict = judge_accuracy(metrics[0], max_drop)
    if max_drop is None:
        verdict = Verdict(verdict.gate, "not_judged", verdict.why, verdict.value, None, verdict.unit, verdict.where)
    elif verdict.status not in (PASSED, REFUSED):
        raise UsageError(
            "Cannot judge --max-drop.", why=why, fix="name the model that was converted: --reference MODEL"
        )
    made_of = source.id if source else None
    return Evaluation(
        Path(bundle).name, name, str(data), split, len(rows), metrics, verdict, made_of, why, found.columns
    )


def judge(prepared: Prepared, predictor: Predictor, reporter: Reporter) -> tuple[Accuracy, ...]:
    """A candidate's metrics on the evaluation rows of a conversion, beside those of the original model."""
    data = prepared.data
    if data is None:
        return ()
    name, options = prepared.tasks[0], prepared.options
    rows = _labelled(data.evaluation, name, data)
    asked = Ask(prepared.reference, name, data.labels)
    replies = reference_answers(asked, rows, reporter.tell, reporter.cancel, use_cache=options.cache)
    answers = _answers(predictor, name, rows, data.labels, reporter)
    return _measured(name, rows, answers, replies)


def _answers(
    predictor: Predictor, name: str, rows: Sequence[Example], labels: Sequence[str], reporter: Reporter
) -> list[Any]:
    """One row at a time, as a device answers: what else is in a batch changes the numbers of dynamic int8."""
    reporter.tell("evaluate", f"{len(rows)} rows, one at a time", total=len(rows))
    return answer_rows(
        predictor.open_task(name),
        predictor.graphs,
        [each.input for each in rows],
        labels,
        batch_size=1,
        on_rows=lambda count: reporter.tell("evaluate", step=count),
    )


def _measured(
    name: str, rows: Sequence[Example], answers: Sequence[Any], replies: Sequence[Any] | None
) -> tuple[Accuracy, ...]:
    return measure(task_class(name).metrics, [each.target for each in rows], answers, replies)


def _labelled(rows: Sequence[Example], name: str, data: Data) -> tuple[Example, ...]:
    """Raises: UsageError for rows without an answer that could be compared."""
    part = task_class(name).target
    if not task_class(name).metrics:
        raise UsageError(
            f"Cannot judge {name}.", why="its answers are not right or wrong", fix="name another of the bundle's tasks"
        )
    missing = sum(each.target is None for each in rows) if part is not None else 0
    if missing:
        raise UsageError(
            f"Cannot judge {name} on {data.path}.",
            why=f"{missing} of {len(rows)} rows have no {part}",
            fix=f"label them, or name the column that does: --columns {part}=…",
        )
    return tuple(rows)


def _labels(predictor: Predictor, name: str) -> Labels | None:
    if "config.json" in predictor.manifest.files:
        return Labels.of(json.loads(predictor.bundle.read("config.json")), name)
    return None


def _reference(given: str | Path | None, manifest: Manifest) -> tuple[SourceModel | None, str]:
    """The model to compare with, or why there is none."""
    if given is not None:
        return find_source(given), ""
    made_of = manifest.source
    if not Path(made_of.id).is_dir() and made_of.revision is None and "/" not in made_of.id:
        return None, f"the bundle was made of a local folder {made_of.id}, which is not here; --reference names it"
    try:
        found = find_source(made_of.id, revision=made_of.revision)
    except IntegrityError:
        raise
    except SatchelError as error:
        return None, f"{made_of.id} cannot be fetched: {error.why}"
    if (found.architecture, found.parameters) != (made_of.architecture, made_of.parameters):
        # A compressed bundle is a part of its model; whether of this one, its manifest does not say.
        return None, (
            f"{made_of.id} is another model here than the one in the bundle, or the one that it was compressed from: "
            f"{found.architecture} of {found.parameters:,} parameters, not {made_of.architecture} of {made_of.parameters:,}"
        )
    return found, ""
