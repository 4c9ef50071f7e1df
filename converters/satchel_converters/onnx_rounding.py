"""Chooses the rounding of weights so that products keep their values, instead of each weight its own.

GPTQ (Frantar et al. 2022, arXiv 2210.17323): a row is rounded, and the rows that follow make up for its error. In four bits each
block's grid is searched for beside: of ranges that cut off more or less, and zero points on both sides, the one whose nearest
levels lose least, weighted by how loud the block's channels are.

On SmolLM2, of what products lose on news that no sample came from: with the range of the weights and 30 short texts 1, with text
that the model wrote 0.8, with a grid that is searched for 0.6, with the loudest blocks and rows first 0.5.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from .onnx_smooth import Place, array_of, replace_weights, weighted
from .onnx_tensors import tensor_of

if TYPE_CHECKING:
    import onnx

__all__ = ["round_int4", "round_int8"]

_DAMPING = 0.1  # of the mean diagonal; 0.01 fits 30 samples too closely: least cosine 0.965 on others, against 0.994
_COLUMNS = 4096  # rounded at once; a language model's last matrix has 50,000
_SMALL = 128  # rows of a matrix that LAPACK factors and inverts as it is
_CUTS = np.linspace(1, 0.6, 10, dtype=np.float32)  # of a block's range, what its levels may span
_LEVELS4 = 15
_HARM = 2.5e-3  # of a product's mean square: what loses more keeps eight bits, while that is
_SPARED = 0.125  # of the weights at most
_OFF = 0.1  # the mean square error of logits; at 0.05 the perplexity of SmolLM2 rises by 0.8 %
_TINY = np.finfo(np.float32).tiny

# From rows of weights, how loud each row's channel is, and which columns these are, to a scale and zero point for each column.
_Fit = Callable[[np.ndarray, np.ndarray, slice], tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True)
class _Rounded:
    """Weights as levels: (level - zero) * scale, with a scale and zero point for each block of rows of a column."""

    levels: np.ndarray  # [rows, columns]
    scale: np.ndarray  # [blocks, columns]
    zero: np.ndarray
    block: int

    @property
    def values(self) -> np.ndarray:
        rows = np.arange(len(self.levels)) // self.block
        found: np.ndarray = (self.levels - self.zero[rows]) * self.scale[rows]
        return found


def round_int8(model: onnx.ModelProto, places: Sequence[Place], levels: int) -> None:
    """Put the weights on the grid that a symmetric quantizer with a scale per column will find again."""
    for names, weights, moments in _matrices(model, places):
        scale = np.maximum(np.abs(weights).max(axis=0) / levels, _TINY)
        order = np.argsort(-np.diag(moments), kind="stable")  # loud channels first, the others make up for them
        rounded = np.empty_like(weights)
        for here, made in _rounded(weights, moments, order, 128, (-levels, levels), _always(scale)):
            rounded[order, here] = made.values
        # The largest of a column defines its scale, so it stays as it is.
        largest = np.abs(weights).argmax(axis=0), np.arange(weights.shape[1])
        rounded[largest] = weights[largest]
        for name, own in _parted(model, names, rounded):
            replace_weights(model, name, own)


def round_int4(model: onnx.ModelProto, places: Iterable[Place], block: int, heads: Collection[str] = ()) -> list[str]:
    """Make the products of the places MatMulNBits on 16 levels, with a scale and a zero point for each block of rows of a column.
    They are written here, since a quantizer would look for another grid in what was rounded.

    Returns the names of those that stay as they are, because they would lose too much: those that lose most first, at most an
    eighth of the weights; and those of `heads`, which do not count in that, whose logits would be too far off.
    """
    counted = [node for name, node in weighted(model).items() if name not in heads]
    room = _SPARED * sum(array_of(model, node.input[1]).size for node in counted)
    harmed: list[tuple[float, int, onnx.NodeProto]] = []
    far: list[onnx.NodeProto] = []
    for names, weights, moments in _matrices(model, places):
        rows, columns = weights.shape
        short = -rows % block  # rows of nothing, which come out as nothing
        if short:
            weights, moments = np.pad(weights, ((0, short), (0, 0))), np.pad(moments, ((0, short), (0, short)))
        order = _loudest_first(np.diag(moments), block)
        places_of = order[::block] // block  # the blocks in the order in which they are rounded
        levels, zero = (np.empty((count, columns), np.uint8) for count in (len(weights), len(places_of)))
        scale, losses = (np.empty((count, columns), np.float32) for count in (len(places_of), 2))
        for here, made in _rounded(weights, moments, order, block, (0, _LEVELS4), _fitted):
            levels[order, here], scale[places_of, here], zero[places_of, here] = made.levels, made.scale, made.zero
            values = np.empty_like(made.levels, np.float32)
            values[order] = made.values
            losses[:, here] = _lost(weights[:, here], values, moments)
        parts = [_parted(model, names, each) for each in (levels, scale, zero, losses)]
        for (name, own), (_, s), (_, z), (_, part) in zip(*parts, strict=True):
            before = _write(model, name, rows, block, own, s, z)
            lost, whole = (float(each.sum()) for each in part)
            if name in heads:
                far += [before] if lost > _OFF * own.shape[1] else []
            elif lost > _HARM * whole:
                harmed.append((lost / max(whole, float(_TINY)), own.size, before))
    spared = [before.name for before in far]
    for before in far:
        _node_of(model, before.name).CopyFrom(before)
    for _, size, before in sorted(harmed, key=lambda each: -each[0]):
        if size <= room:
            room -= size
            _node_of(model, before.name).CopyFrom(before)
            spared.append(before.name)
    _sweep(model)
    return spared


def _lost(weights: np.ndarray, rounded: np.ndarray, moments: np.ndarray) -> np.ndarray:
    """Of each column, the mean square of what its product loses, and of the product itself, [2, columns]."""
    error = weights - rounded
    found: np.ndarray = np.stack([(error * (moments @ error)).sum(axis=0), (weights * (moments @ weights)).sum(axis=0)])
    return found


def _loudest_first(loudness: np.ndarray, block: int) -> np.ndarray:
    """Blocks by how loud their channels are, and so the rows of each."""
    blocks = loudness.reshape(-1, block)
    first = np.argsort(-blocks.sum(axis=1), kind="stable")
    within = np.argsort(-blocks, axis=1, kind="stable")
    order: np.ndarray = (first[:, None] * block + within[first]).ravel()
    return order


def _fitted(part: np.ndarray, loudness: np.ndarray, columns: slice) -> tuple[np.ndarray, np.ndarray]:
    """Scale and zero point of the 16 levels for a block's columns."""
    low, high = np.minimum(part.min(axis=0), 0), np.maximum(part.max(axis=0), 0)
    weight = loudness[:, None].astype(np.float32)
    best = np.full(part.shape[1], np.inf, np.float32)
    scale, zero = np.ones_like(best), np.zeros_like(best)
    for cut in _CUTS:
        step = np.maximum((high - low) * (cut / _LEVELS4), _TINY)
        between = -low * cut / step
        for at in (np.floor(between), np.ceil(between)):
            near = np.clip(np.rint(part / step) + at, 0, _LEVELS4) - at
            # With these levels, the scale that fits best.
            square = (weight * near * near).sum(axis=0)
            fits = (weight * part * near).sum(axis=0) / np.maximum(square, _TINY)
            fits = np.where(fits > 0, fits, step)
            lost = (weight * (part - near * fits) ** 2).sum(axis=0)
            better = lost < best
            best[better], scale[better], zero[better] = lost[better], fits[better], at[better]
    return scale, zero


def _always(scale: np.ndarray) -> _Fit:
    return lambda part, loudness, columns: (scale[columns], np.zeros_like(scale[columns]))


def _matrices(
    model: onnx.ModelProto, places: Iterable[Place]
) -> Iterator[tuple[tuple[str, ...], np.ndarray, np.ndarray]]:
    """The matrices of each place side by side: what takes long depends on their input alone."""
    for place in places:
        if place.moments is not None:
            at = weighted(model)
            yield place.nodes, np.concatenate([array_of(model, at[n].input[1]) for n in place.nodes], 1), place.moments


def _parted(model: onnx.ModelProto, names: Sequence[str], joined: np.ndarray) -> list[tuple[str, np.ndarray]]:
    """What belongs to each of the matrices that were side by side."""
    at = weighted(model)
    ends = np.cumsum([array_of(model, at[name].input[1]).shape[1] for name in names])
    return list(zip(names, np.split(joined, ends[:-1], axis=1), strict=True))


def _write(
    model: onnx.ModelProto,
    name: str,
    rows: int,
    block: int,
    levels: np.ndarray,
    scale: np.ndarray,
    zero: np.ndarray,
) -> onnx.NodeProto:
    """One product in the layout of MatMulNBits: a column's blocks one after the other, two levels in a byte, the first low.
    https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md#com.microsoft.MatMulNBits
    Returns the node as it was; its weights stay in the graph until `_sweep`."""
    from onnx import NodeProto, helper

    node, before = _node_of(model, name), NodeProto()
    before.CopyFrom(node)
    columns = levels.shape[1]
    pairs = levels.T.reshape(columns, -1, block // 2, 2)
    zeros = np.pad(zero.T, ((0, 0), (0, len(zero) % 2))).reshape(columns, -1, 2)
    constants = {
        "levels": pairs[..., 0] | pairs[..., 1] << 4,
        "scales": np.ascontiguousarray(scale.T),
        "zeros": zeros[..., 0] | zeros[..., 1] << 4,
    }
    for kind, array in constants.items():
        model.graph.initializer.append(tensor_of(array, f"{name}.{kind}"))
    sizes = {"K": rows, "N": columns, "bits": 4, "block_size": block, "accuracy_level": 4}
    inputs = [node.input[0], *(f"{name}.{kind}" for kind in constants)]
    node.CopyFrom(
        helper.make_node("MatMulNBits", inputs, list(node.output), name=name, domain="com.microsoft", **sizes)
    )
    return before


def _node_of(model: onnx.ModelProto, name: str) -> onnx.NodeProto:
    found: onnx.NodeProto = next(each for each in model.graph.node if each.name == name)
    return found


def _sweep(model: onnx.ModelProto) -> None:
    """Constants that nothing reads any more go; the operators' domain comes."""
    from onnx import helper

    used = {name for node in model.graph.node for name in node.input} | {each.name for each in model.graph.output}
    for each in [each for each in model.graph.initializer if each.name not in used]:
        model.graph.initializer.remove(each)
    if "com.microsoft" not in {each.domain for each in model.opset_import}:
        model.opset_import.append(helper.make_opsetid("com.microsoft", 1))


def _rounded(
    weights: np.ndarray, moments: np.ndarray, order: np.ndarray, block: int, ends: tuple[int, int], fit: _Fit
) -> Iterator[tuple[slice, _Rounded]]:
    """Round row after row in this order, each time moving the rows that follow so that they make up for its error.
    Gives some of the columns at a time, their rows in this order: a vocabulary's are too many to hold several times."""
    count, columns = weights.shape
    damped = moments[order][:, order] / max(float(np.mean(np.diag(moments))), _TINY)
    damped[np.diag_indices(count)] += _DAMPING  # enough for float32, which takes half the time
    loudness = np.diag(damped)
    # The upper factor of the inverse: that of the moments in reverse order, inverted, in order again.
    follow = _inverse_factor(damped[::-1, ::-1])[::-1, ::-1]
    blocks = -(-count // block)
    for column in range(0, columns, _COLUMNS):
        here = slice(column, min(column + _COLUMNS, columns))
        left = weights[order, here]
        levels = np.empty(left.shape, np.int16)
        scales, zeros = (np.empty((blocks, left.shape[1]), np.float32) for _ in range(2))
        for start in range(0, count, block):
            end = min(start + block, count)
            scale, zero = fit(left[start:end], loudness[start:end], here)
            scales[start // block], zeros[start // block] = scale, zero
            errors = np.empty_like(left[start:end])
            for row in range(start, end):
                level = np.clip(np.rint(left[row] / scale) + zero, *ends)
                levels[row] = level
                errors[row - start] = (left[row] - (level - zero) * scale) / follow[row, row]
                left[row + 1 : end] -= follow[row, row + 1 : end, None] * errors[row - start]
            left[end:] -= follow[start:end, end:].T @ errors
        yield here, _Rounded(levels, scales, zeros, block)


def _inverse_factor(matrix: np.ndarray) -> np.ndarray:
    """The inverse of the lower Cholesky factor, by halves: nearly all of it is products, which take a tenth of the time of
    numpy's inverse, whose method does not know that half of the factor is zero."""
    count = len(matrix)
    if count <= _SMALL:
        small: np.ndarray = np.linalg.inv(np.linalg.cholesky(matrix))
        return small
    half = count // 2
    upper = _inverse_factor(matrix[:half, :half])
    beside = matrix[half:, :half] @ upper.T
    lower = _inverse_factor(matrix[half:, half:] - beside @ beside.T)
    whole = np.zeros_like(matrix)
    whole[:half, :half], whole[half:, half:] = upper, lower
    whole[half:, :half] = -lower @ (beside @ upper)
    return whole
