"""Whole layers. The last is kept: [0, 2, 5] of MiniLM's six answers far better than [0, 2, 4]."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn
from transformers import PreTrainedModel

from satchel_runtimes.errors import UsageError

from .heads import attentions
from .sites import answer, block_of, unsupported

__all__ = ["evenly", "keep_layers", "stack_of", "to_keep"]


def to_keep(total: int, removed: float) -> int:
    """How many layers are left; `removed` is a share below 1 and a number from there on.

    Raises:
        UsageError: none would be.
    """
    gone = int(removed) if removed >= 1 else round(total * removed)
    if gone >= total:
        raise UsageError(
            f"Cannot prune layers={removed:g}.",
            why=f"the model has {total} layers, so none would be left",
            fix=f"remove at most {total - 1}",
        )
    return total - gone


def evenly(total: int, kept: int) -> tuple[int, ...]:
    """Which layers stay: as evenly spaced as can be, from the first to the last; the last alone where it is one."""
    if kept == 1:
        return (total - 1,)
    return tuple(round(i * (total - 1) / (kept - 1) - 1e-9) for i in range(kept))


def stack_of(model: PreTrainedModel) -> tuple[str, int]:
    """The name of the list of layers, and how often it is gone through: ALBERT's one is, as often as the config says.

    Raises:
        SupportError: no list of layers with attention is as long as the config says.
    """
    base, count = model.base_model, getattr(model.config, "num_hidden_layers", 0)
    layers = {block_of(base, name) for name in attentions(base)}
    lists = [(name, each) for name, each in base.named_modules() if isinstance(each, nn.ModuleList)]
    stacks = [name for name, each in lists if len(each) == count and layers == {f"{name}.{i}" for i in range(count)}]
    if getattr(model.config, "num_hidden_groups", 0):
        if model.config.num_hidden_groups != 1:
            raise unsupported(model, "layers", "several groups of layers share their weights in turn")
        return "", count
    if len(stacks) != 1:
        raise unsupported(
            model, "layers", f"no list of its modules is the {count} layers with attention that its config counts"
        )
    return stacks[0], count


def keep_layers(model: PreTrainedModel, kept: Sequence[int]) -> None:
    """Leave only these layers, in the model and in its config.

    Raises:
        SupportError: the model does not run without the others.
    """
    name, _ = stack_of(model)
    config = model.config
    if name:
        stack = model.base_model.get_submodule(name)
        assert isinstance(stack, nn.ModuleList)
        parent = model.base_model.get_submodule(name.rpartition(".")[0])
        setattr(parent, name.rpartition(".")[2], nn.ModuleList(stack[i] for i in kept))
        for number, old in enumerate(kept):  # caches of keys and values go by this number
            for module in stack[old].modules():
                if getattr(module, "layer_idx", None) == old:
                    module.layer_idx = number  # type: ignore[assignment]  # a plain attribute of transformers' modules
    config.num_hidden_layers = len(kept)
    if isinstance(types := getattr(config, "layer_types", None), list):
        config.layer_types = [types[i] for i in kept]
    if hasattr(config, "stage_names"):
        config.stage_names = config.stage_names[: len(kept) + 1]
        config.set_output_features_output_indices(out_features=None, out_indices=None)
    try:
        answer(model)
    except (RuntimeError, ValueError, IndexError) as error:
        raise unsupported(
            model, "layers", f"without them it does not run: {str(error).splitlines()[0][:200]}"
        ) from None
