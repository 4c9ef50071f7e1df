"""An export proved at shapes that were not traced: the component's example at other sizes, and the error there."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from satchel_runtimes.errors import SupportError
from satchel_runtimes.sessions.cache import CAPACITY

from .component import Axis, Component
from .format import Plan

__all__ = [
    "cache_shapes",
    "difference",
    "dynamic_shapes",
    "fixed_shapes",
    "length_of",
    "made_sizes",
    "others_of",
    "resized",
    "static_shapes",
    "token_shapes",
]

# Batch and length, in the axis's least, of the checks of a graph with dynamic axes; neither is a traced one, and the second
# batch has padding.
_OTHER_SHAPES = ((1, 5), (3, 23))
_STEP = (3, 1)  # and of a decoder, the step of several texts

_CAPACITIES = (128, 512)  # tokens of a cache, where nothing else is asked for
_PIECE = 32  # tokens of a prompt that one call reads

SIDES = frozenset({"height", "width"})  # the names of a picture's axes where it may have any size
_UNFILLED = SIDES | {"grid"}  # and of its patches, where padding would be seen

Run = Callable[[Mapping[str, np.ndarray]], Mapping[str, np.ndarray]]


def static_shapes(component: Component, buckets: Sequence[int]) -> list[dict[str, int]]:
    """Sizes of the dynamic axes for formats without such: a profile's buckets that the model takes, or the longest that
    it takes where that is less.

    Raises:
        SupportError: pictures of any size, or sounds whose padding would be heard.
    """
    if _UNFILLED & {axis.name for each in component.inputs for axis in each.axes if isinstance(axis, Axis)}:
        raise SupportError(
            f"Cannot fix the shape of {component.name}.",
            why="its image processor gives each picture a size of its own, and padding one would change the answer",
            fix="convert to a format with dynamic shapes, or let preprocessor_config.json resize to a fixed height and width",
        )
    axis = _length_axis(component)
    if axis is None:
        return [{"batch": 1}]
    if axis.name == "samples" and any(each.name == "encoder_attention_mask" for each in component.outputs):
        raise SupportError(
            f"Cannot fix the shape of {component.name}.",
            why="it hears samples of any length, and its decoder would be told of the padding too",
            fix="convert to a format with dynamic shapes",
        )
    longest = axis.maximum
    taken = [length for length in axis.buckets or buckets if longest is None or length <= longest] or [longest or 128]
    return [{"batch": 1, axis.name: length} for length in taken]


def cache_shapes(
    component: Component, longest: int = 0, known: Mapping[str, int] | None = None
) -> list[dict[str, int]]:
    """`static_shapes` of a decoder: for each capacity of its cache a step of one token, and a piece of a prompt.

    Args:
        longest: tokens of a text that were asked for.
        known: sizes of axes that an encoder's graph has as outputs; of others that are dynamic there is as much as the cache holds.
    """
    own = {"batch", "sequence", "kept", CAPACITY}
    axes = [axis for each in component.inputs for axis in each.axes if isinstance(axis, Axis)]
    fixed = {axis.name: axis.buckets[-1] for axis in axes if axis.buckets} | dict(known or {})
    names = {axis.name for axis in axes} - own
    bounds = [axis.maximum for axis in axes if axis.maximum]
    most = min([*bounds, longest or _CAPACITIES[-1]])
    shapes = []
    for capacity in [*(each for each in _CAPACITIES if each < most), most]:
        for length in (1, min(_PIECE, capacity // 2)):
            others = {name: fixed.get(name, capacity) for name in sorted(names)}
            shapes.append({"batch": 1, "sequence": length, "kept": 1, CAPACITY: capacity, **others})
    return shapes


def fixed_shapes(components: Sequence[Component], plan: Plan) -> Iterator[tuple[Component, list[dict[str, int]]]]:
    """Each component with its sizes, for formats whose files are named and chosen by tokens; an encoder comes before its decoder.

    Raises:
        SupportError: as `token_shapes`.
    """
    known: dict[str, int] = {}  # sizes of what one component hands to another
    for component in components:
        if component.state:
            yield component, cache_shapes(component, plan.longest, known)
            continue
        shapes = token_shapes(component, plan.buckets)
        known |= made_sizes(component, shapes[-1])
        yield component, shapes


def token_shapes(component: Component, buckets: Sequence[int]) -> list[dict[str, int]]:
    """`static_shapes` for formats whose files are named and chosen by tokens.

    Raises:
        SupportError: the lengths of this component are of something else.
    """
    axis = _length_axis(component)
    if axis is not None and axis.name != "sequence":
        raise SupportError(
            f"Cannot compile {component.name} at fixed lengths.",
            why=f"its length is one of {axis.name}, and this format's lengths are of tokens",
            fix="convert to onnx or tflite",
        )
    return static_shapes(component, buckets)


def others_of(component: Component, shape: Mapping[str, int]) -> dict[str, int]:
    """Of a decoder: the sizes beside batch and length."""
    return {name: size for name, size in shape.items() if name not in ("batch", "sequence")} if component.state else {}


def made_sizes(component: Component, shape: Mapping[str, int]) -> dict[str, int]:
    """The sizes of axes of its outputs that no input has, at a shape of its inputs."""
    import torch

    taken = {axis.name for each in component.inputs for axis in each.axes if isinstance(axis, Axis)}
    named = {axis.name for each in component.outputs for axis in each.axes if isinstance(axis, Axis)}
    if named <= taken:
        return {}
    with torch.no_grad():
        made = component.module(**resized(component, 1, length_of(shape)))
    return {
        axis.name: int(made[each.name].shape[place])
        for each in component.outputs
        for place, axis in enumerate(each.axes)
        if isinstance(axis, Axis) and axis.name not in taken
    }


def length_of(shape: Mapping[str, int]) -> int:
    """The size of the axis that is not the batch; 1 where there is none."""
    return next((size for name, size in shape.items() if name != "batch"), 1)


def _length_axis(component: Component) -> Axis | None:
    axes = (axis for each in component.inputs for axis in each.axes if isinstance(axis, Axis))
    return next((axis for axis in axes if axis.name != "batch"), None)


def dynamic_shapes(component: Component) -> dict[str, dict[int, Any]]:  # Any: torch.export.Dim
    """The dynamic axes of each input, as torch.export wants them."""
    from torch.export import Dim

    made: dict[str, Any] = {}
    shapes = {}
    for each in component.inputs:
        axes = {place: axis for place, axis in enumerate(each.axes) if isinstance(axis, Axis)}
        for axis in axes.values():
            if axis.name not in made:
                least, most = -(-axis.minimum // axis.multiple), axis.maximum and axis.maximum // axis.multiple
                part = Dim(axis.name if axis.multiple == 1 else f"{axis.name}_parts", min=least, max=most)
                made[axis.name] = part if axis.multiple == 1 else axis.multiple * part
        shapes[each.name] = {place: made[axis.name] for place, axis in axes.items()}
    return shapes


def difference(
    component: Component,
    run: Run,
    shapes: Sequence[tuple[int, int]] | None = None,
    *,
    padded: bool = False,
    sizes: Mapping[str, int] | None = None,
) -> float:
    """The largest error of an exported graph against the module, over the largest magnitude, on valid positions.

    Args:
        run: the exported graph, from inputs by name to outputs by name.
        shapes: batch and length of each check; None: two that were not traced.
        padded: pad a batch of one as well.
        sizes: of a decoder's other axes, where they are fixed.
    """
    import torch

    axis = _length_axis(component)
    unit = axis.minimum if axis is not None else 1
    others = [(batch, length * unit) for batch, length in _OTHER_SHAPES] + ([_STEP] if component.state else [])
    judged = [output for output in component.outputs if output.role == "parity"]
    made: list[tuple[Mapping[str, Any], list[np.ndarray]]] = []
    for batch, length in shapes or others:  # all of the module's answers first: it may rest while the graph runs
        inputs = resized(component, batch, length, padded=padded, sizes=sizes)
        with torch.inference_mode():
            expected = component.module(**inputs)
        made.append((inputs, [expected[output.name].numpy() for output in judged]))
        del expected
    worst = 0.0
    for given, answers in made:
        found = run({name: value.numpy() for name, value in given.items()})
        for output, answer in zip(judged, answers, strict=True):
            worst = max(worst, _relative(answer, found[output.name], given.get(output.mask or "")))
    return worst


def resized(
    component: Component, batch: int, length: int, *, padded: bool = False, sizes: Mapping[str, int] | None = None
) -> dict[str, Any]:
    """The example at other sizes of its dynamic axes; the last row of several, or a padded one, ends a third early."""
    own = {"batch": batch}
    bounded = _length_axis(component)
    length = min(length, bounded.maximum or length) if bounded is not None else length
    if component.remade is not None:
        return dict(component.remade(batch, length, **(sizes or {})))
    made = {}
    for each in component.inputs:
        value = component.example[each.name][:1]
        for place, axis in enumerate(each.axes):
            if isinstance(axis, Axis):
                size = (
                    _side(axis, length * place)
                    if axis.name in SIDES
                    else max(length // axis.multiple, 1) * axis.multiple
                )
                size = own.get(axis.name, size)
                repeats = [1] * value.dim()
                repeats[place] = -(-size // value.shape[place])
                value = value.repeat(repeats).narrow(place, 0, size)
        value = value.clone()
        if (batch > 1 or padded) and value.dim() > 1 and isinstance(each.axes[1], Axis):
            value[-1, -(-2 * length // 3) :] = each.padding
        made[each.name] = value
    return made


def _side(axis: Axis, number: int) -> int:
    """A side of a picture a little above the least; numbers that differ give sides that do."""
    return (-(-axis.minimum // axis.multiple) + number % 4) * axis.multiple


def _relative(expected: np.ndarray, actual: np.ndarray, mask: Any) -> float:
    if expected.shape != actual.shape or (np.isnan(actual) != np.isnan(expected)).any():
        return float("inf")
    if mask is not None and expected.shape[: mask.dim()] == tuple(mask.shape):
        valid = mask.numpy().astype(bool)
        expected, actual = expected[valid], actual[valid]
    same = (expected == actual) | np.isnan(expected)  # equal infinities, and a model that itself answers NaN
    error = np.abs(np.where(same, 0.0, expected) - np.where(same, 0.0, actual)).max(initial=0.0)
    return float(error / max(np.abs(expected[np.isfinite(expected)]).max(initial=0.0), 1e-30))
