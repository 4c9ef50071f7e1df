"""The cache of a decoder in int8: a quarter of the memory of each token, and of what a step reads of a long text.

onnxruntime's GroupQueryAttention quantizes what it writes into such a cache and multiplies with it as it lies:
https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md#com.microsoft.GroupQueryAttention
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from satchel_runtimes.errors import SupportError

from .onnx_smooth import Samples, open_model

if TYPE_CHECKING:
    import onnx

__all__ = ["narrow_caches", "observe_caches"]

_OPERATOR = "GroupQueryAttention"
_PAST, _SCALES = (3, 4), (12, 13)  # where keys and values are among its inputs, and their scales
_LEVELS = 127
_ROOM = 1.1  # above the largest value that the samples had; what is beyond is cut off


def observe_caches(model: onnx.ModelProto, samples: Samples) -> dict[str, np.ndarray]:
    """Of each cache input, the largest magnitude of each channel, [heads, size].

    Raises:
        SupportError: a cache that is not that of the operator.
    """
    fused = [node for node in model.graph.node if node.op_type == _OPERATOR]
    comes_out = {node.input[place]: node.output[place - 2] for node in fused for place in _PAST}
    shapes = {each.name: len(each.type.tensor_type.shape.dim) for each in model.graph.input}
    rest = [name for name, axes in shapes.items() if axes == 4 and name not in comes_out]
    if not comes_out or rest:
        raise SupportError(
            "Cannot keep this model's cache in int8.",
            why=f"{'its' if not comes_out else 'some of its'} attention is in plain operators, which know no such cache",
            fix="leave kv8 out of the scheme's name",
        )
    session = open_model(model)
    peaks: dict[str, np.ndarray] = {}
    for sample in samples:
        found = session.run(list(comes_out.values()), dict(sample))
        for name, array in zip(comes_out, found, strict=True):
            peak = np.abs(array).max(axis=(0, 2))
            peaks[name] = np.maximum(peaks.get(name, 0), peak)
    return peaks


def narrow_caches(model: onnx.ModelProto, peaks: Mapping[str, np.ndarray]) -> None:
    """Let the caches be int8, with a scale for each channel."""
    from onnx import TensorProto, helper, numpy_helper

    ends = {each.name: each for each in (*model.graph.input, *model.graph.output)}
    for node in [each for each in model.graph.node if each.op_type == _OPERATOR]:
        inputs = [*node.input, *[""] * (max(_SCALES) + 1 - len(node.input))]
        for past, place in zip(_PAST, _SCALES, strict=True):
            name = f"{node.input[past]}.scale"
            scale = np.maximum(peaks[node.input[past]].ravel() * _ROOM / _LEVELS, np.finfo(np.float32).tiny)
            model.graph.initializer.append(numpy_helper.from_array(scale.astype(np.float32), name))
            inputs[place] = name
            for end in (node.input[past], node.output[past - 2]):
                ends[end].type.tensor_type.elem_type = TensorProto.INT8
        node.input[:] = inputs
        settings = {"k_quant_type": "PER_CHANNEL", "v_quant_type": "PER_CHANNEL", "kv_cache_bit_width": 8}
        node.attribute.extend(helper.make_attribute(key, value) for key, value in settings.items())
