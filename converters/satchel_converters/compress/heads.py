"""Attention heads: query, key and value rows and the output's columns, by whole groups where queries share a key."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn
from transformers import PreTrainedModel

from .sites import Site, Slot, block_of, linears, unsupported

__all__ = ["attentions", "configs", "sites"]

_COUNTS = ("num_attention_heads", "num_heads", "n_heads")
_WIDTHS = ("all_head_size", "split_size")


def sites(model: PreTrainedModel) -> tuple[Site, ...]:
    """One site per attention; all layers that share their weights are one."""
    base = model.base_model
    found = []
    for core, part in attentions(base).items():
        module = base.get_submodule(core)
        size = _head_size(module)
        *makers, (taker, taken, _) = linears(base.get_submodule(part), part)
        heads, rest = divmod(taken, size)
        # One matrix for query, key and value is three blocks; keys and values of fewer rows are shared by queries.
        blocks = 3 if len(makers) == 1 and makers[0][2] == 3 * taken else 1
        units = min((rows // blocks // size for *_, rows in makers), default=0)
        if (
            rest
            or not units
            or heads % units
            or any(rows // blocks not in (taken, units * size) for *_, rows in makers)
        ):
            raise unsupported(model, "heads", f"{core} has matrices that do not fit {heads} heads of {size}")
        slots = [Slot(name, "out", rows // blocks // units, blocks) for name, _, rows in makers]
        counts = {name: heads for name in _COUNTS} | {name: taken for name in _WIDTHS} | {"num_key_value_heads": units}
        counters = [
            (core, name, value // units) for name, value in counts.items() if getattr(module, name, None) == value
        ]
        found.append(Site("heads", core, units, (*slots, Slot(taker, "in", taken // units)), tuple(counters)))
    return tuple(found)


def configs(model: PreTrainedModel, site: Site, units: int) -> list[dict[str, object]]:
    """How a config may say that every attention has so many units."""
    size = _head_size(model.base_model.get_submodule(site.place))
    changes: dict[str, object] = {"num_attention_heads": site.slots[-1].width // size * units, "head_dim": size}
    if hasattr(model.config, "num_key_value_heads"):
        changes["num_key_value_heads"] = units
    return [changes]


def attentions(base: nn.Module) -> Mapping[str, str]:
    """Every module that knows the size of a head, and the part of its layer that it is in, with the output matrix."""
    found = {}
    for name, module in base.named_modules():
        block = block_of(base, name) if _head_size(module) and linears(module, name) else None
        if block is not None and block != name:
            found[name] = ".".join(name.split(".")[: block.count(".") + 2])
    return found


def _head_size(module: nn.Module) -> int:
    for name in ("attention_head_size", "head_dim"):
        value = getattr(module, name, None)
        if isinstance(value, int):
            return value
    return 0
