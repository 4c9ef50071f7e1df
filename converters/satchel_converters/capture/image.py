"""The generic way of a picture's model: one graph from pixels to the task's outputs, any batch.

The size of a picture is the one that the processor makes of every picture, or two more axes where it makes none.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from satchel_runtimes.errors import SupportError
from satchel_runtimes.manifest import Step
from satchel_runtimes.tasks.image import ImageTask
from satchel_runtimes.tasks.image_steps import image_multiple, image_size, image_steps
from satchel_runtimes.tasks.patches import MASK, PATCHES

from ..component import Axis, Component, Input, Output

if TYPE_CHECKING:
    from . import Loaded

__all__ = ["Vision", "capture", "patch_inputs", "picture_input", "pixels"]

# Sides of the traced picture where it may have any, at least: small, and large enough for what is halved five times.
_LEAST = 64
_MORE = (1, 3)  # multiples that height and width have beyond: they differ


class Vision(torch.nn.Module):
    """Takes and returns plain named tensors."""

    def __init__(self, model: torch.nn.Module, outputs: tuple[str, ...]) -> None:
        super().__init__()
        self.model, self.outputs = model, outputs
        self.config = model.config  # transformers' exporter looks for it

    def forward(self, **pixels: torch.Tensor) -> dict[str, torch.Tensor]:
        result = self.model(**pixels, return_dict=True)
        return {name: result[name] for name in self.outputs}


def capture(loaded: Loaded) -> tuple[Component, ...]:
    facts = loaded.processors.facts()
    names = loaded.task.head(facts.config)[1]
    assert issubclass(loaded.task, ImageTask)
    steps = image_steps(facts.image_processor, any_size=loaded.task.any_size)
    batch, size = Axis("batch"), image_size(steps)
    module = Vision(loaded.model, names).eval()
    colours = next((len(step.options["clusters"]) for step in steps if step.step == "quantize_colors"), 0)
    if colours and size:
        length = size[0] * size[1]
        example = {"input_ids": torch.arange(2 * length).reshape(2, length) * 37 % colours}
        inputs = (Input("input_ids", "int64", (batch, length)),)
    else:
        spec, made = picture_input(steps)
        example, inputs = {"pixel_values": made}, (spec,)
    results = _run(loaded, module, example)
    others = results if size else _run(loaded, module, {"pixel_values": pixels(_sides(steps, _MORE))})
    outputs = tuple(Output(name, "float32", (batch, *_axes(name, results[name], others[name]))) for name in names)
    return (Component("model", module, inputs, outputs, example),)


def picture_input(steps: Sequence[Step]) -> tuple[Input, torch.Tensor]:
    """`pixel_values` as the steps make them, with an example: of one size, or with a dynamic height and width."""
    size, multiple = image_size(steps), image_multiple(steps)
    axes = size or tuple(Axis(name, _LEAST, multiple=multiple) for name in ("height", "width"))
    return Input("pixel_values", "float32", (Axis("batch"), 3, *axes)), pixels(size or _sides(steps, (0, 0)))


def patch_inputs(steps: Sequence[Step]) -> dict[Input, torch.Tensor]:
    """Patches with their rows and columns, as many as a picture has, with an example of two pictures, one of them smaller."""
    step = next(step.options for step in steps if step.step == "patches")
    batch, count = Axis("batch"), Axis("patches", maximum=step["most"], buckets=(step["most"],))
    values = 3 * step["height"] * step["width"]
    places = torch.cartesian_prod(torch.arange(1.0, 4.0), torch.arange(1.0, 6.0)).expand(2, -1, -1)
    made = torch.randn((2, places.shape[1], values), generator=torch.Generator().manual_seed(0))
    patches, mask = torch.cat([places, made], dim=2), torch.ones(places.shape[:2], dtype=torch.int64)
    patches[1, 10:], mask[1, 10:] = 0, 0
    return {
        Input(PATCHES, "float32", (batch, count, 2 + values)): patches,
        Input(MASK, "int64", (batch, count)): mask,
    }


def _sides(steps: Sequence[Step], more: tuple[int, int]) -> tuple[int, int]:
    multiple = image_multiple(steps)
    first = -(-_LEAST // multiple)
    return (first + more[0]) * multiple, (first + 1 + more[1]) * multiple


def pixels(sides: tuple[int, int], seed: int = 0) -> torch.Tensor:
    """Two pictures that differ, so that an output that mixes rows shows; every channel has values of both signs."""
    return torch.randn((2, 3, *sides), generator=torch.Generator().manual_seed(seed))


def _axes(name: str, first: torch.Tensor, second: torch.Tensor) -> list[Axis | int]:
    """The axes of an output behind the batch; those are dynamic that change with the picture."""
    pairs = zip(first.shape[1:], second.shape[1:], strict=True)
    return [one if one == other else Axis(f"{name}_{place}") for place, (one, other) in enumerate(pairs, 1)]


def _run(loaded: Loaded, module: torch.nn.Module, example: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    try:
        with torch.no_grad():
            results: dict[str, torch.Tensor] = module(**example)
            return results
    except (RuntimeError, ValueError) as error:
        shape = "x".join(str(side) for side in next(iter(example.values())).shape[2:])
        raise SupportError(
            f"Cannot run {loaded.source.id} on pictures of {shape}.",
            why=str(error).strip().splitlines()[0][:300],
            fix="take the preprocessor_config.json that belongs to this model",
        ) from None
