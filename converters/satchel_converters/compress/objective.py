"""Rows of data as batches, through the device's own `Task.encode`: training sees what the device will see."""

from __future__ import annotations

import inspect
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.nn import functional

from satchel_runtimes.errors import SupportError
from satchel_runtimes.examples import Example
from satchel_runtimes.tasks import Task

from .losses import Said, hard_loss
from .targets import Sample, samples_of

if TYPE_CHECKING:
    import transformers

__all__ = ["Batch", "Objective", "kind_of"]

_BLOCK = 32  # batches within which rows are sorted by length: little padding, and still another mixture in each batch
_TEXT = "input_ids"


@dataclass(frozen=True)
class Batch:
    """Some rows as the model takes them, and what is known of their answers."""

    inputs: Mapping[str, torch.Tensor]
    targets: tuple[torch.Tensor, ...] = ()  # one for each kind of decision that the task makes
    places: tuple[torch.Tensor, ...] = ()  # which positions decide, [rows, positions]; empty: each row decides once
    rows: int = 0

    def to(self, device: torch.device) -> Batch:
        return Batch(
            {name: each.to(device) for name, each in self.inputs.items()},
            tuple(each.to(device) for each in self.targets),
            tuple(each.to(device) for each in self.places),
            self.rows,
        )


def kind_of(task: str, config: Mapping[str, Any]) -> str:
    """What a model of this task learns: see `losses.hard_loss`."""
    if task == "sentence-embedding":
        return "similarity"
    problem = config.get("problem_type")
    if problem == "regression":
        return "number"
    # One label and no word of a regression is a sigmoid on the device.
    alone = task == "text-classification" and problem is None and len(config.get("id2label") or (0, 1)) == 1
    return "multi" if alone or problem == "multi_label_classification" else "single"


class Objective:
    """What the models of one task are trained on. It holds no weights, so teacher and student share it."""

    def __init__(self, task: Task, model: transformers.PreTrainedModel, seed: int = 0) -> None:
        self.task, self.seed = task, seed
        self.kind = kind_of(task.name, model.config.to_dict())
        self.labels = {str(name): int(i) for i, name in (getattr(model.config, "id2label", None) or {}).items()}
        self.padding = {_TEXT: getattr(model.config, "pad_token_id", None) or 0}
        self.accepted = frozenset(inspect.signature(model.forward).parameters)
        if self.kind == "similarity":
            _check_pooling(task)

    def samples(self, examples: Iterable[Example]) -> list[Sample]:
        """The examples as rows with targets.

        Raises:
            UsageError: an input that the task does not take, or a label that the model does not know.
        """
        mixing = random.Random(self.seed)
        return [each for example in examples for each in samples_of(self, example, mixing)]

    def batches(self, examples: Iterable[Example], size: int = 32) -> list[Batch]:
        """Batches of similar length. Which rows stand together depends on the seed alone."""
        samples = self.samples(examples)
        if self.kind == "similarity":  # texts alone have no part in the loss of pairs
            alone = [each for each in samples if not each.targets]
            samples = [each for each in samples if each.targets]
            return [*self._batches(samples, size), *self._batches(alone, size)]
        return self._batches(samples, size)

    def _batches(self, samples: Sequence[Sample], size: int) -> list[Batch]:
        order = list(range(len(samples)))
        random.Random(self.seed).shuffle(order)
        ranked: list[int] = []
        for start in range(0, len(order), size * _BLOCK):
            ranked += sorted(order[start : start + size * _BLOCK], key=lambda i: samples[i].length)
        return [self.batch([samples[i] for i in ranked[start : start + size]]) for start in range(0, len(order), size)]

    def batch(self, samples: Sequence[Sample]) -> Batch:
        rows = [row for each in samples for row in each.rows]
        names = [name for name in rows[0].tensors if name in self.accepted]
        inputs = {name: _stacked([row.tensors[name] for row in rows], self.padding.get(name, 0)) for name in names}
        targets = zip(*(each.targets for each in samples if each.targets), strict=True)
        if not any(each.places for each in samples):
            return Batch(inputs, tuple(torch.from_numpy(np.stack(each)) for each in targets), (), len(rows))
        # A decision per position: the targets lie behind each other, in the order in which the model's come.
        places = zip(*(each.places for each in samples), strict=True)
        return Batch(
            inputs,
            tuple(torch.from_numpy(np.concatenate(each)) for each in targets),
            tuple(_stacked(each, 0).bool() for each in places),
            len(rows),
        )

    def ask(self, model: torch.nn.Module, batch: Batch, *, embedding: bool = False, hidden: bool = False) -> Said:
        """Run the model on a batch."""
        similar = self.kind == "similarity"
        deep = hidden or (embedding and not similar)
        # Only where they are wanted: some models of pictures do not know the argument.
        found = model(**batch.inputs, **({"output_hidden_states": True} if deep else {}), return_dict=True)
        mask = batch.inputs.get("attention_mask")
        states = tuple(found.hidden_states) if deep else ()
        vector = None
        if similar:
            vector = self._pooled(found.last_hidden_state, batch.inputs["attention_mask"])
        elif embedding:
            vector = _mean(states[-1], mask)
        return Said(
            () if similar else self._decisions(found, batch),
            vector,
            tuple(_valid(each, mask) for each in states) if hidden else (),
        )

    def loss(self, model: torch.nn.Module, batch: Batch) -> torch.Tensor:
        """What says how much a part of the model matters to its task: the loss on the labels, else of its own answers.

        Without labels a classifier is judged by the entropy of what it says, and an embedding by its spread over the
        batch: both move when the answer moves.
        """
        said = self.ask(model, batch)
        labelled = hard_loss(self.kind, said, batch.targets) if batch.targets else None
        if labelled is not None:
            return labelled
        if self.kind == "similarity":
            assert said.embedding is not None  # always there for this kind
            unit = functional.normalize(said.embedding, dim=-1)
            return (unit @ unit.T).square().mean()
        own = torch.cat([each.flatten(0, -2) for each in said.decisions])
        return -(own.softmax(-1) * own.log_softmax(-1)).sum(-1).mean()

    def _decisions(self, found: Any, batch: Batch) -> tuple[torch.Tensor, ...]:  # Any: a ModelOutput
        logits = [found[name] for name in self.task.outputs]
        if not batch.places:
            return tuple(logits)
        if logits[0].dim() == 3:  # a decision at each marked position
            return tuple(each[places] for each, places in zip(logits, batch.places, strict=True))
        # A decision between positions, as of a span's start: those without a part in it can never win.
        barred = torch.finfo(logits[0].dtype).min / 2
        return tuple(each.masked_fill(~places, barred) for each, places in zip(logits, batch.places, strict=True))

    def _pooled(self, states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """As the device pools, see `satchel_runtimes.tasks.sentence_embedding`; a cosine makes norms no matter."""
        modes = self.task.entry_.option("pool", "modes")  # type: ignore[attr-defined]  # of every text task
        return torch.cat([_POOL[mode](states, mask.to(states.dtype)[:, :, None]) for mode in modes], dim=-1)


def _last(states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    return states[torch.arange(len(states)), mask[:, :, 0].sum(1).long() - 1]


def _weighted(states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    weights = mask * torch.arange(1, states.shape[1] + 1, device=states.device)[None, :, None]
    return (states * weights).sum(1) / weights.sum(1)


_POOL: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "cls": lambda states, mask: states[:, 0],
    "max": lambda states, mask: states.masked_fill(mask == 0, -torch.inf).amax(1),
    "mean": lambda states, mask: (states * mask).sum(1) / mask.sum(1),
    "mean_sqrt_len": lambda states, mask: (states * mask).sum(1) / mask.sum(1).sqrt(),
    "weightedmean": _weighted,
    "lasttoken": _last,
}


def _check_pooling(task: Task) -> None:
    unknown = [each for each in task.entry_.option("pool", "modes") if each not in _POOL]  # type: ignore[attr-defined]  # of every text task
    if unknown:
        raise SupportError(
            "Cannot train this model.",
            why=f"it pools by {unknown[0]!r}",
            fix=f"one of {', '.join(_POOL)} can be trained",
        )


def _mean(states: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """One vector per row: over the positions of a text, the patches or the pixels of a picture."""
    if mask is not None and states.shape[1] == mask.shape[1]:
        return _POOL["mean"](states, mask.to(states.dtype)[:, :, None])
    return states.mean(1) if states.dim() == 3 else states.flatten(2).mean(2)


def _valid(states: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    if mask is not None and states.shape[1] == mask.shape[1]:
        return states[mask.bool()]
    return states.flatten(0, -2) if states.dim() == 3 else states.movedim(1, -1).flatten(0, -2)


def _stacked(arrays: Sequence[np.ndarray], padding: float) -> torch.Tensor:
    """Rows of one shape as they are; texts are padded to the longest."""
    longest = max(array.shape[0] for array in arrays) if arrays[0].ndim else 0
    if arrays[0].ndim != 1:
        return torch.from_numpy(np.stack(arrays))
    made = np.full((len(arrays), longest), padding, dtype=arrays[0].dtype)
    for i, array in enumerate(arrays):
        made[i, : len(array)] = array
    return torch.from_numpy(made)
