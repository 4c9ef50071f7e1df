"""How much each unit of a site matters: by the loss on data, or by the size of its weights."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

import torch
from torch import Tensor, nn

from satchel_runtimes.errors import UsageError

from .sites import Site

__all__ = ["gated", "magnitude", "per_unit", "stop_at_nan", "taylor"]

Batch = TypeVar("Batch")
Loss = Callable[[nn.Module, Batch], Tensor]


def taylor(
    model: nn.Module, base: nn.Module, sites: Sequence[Site], batches: Iterable[Batch], loss: Loss[Batch]
) -> list[Tensor]:
    """First-order Taylor scores: what the loss would change by if the unit's gate closed, summed over the examples.

    Molchanov et al. 2019 (arXiv 1906.10771) for neurons and channels, Michel et al. 2019 (arXiv 1905.10650) for heads:
    the magnitude of the gradient of a gate that stands at 1, of every example by itself.
    """
    scores = [torch.zeros(site.units, dtype=torch.float64) for site in sites]
    gates: list[tuple[int, Tensor]] = []

    def open_gate(number: int, value: Tensor) -> Tensor:
        gate = value.new_ones(len(value), sites[number].units, requires_grad=True)
        gates.append((number, gate))
        return gate

    frozen = [each for each in model.parameters() if each.requires_grad]
    was_training = model.training
    model.train(False).requires_grad_(False)
    try:
        with gated(base, sites, open_gate):
            for count, batch in enumerate(batches, start=1):
                gates.clear()
                value = loss(model, batch)
                stop_at_nan(value, f"batch {count}")
                if gates:
                    for (number, _), slope in zip(
                        gates, torch.autograd.grad(value, [gate for _, gate in gates]), strict=True
                    ):
                        scores[number] += slope.abs().sum(0).double()
    finally:
        model.train(was_training)
        for each in frozen:
            each.requires_grad_(True)
    if not any(bool(score.any()) for score in scores):
        raise UsageError(
            "Cannot find out what matters in the model.",
            why="the loss does not depend on it: every gradient is zero",
            fix="check that the loss uses the model's outputs, and that they differ between the rows",
        )
    return scores


@torch.no_grad()
def magnitude(base: nn.Module, sites: Sequence[Site]) -> list[Tensor]:
    """The norm of the weights that take the unit in: no data is needed, and it says less."""
    scores = []
    for site in sites:
        module = base.get_submodule(site.slots[-1].module)
        weight = module.weight
        assert isinstance(weight, Tensor)
        if isinstance(module, (nn.Linear, nn.Conv2d)):
            weight = weight.transpose(0, 1)
        scores.append(weight.reshape(site.units, -1).double().norm(dim=1))
    return scores


@contextmanager
def gated(base: nn.Module, sites: Sequence[Site], open_gate: Callable[[int, Tensor], Tensor]) -> Iterator[None]:
    """Multiply the units of every site by a gate of shape (1 or examples, units), where they are taken in."""
    handles = []
    for number, site in enumerate(sites):
        width = site.slots[-1].width

        def hook(
            module: nn.Module, inputs: tuple[Tensor, ...], number: int = number, width: int = width
        ) -> tuple[Tensor, ...]:
            value, *others = inputs
            return (value * per_unit(open_gate(number, value), value, width, isinstance(module, nn.Conv2d)), *others)

        handles.append(base.get_submodule(site.slots[-1].module).register_forward_pre_hook(hook))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def per_unit(gate: Tensor, value: Tensor, width: int, picture: bool) -> Tensor:
    """The gate in the shape of what it multiplies: units lie along the last dimension, or the second of a picture."""
    wide = gate.repeat_interleave(width, dim=1)
    if picture:
        return wide[:, :, None, None]
    return wide.reshape(len(wide), *[1] * (value.dim() - 2), wide.shape[1])


def stop_at_nan(value: Tensor, where: str) -> None:
    """Stop at a loss that says nothing.

    Raises:
        UsageError: it is not one finite number.
    """
    if value.numel() != 1 or not bool(torch.isfinite(value)):
        raise UsageError(
            "Cannot find out what matters in the model.",
            why=f"its loss on {where} is {value.item() if value.numel() == 1 else tuple(value.shape)}",
            fix="check the labels and the inputs of these rows; a loss is one finite number",
        )
