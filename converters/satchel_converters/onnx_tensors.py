"""The tensors of an ONNX graph, in its message or in files beside it: of a large model the message never holds them.

A graph that `open_graph` leaves on disk names its tensors' files in full; what is made of them goes to the folder that `spilling`
names. Both are read with `values_of`, written with `tensor_of`, and put together by `write_graph`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from satchel_runtimes.manifest import Graph
from satchel_runtimes.toolchain import need

if TYPE_CHECKING:
    import onnx
    import onnxruntime

__all__ = [
    "is_large",
    "lies_apart",
    "open_graph",
    "opened_apart",
    "spilling",
    "tensor_of",
    "uses_of",
    "values_of",
    "write_graph",
]

_LARGE = 512 * 2**20  # bytes of a graph's weights; up to here a copy in memory costs nobody anything
_APART = 1 << 20  # bytes of a tensor that goes to a file of its own
_SINGLE_FILE_BYTES = 1_500_000_000  # protobuf ends at 2 GB
_PAGE = 4096

_FOLDERS: list[Path] = []  # where tensors that are made go, while a large graph is worked on


@contextlib.contextmanager
def spilling(beside: Path, wanted: bool) -> Iterator[None]:
    """Put tensors that are made into files below the folder `beside`, on the same disk, until the end of the block."""
    if not wanted:
        yield
        return
    with tempfile.TemporaryDirectory(prefix=".weights-", dir=beside) as folder:
        _FOLDERS.append(Path(folder))
        try:
            yield
        finally:
            _FOLDERS.pop()


def is_large(folder: Path, graph: Graph) -> bool:
    """Whether a second copy of its weights is one too many."""
    return bool(graph.weights) and (folder / str(graph.weights)).stat().st_size > _LARGE


def open_graph(folder: Path, graph: Graph, apart: bool) -> onnx.ModelProto:
    """The graph with its tensors, or with the names of their files."""
    package = need("onnx", extra="convert", to="write ONNX", of="satchel")
    model: onnx.ModelProto = package.load(folder / graph.file, load_external_data=not apart)
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = str((folder / graph.file).parent.absolute() / entry.value)
    return model


def uses_of(model: onnx.ModelProto) -> Counter[str]:
    """How often each tensor is an input of a node."""
    return Counter(name for node in model.graph.node for name in node.input)


def lies_apart(tensor: onnx.TensorProto) -> bool:
    return tensor.data_location == 1  # EXTERNAL


def values_of(tensor: onnx.TensorProto) -> np.ndarray:
    """Its values; those of a file are pages of it, to be read only."""
    from onnx import helper, numpy_helper

    if not lies_apart(tensor):
        values: np.ndarray = numpy_helper.to_array(tensor)
        return values
    where, offset, length = _place(tensor)
    dtype = np.dtype(helper.tensor_dtype_to_np_dtype(tensor.data_type))
    raw = np.memmap(where, np.uint8, "r", offset=offset, shape=(length,))
    return np.asarray(raw).view(dtype).reshape(tuple(tensor.dims))


def tensor_of(array: np.ndarray, name: str) -> onnx.TensorProto:
    """A tensor of these values; a large one in a file where a block of `spilling` is open."""
    import onnx
    from onnx import helper, numpy_helper

    if not _FOLDERS or array.nbytes < _APART:
        return numpy_helper.from_array(array, name)
    with tempfile.NamedTemporaryFile(dir=_FOLDERS[-1], delete=False) as file:
        np.ascontiguousarray(array).tofile(file)
    made = onnx.TensorProto(name=name, dims=array.shape, data_type=helper.np_dtype_to_tensor_dtype(array.dtype))
    made.data_location = onnx.TensorProto.EXTERNAL
    for key, value in (("location", file.name), ("offset", "0"), ("length", str(array.nbytes))):
        made.external_data.add(key=key, value=value)
    return made


def opened_apart(model: onnx.ModelProto, options: onnxruntime.SessionOptions) -> onnxruntime.InferenceSession:
    """A session of a graph whose tensors lie in files: it maps those of the folder with most of them, and is given what was made
    since."""
    engine = need("onnxruntime", extra="convert", to="quantize", of="satchel")
    sizes: dict[Path, int] = {}
    for tensor in filter(lies_apart, model.graph.initializer):
        lies, _, length = _place(tensor)
        sizes[Path(lies).parent] = sizes.get(Path(lies).parent, 0) + length
    folder = max(sizes, key=lambda each: sizes[each])
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(folder))
    copy = type(model)()
    copy.CopyFrom(model)
    for tensor in filter(lies_apart, copy.graph.initializer):
        file = Path(_place(tensor)[0])
        if file.parent != folder:
            values = values_of(tensor)
            tensor.CopyFrom(_lean(tensor))
            tensor.raw_data = values.tobytes()
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = file.name
    text = copy.SerializeToString()
    del copy
    return engine.InferenceSession(text, options, providers=["CPUExecutionProvider"])


def write_graph(model: onnx.ModelProto, graph: Graph, out: Path) -> Graph:
    """Write one file, or beyond what protobuf can read the graph and its weights beside it; a tensor at a time."""
    apart = [each for each in model.graph.initializer if lies_apart(each)]
    if model.ByteSize() + sum(_place(each)[2] for each in apart) <= _SINGLE_FILE_BYTES:
        with (out / graph.file).open("wb") as file:
            _write_message(model, file)
        return dataclasses.replace(graph, weights=None)
    weights = f"{graph.file}.data"
    with (out / weights).open("wb") as file:
        for tensor in model.graph.initializer:
            values = values_of(tensor)
            if values.nbytes < _APART:
                continue
            file.seek(-(-file.tell() // _PAGE) * _PAGE)  # so that an engine can map its pages
            at = file.tell()
            values.tofile(file)
            lean = _lean(tensor)
            for key, value in (("location", Path(weights).name), ("offset", str(at)), ("length", str(values.nbytes))):
                lean.external_data.add(key=key, value=value)
            lean.data_location = lean.EXTERNAL
            tensor.CopyFrom(lean)
    with (out / graph.file).open("wb") as file:
        _write_message(model, file)
    return dataclasses.replace(graph, weights=weights)


def _place(tensor: onnx.TensorProto) -> tuple[str, int, int]:
    """File, first byte and length."""
    found = {entry.key: entry.value for entry in tensor.external_data}
    return found["location"], int(found.get("offset", 0)), int(found["length"])


def _lean(tensor: onnx.TensorProto) -> onnx.TensorProto:
    """Without values."""
    return type(tensor)(name=tensor.name, dims=tensor.dims, data_type=tensor.data_type)


# The numbers of the fields, as in onnx/onnx.proto3, with the wire type of what has a length.
_GRAPH, _INITIALIZER, _RAW_DATA = (number << 3 | 2 for number in (7, 5, 9))


def _write_message(model: onnx.ModelProto, file: BinaryIO) -> None:
    """What `SerializeToString` makes, in another order, with the values of absolute files in it and no copy of all."""
    rest = _without(model.graph, "initializer")
    parts = [_parts(tensor) for tensor in model.graph.initializer]
    size = len(rest) + sum(len(head) + (0 if values is None else values.nbytes) for head, values in parts)
    file.write(_without(model, "graph") + bytes([_GRAPH]) + _varint(size) + rest)
    for head, values in parts:
        file.write(head)
        if values is not None:
            file.flush()
            values.tofile(file)


def _parts(tensor: onnx.TensorProto) -> tuple[bytes, np.ndarray | None]:
    """An initializer's field up to its values, and those where they lie in a file that stays behind."""
    if not lies_apart(tensor) or not os.path.isabs(_place(tensor)[0]):
        text = tensor.SerializeToString()
        return bytes([_INITIALIZER]) + _varint(len(text)) + text, None
    values = values_of(tensor)
    head = _lean(tensor).SerializeToString() + bytes([_RAW_DATA]) + _varint(values.nbytes)
    return bytes([_INITIALIZER]) + _varint(len(head) + values.nbytes) + head, values


def _without(message: Any, name: str) -> bytes:  # Any: a graph or a model
    made = type(message)()
    for field, value in message.ListFields():
        if field.name == name:
            continue
        if hasattr(value, "extend"):
            getattr(made, field.name).extend(value)
        elif hasattr(value, "CopyFrom"):
            getattr(made, field.name).CopyFrom(value)
        else:
            setattr(made, field.name, value)
    text: bytes = made.SerializeToString()
    return text


def _varint(number: int) -> bytes:
    parts = []
    while number >= 0x80:
        parts.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*parts, number])
