"""int8 weights of a TFLite graph, rounded against what they multiply instead of each for itself.

Rounding to the nearest leaves an error that adds up where inputs go together, such as the white ground of a picture: on EfficientNet-Lite0
the first convolution alone fell to 21 dB by it. Here the error of each weight is made good by those still to be rounded (GPTQ,
Frantar et al. 2022, arXiv 2210.17323, with the columns of large inputs first), and the mean that remains goes into the bias (Nagel et
al. 2019, arXiv 1906.04721). The file stays float32: its weights lie on the grid that the quantizer finds.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = ["KINDS", "Layer", "Moments", "code_of", "find_layers", "put_on_grid"]

KINDS = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED")
_LEVELS = 127
_BLOCK = 64  # columns whose errors are passed on at once
_DAMPING = 0.01  # of the mean diagonal, as in the paper


@dataclass(frozen=True)
class Layer:
    """Operators that share weights: one in each signature."""

    name: str
    kind: str
    size: int  # weights
    operators: tuple[tuple[int, Any], ...]  # with their subgraph; Any: classes of the flatbuffer's schema

    def outputs(self, model: Any) -> tuple[str, ...]:
        """The tensor that each operator writes, by which a recipe names it."""
        return tuple(tensor_name(model, graph, operator.outputs[0]) for graph, operator in self.operators)

    def activations(self, model: Any) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """What all operators read, and what they write."""
        reads = tuple(tensor_name(model, graph, operator.inputs[0]) for graph, operator in self.operators)
        return reads, self.outputs(model)


@dataclass
class Moments:
    """The first and second moments of what a layer's weights multiply, over the samples."""

    second: Any = 0.0  # columns x columns, one matrix per channel where each has its own
    first: Any = 0.0
    n: int = 0

    def add(self, model: Any, layer: Layer, values: np.ndarray) -> None:
        """Of one sample's input; grouped convolutions are left as they are."""
        graph, operator = layer.operators[0]
        shape = model.subgraphs[graph].tensors[operator.inputs[1]].shape
        if values.shape[-1] != shape[-1]:
            return
        if layer.kind == "FULLY_CONNECTED":
            columns = values.reshape(-1, shape[1])
        else:
            columns = _patches(values, shape[1:3], operator.builtinOptions).reshape(-1, *_columns(layer, shape))
        if layer.kind == "DEPTHWISE_CONV_2D":
            channels = columns.transpose(2, 1, 0)
            second = channels @ channels.transpose(0, 2, 1)
        else:
            second = columns.T @ columns
        self.second = self.second + second / len(columns)
        self.first = self.first + columns.mean(0)
        self.n += 1


def find_layers(model: Any, kinds: Mapping[int, str]) -> tuple[Layer, ...]:  # Any: the flatbuffer's schema
    """The operators with constant weights, those of all signatures together.

    Args:
        kinds: the names of operators by their code.
    """
    found: dict[int, list[tuple[int, Any]]] = {}
    for number, graph in enumerate(model.subgraphs):
        for operator in graph.operators:
            if kinds.get(code_of(model, operator)) in KINDS:
                buffer = graph.tensors[operator.inputs[1]].buffer
                if model.buffers[buffer].data is not None:
                    found.setdefault(buffer, []).append((number, operator))
    layers = []
    seen: dict[str, int] = {}
    for operators in found.values():
        graph, operator = operators[0]
        name = _short(tensor_name(model, graph, operator.outputs[0]))
        seen[name] = seen.get(name, 0) + 1
        name += f"#{seen[name]}" if seen[name] > 1 else ""
        shape = model.subgraphs[graph].tensors[operator.inputs[1]].shape
        layers.append(Layer(name, kinds[code_of(model, operator)], int(np.prod(shape)), tuple(operators)))
    return tuple(layers)


def put_on_grid(
    model: Any, layers: Iterable[Layer], moments: Mapping[str, Moments], scales: Mapping[str, float]
) -> None:  # Any: the flatbuffer's schema
    """Change the weights and biases of `model` to ones that int8 holds exactly.

    Args:
        scales: the step of each layer's input, by the layer's name.
    """
    for layer in layers:
        graph, operator = layer.operators[0]
        tensors = model.subgraphs[graph].tensors
        held = model.buffers[tensors[operator.inputs[1]].buffer]
        shape = tensors[operator.inputs[1]].shape
        weights = np.frombuffer(bytes(held.data), np.float32).reshape(shape).astype(np.float64)
        moment = moments[layer.name]
        if not moment.n:
            continue
        alone = layer.kind == "DEPTHWISE_CONV_2D"
        rows = weights.reshape(-1, shape[-1]).T if alone else weights.reshape(shape[0], -1)
        bias = model.buffers[tensors[operator.inputs[2]].buffer] if _has_bias(operator) else None
        offset = np.zeros(len(rows)) if bias is None else np.frombuffer(bytes(bias.data), np.float32).astype(np.float64)
        second, first = moment.second / moment.n, moment.first / moment.n
        steps = np.abs(rows).max(1) / _LEVELS
        # A bias is stored in 32 bits of input step x weight step, which overflow where a channel has all but died.
        least = np.abs(offset) / (scales[layer.name] * 2**30)
        dead = steps <= np.maximum(least, 1e-12)
        steps = np.where(dead, np.maximum(least, 1e-9), steps)
        if alone:
            made = np.stack([_rounded(rows[i : i + 1], second[i], steps[i : i + 1])[0] for i in range(len(rows))])
            made[dead] = 0.0
            left = ((rows - made) * first.T).sum(1)
        else:
            made = _rounded(rows, second, steps)
            made[dead] = 0.0
            left = (rows - made) @ first
        made[dead, 0] = steps[dead] * _LEVELS  # too little to matter, enough for the quantizer to find this step
        whole = made.T.reshape(shape) if alone else made.reshape(shape)
        held.data = np.frombuffer(whole.astype(np.float32).tobytes(), np.uint8)
        if bias is not None:
            bias.data = np.frombuffer((offset + left).astype(np.float32).tobytes(), np.uint8)


def tensor_name(model: Any, graph: int, tensor: int) -> str:
    return str(model.subgraphs[graph].tensors[tensor].name.decode())


def code_of(model: Any, operator: Any) -> int:
    code = model.operatorCodes[operator.opcodeIndex]
    return max(int(code.builtinCode), int(code.deprecatedBuiltinCode))


def _rounded(rows: np.ndarray, second: np.ndarray, steps: np.ndarray) -> np.ndarray:
    """Multiples of a row's step, with the least error of row x input over the inputs with these second moments."""
    n = rows.shape[1]
    diagonal = np.diag(second).astype(np.float64)
    order = np.argsort(-diagonal)
    matrix = second[np.ix_(order, order)].astype(np.float64)
    matrix[np.diag_indices(n)] += max(_DAMPING * diagonal.mean(), 1e-12)
    upper = np.linalg.cholesky(np.linalg.inv(matrix)).T
    left, made = rows[:, order].copy(), np.empty_like(rows)
    for start in range(0, n, _BLOCK):
        end = min(start + _BLOCK, n)
        errors = np.empty((len(rows), end - start))
        for i in range(start, end):
            made[:, i] = np.clip(np.round(left[:, i] / steps), -_LEVELS, _LEVELS) * steps
            errors[:, i - start] = (left[:, i] - made[:, i]) / upper[i, i]
            left[:, i + 1 : end] -= np.outer(errors[:, i - start], upper[i, i + 1 : end])
        left[:, end:] -= errors @ upper[start:end, end:]
    return made[:, np.argsort(order)]


def _patches(values: np.ndarray, window: Any, options: Any) -> np.ndarray:
    """What a window sees at each place: (places, height, width, channels)."""
    for axis, size, stride, dilation in (
        (1, int(window[0]), options.strideH, options.dilationHFactor),
        (2, int(window[1]), options.strideW, options.dilationWFactor),
    ):
        reach = (size - 1) * dilation + 1
        length = values.shape[axis]
        if options.padding == 0:  # SAME: as many places as strides, the odd column of zeros at the end
            missing = max((-(-length // stride) - 1) * stride + reach - length, 0)
            pads = [(0, 0)] * values.ndim
            pads[axis] = (missing // 2, missing - missing // 2)
            values = np.pad(values, pads)
        places = (values.shape[axis] - reach) // stride + 1
        seen = np.arange(places)[:, None] * stride + np.arange(size) * dilation
        values = np.take(values, seen, axis=axis)
        values = np.moveaxis(values, axis + 1, -1)  # the window's own axis goes last
    _, _, _, channels, height, width = values.shape
    return values.transpose(0, 1, 2, 4, 5, 3).reshape(-1, height, width, channels)


def _columns(layer: Layer, shape: Any) -> tuple[int, ...]:
    window = int(shape[1]) * int(shape[2])
    return (window, int(shape[3])) if layer.kind == "DEPTHWISE_CONV_2D" else (window * int(shape[3]),)


def _has_bias(operator: Any) -> bool:
    return len(operator.inputs) > 2 and operator.inputs[2] >= 0


def _short(path: str) -> str:
    """`encoder.layer.0.output.dense` from the classes and names that litert-torch writes."""
    last = path.rpartition("_inner/")[2]  # of operators that were fused, the one with the weights
    parts = [part.split(";")[0].rpartition(".")[2].lstrip("_").partition("_")[2] for part in last.split("/")]
    return ".".join(part for part in parts if part)
