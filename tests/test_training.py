"""The training loop: the same seed gives the same weights, also after a kill, and what goes wrong is named."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from satchel_converters.compress.objective import Batch
from satchel_converters.compress.training import History, Schedule, Score, train
from satchel_runtimes.errors import SatchelError


class Killed(Exception):
    pass


def _tell(stage: str, message: str = "", *, step: int = 0, total: int = 0) -> None:
    pass


def _model() -> torch.nn.Module:
    torch.manual_seed(1)
    return torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Dropout(0.2), torch.nn.Linear(8, 2))


def _batches() -> list[Batch]:
    mixing = torch.Generator().manual_seed(2)
    found = []
    for _ in range(12):
        rows = torch.randn(8, 4, generator=mixing)
        found.append(Batch({"x": rows}, ((rows.sum(1) > 0).long(),), rows=8))
    return found


def _train(
    model: torch.nn.Module,
    schedule: Schedule,
    *,
    score: Callable[[], Score] | None = None,
    checkpoint: Path | None = None,
    on_step: Callable[[int], None] = lambda step: None,
) -> History:
    *rows, held_out = _batches()

    def loss(number: int, batch: Batch) -> torch.Tensor:
        return torch.nn.functional.cross_entropy(model(batch.inputs["x"]), batch.targets[0])

    def accuracy() -> Score:
        right = model(held_out.inputs["x"]).argmax(1) == held_out.targets[0]
        return Score("accuracy", float(right.float().mean()), float(loss(0, held_out)))

    return train(model, rows, loss, score or accuracy, schedule, _tell, checkpoint=checkpoint, run="a", on_step=on_step)


def _same(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


def test_it_learns_and_the_same_seed_gives_the_same_weights() -> None:
    one, other, third = _model(), _model(), _model()

    history = _train(one, Schedule(epochs=5, learning_rate=0.02))
    random.seed(99)
    _train(other, Schedule(epochs=5, learning_rate=0.02))
    _train(third, Schedule(epochs=5, learning_rate=0.02, seed=1))

    assert history.best.metric >= 0.75 > history.points[0].metric - 0.2
    assert history.points[-1].training_loss < 0.5 < (history.points[1].training_loss or 0)
    assert _same(one, other) and not _same(one, third)


@pytest.mark.parametrize("killed_at", [3, 11, 20])
def test_a_killed_run_goes_on_and_ends_with_the_weights_of_one_that_was_not(tmp_path: Path, killed_at: int) -> None:
    schedule = Schedule(epochs=3, learning_rate=0.02, checkpoint_seconds=0)
    whole, first, second = _model(), _model(), _model()

    def kill(step: int) -> None:
        if step == killed_at:
            raise Killed

    expected = _train(whole, schedule)
    with pytest.raises(Killed):
        _train(first, schedule, checkpoint=tmp_path / "run", on_step=kill)
    steps: list[int] = []
    found = _train(second, schedule, checkpoint=tmp_path / "run", on_step=steps.append)

    assert _same(whole, second)
    assert steps[0] == killed_at + 1
    assert [each.metric for each in found.points] == [each.metric for each in expected.points]
    assert not (tmp_path / "run").exists()  # it is done


def test_the_best_weights_are_kept_and_patience_ends_the_run() -> None:
    model = _model()
    values = iter([0.1, 0.9, 0.5, 0.4, 0.3, 0.2])
    seen: list[dict[str, torch.Tensor]] = []

    def score() -> Score:
        seen.append({name: each.clone() for name, each in model.state_dict().items()})
        return Score("accuracy", next(values), 0.0)

    history = _train(model, Schedule(epochs=50, patience=3, learning_rate=0.02), score=score)

    assert "3 evaluations" in history.stopped and len(history.points) == 5
    assert history.best == history.points[1]
    assert all(torch.equal(each, seen[1][name]) for name, each in model.state_dict().items())


def test_a_loss_that_is_no_number_stops_the_run_and_is_named() -> None:
    model = _model()
    with torch.no_grad():
        next(model.parameters()).fill_(float("nan"))

    with pytest.raises(SatchelError, match=r"loss is nan at step 1, learning rate .*\n.*a smaller learning rate"):
        _train(model, Schedule(epochs=1))


def test_no_room_for_a_checkpoint_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")

    with pytest.raises(SatchelError, match="Cannot write the checkpoint"):
        _train(_model(), Schedule(epochs=1, checkpoint_seconds=0), checkpoint=tmp_path / "file" / "run")


def test_minutes_end_a_run() -> None:
    history = _train(_model(), Schedule(epochs=None, minutes=0.005, evaluations=None, patience=None))

    assert history.seconds >= 0.3 and "minutes" in history.stopped


def test_batch_norms_that_would_forget_all_but_the_last_batch_are_steadied() -> None:
    model = torch.nn.Sequential(torch.nn.BatchNorm1d(4, momentum=0.997), torch.nn.Linear(4, 1))
    rising = iter(range(9))
    batches = [Batch({"x": torch.randn(32, 4) + place}, (), (), 32) for place in (0.0, 10.0) * 20]
    train(
        model,
        batches,
        lambda number, batch: model(batch.inputs["x"]).square().mean(),
        lambda: Score("evaluations", float(next(rising)), 0.0),
        Schedule(epochs=1, patience=None, evaluations=1),
        _tell,
    )
    # A mean of both kinds of batches, of which either alone has 0 or 10.
    assert all(1 < float(each) < 9 for each in model.state_dict()["0.running_mean"])
