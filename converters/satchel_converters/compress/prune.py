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
                "by=movement",
                "movement pruning learns which neurons and heads to remove, and none is asked for",
                "add ffn=… or heads=…, or leave by=movement out",
            )
        if self.by == "movement" and self.channels:
            raise _refused(
                "by=movement with channels",
                "movement pruning is for neurons and heads",
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
    learning_rate: float = 2e-5  # of the weights; scores have none, since only their order counts
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
        raise _refused(
            text, f"by={by['by']} chooses neurons, heads and channels, and none is asked for", "leave it out"
        )
    vocabulary = given.pop("vocabulary", None) is not None
    ffn, heads, layers, channels, weights = (_number(kind, given.get(kind, "0")) for kind in _SHARES)
    return Prune(ffn, heads, layers, vocabulary, channels, weights, **by)


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
    from . import layers, magnitude, vocabulary
    from .marks import fill_marked, marked

    fill_marked(model)
    given = None if batches is None else tuple(batches)
    if wanted.needs_data and (not given or loss is None):
        raise _refused(
            f"by={wanted.by}", "it finds what matters on data, and there are no batches", "give data, or by=magnitude"
        )
    if wanted.vocabulary and (tokenizer is None or not texts):
        raise _refused("vocabulary", "it keeps what texts use, and there are none of this model", "give texts as data")
    if wanted.layers and marked(model):
        raise _refused("layers", "heads or channels are pruned already, by their layers' numbers", "prune layers first")

    before = sum(each.numel() for each in model.parameters())
    removed: dict[str, Mapping[str, tuple[int, ...]]] = {}
    notes: list[str] = []
    if wanted.vocabulary and tokenizer is not None:
        tell("pruning the vocabulary")
        trimmed = vocabulary.trim(model, tokenizer, texts)
        removed["vocabulary"] = {"tokens": trimmed.removed}
        notes += trimmed.notes
    if wanted.layers:
        tell("pruning layers")
        name, total = layers.stack_of(model)
        kept = layers.evenly(total, layers.to_keep(total, wanted.layers))
        layers.keep_layers(model, kept)
        removed["layers"] = {name or "encoder": tuple(i for i in range(total) if i not in kept)}
        notes.append(f"of {total} layers, {', '.join(map(str, kept))} are kept")
        if not name:
            notes.append("the layers share their weights: fewer passes through them, and no fewer parameters")
    structured, more = _structured(model, wanted, given or (), loss, movement, tell)
    removed |= structured
    notes += more
    if wanted.weights:
        removed["weights"] = {name: (count,) for name, count in magnitude.zero_smallest(model, wanted.weights).items()}
        notes.append(
            f"{wanted.weights:.0%} of the single weights are zero: no engine here gets faster by that, and the file "
            "is smaller only where it is compressed"
        )
    model.train(False)
    return Pruned(removed, before, _parameters_left(model), bool(marked(model)), tuple(notes))


def _structured(
    model: transformers.PreTrainedModel,
    wanted: Prune,
    batches: Sequence[Batch],
    loss: Callable[[torch.nn.Module, Batch], torch.Tensor] | None,
    movement: Movement,
    tell: Callable[[str], None],
) -> tuple[dict[str, Mapping[str, tuple[int, ...]]], list[str]]:
    """Heads, neurons and channels, all scored in one pass on the model as it is before any of them goes."""
    from . import importance
    from . import movement as moving
    from .marks import marked
    from .structured import choose, plan, remove

    shares = {kind: share for kind in ("heads", "ffn", "channels") if (share := getattr(wanted, kind))}
    plans = [plan(model, kind, share) for kind, share in shares.items()]
    sites = [site for each in plans for site in each.sites]
    if not plans:
        return {}, []
    tell(f"pruning {', '.join(shares)} by {wanted.by}")
    if wanted.by == "magnitude" or loss is None:
        scores = importance.magnitude(model.base_model, sites)
    elif wanted.by == "taylor":
        scores = importance.taylor(model, model.base_model, sites, batches, loss)
    else:
        counts = [count for each in plans for count in each.counts]
        scores = moving.learn(model, model.base_model, sites, counts, batches, loss, movement, tell)
    for site, score in zip(sites, scores, strict=True):
        score[list(marked(model).get(site.name, ()))] = -1.0 if wanted.by != "movement" else float("-inf")
    removed: dict[str, Mapping[str, tuple[int, ...]]] = {}
    notes = []
    for each in plans:
        own, scores = scores[: len(each.sites)], scores[len(each.sites) :]
        gone = choose(each, own, spread=wanted.by == "movement" or each.change is not None or each.kind == "channels")
        remove(model, each, gone)
        removed[each.kind] = {site.place: units for site, units in zip(each.sites, gone, strict=True)}
        if each.change is None:
            notes.append(
                f"the config cannot say how many {each.kind} are left: they are zeros in the saved folder, and satchel "
                "takes them out when it loads it"
            )
    return removed, notes


def _parameters_left(model: transformers.PreTrainedModel) -> int:
    from .marks import fill_marked, remove_marked

    remove_marked(model)
    count = sum(each.numel() for each in model.parameters())
    fill_marked(model)
    return count


def _number(name: str, value: str) -> float:
    try:
        return float(value)
    except ValueError:
        raise _refused(f"{name}={value}", f"{value!r} is not a number", f"{name}=0.5 removes half") from None


def _refused(what: str, why: str, fix: str) -> UsageError:
    return UsageError(f"Cannot prune {what}.", why=why, fix=fix)
