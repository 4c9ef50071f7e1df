"""Heads, neurons and channels: which units go, and whether the config or a mark says so."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from huggingface_hub.errors import StrictDataclassError
from torch import Tensor
from transformers import PreTrainedModel

from satchel_runtimes.errors import UsageError

from .marks import KINDS, mark, marked
from .sites import Site, take_out, understood, unsupported, wipe

__all__ = ["Plan", "choose", "plan", "remove"]


@dataclass(frozen=True)
class Plan:
    """The sites of one kind in a model, how many units go, and the change of the config that says so, if one can."""

    kind: str
    sites: tuple[Site, ...]
    counts: tuple[int, ...]  # per site, where each loses the same share
    change: Mapping[str, object] | None


def plan(model: PreTrainedModel, kind: str, share: float) -> Plan:
    """Find the sites, prove that they are understood, and see what the config can say.

    Raises:
        SupportError: no such structure, or one that is not understood.
        UsageError: nothing would be left, or nothing would go.
    """
    sites = KINDS[kind].sites(model)
    if not sites:
        raise unsupported(model, kind, "it has no such structure")
    counts = tuple(round(share * site.units) for site in sites)
    for site, count in zip(sites, counts, strict=True):
        if count == site.units or not any(counts):
            raise UsageError(
                f"Cannot prune {kind}={share:g} of {type(model).__name__}.",
                why=f"{site.place} has {site.units}, and {'all' if count else 'none'} of them would go",
                fix=f"the share that removes one of them is {1 / site.units:.3g}",
            )
    understood(model, sites)
    return Plan(kind, sites, counts, _change(model, kind, sites, counts))


def choose(wanted: Plan, scores: Sequence[Tensor], spread: bool) -> list[tuple[int, ...]]:
    """The units that go, site by site: those of the lowest score.

    Args:
        spread: every site loses the same share. Otherwise all are compared, with the scores of each site at norm 1
            (Michel et al. 2019), and each keeps at least one.
    """
    if spread:
        return [
            tuple(sorted(score.argsort(stable=True)[:count].tolist()))
            for score, count in zip(scores, wanted.counts, strict=True)
        ]
    ranked = sorted(
        (float(value), number, unit)
        for number, score in enumerate(scores)
        for unit, value in enumerate(score / score.norm().clamp(min=torch.finfo(score.dtype).tiny))
    )
    gone: list[list[int]] = [[] for _ in scores]
    for _, number, unit in ranked:
        if sum(map(len, gone)) < sum(wanted.counts) and len(gone[number]) < len(scores[number]) - 1:
            gone[number].append(unit)
    return [tuple(sorted(units)) for units in gone]


def remove(model: PreTrainedModel, wanted: Plan, gone: Sequence[Sequence[int]]) -> None:
    """Take the units out where the config can say it; elsewhere set them to zero and mark them."""
    for site, units in zip(wanted.sites, gone, strict=True):
        if wanted.change is not None:
            take_out(model.base_model, site, units)
        elif units:
            already = marked(model).get(site.name, ())
            wipe(model.base_model, site, units)
            mark(model, site, sorted({*already, *units}))
    for name, value in (wanted.change or {}).items():
        setattr(model.config, name, value)


def _change(
    model: PreTrainedModel, kind: str, sites: Sequence[Site], counts: Sequence[int]
) -> dict[str, object] | None:
    """The change of the config after which its own class builds the shapes of the smaller model, if there is one.

    It is tried, not known: which keys a class reads differs between the models and the versions of transformers.
    """
    alike = len({(site.units, count) for site, count in zip(sites, counts, strict=True)}) == 1
    if not alike or any(name.startswith(f"{kind} ") for name in marked(model)):
        return None
    left = sites[0].units - counts[0]
    changes = KINDS[kind].configs(model, sites[0], left)
    if not changes:
        return None
    trial = copy.deepcopy(model)
    for site in sites:
        take_out(trial.base_model, site, range(left, site.units))
    shapes = _shapes(trial)
    for change in changes:
        try:
            config = copy.deepcopy(model.config)
            for name, value in change.items():
                setattr(config, name, value)
            config = type(config).from_dict(config.to_dict())  # as it is read from the saved folder
            with torch.device("meta"):
                built = type(model)(config)
        except (StrictDataclassError, TypeError, ValueError, RuntimeError):  # how a class says no to a value
            continue
        if _shapes(built) == shapes:
            return dict(change)
    return None


def _shapes(model: PreTrainedModel) -> dict[str, torch.Size]:
    return {name: value.shape for name, value in model.state_dict().items()}
