"""Embedding tables of ONNX graphs: in int8, and stored once where the head of a language model has the same table."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Any

import numpy as np

from .onnx_tensors import tensor_of, uses_of, values_of

if TYPE_CHECKING:
    import onnx

__all__ = ["embeddings_to_int8", "look_up_blocks", "tie_embeddings", "tied"]

_LARGE_ROWS = 1024  # an embedding table with fewer rows is not worth three more operators


def embeddings_to_int8(model: onnx.ModelProto, kept: Collection[str] = ()) -> None:
    """Replace each large embedding table by int8 rows with a scale per row, looked up and multiplied back.

    onnxruntime's quantizer gives a table one scale for all rows; one per row costs 4 bytes each and keeps rare words as
    exact as common ones.
    """
    from onnx import helper

    graph = model.graph
    tables = {each.name: each for each in graph.initializer}
    uses = uses_of(model)
    for place in reversed(range(len(graph.node))):
        node = graph.node[place]
        if node.op_type != "Gather" or node.input[0] not in tables or uses[node.input[0]] > 1:
            continue
        if node.output[0] in kept:
            continue
        if next((a.i for a in node.attribute if a.name == "axis"), 0) != 0:
            continue
        name = node.input[0]
        values = values_of(tables[name])
        if values.ndim != 2 or values.shape[0] < _LARGE_ROWS or values.dtype != np.float32:
            continue
        scale = np.maximum(np.abs(values).max(axis=1, keepdims=True) / 127, np.finfo(np.float32).tiny)
        rows = np.clip(np.rint(values / scale), -127, 127).astype(np.int8)
        graph.initializer.remove(tables[name])
        graph.initializer.append(tensor_of(rows, f"{name}.int8"))
        graph.initializer.append(tensor_of(scale.astype(np.float32), f"{name}.scale"))
        ids, out = node.input[1], node.output[0]
        made = [
            helper.make_node("Gather", [f"{name}.int8", ids], [f"{out}.int8"], name=f"{node.name}.rows"),
            helper.make_node("Cast", [f"{out}.int8"], [f"{out}.float"], name=f"{node.name}.cast", to=1),
            helper.make_node("Gather", [f"{name}.scale", ids], [f"{out}.scale"], name=f"{node.name}.scales"),
            helper.make_node("Mul", [f"{out}.float", f"{out}.scale"], [out], name=f"{node.name}.mul"),
        ]
        del graph.node[place]
        for offset, each in enumerate(made):
            graph.node.insert(place + offset, each)


def tie_embeddings(model: onnx.ModelProto) -> None:
    """Store a table once that is looked up at the start of a graph and, turned over, multiplied at its end: the engine turns it
    when it loads the graph. A fifth of SmolLM2's file is that copy."""
    from onnx import helper

    graph = model.graph
    for look, product in tied(model):
        name, turned = look.input[0], f"{look.input[0]}.turned"
        other = next(each for each in graph.initializer if each.name == product.input[1])
        place = list(graph.node).index(product)
        graph.node.insert(place, helper.make_node("Transpose", [name], [turned], name=turned, perm=[1, 0]))
        product.input[1] = turned
        graph.initializer.remove(other)


def tied(model: onnx.ModelProto) -> list[tuple[onnx.NodeProto, onnx.NodeProto]]:
    """Look-ups in a large table, each with the product that has the table turned over as its weights."""
    graph = model.graph
    tables = {each.name: each for each in graph.initializer}
    looks = {node.input[0]: node for node in graph.node if node.op_type == "Gather" and node.input[0] in tables}
    found = []
    for name, look in looks.items():
        table = tables[name]
        if len(table.dims) != 2 or table.dims[0] < _LARGE_ROWS:
            continue
        for node in [each for each in graph.node if each.op_type == "MatMul" and each.input[1] in tables]:
            other = tables[node.input[1]]
            if list(other.dims) != list(reversed(table.dims)):
                continue
            if np.array_equal(values_of(other), values_of(table).T):
                found.append((look, node))
    return found


def look_up_blocks(model: onnx.ModelProto, look: str, product: str) -> None:
    """Let a look-up read the rows that a product in 8 bits holds: a column of its weights is a row of the table."""
    from onnx import helper

    graph = model.graph
    head = next(each for each in graph.node if each.output[0] == product)
    place, node = next((i, each) for i, each in enumerate(graph.node) if each.output[0] == look)
    width = next(each.i for each in head.attribute if each.name == "K")
    name, ids, out = node.input[0], node.input[1], node.output[0]
    constants = {
        "middle": np.float32(128),
        "last": np.array([-1], np.int64),
        "rows": np.array([0, 0, -1], np.int64),
        "first": np.array([0], np.int64),
        "width": np.array([width], np.int64),
        "axis": np.array([2], np.int64),
    }
    graph.initializer.extend(tensor_of(np.asarray(v), f"{name}.{k}") for k, v in constants.items())
    of = {key: f"{name}.{key}" for key in constants}
    steps: list[tuple[str, list[str], str, dict[str, Any]]] = [  # Any: attributes of operators
        ("Gather", [head.input[1], ids], "levels", {}),
        ("Cast", [f"{out}.levels"], "float", {"to": 1}),
        ("Sub", [f"{out}.float", of["middle"]], "signed", {}),
        ("Gather", [head.input[2], ids], "scales", {}),
        ("Unsqueeze", [f"{out}.scales", of["last"]], "scale", {}),
        ("Mul", [f"{out}.signed", f"{out}.scale"], "blocks", {}),
        ("Reshape", [f"{out}.blocks", of["rows"]], "padded", {}),
        ("Slice", [f"{out}.padded", of["first"], of["width"], of["axis"]], "", {}),
    ]
    del graph.node[place]
    for offset, (kind, inputs, result, settings) in enumerate(steps):
        made = helper.make_node(
            kind, inputs, [f"{out}.{result}" if result else out], name=f"{out}.{offset}", **settings
        )
        graph.node.insert(place + offset, made)
    used = {each for every in graph.node for each in every.input}
    for each in [each for each in graph.initializer if each.name == name and name not in used]:
        graph.initializer.remove(each)
