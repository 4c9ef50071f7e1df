"""One product where several matrices are multiplied with the same input: queries, keys and values, or a gate and what it gates.

Every call of a product has a price of its own: it quantizes its input again, and its columns are few. A step of SmolLM2 in
four bits takes 0.95 of the time so, one of eight bits 0.97.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from .onnx_smooth import weighted
from .onnx_tensors import tensor_of, uses_of, values_of

if TYPE_CHECKING:
    import onnx

__all__ = ["merge_products"]

_MATRIX = 2  # axes


def merge_products(model: onnx.ModelProto) -> None:
    """Put such matrices side by side, and cut the product's result into theirs."""
    from onnx import helper

    graph = model.graph
    tensors = {each.name: each for each in graph.initializer}
    uses = uses_of(model)
    groups: dict[str, list[onnx.NodeProto]] = {}
    for node in weighted(model).values():
        if len(tensors[node.input[1]].dims) == _MATRIX and uses[node.input[1]] == 1:
            groups.setdefault(node.input[0], []).append(node)
    for given, nodes in groups.items():
        if len(nodes) == 1:
            continue
        name = f"{nodes[0].name}.merged"
        parts = [values_of(tensors[node.input[1]]) for node in nodes]
        sizes = np.array([part.shape[1] for part in parts], np.int64)
        graph.initializer.append(tensor_of(np.concatenate(parts, axis=1), f"{name}.weights"))
        graph.initializer.append(tensor_of(sizes, f"{name}.sizes"))
        product = helper.make_node("MatMul", [given, f"{name}.weights"], [name], name=name)
        outputs = [node.output[0] for node in nodes]
        cut = helper.make_node("Split", [name, f"{name}.sizes"], outputs, name=f"{name}.cut", axis=-1)
        first = list(graph.node).index(nodes[0])  # nothing reads the results of the others before they were there
        for node in nodes:
            graph.initializer.remove(tensors[node.input[1]])
            graph.node.remove(node)
        graph.node.insert(first, cut)
        graph.node.insert(first, product)
