"""The search: formats, schemes, pruning and threads tried as an optimiser proposes, and the best that meets the budgets."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import hashlib
import json
import math
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import satchel_runtimes
from satchel_runtimes.bundle import cache_folder
from satchel_runtimes.errors import AccuracyError, Cancelled, SatchelError, ToolchainError, UsageError
from satchel_runtimes.manifest import to_plain
from satchel_runtimes.measure import machine

from .convert import Done, disk_problem, run
from .options import Options, Prepared, prepare
from .progress import Callback, Progress
from .race import race
from .recipe import recipe_of
from .search_space import Point, Space, options_of, space_of, words_of
from .trial import stands_for
from .tune_rank import GATE_KINDS, figure_words, nearest, ranked
from .tune_study import Limits, Search, Tried, open_search
from .tuned import Tuned

__all__ = ["tune"]

Json = Any  # what `json.loads` gives back

_MB = 2**20
_SAME_FAILURES = 3  # in a row, of one kind that no gate has: then it is not the point that fails


def tune(
    model: str | Path,
    *,
    device: str,
    data: str | Path | None = None,
    columns: Mapping[str, str] | None = None,
    drop_overlaps: bool = False,
    out: str | Path | None = None,
    max_drop: float | None = None,
    max_latency_ms: float | None = None,
    max_size_mb: float | None = None,
    max_memory_mb: float | None = None,
    minutes: float = 30.0,
    trials: int | None = None,
    seed: int = 0,
    formats: Sequence[str] = (),
    schemes: Sequence[str] = (),
    task: str | None = None,
    revision: str | None = None,
    trust_remote_code: bool = False,
    sequence_length: int | None = None,
    threads: int | None = None,
    prefer: str = "latency",
    study: str | Path | None = None,
    recipe_out: str | Path | None = None,
    replace: bool = False,
    cache: bool = True,
    progress: Callback | None = None,
    cancel: threading.Event | None = None,
) -> Tuned:
    """Search for the fastest bundle that meets the budgets, and publish it with the recipe that makes it again.

    Each trial is a conversion, judged by every gate and on rows held out of the training split; only the chosen one meets
    the evaluation rows. Where none meets the budgets, `error` of the result says which is nearest.

    Args:
        data, columns, drop_overlaps: labelled rows, as for `convert`; without them nothing is pruned, and the drop is what parity finds.
        max_drop: points of accuracy that may be lost.
        minutes: no trial begins after these; one that has begun ends, and the chosen one is made after that.
        trials: stop when the study has as many, those of earlier runs included.
        seed: of the optimiser.
        formats, schemes: only these; all of the profile's by default.
        prefer: "size" chooses the smallest that meets the budgets, not the fastest.
        study: a file that remembers the trials; one in satchel's cache by default, so that the same search goes on.
        recipe_out: where the recipe goes; beside the bundle by default.
        model, device and the others: as in `convert`.

    Raises:
        SatchelError: there is nothing to search, the search was stopped, or a disk is full.
    """
    if not minutes > 0 or (trials is not None and trials < 1):
        raise UsageError(
            "Cannot search without a trial.", why=f"minutes are {minutes:g}, trials {trials}", fix="give more than 0"
        )
    if max_drop is not None and not max_drop >= 0:
        raise UsageError(
            f"Cannot use --max-drop {max_drop}.", why="it is not 0 or more", fix="give points, such as 1.0"
        )
    base = Options(
        str(model),
        device,
        Path(out) if out else None,
        task=task,
        revision=revision,
        trust_remote_code=trust_remote_code,
        sequence_length=sequence_length,
        threads=threads,
        max_latency_ms=max_latency_ms,
        max_size_mb=max_size_mb,
        max_memory_mb=max_memory_mb,
        prefer=prefer,
        replace=replace,
        cache=cache,
        data=Path(data) if data else None,
        columns=columns,
        drop_overlaps=drop_overlaps,
        formats=tuple(formats),
        schemes=tuple(schemes),
    )
    prepared = prepare(dataclasses.replace(base, held_out=base.data is not None))
    space = space_of(prepared, minutes=minutes, train=len(prepared.data.train) if prepared.data is not None else 0)
    limits = Limits(max_drop, max_latency_ms, max_size_mb, max_memory_mb)
    about = _digest(prepared, space)
    file = Path(study) if study else cache_folder() / "tune" / f"{about[:16]}.sqlite3"
    recipe = Path(recipe_out) if recipe_out else _beside(prepared.out)
    with (
        tempfile.TemporaryDirectory(prefix="satchel-tune-") as scratch,
        open_search(file, about, space, limits, seed) as search,
    ):
        work = _Work(prepared, search, limits, Path(scratch), minutes, trials, progress, cancel)
        try:
            ended = work.search()
            pareto, order = search.pareto(), ranked(search.tried, limits, prefer)
            finals: list[tuple[Tried, Json]] = []
            done, error = work.publish(
                order, dataclasses.replace(base, max_drop=max_drop if data else None, write_recipe=recipe), finals
            )
        except KeyboardInterrupt:
            raise _interrupted(search) from None
        except Cancelled:
            raise _interrupted(search) from None
        except OSError as problem:
            raise disk_problem(problem, file) from problem
        chosen = finals[-1][0] if done is not None else None
        return Tuned(
            model=prepared.source.name,
            device=prepared.profile.name,
            tasks=prepared.tasks,
            limits=limits,
            prefer=prefer,
            tried=search.tried,
            pareto=pareto,
            chosen=chosen,
            finals=tuple((each.number, _shipped(report)) for each, report in finals),
            left_out=space.left_out,
            ended=ended,
            judged_on=work.judged_on,
            bundle=done.bundle if done else None,
            recipe=recipe if done else None,
            study=file,
            error=error,
            seed=seed,
            when=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            seconds=round(time.monotonic() - work.began, 1),
            machine=machine(),
        )


def _beside(out: Path) -> Path:
    return out.with_name(f"{out.name.removesuffix('.satchel')}.recipe.toml")


def _digest(prepared: Prepared, space: Space) -> str:
    """Of all that decides what a trial comes to. The budgets do not: they only say which one is taken."""
    options = dataclasses.replace(prepared.options, formats=(), schemes=())
    said = recipe_of(options, prepared, None, Path("/"))
    for name in ("max_drop", "max_latency_ms", "max_size_mb", "max_memory_mb", "prefer"):
        said.pop(name, None)
    for name in ("model", "data"):  # their content counts, which is in the digests
        said.pop(name, None)
    about = [
        said,
        to_plain(prepared.profile),
        to_plain(space.axes),
        machine()["processor"],
        satchel_runtimes.__version__,
    ]
    return hashlib.sha256(json.dumps(about, sort_keys=True, default=str).encode()).hexdigest()


def _interrupted(search: Search) -> Cancelled:
    return Cancelled(
        "The search was interrupted.",
        why="Ctrl-C, or its cancel event was set",
        fix=f"run it again: {len(search.tried)} finished trials are kept",
    )


@dataclasses.dataclass
class _Work:
    """One run of a search. It changes only what it remembers between trials."""

    prepared: Prepared
    history: Search
    limits: Limits
    scratch: Path
    minutes: float
    at_most: int | None  # trials
    callback: Callback | None
    cancel: threading.Event | None
    began: float = dataclasses.field(default_factory=time.monotonic)
    anchor: Path | None = None
    judged_on: str = "the golden samples, by parity"
    failures: list[str] = dataclasses.field(default_factory=list)

    @property
    def _base(self) -> Options:
        """Of a trial: no budgets, so that what is found out serves other budgets too."""
        asked = self.prepared.options
        return dataclasses.replace(asked, max_latency_ms=None, max_size_mb=None, max_memory_mb=None, max_drop=None)

    def search(self) -> str:
        """Try until the time, the trials or the points are at an end, and say which."""
        while self.at_most is None or len(self.history.tried) < self.at_most:
            if self._left() <= 0:
                return f"after {self.minutes:g} minutes"
            asked = self.history.ask()
            if asked is None:
                return "when every point had been tried"
            trial, point = asked
            self.history.tell(trial, self._try(trial.number, point))
        return f"after {self.at_most} trials"

    def publish(
        self, order: Sequence[Tried], options: Options, finals: list[tuple[Tried, Json]]
    ) -> tuple[Done | None, SatchelError | None]:
        """Make the best again under all budgets, on the evaluation rows. The next best gets its turn where a latency or
        a size is not what it was, not where the accuracy is not: to look at those rows twice is to fit to them."""
        if not order:
            return None, nearest(self.history.tried, self.limits)
        error: SatchelError | None = None
        for tried in order:
            reports: list[Json] = []
            try:
                with self._told(f"the chosen one: {words_of(tried.point)}") as progress:
                    done = run(
                        options_of(tried.point, options),
                        progress=progress,
                        cancel=self.cancel,
                        on_report=reports.append,
                    )
                finals.append((tried, reports[-1]))
                return done, None
            except Cancelled:
                raise
            except GATE_KINDS as refusal:
                finals.append((tried, reports[-1]))
                error = refusal
                if isinstance(refusal, AccuracyError):
                    break
        return None, error

    def _try(self, number: int, point: Point) -> Tried:
        if self.anchor is None and self._races():
            self._make_anchor()
        started = time.monotonic()
        out = self.scratch / f"trial-{number}.satchel"
        options = options_of(point, self._base, out=out, report=self.scratch / f"trial-{number}.json", keep_failed=True)
        reports: list[Json] = []
        error: SatchelError | None = None
        try:
            with self._told(f"trial {len(self.history.tried) + 1}: {words_of(point)}") as progress:
                run(options, progress=progress, cancel=self.cancel, on_report=reports.append)
        except (Cancelled, ToolchainError):
            raise
        except SatchelError as refusal:
            error = refusal
        self._count(error)
        found = reports[-1]["candidates"][-1] if reports and reports[-1]["candidates"] else {}
        if error is not None and any(
            each["status"] == "refused" and each["where"] == "reference" for each in found.get("verdicts", ())
        ):
            raise error  # the model itself cannot do it: every other trial would say the same
        figures = self._figures(found, out)
        shutil.rmtree(out, ignore_errors=True)
        missing = [name for name in ("drop", "latency_ms", "size_mb") if not math.isfinite(figures.get(name, math.nan))]
        if error is None and missing:
            error = SatchelError(
                f"Cannot rank {words_of(point)}.", why=f"its {missing[0]} is not known", fix="see the docs of tune"
            )
        gate = next((each["gate"] for each in found.get("verdicts", ()) if each["status"] == "refused"), "")
        return Tried(
            number,
            dict(point),
            figures,
            _judged(found),
            gate,
            f"{error.what} {error.why}" if error else "",
            error.exit_code if error else 0,
            round(time.monotonic() - started, 2),
        )

    def _count(self, error: SatchelError | None) -> None:
        """Raises: SatchelError that is no gate's and comes again and again, such as a full disk."""
        if error is None or isinstance(error, GATE_KINDS):
            self.failures.clear()
            return
        self.failures.append(error.why)
        if len(self.failures) >= _SAME_FAILURES and len(set(self.failures[-_SAME_FAILURES:])) == 1:
            raise error

    def _figures(self, found: Json, out: Path) -> dict[str, float]:
        figures: dict[str, float] = {}
        if found.get("size_bytes"):
            figures["size_mb"] = found["size_bytes"] / _MB
        if found.get("peak_rss_bytes"):
            figures["memory_mb"] = found["peak_rss_bytes"] / _MB
        drop = self._drop(found)
        if drop is not None:
            figures["drop"] = drop
        latency = self._latency(found, out)
        if latency is not None:
            figures["latency_ms"] = latency
        return figures

    def _drop(self, found: Json) -> float | None:
        """Points of accuracy; without data the distance that parity found, of a hundred."""
        accuracy = _judged(found)
        if accuracy:
            self.judged_on = f"{accuracy['n']} rows held out of training, by {accuracy['metric']}"
            return None if accuracy["drop"] is None else float(accuracy["drop"])
        parity = (found.get("parity") or {}).get(self.prepared.tasks[0], {})
        for name in ("cosine_mean", "total_variation_mean", "probability_error_mean", "number_error", "relative_error"):
            if name in parity:
                return 100 * float(1 - parity[name] if name == "cosine_mean" else parity[name])
        return None

    def _races(self) -> bool:
        return any(stands_for(self.prepared.profile))

    def _latency(self, found: Json, out: Path) -> float | None:
        """Run in turn with one graph that all trials share, so that a machine that slows down slows both; where this
        machine is not of the device's kind, the estimate from the profile's facts."""
        if not self._races():
            estimates = found.get("estimate_ms") or {}
            return float(estimates[max(estimates, key=int)]) if estimates else None
        if not (out / "bundle.json").is_file() or self.anchor is None:
            return None
        _, times = race({"anchor": self.anchor, "trial": out})
        first = self.history.anchor_ms
        if first is None:
            first = float(np.median(times["anchor"])) * 1e3
            self.history.keep_anchor(first)
        return first * float(np.median(times["trial"] / times["anchor"]))

    def _make_anchor(self) -> None:
        """The first candidate that can be made, unpruned; refused or not, it has a graph to run."""
        for point in self.history.space.first:
            out = self.scratch / "anchor.satchel"
            options = options_of(
                point,
                dataclasses.replace(self._base, data=None, columns=None, held_out=False),
                out=out,
                keep_failed=True,
            )
            try:
                with self._told("the graph that all are run in turn with") as progress:
                    run(options, progress=progress, cancel=self.cancel)
            except (Cancelled, ToolchainError):
                raise
            except SatchelError:
                pass  # a trial will say so
            if (out / "bundle.json").is_file():
                self.anchor = out
                return

    def _left(self) -> float:
        return self.minutes * 60 - (time.monotonic() - self.began)

    def _left_words(self) -> str:
        return f"{max(0.0, self._left()) / 60:.0f} min left"

    @contextlib.contextmanager
    def _told(self, words: str) -> Iterator[Callback | None]:
        """The progress of a trial, as one stage of the search."""
        if self.callback is None:
            yield None
            return
        callback, tried = self.callback, self.history.tried
        best = next(iter(ranked(tried, self.limits, self.prepared.options.prefer)), None)
        said = f"best {words_of(best.point)}: {figure_words(best)}" if best else "none meets the budgets yet"
        total = max(self.at_most or 0, len(tried) + 1)

        message = f"{words}; {said}"
        if self.at_most is None or len(tried) < self.at_most:
            message += f"; {self._left_words()}"  # as it begins: a log has one line for each trial

        def tell(news: Progress) -> None:
            elapsed = time.monotonic() - self.began
            detail = f"{self._left_words()}; {news.stage}: {news.message}"
            callback(Progress("search", message, len(tried), total, elapsed, detail))

        yield tell


def _judged(found: Json) -> Json:
    """The metric that the accuracy gate judges: the first."""
    return next(iter((found.get("accuracy") or {}).values()), None)


def _shipped(report: Json) -> Json:
    """What a report says of the candidate that it ends with."""
    return {**report["candidates"][-1], "exit_code": report["exit_code"], "error": report["error"]}
