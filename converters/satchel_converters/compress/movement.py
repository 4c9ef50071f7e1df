"""Movement pruning: which neurons and heads go is learned while the weights are trained without them.

Sanh et al. 2020 (arXiv 2005.07683), with whole units as in Lagunas et al. 2021 (arXiv 2109.04838): a unit that training
moves towards zero is one that goes, however large its weights still are.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn

from .importance import gated, stop_at_nan
from .prune import Movement
from .sites import Site

__all__ = ["learn", "share_at"]

Batch = TypeVar("Batch")


def learn(
    model: nn.Module,
    base: nn.Module,
    sites: Sequence[Site],
    counts: Sequence[int],
    batches: Sequence[Batch],
    loss: Callable[[nn.Module, Batch], Tensor],
    how: Movement,
    tell: Callable[[str], None] = lambda line: None,
) -> list[Tensor]:
    """Train the weights in place and return the score of every unit; the lowest `counts` of each site are the masked.

    The mask lets the gradient through to the scores as if it were the scores (straight-through): what a score learns is
    the product of the unit's weights and their gradient, which is how training moves them.
    """
    scores = [nn.Parameter(torch.zeros(site.units)) for site in sites]
    weights = [each for each in model.parameters() if each.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=how.learning_rate)
    masks: list[Tensor] = []

    def open_gate(number: int, value: Tensor) -> Tensor:
        score = scores[number]
        return (masks[number] + score - score.detach())[None]

    was_training = model.training
    model.train()
    try:
        with torch.random.fork_rng(devices=()), gated(base, sites, open_gate):
            torch.manual_seed(how.seed)
            for step, batch in enumerate(itertools.islice(itertools.cycle(batches), how.steps)):
                share = share_at(step, how)
                masks[:] = [_mask(score, round(share * count)) for score, count in zip(scores, counts, strict=True)]
                value = loss(model, batch)
                stop_at_nan(value, f"step {step + 1}")
                optimizer.zero_grad()
                value.backward()  # type: ignore[no-untyped-call]  # torch's own is not typed
                nn.utils.clip_grad_norm_(weights, 1.0)
                optimizer.step()
                # Plain accumulation, as the paper defines the scores. Adam makes a large movement and a small one alike:
                # with four neurons made harmful, removing by its scores left the loss at 2.34 of 2.36, these at 1.30.
                with torch.no_grad():
                    for score in scores:
                        if score.grad is not None:
                            score.sub_(score.grad)
                            score.grad = None
                if (step + 1) % max(how.steps // 10, 1) == 0:
                    tell(f"movement pruning {step + 1}/{how.steps}: loss {value.item():.4f}, {share:.0%} of the way")
    finally:
        model.train(was_training)
        optimizer.zero_grad()
    return [score.detach() for score in scores]


def share_at(step: int, how: Movement) -> float:
    """The cubic schedule: how much of what goes in the end is masked at a step."""
    start, end = how.warmup * how.steps, (1 - how.cooldown) * how.steps
    if step < start:
        return 0.0
    return 1.0 if step >= end else 1.0 - (1.0 - (step - start) / (end - start)) ** 3


def _mask(score: Tensor, count: int) -> Tensor:
    mask = torch.ones_like(score)
    mask[score.detach().argsort(stable=True)[:count]] = 0.0
    return mask
