"""A head on a body that does not change: the body runs once over the data, and the head learns from what it said."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch

from satchel_runtimes.errors import SupportError

from .losses import Said
from .objective import Batch, Objective

if TYPE_CHECKING:
    import transformers

__all__ = ["frozen_body"]


def frozen_body(
    model: transformers.PreTrainedModel,
    objective: Objective,
    batches: Sequence[Batch],
    on_batch: Callable[[], None],
) -> Callable[[int], Said]:
    """What the head says of each batch, by its number; the body's parameters ask for no gradient any more.

    A pooler counts as part of the head: an encoder that was trained for sentences has one that nothing ever trained, and
    a head on top of it learns little (MiniLM on Reuters R8: 0.56 instead of 0.9).
    """
    body: Any = model.base_model  # Any: its forward is replaced for a moment
    if body is model:
        raise SupportError(
            "Cannot train a head only.", why="the model has no head apart from its body", fix="leave --head-only out"
        )
    body.requires_grad_(False)
    torch.nn.Module.eval(model)  # transformers' own has no types
    pooled = False
    kept: list[Any] = []
    with torch.no_grad():
        for batch in batches:
            said: list[Any] = []
            handle = body.register_forward_hook(lambda module, args, output, said=said: said.append(output))
            try:
                whole = objective.ask(model, batch)
            finally:
                handle.remove()
            pooled = pooled or _pools(body, said[0])
            kept.append(_least(model, objective, batch, said[0], whole))
            on_batch()
    if not pooled:
        return lambda number: _with(body, kept[number], lambda: objective.ask(model, batches[number]))
    body.pooler.requires_grad_(True)

    def ask(number: int) -> Said:
        said = kept[number]
        fresh = type(said)(**{**said, "pooler_output": body.pooler(said["last_hidden_state"])})
        return _with(body, fresh, lambda: objective.ask(model, batches[number]))

    return ask


def _pools(body: Any, said: Any) -> bool:  # Any: a module, and a ModelOutput
    """Whether the body's pooler is a function of its last states alone."""
    if getattr(body, "pooler", None) is None or not hasattr(said, "get") or said.get("pooler_output") is None:
        return False
    try:
        return torch.equal(body.pooler(said["last_hidden_state"]), said["pooler_output"])
    except (TypeError, RuntimeError, IndexError):
        return False


def _least(model: Any, objective: Objective, batch: Batch, said: Any, whole: Said) -> Any:  # Any: a ModelOutput
    """Most heads look at the first position only; then the others need not be kept, which is a hundred times less."""
    states = said.get("last_hidden_state") if hasattr(said, "get") else None
    if states is None or states.dim() != 3 or batch.places:
        return said
    first = type(said)(**{**said, "last_hidden_state": states[:, :1].clone()})
    try:
        found = _with(model.base_model, first, lambda: objective.ask(model, batch))
    except (RuntimeError, IndexError):
        return said
    same = all(torch.equal(a, b) for a, b in zip(found.decisions, whole.decisions, strict=True))
    return first if same else said


def _with(body: Any, said: Any, run: Callable[[], Said]) -> Said:
    original = body.forward
    body.forward = lambda *args, **inputs: said
    try:
        return run()
    finally:
        body.forward = original
