"""Inner channels of a convnet's blocks: what lies between two full convolutions, so that no other block sees it."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from torch import nn
from transformers import PreTrainedModel

from .sites import Site, Slot

__all__ = ["configs", "sites"]


def sites(model: PreTrainedModel) -> tuple[Site, ...]:
    """The inner widths of inverted residuals (MobileNetV2, EfficientNet) and of residual layers (ResNet)."""
    base = model.base_model
    found = []
    for name, module in base.named_modules():
        for chain in _chains(module, name):
            convolutions = [(each, base.get_submodule(each)) for each in chain]
            slots = _slots(convolutions)
            if slots:
                first = convolutions[0][1]
                assert isinstance(first, nn.Conv2d)
                found.append(Site("channels", chain[0], first.out_channels, slots))
    return tuple(found)


def configs(model: PreTrainedModel, site: Site, units: int) -> list[dict[str, object]]:
    """None: `expand_ratio`, `depth_multiplier` and `reduction` are one number for inner and outer widths of all blocks."""
    return []


def _chains(module: nn.Module, name: str) -> Iterator[list[str]]:
    """The convolutions and norms of a block from one full convolution to the next, in the order of their work."""
    children = dict(module.named_children())
    if {"conv_3x3", "reduce_1x1"} <= set(children):  # MobileNetV2: its blocks and its stem
        parts = [
            children[part] for part in ("first_conv", "expand_1x1", "conv_3x3", "reduce_1x1") if children.get(part)
        ]
    elif {"expansion", "depthwise_conv", "projection"} <= set(children):  # EfficientNet
        parts = [children[part] for part in ("expansion", "depthwise_conv", "squeeze_excite", "projection")]
    elif {"shortcut", "layer"} <= set(children):  # ResNet
        parts = list(children["layer"].children())
    else:
        return
    names = {each: inner for inner, each in module.named_modules(prefix=name)}
    leaves = [each for part in parts for each in part.modules() if isinstance(each, (nn.Conv2d, nn.BatchNorm2d))]
    gates = {id(leaf) for part in parts if _is_gate(part) for leaf in part.modules()}
    full = [
        i for i, leaf in enumerate(leaves) if isinstance(leaf, nn.Conv2d) and leaf.groups == 1 and id(leaf) not in gates
    ]
    for start, end in itertools.pairwise(full):
        yield [names[leaf] for leaf in leaves[start : end + 1]]


def _is_gate(part: nn.Module) -> bool:
    """Squeeze-and-excitation: its two small convolutions take and make the same channels."""
    return {"squeeze", "reduce", "expand"} <= {name for name, _ in part.named_children()}


def _slots(chain: list[tuple[str, nn.Module]]) -> tuple[Slot, ...]:
    """The side of each module that the channels lie on; empty where one is neither full nor depthwise."""
    (first, maker), *between, (last, taker) = chain
    assert isinstance(maker, nn.Conv2d) and isinstance(taker, nn.Conv2d)
    slots = [Slot(first, "out")]
    for name, module in between:
        if (
            isinstance(module, nn.BatchNorm2d)
            or isinstance(module, nn.Conv2d)
            and module.groups == module.out_channels > 1
        ):
            slots.append(Slot(name, "through"))
        elif isinstance(module, nn.Conv2d) and module.groups == 1:
            slots.append(Slot(name, "in" if module.in_channels == maker.out_channels else "out"))
        else:
            return ()  # grouped convolutions, as in RegNet: their channels go by groups only
    return (*slots, Slot(last, "in")) if taker.in_channels == maker.out_channels else ()
