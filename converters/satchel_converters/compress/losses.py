"""What training lowers, on what a student and its teacher said of one batch.

Soft labels are compared at a temperature, and their loss is multiplied by its square, which keeps the size of its
gradients (Hinton, Vinyals and Dean, "Distilling the Knowledge in a Neural Network", 2015).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.nn import functional

__all__ = ["IGNORED", "Said", "embedding_loss", "hard_loss", "hidden_loss", "soft_loss"]

IGNORED = -100  # the target of a decision that has none, as in torch and transformers


@dataclass(frozen=True)
class Said:
    """What a model said of one batch, as far as a loss asks for it."""

    decisions: tuple[torch.Tensor, ...] = ()  # each [n, classes]: a text's label, a token's, where an answer starts …
    embedding: torch.Tensor | None = None  # [rows, width]
    hidden: tuple[torch.Tensor, ...] = ()  # the states after each layer, on valid positions only: [positions, width]

    def detach(self) -> Said:
        embedding = None if self.embedding is None else self.embedding.detach()
        return Said(tuple(_detached(self.decisions)), embedding, tuple(_detached(self.hidden)))


def _detached(tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    return [each.detach() for each in tensors]


def hard_loss(kind: str, said: Said, targets: Sequence[torch.Tensor]) -> torch.Tensor | None:
    """Against the labels of the data; None where no row of the batch has one.

    Args:
        kind: "single" label of several, "multi" for any number of them, "number", or "similarity" of two embeddings.
    """
    if kind == "similarity":
        return _similarity_loss(said, targets)
    losses = []
    for logits, target in zip(said.decisions, targets, strict=True):
        if kind == "single":
            known = target != IGNORED
            if known.any():
                losses.append(functional.cross_entropy(logits[known], target[known]))
        else:
            known = ~target.isnan().any(dim=-1)
            compare = functional.binary_cross_entropy_with_logits if kind == "multi" else functional.mse_loss
            if known.any():
                losses.append(compare(logits[known], target[known]))
    return torch.stack(losses).mean() if losses else None


def _similarity_loss(said: Said, targets: Sequence[torch.Tensor]) -> torch.Tensor | None:
    if not targets or said.embedding is None:
        return None
    # The rows of a pair are neighbours.
    return functional.mse_loss(functional.cosine_similarity(said.embedding[::2], said.embedding[1::2]), targets[0])


def soft_loss(kind: str, student: Said, teacher: Said, temperature: float) -> torch.Tensor | None:
    """Against what the teacher says, also of rows without a label; None where a task makes no decisions."""
    losses = []
    for ours, theirs in zip(student.decisions, teacher.decisions, strict=True):
        if not len(ours):
            continue
        if kind == "single":
            wanted = functional.log_softmax(theirs / temperature, dim=-1)
            found = functional.log_softmax(ours / temperature, dim=-1)
            losses.append(functional.kl_div(found, wanted, log_target=True, reduction="batchmean") * temperature**2)
        elif kind == "multi":
            probability = torch.sigmoid(theirs / temperature)
            found = functional.binary_cross_entropy_with_logits(ours / temperature, probability)
            # less the teacher's own entropy, so that it is a divergence and ends at 0
            entropy = functional.binary_cross_entropy(probability, probability)
            losses.append((found - entropy) * temperature**2)
        else:
            losses.append(functional.mse_loss(ours, theirs))
    return torch.stack(losses).mean() if losses else None


def embedding_loss(student: Said, teacher: Said) -> torch.Tensor:
    """One minus the cosine of the two embeddings of each row."""
    assert student.embedding is not None and teacher.embedding is not None  # asked for by the caller
    return (1 - functional.cosine_similarity(student.embedding, teacher.embedding)).mean()


def hidden_loss(student: Said, teacher: Said) -> torch.Tensor:
    """Mean squared error between the states of the student's layers and of the teacher's at the same relative depth."""
    ours, theirs = student.hidden[1:], teacher.hidden[1:]  # the first is what goes into the first layer
    pairs = [(each, theirs[round((i + 1) * len(theirs) / len(ours)) - 1]) for i, each in enumerate(ours)]
    return torch.stack([functional.mse_loss(found, wanted) for found, wanted in pairs]).mean()
