"""Find the external files that an ONNX model refers to, without the `onnx` package.

A model may say that a tensor's values lie in another file, at any path. onnxruntime would read it. So before a file from
outside is loaded, its protobuf is walked for `TensorProto.external_data` (field numbers: onnx/onnx.proto3). The walk
skips tensor values, so it costs milliseconds.
"""

from __future__ import annotations

from collections.abc import Iterator

from .errors import IntegrityError

__all__ = ["external_data"]

_MAX_DEPTH = 64
_LENGTH_DELIMITED = 2

# Which fields of which message lead to a tensor: message -> {field number: message}
_TENSOR = "TensorProto"
_WAY = {
    "ModelProto": {7: "GraphProto", 25: "FunctionProto", 20: "TrainingInfoProto"},
    "TrainingInfoProto": {1: "GraphProto", 2: "GraphProto"},
    "GraphProto": {1: "NodeProto", 5: _TENSOR, 15: "SparseTensorProto"},
    "FunctionProto": {7: "NodeProto", 11: "AttributeProto"},
    "NodeProto": {5: "AttributeProto"},
    "AttributeProto": {
        5: _TENSOR,
        6: "GraphProto",
        10: _TENSOR,
        11: "GraphProto",
        22: "SparseTensorProto",
        23: "SparseTensorProto",
    },
    "SparseTensorProto": {1: _TENSOR, 2: _TENSOR},
}
_ORT_FORMAT = b"ORTM"  # at byte 4 of onnxruntime's own format, which it opens whatever the file's name is
_EXTERNAL_DATA = 13  # TensorProto.external_data: repeated StringStringEntryProto


def external_data(model: bytes, where: str) -> set[str]:
    """Every `location` that a tensor of the model names; empty for a file that stands alone.

    Raises:
        IntegrityError: the bytes are not a protobuf message.
    """
    found: set[str] = set()
    try:
        if not model:
            raise ValueError("it is empty")
        if model[4:8] == _ORT_FORMAT:
            raise ValueError("it is in onnxruntime's own format")
        _walk(memoryview(model), "ModelProto", found, 0)
    except (ValueError, IndexError) as error:
        raise IntegrityError(
            f"Cannot read {where}.", why=f"it is not an ONNX file ({error})", fix="copy the bundle again"
        ) from None
    return found


def _walk(message: memoryview, kind: str, found: set[str], depth: int) -> None:
    if depth > _MAX_DEPTH:
        raise ValueError("graphs are nested too deeply")
    for number, value in _fields(message):
        if kind == _TENSOR:
            if number == _EXTERNAL_DATA:
                entry = dict(_fields(value))
                if bytes(entry.get(1, b"")) == b"location":
                    found.add(bytes(entry.get(2, b"")).decode("utf-8", "replace"))
        elif number in _WAY[kind]:
            _walk(value, _WAY[kind][number], found, depth + 1)


def _fields(message: memoryview) -> Iterator[tuple[int, memoryview]]:
    """The length-delimited fields; the others are stepped over."""
    at, end = 0, len(message)
    while at < end:
        key, at = _varint(message, at)
        number, wire = key >> 3, key & 7
        if not 0 < number < 1 << 29:  # C++ readers drop the bits above: 13 + 2**29 would be 13 to them
            raise ValueError(f"no field has the number {number}")
        if wire == _LENGTH_DELIMITED:
            length, at = _varint(message, at)
            if at + length > end:
                raise ValueError("a field is longer than its message")
            yield number, message[at : at + length]
            at += length
        elif wire == 0:
            _, at = _varint(message, at)
        elif wire in (1, 5):
            at += 8 if wire == 1 else 4
        else:
            raise ValueError(f"unknown wire type {wire}")
    if at != end:
        raise ValueError("the last field is cut off")


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
        if shift > 63:
            raise ValueError("a number is too long")
