"""What every rewrite of an architecture shares: a copy whose parts are called in another way, then the generic capture."""

from __future__ import annotations

import copy
import dataclasses
import types
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch

from ..component import Component
from . import encoder, image

if TYPE_CHECKING:
    from . import Loaded

__all__ = ["capture_rewritten", "rewritten"]


def rewritten(
    model: torch.nn.Module, forwards: Mapping[str, Callable[..., Any]], *, shared: bool = False
) -> torch.nn.Module:
    """A copy whose modules of the named classes have another `forward(self, …)`, or by "Class.method" another method; the
    model that was given stays the reference.

    Args:
        shared: take the same weights, not copies of them: where the model is large, and none is changed.
    """
    made = copy.deepcopy(model, {id(each): each for each in model.parameters()} if shared else {})
    for name, function in forwards.items():
        kind, _, method = name.partition(".")
        for module in made.modules():
            if type(module).__name__ == kind:
                setattr(module, method or "forward", types.MethodType(function, module))
    return made


class _Own(torch.nn.Module):
    """The checkpoint itself, but for texts that are too short for it: transformers fails on them, and a device should not."""

    def __init__(self, model: torch.nn.Module, rewrite: torch.nn.Module, least: int) -> None:
        super().__init__()
        self.model, self.rewrite, self.least = model, rewrite, least

    def forward(self, **inputs: torch.Tensor) -> Any:
        short = inputs["input_ids"].shape[1] < self.least
        return (self.rewrite if short else self.model)(**inputs, return_dict=True)


def capture_rewritten(
    loaded: Loaded, forwards: dict[str, Callable[..., Any]], *, least: int = 1, whole: bool = True, **given: Any
) -> tuple[Component, ...]:
    """Capture a rewritten copy.

    Args:
        least: tokens that transformers' own code needs; the rewrite answers shorter texts too.
        whole: whether the outputs are all of the model's; a rewrite that leaves some out is judged by itself, cut alike.
        given: more that the generic capture is told.
    """
    changed: Any = rewritten(loaded.model, forwards)
    generic = image if loaded.task.modality == "image" else encoder
    (component,) = generic.capture(dataclasses.replace(loaded, model=changed), **given)
    if not whole:
        component = dataclasses.replace(component, reference=changed)
    if least > 1:
        component = dataclasses.replace(component, reference=_Own(loaded.model, changed, least))
    return (component,)
