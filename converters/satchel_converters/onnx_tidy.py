"""Reshapes that say what they mean: tracing writes each kept axis as a measurement, five operators of it for every head split.

A decoder's step is hundreds of small operators around a few large products, so that each one that is gone counts.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from satchel_runtimes.toolchain import need

__all__ = ["tidy_reshapes"]

_KEPT = 2  # the axes that layers hand on as they are: batch and sequence


def tidy_reshapes(program: Any) -> None:  # Any: onnx_ir.Model, which mypy cannot see
    """Write the first axes of a shape that was measured there as 0, "as it is", and leave out a reshape that another undoes.

    That the measured tensor has the same batch and sequence is taken for granted; the export is compared at other shapes.
    """
    ir = need("onnx_ir", extra="convert", to="export to ONNX", of="satchel")
    graph = program.graph
    for node in [each for each in graph if each.op_type == "Reshape"]:
        before = node.inputs[0].producer()
        if before is not None and before.op_type == "Gemm":  # of two axes, so it has no sequence to keep
            continue
        sizes = _sizes(ir, node.inputs[1])
        if sizes is None or len(sizes) <= _KEPT or sizes.count(-1) > 1:
            continue
        name = f"{node.outputs[0].name}.shape"
        tensor = ir.tensor(np.array(sizes, dtype=np.int64), name=name)
        shape = ir.Value(
            name=name, const_value=tensor, type=ir.TensorType(ir.DataType.INT64), shape=ir.Shape([len(sizes)])
        )
        graph.register_initializer(shape)
        node.replace_input_with(1, shape)
    for node in [each for each in graph if each.op_type == "Reshape"]:
        before = node.inputs[0].producer()
        if before is None or before.op_type != "Reshape" or not (_keeps(ir, node) and _keeps(ir, before)):
            continue
        node.replace_input_with(0, before.inputs[0])
    need("onnx_ir.passes.common", extra="convert", to="export to ONNX", of="satchel").RemoveUnusedNodesPass()(program)
    for node in [each for each in graph if each.op_type == "Reshape"]:
        if _undone(ir, node):
            node.outputs[0].replace_all_uses_with(node.inputs[0])
    need("onnx_ir.passes.common", extra="convert", to="export to ONNX", of="satchel").RemoveUnusedNodesPass()(program)


def _sizes(ir: Any, value: Any) -> list[int] | None:
    """The shape as a constant, with 0 for each axis that was measured at its own place; None where there is more to it."""
    node = value.producer()
    if node is None or node.op_type != "Concat":
        return None
    sizes = list(_parts(ir, node))
    known = [each for each in sizes if each is not None]
    return known if len(known) == len(sizes) else None


def _parts(ir: Any, concat: Any) -> Iterator[int | None]:
    for place, part in enumerate(concat.inputs):
        constant = ir.convenience.get_const_tensor(part)
        if constant is not None:
            if constant.size != 1:
                yield None
                return
            yield int(constant.numpy().item())
        else:
            yield 0 if place < _KEPT and _measured(ir, part) == place else None


def _measured(ir: Any, value: Any) -> int | None:
    """The axis, where the value is the size of one."""
    for kind in ("Unsqueeze", "Gather"):
        node = value.producer()
        if node is None or node.op_type != kind:
            return None
        if kind == "Gather":
            index, source = ir.convenience.get_const_tensor(node.inputs[1]), node.inputs[0].producer()
            measures = source is not None and source.op_type == "Shape" and not source.attributes
            return int(index.numpy().item()) if measures and index is not None and index.size == 1 else None
        value = node.inputs[0]
    return None


def _constant(ir: Any, node: Any) -> list[int]:
    found = ir.convenience.get_const_tensor(node.inputs[1])
    return [] if found is None else [int(each) for each in found.numpy()]


def _keeps(ir: Any, node: Any) -> bool:
    """Whether it keeps batch and sequence, and deals out what is behind them."""
    sizes = _constant(ir, node)
    return sizes[:_KEPT] == [0] * _KEPT and 0 not in sizes[_KEPT:]


def _undone(ir: Any, node: Any) -> bool:
    """Whether it gives what it is given: [0, 0, -1] of what has three axes, the results of products and of attention."""
    before = node.inputs[0].producer()
    flat = {"MatMul", "GroupQueryAttention", "RotaryEmbedding"}
    return _constant(ir, node) == [0, 0, -1] and before is not None and before.op_type in flat
