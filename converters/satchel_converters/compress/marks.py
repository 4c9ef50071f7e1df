"""What a config cannot say: units that lie in the saved folder as zeros, named in config.json, and taken out at load.

Plain transformers loads such a folder as the same function at the old size and speed. The section is

    "satchel": {"removed": {"heads encoder.layer.0.attention.self": [1, 7], "channels …": […]}}

with places in the base model, so that it holds for every head on it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import nn
from transformers import PreTrainedModel

from satchel_runtimes.errors import IntegrityError

from . import channels, ffn, heads
from .sites import Site, put_back, take_out

__all__ = ["KINDS", "fill_marked", "mark", "marked", "remove_marked"]

KINDS = {"heads": heads, "ffn": ffn, "channels": channels}


def mark(model: PreTrainedModel, site: Site, gone: Sequence[int]) -> None:
    """Name in the config what is zero in the model."""
    model.config.satchel = {"removed": {**marked(model), site.name: sorted(gone)}}


def marked(model: PreTrainedModel) -> Mapping[str, Sequence[int]]:
    """What the config names, place by place."""
    section = getattr(model.config, "satchel", None) or {}
    removed = section.get("removed", {}) if isinstance(section, Mapping) else None
    if not isinstance(removed, Mapping) or not all(
        isinstance(units, Sequence) and all(type(unit) is int and unit >= 0 for unit in units)
        for units in removed.values()
    ):
        raise _broken("the section is not a list of units per place")
    return removed


def remove_marked(model: PreTrainedModel) -> bool:
    """Take the marked units out, so that what is exported is really smaller. Whether there were any.

    Do not save the model after this without `fill_marked`.

    Raises:
        IntegrityError: the marks do not fit the model, or what they name is not zero.
    """
    removed = marked(model)
    if not removed or getattr(model, "satchel_sliced", False):
        return bool(removed)
    sites = _sites(model, removed)
    for name, gone in removed.items():
        site = sites.get(name)
        if site is None or len(set(gone)) >= site.units or max(gone, default=0) >= site.units:
            raise _broken(f"{name!r} with units {list(gone)} is not in this model")
        slot = site.slots[-1]
        weight = model.base_model.get_submodule(slot.module).weight
        assert isinstance(weight, torch.Tensor)
        dim = 1 if isinstance(model.base_model.get_submodule(slot.module), (nn.Linear, nn.Conv2d)) else 0
        if torch.any(weight.index_select(dim, slot.places(site.units, gone)) != 0):
            raise _broken(f"the weights of {name!r} that it calls removed are not zero")
    for name, gone in removed.items():
        take_out(model.base_model, sites[name], gone)
    model.satchel_sliced = True  # type: ignore[assignment]  # a plain attribute, no module
    return True


def fill_marked(model: PreTrainedModel) -> None:
    """Undo `remove_marked`, with zeros, so that the model can be saved."""
    if not getattr(model, "satchel_sliced", False):
        return
    removed = marked(model)
    sites = _sites(model, removed)
    for name, gone in removed.items():
        put_back(model.base_model, sites[name], gone)
    model.satchel_sliced = False  # type: ignore[assignment]  # a plain attribute, no module


def _sites(model: PreTrainedModel, removed: Mapping[str, Sequence[int]]) -> dict[str, Site]:
    kinds = {name.split(" ")[0] for name in removed}
    if unknown := kinds - set(KINDS):
        raise _broken(f"it names {', '.join(sorted(unknown))}; this satchel knows {', '.join(KINDS)}")
    return {site.name: site for kind in kinds for site in KINDS[kind].sites(model)}


def _broken(why: str) -> IntegrityError:
    return IntegrityError(
        "Cannot read the section 'satchel' of config.json.",
        why=why,
        fix="take the config.json that belongs to these weights, or prune the model again",
    )
