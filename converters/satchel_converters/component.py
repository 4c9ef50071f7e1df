"""One exportable graph: the one thing that all formats share.

Architecture knowledge is written here once, in `capture/`, and never in a format's file.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from satchel_runtimes.manifest import TensorSpec

if TYPE_CHECKING:
    import torch

__all__ = ["Axis", "Component", "Input", "Output", "specs"]


@dataclass(frozen=True)
class Axis:
    """A dynamic axis: its name, the sizes that the model takes, and what a size must be a multiple of.

    `buckets` are sizes for formats without dynamic axes, where a profile's, which count tokens, do not fit.
    """

    name: str
    minimum: int = 1
    maximum: int | None = None
    multiple: int = 1
    buckets: tuple[int, ...] = ()


@dataclass(frozen=True)
class Input:
    name: str
    dtype: str
    axes: tuple[Axis | int, ...]
    padding: float = 0.0  # the value of positions beyond the valid ones


@dataclass(frozen=True)
class Output:
    name: str
    dtype: str
    axes: tuple[Axis | int, ...]
    mask: str | None = None  # the input that marks valid positions
    role: str = "parity"  # parity: judged; state: a cache; ignored


@dataclass(frozen=True)
class Component:
    """A module whose `forward` takes and returns named plain tensors, and all that an exporter must know of it."""

    name: str
    module: torch.nn.Module
    inputs: tuple[Input, ...]
    outputs: tuple[Output, ...]
    example: Mapping[str, torch.Tensor]
    reference: torch.nn.Module | None = None  # the checkpoint's own part that this is; None: all of it
    # The example at another batch and length, where inputs depend on each other; None: each is repeated and cut alone.
    # A decoder is also told `capacity` and `kept`.
    remade: Callable[..., Mapping[str, torch.Tensor]] | None = None
    state: Mapping[str, str] = field(
        default_factory=dict
    )  # each input that is cache -> the output that it comes out as
    window: int | None = None  # tokens that the layers see whose cache lies along an axis of its own
    # The same for formats of fixed sizes, with inputs that mark what is padding; None: this one stands padding as it is.
    fixed: Component | None = None


def specs(values: tuple[Input, ...] | tuple[Output, ...]) -> tuple[TensorSpec, ...]:
    """As the manifest carries them."""
    return tuple(
        TensorSpec(
            value.name,
            value.dtype,
            tuple(axis.name if isinstance(axis, Axis) else axis for axis in value.axes),
            value.padding if isinstance(value, Input) else None,
        )
        for value in values
    )
