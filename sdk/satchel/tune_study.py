"""The memory of a search: an Optuna study in a SQLite file, which outlives a kill, and the trials in it as plain data."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import math
import random
import sqlite3
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from satchel_runtimes.errors import SatchelError, UsageError
from satchel_runtimes.toolchain import need

from .search_space import Point, Space, whole

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]  # a module elsewhere

__all__ = ["OBJECTIVES", "Limits", "Search", "Tried", "open_search"]

Json = Any  # what `json.loads` gives back

OBJECTIVES = ("drop", "latency_ms", "size_mb")
_GATES = "gates"  # the constraint that a gate refused it
_REPEATS = 3  # proposals of what was tried already, until an untried point is drawn instead
_STARTUP = 8  # drawn at random after the first ones, before the sampler models what it has seen


@dataclass(frozen=True)
class Limits:
    """The budgets, by the figure that each is for. None: no budget."""

    drop: float | None = None
    latency_ms: float | None = None
    size_mb: float | None = None
    memory_mb: float | None = None

    def excess(self, figures: Mapping[str, float]) -> dict[str, float]:
        """By how much of each budget a trial is over it, as a share of the budget; below 0 it is within."""
        found = {}
        for name, limit in dataclasses.asdict(self).items():
            if limit is not None:
                value = figures.get(name, math.inf)
                found[name] = (value - limit) / max(abs(limit), 0.01)
        return found


@dataclass(frozen=True)
class Tried:
    """One finished trial. `figures` is empty where a gate stopped it before anything was measured."""

    number: int
    point: Point
    figures: Mapping[str, float] = field(default_factory=dict)  # of OBJECTIVES and memory_mb, as far as measured
    accuracy: Mapping[str, Json] | None = None  # on the validation rows
    gate: str = ""  # that refused it
    why: str = ""
    exit_code: int = 0
    seconds: float = 0.0

    @property
    def passed(self) -> bool:
        return not self.exit_code

    def meets(self, limits: Limits) -> bool:
        return self.passed and all(each <= 0 for each in limits.excess(self.figures).values())


class Search:
    """Asks Optuna what to try next, and tells it what came of it."""

    def __init__(self, study: Any, space: Space, limits: Limits, seed: int) -> None:  # Any: optuna has no types here
        self._study, self.space, self._limits, self._seed = study, space, limits, seed
        self._optuna = _optuna()
        choices = self._optuna.distributions.CategoricalDistribution
        self._axes = {axis.name: choices(axis.choices) for axis in space.axes}

    @property
    def tried(self) -> tuple[Tried, ...]:
        """All finished trials, numbered from 1 in the order in which they were made."""
        return tuple(self._numbered().values())

    def _numbered(self) -> dict[int, Tried]:
        """By Optuna's own number, which counts repeats and what a kill cut off as well."""
        made = [each for each in self._study.get_trials(deepcopy=False) if "tried" in each.user_attrs]
        return {each.number: _tried(each, number) for number, each in enumerate(made, 1)}

    @property
    def anchor_ms(self) -> float | None:
        """The latency of the graph that all others are run in turn with, when it was first measured."""
        found: float | None = self._study.user_attrs.get("anchor_ms")
        return found

    def keep_anchor(self, milliseconds: float) -> None:
        self._study.set_user_attr("anchor_ms", milliseconds)

    def ask(self) -> tuple[Any, Point] | None:  # Any: an optuna Trial
        """The next point that was not tried yet; None after the last."""
        done = {_key(each.point): (number, each) for number, each in self._numbered().items()}
        untried = [each for each in self.space.points() if _key(each) not in done]
        if not untried:
            return None
        for repeat in itertools.count():
            if repeat == _REPEATS:
                draw = random.Random(f"{self._seed} {len(done)}")
                self._study.enqueue_trial(draw.choice(untried))
            # Of the seed and of what was finished alone, so that a search that was killed goes on as it would have.
            self._study.sampler = self._optuna.samplers.TPESampler(
                seed=self._seed * 1_000_003 + len(done) * 101 + repeat,
                n_startup_trials=len(self.space.first) + _STARTUP,
            )
            trial = self._study.ask(self._axes)
            point = whole(trial.params)
            if _key(point) not in done:
                return trial, point
            number, same = done[_key(point)]
            _set_constraints(trial, same, self._limits)
            trial.set_user_attr("same_as", number)
            self._study.tell(trial, _values(same))
        raise AssertionError("counting does not end")

    def tell(self, trial: Any, tried: Tried) -> None:  # Any: an optuna Trial
        _set_constraints(trial, tried, self._limits)
        trial.set_user_attr("tried", json.loads(json.dumps(dataclasses.asdict(tried))))
        self._study.tell(trial, _values(tried))

    def pareto(self) -> tuple[Tried, ...]:
        """What no other trial beats in drop, latency and size at once, of those that meet every budget and gate."""
        own = self._numbered()
        found = {each.user_attrs.get("same_as", each.number) for each in self._study.best_trials}
        return tuple(own[each] for each in sorted(found) if each in own and own[each].meets(self._limits))


@contextlib.contextmanager
def open_search(file: Path, about: str, space: Space, limits: Limits, seed: int) -> Iterator[Search]:
    """The study of a search in a file, which may hold others. Trials that a kill cut off are made again.

    Args:
        about: the digest of all that decides what a trial comes to: another one is another study.
        limits: change nothing of what was measured: trials of an earlier run with other budgets are taken over.

    Raises:
        UsageError: the file is something else.
        SatchelError: another search is using it.
    """
    optuna = _optuna()
    file.parent.mkdir(parents=True, exist_ok=True)
    name = f"{about} {json.dumps(dataclasses.asdict(limits))}"
    with _locked(file):
        try:
            storage = optuna.storages.RDBStorage("sqlite://", engine_kwargs={"creator": lambda: _connect(file)})
            known = optuna.get_all_study_names(storage)
            study = optuna.create_study(
                study_name=name, storage=storage, directions=["minimize"] * len(OBJECTIVES), load_if_exists=True
            )
        except _storage_errors() as error:
            raise UsageError(
                f"Cannot use the study {file}.",
                why=f"it is not a file that a search has written ({str(error).splitlines()[0]})",
                fix="name another file, or leave --study out",
            ) from None
        try:
            search = Search(study, space, limits, seed)
            if name not in known:
                for other in (each for each in known if each.partition(" ")[0] == about):
                    _take_over(study, optuna.load_study(study_name=other, storage=storage), limits)
            cut_off = [each for each in study.get_trials() if each.state == optuna.trial.TrialState.RUNNING]
            for trial in cut_off:
                study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
                study.enqueue_trial(trial.params)
            for point in space.first:
                study.enqueue_trial(dict(point), skip_if_exists=True)
            yield search
        finally:
            storage.remove_session()
            storage.engine.dispose()


def _connect(file: Path) -> sqlite3.Connection:
    """Optuna writes a dozen times per trial; with a log that is written ahead a slow disk is not waited for each time."""
    connection = sqlite3.connect(file, timeout=30, check_same_thread=False)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=NORMAL")
    return connection


def _take_over(study: Any, other: Any, limits: Limits) -> None:  # Any: optuna studies
    """The finished trials of the same search with other budgets."""
    has = {_key(_tried(each).point) for each in study.get_trials() if "tried" in each.user_attrs}
    for trial in other.get_trials():
        if "tried" not in trial.user_attrs or _key(_tried(trial).point) in has:
            continue
        tried = _tried(trial)
        made = _optuna().trial.create_trial(
            params=trial.params,
            distributions=trial.distributions,
            values=_values(tried),
            user_attrs={"tried": dataclasses.asdict(tried)},
        )
        _set_constraints(made, tried, limits)
        study.add_trial(made)


def _tried(trial: Any, number: int = 0) -> Tried:  # Any: an optuna trial
    return Tried(**{**trial.user_attrs["tried"], "number": number})


def _key(point: Point) -> str:
    return json.dumps(dict(point), sort_keys=True)


def _values(tried: Tried) -> list[float]:
    """What was not measured is worse than everything; its constraint says that it does not count."""
    found = [tried.figures.get(name, math.inf) for name in OBJECTIVES]
    return [math.inf if math.isnan(each) else each for each in found]


def _set_constraints(trial: Any, tried: Tried, limits: Limits) -> None:  # Any: an optuna trial
    trial.set_constraint(_GATES, float(not tried.passed))
    for name, excess in limits.excess(tried.figures).items():
        trial.set_constraint(name, min(excess, 1e6))  # a database knows no constraint without end


@contextlib.contextmanager
def _locked(file: Path) -> Iterator[None]:
    """Two searches in one file would take each other's running trials for cut off."""
    if fcntl is None:
        yield
        return
    with file.with_name(f".{file.name}.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise SatchelError(
                f"Cannot use the study {file}.",
                why="another search is using it",
                fix="wait for that one, or name another --study",
            ) from None
        yield


def _optuna() -> Any:  # Any: a module without types
    found: Any = need("optuna", extra="tune", to="search", of="satchel")
    found.logging.set_verbosity(found.logging.WARNING)
    return found


def _storage_errors() -> tuple[type[Exception], ...]:
    alchemy: Any = need("sqlalchemy.exc", extra="tune", to="search", of="satchel")
    return (sqlite3.Error, alchemy.SQLAlchemyError, _optuna().exceptions.StorageInternalError)
