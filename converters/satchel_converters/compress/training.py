"""The training loop: from a model, batches and a loss to the best weights that were seen.

It is our own: transformers' Trainer needs `accelerate` and brings its own notions of data, devices, logging and files;
what is left to do here is an optimizer, a schedule and a checkpoint. One seed gives the same weights on the same machine,
also when the run was killed and went on.
"""

from __future__ import annotations

import dataclasses
import math
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch

from satchel_runtimes.errors import SatchelError

from .checkpoint import Checkpoint, read_checkpoint, write_checkpoint
from .objective import Batch

__all__ = ["History", "Point", "Schedule", "Score", "Tell", "train"]

_ENDLESS = 10**9
_NEWS = 20  # lines of a run about its loss
_MOST_MOMENTUM, _MOMENTUM = 0.5, 0.1  # of batch norms; the latter is torch's own


class Tell(Protocol):
    def __call__(self, stage: str, message: str = "", *, step: int = 0, total: int = 0) -> None: ...


@dataclass(frozen=True)
class Schedule:
    """How long, how fast, and how often it is looked at."""

    epochs: float | None = 3
    steps: int | None = None  # in place of epochs
    minutes: float | None = None  # it ends at whichever comes first; the learning rate then is 0
    learning_rate: float = 5e-5
    head_rate: float | None = None  # of the parameters that `is_head` names: a new head learns faster than its body
    warmup: float = 0.1  # the share of the run in which the learning rate rises
    weight_decay: float = 0.01
    clip: float = 1.0
    seed: int = 0
    patience: int | None = 3  # evaluations without a better one; None: to the end
    evaluations: int | None = None  # in the whole run; None: one per epoch
    checkpoint_seconds: float = 60.0
    dropout: bool = True  # False holds every dropout layer open, for a student: its teacher's answers are noise enough


@dataclass(frozen=True)
class Score:
    """How good the model is on rows that it does not learn from."""

    metric: str
    value: float  # larger is better
    loss: float


@dataclass(frozen=True)
class Point:
    """One evaluation."""

    step: int
    seconds: float
    training_loss: float | None
    held_out_loss: float
    metric: float


@dataclass(frozen=True)
class History:
    metric: str
    points: tuple[Point, ...]
    best: Point
    steps: int
    seconds: float
    stopped: str  # why it ended


@dataclass
class _Run:
    """What changes while it goes on, and lies in a checkpoint."""

    step: int = 0
    seconds: float = 0.0
    losses: float = 0.0  # since the last evaluation
    counted: int = 0
    waiting: int = 0  # evaluations since the best
    points: list[Point] = dataclasses.field(default_factory=list)
    best: dict[str, torch.Tensor] = dataclasses.field(default_factory=dict)


def train(
    model: torch.nn.Module,
    batches: Sequence[Batch],
    loss: Callable[[int, Batch], torch.Tensor | None],
    score: Callable[[], Score],
    schedule: Schedule,
    tell: Tell,
    *,
    stage: str = "train",
    checkpoint: Path | None = None,
    run: str = "",
    is_head: Callable[[str], bool] = lambda name: False,
    on_step: Callable[[int], None] = lambda step: None,
) -> History:
    """Train the parameters that ask for a gradient, in place, and leave the best weights in the model.

    Args:
        loss: of the model on a batch, which has this number; None for a batch that teaches nothing.
        score: of the model in evaluation mode, on rows that were held out.
        checkpoint: where the run is kept while it goes on; removed when it is done.
        run: what a checkpoint must have been made for, to be gone on from.

    Raises:
        SatchelError: the loss is NaN or infinite, there is nothing to learn from, or no room for a checkpoint.
    """
    if not batches:
        raise SatchelError("Cannot train.", why="there are no rows to train on", fix="give more data")
    total = _total_steps(schedule, len(batches))
    every = max(1, math.ceil(total / schedule.evaluations) if schedule.evaluations else min(len(batches), total))
    optimizer = _optimizer(model, schedule, is_head)
    _steady(model)
    rates = [group["lr"] for group in optimizer.param_groups]
    state, device = _Run(), next(model.parameters()).device
    torch.manual_seed(schedule.seed)
    found = read_checkpoint(checkpoint, run) if checkpoint is not None else None
    if found is not None:
        _restore(found, model, optimizer, state)
        tell(stage, f"goes on at step {state.step} of an earlier run")
    else:
        tell(stage, f"{total} steps" if total < _ENDLESS else f"{schedule.minutes:g} minutes")
    shown = total if total < _ENDLESS else 0  # the clock alone says when: no bar can
    news = max(1, shown // _NEWS) if shown else _NEWS
    last, saved = time.monotonic(), time.monotonic()
    stopped = "all steps"

    def evaluate() -> bool:
        """Look at the held-out rows; whether it is time to stop."""
        with _evaluating(model):
            seen = score()
        point = Point(
            state.step,
            round(state.seconds, 3),
            state.losses / state.counted if state.counted else None,
            seen.loss,
            seen.value,
        )
        better = _rank(point) > max(map(_rank, state.points))
        state.points.append(point)
        state.losses, state.counted, state.waiting = 0.0, 0, 0 if better else state.waiting + 1
        if better:
            state.best = {name: each.detach().cpu().clone() for name, each in model.state_dict().items()}
        tell(stage, f"step {state.step}: loss {_loss_of(point):.4f}, held-out {seen.metric} {seen.value:.4f}")
        return schedule.patience is not None and state.waiting >= schedule.patience

    if not state.points:
        metric = _first(score, model)
        state.points.append(Point(0, 0.0, None, metric.loss, metric.value))
        state.best = {name: each.detach().cpu().clone() for name, each in model.state_dict().items()}
        tell(stage, f"before: held-out {metric.metric} {metric.value:.4f}")
    else:
        metric = Score(str(found.figures["metric"]) if found else "", 0.0, 0.0)
    _mode(model, schedule)
    while state.step < total:
        epoch, place = divmod(state.step, len(batches))
        order = list(range(len(batches)))
        random.Random(f"{schedule.seed}/{epoch}").shuffle(order)
        progress = max(state.step / total, state.seconds / (60 * schedule.minutes) if schedule.minutes else 0.0)
        if progress >= 1:
            stopped = f"{schedule.minutes:g} minutes"
            break
        factor = min(1.0, (progress + 1 / total) / schedule.warmup if schedule.warmup else 1.0) * (1 - progress)
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * factor
        value = loss(order[place], batches[order[place]].to(device))
        state.step += 1
        if value is not None:
            _step(model, optimizer, value, state, schedule)
        now = time.monotonic()
        state.seconds, last = state.seconds + now - last, now
        # A log has a line for each message: some twenty, not one for each step.
        said = f"step {state.step}: loss {state.losses / max(1, state.counted):.4f}" if state.step % news == 0 else ""
        tell(stage, said, step=1, total=shown)
        if state.step % every == 0 or state.step == total:
            enough = evaluate()
            _mode(model, schedule)
            last = time.monotonic()  # the time of the evaluations is no training time
            if enough:
                stopped = f"{schedule.patience} evaluations without a better one"
                break
        if checkpoint is not None and time.monotonic() - saved >= schedule.checkpoint_seconds:
            write_checkpoint(checkpoint, _checkpoint(model, optimizer, state, run, metric.metric))
            saved = last = time.monotonic()
        on_step(state.step)
    if state.points[-1].step != state.step:
        evaluate()
    model.load_state_dict(state.best)
    model.eval()
    if checkpoint is not None:
        checkpoint.unlink(missing_ok=True)
    best = max(state.points, key=_rank)
    return History(metric.metric, tuple(state.points), best, state.step, state.seconds, stopped)


def _total_steps(schedule: Schedule, per_epoch: int) -> int:
    if schedule.steps is not None:
        return schedule.steps
    if schedule.epochs is not None:
        return max(1, math.ceil(schedule.epochs * per_epoch))
    assert schedule.minutes is not None  # else the options were refused
    return _ENDLESS  # the clock alone says when


def _optimizer(model: torch.nn.Module, schedule: Schedule, is_head: Callable[[str], bool]) -> torch.optim.AdamW:
    """Biases and the weights of norms are not decayed, as usual; a new head has a rate of its own."""
    groups: dict[tuple[bool, bool], list[torch.nn.Parameter]] = {}
    for name, each in model.named_parameters():
        if each.requires_grad:
            groups.setdefault((is_head(name), each.dim() > 1), []).append(each)
    if not groups:
        raise SatchelError("Cannot train.", why="no parameter of the model is free", fix="report this model")
    made = [
        {
            "params": each,
            "lr": schedule.head_rate if head and schedule.head_rate is not None else schedule.learning_rate,
            "weight_decay": schedule.weight_decay if decayed else 0.0,
        }
        for (head, decayed), each in groups.items()
    ]
    return torch.optim.AdamW(made)


def _steady(model: torch.nn.Module) -> None:
    """Batch norms that remember more than the last batch.

    transformers writes TensorFlow's decay (0.99, 0.997) where torch has its momentum, in MobileNet and EfficientNet: after
    training, evaluation would use the statistics of the last batch alone.
    """
    for module in model.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm) and (module.momentum or 0) > _MOST_MOMENTUM:
            module.momentum = _MOMENTUM


def _step(
    model: torch.nn.Module, optimizer: torch.optim.Optimizer, value: torch.Tensor, state: _Run, schedule: Schedule
) -> None:
    number = float(value.detach())
    if not math.isfinite(number):
        raise SatchelError(
            "The training was stopped.",
            why=f"the loss is {number} at step {state.step}, learning rate {optimizer.param_groups[0]['lr']:.2g}",
            fix=f"a smaller learning rate, for example {schedule.learning_rate / 10:.1g}; if it is so at step 1, look for "
            "empty or broken rows in the data, and for NaN in the model",
        )
    optimizer.zero_grad(set_to_none=True)
    value.backward()  # type: ignore[no-untyped-call]  # torch's own
    torch.nn.utils.clip_grad_norm_(
        [each for group in optimizer.param_groups for each in group["params"]], schedule.clip
    )
    optimizer.step()
    state.losses, state.counted = state.losses + number, state.counted + 1


def _rank(point: Point) -> tuple[float, float]:
    """Few held-out rows are often all right or all wrong; then the loss decides."""
    return point.metric, -point.held_out_loss


def _loss_of(point: Point) -> float:
    return math.nan if point.training_loss is None else point.training_loss


def _first(score: Callable[[], Score], model: torch.nn.Module) -> Score:
    with _evaluating(model):
        return score()


@contextmanager
def _evaluating(model: torch.nn.Module) -> Iterator[None]:
    """Without the random numbers of what happens here: they belong to the training."""
    random_state = torch.get_rng_state()
    model.eval()
    with torch.no_grad():
        yield
    torch.set_rng_state(random_state)


def _mode(model: torch.nn.Module, schedule: Schedule) -> None:
    model.train()
    for module in model.modules() if not schedule.dropout else ():
        if isinstance(module, torch.nn.Dropout):
            module.eval()


def _checkpoint(
    model: torch.nn.Module, optimizer: torch.optim.Optimizer, state: _Run, run: str, metric: str
) -> Checkpoint:
    tensors = {f"model/{name}": each for name, each in model.state_dict().items()}
    tensors |= {f"best/{name}": each for name, each in state.best.items()}
    tensors |= {
        f"optimizer/{number}/{name}": each
        for number, values in optimizer.state_dict()["state"].items()
        for name, each in values.items()
    }
    tensors["random"] = torch.get_rng_state()
    if torch.cuda.is_available():
        tensors["random_cuda"] = torch.cuda.get_rng_state()
    figures = dataclasses.asdict(dataclasses.replace(state, best={}))
    return Checkpoint(tensors, {**figures, "run": run, "metric": metric})


def _restore(found: Checkpoint, model: torch.nn.Module, optimizer: torch.optim.Optimizer, state: _Run) -> None:
    def part(prefix: str) -> Mapping[str, torch.Tensor]:
        return {name[len(prefix) :]: each for name, each in found.tensors.items() if name.startswith(prefix)}

    model.load_state_dict(part("model/"))
    moments: dict[int, dict[str, torch.Tensor]] = {}
    for name, each in part("optimizer/").items():
        number, _, key = name.partition("/")
        moments.setdefault(int(number), {})[key] = each
    optimizer.load_state_dict({**optimizer.state_dict(), "state": moments})
    torch.set_rng_state(found.tensors["random"])
    if torch.cuda.is_available() and "random_cuda" in found.tensors:
        torch.cuda.set_rng_state(found.tensors["random_cuda"])
    raw: dict[str, Any] = dict(found.figures)  # Any: JSON
    state.step, state.seconds, state.losses = raw["step"], raw["seconds"], raw["losses"]
    state.counted, state.waiting = raw["counted"], raw["waiting"]
    state.points = [Point(**each) for each in raw["points"]]
    state.best = dict(part("best/"))
