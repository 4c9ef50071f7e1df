"""Neurons of the feed-forward part: one or two matrices make them (two where one is a gate), one takes them."""

from __future__ import annotations

from transformers import PreTrainedModel

from .heads import attentions
from .sites import Site, Slot, block_of, linears, unsupported

__all__ = ["configs", "sites"]

_KEYS = ("intermediate_size", "hidden_dim", "n_inner", "ffn_dim")


def sites(model: PreTrainedModel) -> tuple[Site, ...]:
    """One site per layer with attention: what is left of its matrices without the attention's."""
    base = model.base_model
    parts = attentions(base)
    found = []
    for block in dict.fromkeys(block_of(base, name) for name in parts):
        assert block is not None  # an attention without a layer is none
        inside = linears(base.get_submodule(block), block)
        rest = [each for each in inside if not any(each[0].startswith(f"{part}.") for part in parts.values())]
        widths = {rows for *_, rows in rest[:-1]} | {taken for _, taken, _ in rest[-1:]}
        ends = {taken for _, taken, _ in rest[:-1]} | {rows for *_, rows in rest[-1:]}
        if len(rest) not in (2, 3) or len(widths) != 1 or len(ends) != 1:
            shapes = ", ".join(f"{name.removeprefix(block + '.')} {taken}→{rows}" for name, taken, rows in rest)
            raise unsupported(
                model, "ffn", f"{block} is not two matrices, or three with a gate, around one width: {shapes or 'none'}"
            )
        slots = [Slot(name, "out") for name, *_ in rest[:-1]]
        found.append(Site("ffn", block, widths.pop(), (*slots, Slot(rest[-1][0], "in"))))
    return tuple(found)


def configs(model: PreTrainedModel, site: Site, units: int) -> list[dict[str, object]]:
    """How a config may say that every layer has so many neurons."""
    hidden = getattr(model.config, "hidden_size", 1)
    # A ratio is multiplied and cut off; half a neuron more keeps rounding from taking one.
    values: dict[str, object] = {**dict.fromkeys(_KEYS, units), "mlp_ratio": (units + 0.5) / hidden}
    return [{key: value} for key, value in values.items() if hasattr(model.config, key)]
