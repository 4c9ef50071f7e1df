"""How good a model is on the rows that it does not learn from, as a number that grows."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch.nn import functional

from .losses import IGNORED, Said
from .objective import Batch
from .training import Score

__all__ = ["score_of"]


def score_of(
    kind: str,
    batches: Sequence[Batch],
    ask: Callable[[int, Batch], Said],
    loss: Callable[[int, Batch, Said], torch.Tensor | None],
    teacher: Callable[[int, Batch], Said] | None = None,
) -> Score:
    """Accuracy where there are labels, else agreement with the teacher; of embeddings the cosine with the teacher's."""
    found: list[torch.Tensor] = []
    losses: list[torch.Tensor] = []
    names: set[str] = set()
    for number, batch in enumerate(batches):
        said = ask(number, batch)
        name, values = _judged(kind, said, batch, teacher(number, batch) if teacher else None)
        names.add(name)
        found.append(values.flatten().cpu())
        value = loss(number, batch, said)
        if value is not None:
            losses.append(value.cpu())
    every = torch.cat(found) if found else torch.zeros(0)
    mean = float(every.mean()) if len(every) else 0.0
    return Score(" and ".join(sorted(names)), mean, float(torch.stack(losses).mean()) if losses else 0.0)


def _judged(kind: str, said: Said, batch: Batch, teacher: Said | None) -> tuple[str, torch.Tensor]:
    if kind == "similarity":
        assert said.embedding is not None  # always there for this kind
        if teacher is not None:
            assert teacher.embedding is not None
            return "cosine", functional.cosine_similarity(said.embedding, teacher.embedding)
        near = functional.cosine_similarity(said.embedding[::2], said.embedding[1::2])
        return "minus squared error", -(near - batch.targets[0]).square()
    ours = torch.cat([each.flatten() if kind == "number" else _answer(kind, each) for each in said.decisions])
    wanted = torch.cat([each.flatten() for each in batch.targets])
    known = ~wanted.isnan() if wanted.is_floating_point() else wanted != IGNORED
    name = "minus squared error" if kind == "number" else "accuracy"
    if not known.any() and teacher is not None:
        theirs = torch.cat([each.flatten() if kind == "number" else _answer(kind, each) for each in teacher.decisions])
        wanted, known = theirs, torch.ones_like(theirs, dtype=torch.bool)
        name = "agreement with the teacher" if kind != "number" else name
    if kind == "number":
        return name, -(ours - wanted)[known].square()
    return name, (ours == wanted)[known].float()


def _answer(kind: str, logits: torch.Tensor) -> torch.Tensor:
    return logits.argmax(-1) if kind == "single" else (logits > 0).flatten().float()
