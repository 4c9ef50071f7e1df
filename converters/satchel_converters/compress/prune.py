"""What to remove from a model, and its removal. One file beside this one is one kind of thing to remove.

The kinds work in place on the modules of transformers. The model can be saved at any time, and its folder is a normal
Hugging Face folder: what a config cannot express lies in it as zeros, with marks for satchel (`marks.py`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from satchel_runtimes.errors import UsageError, unknown_name

if TYPE_CHECKING:
    import torch
    import transformers

__all__ = ["IMPORTANCE", "Movement", "Prune", "Pruned", "parse_prune", "prune"]

Batch = TypeVar("Batch")

IMPORTANCE = ("taylor", "movement", "magnitude")
_SHARES = ("ffn", "heads", "layers", "channels", "weights")
_FORM = "ffn=0.5,heads=0.25,layers=0.5,vocabulary,channels=0.3,weights=0.8,by=taylor"


@dataclass(frozen=True)
class Prune:
    """What to remove: every number is the share that goes, and 0 leaves that kind alone.

    Raises:
        UsageError: a share outside 0 to 1, or a combination that makes no sense.
    """

    ffn: float = 0.0  # neurons of the feed-forward part of every layer
    heads: float = 0.0  # attention heads (whole groups where several queries share a key)
    layers: float = 0.0  # whole layers; 1 and more is the number of layers that go
    vocabulary: bool = False  # the tokens that the texts do not use
    channels: float = 0.0  # the inner channels of the blocks of a convnet
    weights: float = 0.0  # single weights, set to zero: for the size of a compressed file only
    by: str = "taylor"  # how the importance of neurons, heads and channels is found

    def __post_init__(self) -> None:
        if self.by not in IMPORTANCE:
            raise unknown_name("importance", self.by, IMPORTANCE)
        for kind in _SHARES:
            share = getattr(self, kind)
            if kind == "layers" and share >= 1 and float(share).is_integer():
                continue
            if not 0 <= share < 1:  # also refuses NaN
                raise _refused(
                    f"{kind}={share:g}",
                    "the share that is removed lies between 0 and 1, and 1 would remove everything"
                    + ("; from 1 on it is a whole number of layers" if kind == "layers" else ""),
                    f"{kind}=0.5 removes half",
                )
        if not any(getattr(self, kind) for kind in (*_SHARES, "vocabulary")):
            raise _refused("nothing", "no share is above 0", f"for example {_FORM}")
        if self.by == "movement" and not (self.ffn or self.heads):
            raise _refused(
                "by=movement", "movement pruning learns which neurons and heads to remove, and none is asked for",
                "add ffn=… or heads=…, or leave by=movement out",
            )
        if self.by == "movement" and self.channels:
            raise _refused(
                "by=movement with channels", "movement pruning is for neurons and heads",
                "prune channels by=taylor or by=magnitude",
            )

    @property
    def needs_data(self) -> bool:
        """Whether batches and a loss are needed to choose what goes."""
        return self.by != "magnitude" and bool(self.ffn or self.heads or self.channels)


@dataclass(frozen=True)
class Movement:
    """How the scores of movement pruning are learned, together with the weights."""

    steps: int = 200
    learning_rate: float = 2e-5  # of the weights
    score_rate: float = 1e-2  # of the scores
    warmup: float = 0.1  # the share of the steps before anything is masked
    cooldown: float = 0.2  # the share of the steps at the final sparsity
    seed: int = 0


@dataclass(frozen=True)
class Pruned:
    """What was removed, by kind and place, and what is left.

    The model in memory is the one that was given. Where `marked` is true, some of what was removed is still there as
    zeros, as it will be in the saved folder; `marks.remove_marked` takes it out, also when satchel loads the folder.
    Further training keeps these zeros, since no gradient reaches them.
    """

    removed: Mapping[str, Mapping[str, tuple[int, ...]]]  # kind -> place in the model -> what went, by its old number
    parameters_before: int
    parameters_after: int  # without what is only marked
    marked: bool = False
    notes: tuple[str, ...] = field(default=())


def parse_prune(text: str) -> Prune:
    """Read an option such as `ffn=0.5,heads=0.25,layers=0.5,vocabulary,channels=0.3,weights=0.8,by=taylor`.

    Raises:
        UsageError: an unknown kind, a share that is no number or out of range, a kind named twice.
    """
    given: dict[str, str] = {}
    known = [each.name for each in dataclasses.fields(Prune)]
    for part in filter(None, (each.strip() for each in text.split(","))):
        name, equals, value = (each.strip() for each in part.partition("="))
        if name not in known:
            raise unknown_name("kind of pruning", name, known)
        if name in given:
            raise _refused(text, f"{name} is named twice", f"name it once, for example {_FORM}")
        if bool(equals) is (name == "vocabulary"):
            raise _refused(
                part, "vocabulary takes no value" if equals else f"{name} needs a value", f"for example {_FORM}"
            )
        given[name] = value
    by = {"by": given.pop("by")} if "by" in given else {}
    if by and not {"ffn", "heads", "channels"} & set(given):
        raise _refused(text, f"by={by['by']} chooses neurons, heads and channels, and none is asked for", "leave it out")
    vocabulary = given.pop("vocabulary", None) is not None
    return Prune(**{name: _number(name, value) for name, value in given.items()}, vocabulary=vocabulary, **by)


def prune(
    model: transformers.PreTrainedModel,
    tokenizer: Path | None,
    wanted: Prune,
    batches: Iterable[Batch] | None = None,
    loss: Callable[[torch.nn.Module, Batch], torch.Tensor] | None = None,
    texts: Sequence[str] = (),
    movement: Movement = Movement(),
    tell: Callable[[str], None] = lambda line: None,
) -> Pruned:
    """Remove what is wanted from the model, in place: vocabulary, layers, heads, neurons, channels, single weights.

    Args:
        tokenizer: a folder with tokenizer.json and what belongs to it. `vocabulary` rewrites these files in place, so
            give a copy.
        batches: the data that decides what matters, opaque to this function. For movement pruning it is gone through
            again and again.
        loss: of the model on one batch, as a scalar with a gradient.
        texts: what the vocabulary is kept for.
        tell: hears what is being done.

    Raises:
        UsageError: data, texts or a tokenizer are needed and not there, or nothing would be left.
        SupportError: the model has no such structure, or one that is not understood. It may be half changed then.
    """
    raise NotImplementedError


def _number(name: str, value: str) -> float:
    try:
        return float(value)
    except ValueError:
        raise _refused(f"{name}={value}", f"{value!r} is not a number", f"{name}=0.5 removes half") from None


def _refused(what: str, why: str, fix: str) -> UsageError:
    return UsageError(f"Cannot prune {what}.", why=why, fix=fix)
