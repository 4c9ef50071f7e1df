"""Where in a model whole units (heads, neurons, channels) can go, and their going: one mechanism for all kinds.

A site is a set of tensors that share one dimension made of units. Taking a unit out of all of them is the same as
setting it to zero in all of them, and `understood` proves that of a model before anything is removed.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from satchel_runtimes.errors import SupportError

__all__ = ["Site", "Slot", "answer", "block_of", "linears", "put_back", "take_out", "understood", "unsupported", "wipe"]


@dataclass(frozen=True)
class Slot:
    """One side of one module, along which the units lie."""

    module: str  # its name in the base model
    side: str  # "out" makes the units, "in" takes them, "through" keeps them (a norm, a depthwise convolution)
    width: int = 1  # numbers that make one unit
    blocks: int = 1  # how often all units follow one another (3 where query, key and value are one matrix)

    def places(self, units: int, chosen: Sequence[int]) -> Tensor:
        """The positions of the chosen units along this side."""
        every = torch.arange(self.blocks * units * self.width).reshape(self.blocks, units, self.width)
        return every[:, list(chosen)].flatten()


@dataclass(frozen=True)
class Site:
    """One place where units can be removed. The last slot takes the units in: a gate on its input is a gate on them."""

    kind: str
    place: str  # the module's name in the base model
    units: int
    slots: tuple[Slot, ...]
    counters: tuple[tuple[str, str, int], ...] = ()  # module, attribute, and what one unit counts for there

    @property
    def name(self) -> str:
        """What the marks call it."""
        return f"{self.kind} {self.place}"


def take_out(base: nn.Module, site: Site, gone: Sequence[int]) -> None:
    """Slice the units out of every tensor, so that the model gets smaller and faster."""
    left = [unit for unit in range(site.units) if unit not in set(gone)]
    for slot in site.slots:
        module = base.get_submodule(slot.module)
        for name, dim, tensor in _tensors(module, slot.side):
            _replace(module, name, tensor.index_select(dim, slot.places(site.units, left)))
    _count(base, site, len(left))


def put_back(base: nn.Module, site: Site, gone: Sequence[int]) -> None:
    """Undo `take_out`, with zeros for what was removed. `site` is the one of the model as it is now."""
    units = site.units + len(gone)
    left = [unit for unit in range(units) if unit not in set(gone)]
    for slot in site.slots:
        module = base.get_submodule(slot.module)
        for name, dim, tensor in _tensors(module, slot.side):
            shape = list(tensor.shape)
            shape[dim] = slot.blocks * units * slot.width
            full = tensor.new_full(shape, _nothing(name))
            _replace(module, name, full.index_copy(dim, slot.places(units, left), tensor.detach()))
    _count(base, site, units)


@torch.no_grad()
def wipe(base: nn.Module, site: Site, gone: Sequence[int]) -> None:
    """Set the units to zero in every tensor; shapes stay."""
    for slot in site.slots:
        module = base.get_submodule(slot.module)
        for name, dim, tensor in _tensors(module, slot.side):
            tensor.index_fill_(dim, slot.places(site.units, gone), _nothing(name))


def understood(model: PreTrainedModel, sites: Sequence[Site]) -> None:
    """Prove on a copy of the model that a unit of each site can go: sliced out, the answer is as with zeros.

    Raises:
        SupportError: it cannot, so these modules work together in a way that is not understood.
    """
    trial = copy.deepcopy(model).train(False)
    base, gone = trial.base_model, [0]
    for site in sites:
        wipe(base, site, gone)
    zeros = answer(trial)
    for site in sites:
        take_out(base, site, gone)
    kinds = " and ".join(sorted({site.kind for site in sites}))
    try:
        sliced = answer(trial)
    except (RuntimeError, ValueError, IndexError) as error:  # shapes that do not meet, in as many words
        raise unsupported(
            model, kinds, f"with one taken out it does not run: {str(error).splitlines()[0][:200]}"
        ) from None
    if zeros.shape != sliced.shape or not torch.allclose(
        zeros, sliced, rtol=1e-3, atol=1e-4 * float(zeros.abs().max())
    ):
        raise unsupported(model, kinds, "with one taken out it answers other than with zeros in its place")


@torch.no_grad()
def answer(model: PreTrainedModel) -> Tensor:
    """What the body says to a made-up input.

    Raises:
        SupportError: it takes neither tokens nor pictures.
    """
    base, config = model.base_model, model.config
    was_training = base.training
    base.train(False)
    generator = torch.Generator().manual_seed(0)
    if getattr(config, "is_encoder_decoder", False) or model.main_input_name not in ("input_ids", "pixel_values"):
        raise unsupported(model, "it", "only encoders of text or pictures and language models are understood")
    if model.main_input_name == "input_ids":
        table = model.get_input_embeddings()
        assert isinstance(table, nn.Embedding)
        rows = table.num_embeddings
        given = torch.randint(rows // 8, rows, (2, 9), generator=generator)
    else:
        size = getattr(config, "image_size", 64) if hasattr(config, "patch_size") else 64
        height, width = (size, size) if isinstance(size, int) else size
        given = torch.randn(2, config.num_channels, height, width, generator=generator)
    result: Tensor = base(given.to(model.device), return_dict=True)[0]
    base.train(was_training)
    return result


def block_of(base: nn.Module, name: str) -> str | None:
    """The layer that a module belongs to: the nearest element of a ModuleList around it."""
    parts = name.split(".")
    for end in range(len(parts), 0, -1):
        if isinstance(base.get_submodule(".".join(parts[: end - 1])), nn.ModuleList):
            return ".".join(parts[:end])
    return None


def linears(module: nn.Module, prefix: str) -> list[tuple[str, int, int]]:
    """Every matrix inside a module, in the order of definition: name, inputs, outputs."""
    found = []
    for name, each in module.named_modules(prefix=prefix):
        if isinstance(each, Conv1D):
            found.append((name, each.weight.shape[0], each.weight.shape[1]))
        elif isinstance(each, nn.Linear):
            found.append((name, each.in_features, each.out_features))
    return found


def unsupported(model: nn.Module, what: str, why: str) -> SupportError:
    return SupportError(
        f"Cannot prune {what} of {type(model).__name__}.", why=why, fix="leave this kind of pruning out for this model"
    )


def _tensors(module: nn.Module, side: str) -> Iterator[tuple[str, int, Tensor]]:
    """The tensors of a module along one of its sides: name, dimension, tensor."""
    if isinstance(module, nn.BatchNorm2d):
        names = {"weight": 0, "bias": 0, "running_mean": 0, "running_var": 0}
    elif side == "in":
        names = {"weight": 0 if isinstance(module, Conv1D) else 1}
    else:
        names = {"weight": 1 if isinstance(module, Conv1D) else 0, "bias": 0}
    for name, dim in names.items():
        tensor = getattr(module, name, None)
        if tensor is not None:
            yield name, dim, tensor


def _nothing(name: str) -> float:
    return 1.0 if name == "running_var" else 0.0


def _replace(module: nn.Module, name: str, value: Tensor) -> None:
    old = getattr(module, name)
    value = value.detach().clone().contiguous()
    setattr(module, name, nn.Parameter(value, old.requires_grad) if isinstance(old, nn.Parameter) else value)
    # What the module says of its own size; the depthwise kind has one group per channel.
    if name == "weight" and isinstance(module, nn.Linear):
        module.out_features, module.in_features = value.shape
    elif name == "weight" and isinstance(module, Conv1D):
        module.nx, module.nf = value.shape
    elif name == "weight" and isinstance(module, nn.BatchNorm2d):
        module.num_features = len(value)
    elif name == "weight" and isinstance(module, nn.Conv2d):
        module.groups = len(value) if module.groups > 1 else 1
        module.out_channels, module.in_channels = len(value), value.shape[1] * module.groups


def _count(base: nn.Module, site: Site, units: int) -> None:
    for module, attribute, each in site.counters:
        setattr(base.get_submodule(module), attribute, units * each)
