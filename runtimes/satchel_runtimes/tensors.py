"""Read and write safetensors with numpy alone.

The format is documented at https://github.com/huggingface/safetensors#format: eight bytes of header length (little
endian), a JSON header with dtype, shape and offsets per tensor, then the raw values. The `safetensors` package does the
same; the device side stays at numpy and one engine, and golden samples need no more than this.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping

import numpy as np

from .errors import IntegrityError

__all__ = ["pack_tensors", "unpack_tensors"]

_DTYPES = {
    "F64": "<f8",
    "F32": "<f4",
    "F16": "<f2",
    "I64": "<i8",
    "I32": "<i4",
    "I8": "|i1",
    "U8": "|u1",
    "BOOL": "|b1",
}
_NAMES: dict[np.dtype, str] = {np.dtype(code): name for name, code in _DTYPES.items()}


def pack_tensors(tensors: Mapping[str, np.ndarray]) -> bytes:
    header: dict[str, object] = {}
    chunks = []
    end = 0
    for name in sorted(tensors):
        array = np.asarray(tensors[name])
        array = array.astype(array.dtype.newbyteorder("<"), copy=False)
        chunk = array.tobytes()  # in C order, however it lies in memory
        header[name] = {
            "dtype": _NAMES[array.dtype],
            "shape": list(array.shape),
            "data_offsets": [end, end + len(chunk)],
        }
        chunks.append(chunk)
        end += len(chunk)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the values start at a multiple of eight
    return struct.pack("<Q", len(text)) + text + b"".join(chunks)


def unpack_tensors(data: bytes, where: str) -> dict[str, np.ndarray]:
    """The tensors of a safetensors file.

    Raises:
        IntegrityError: the header does not fit the bytes.
    """
    try:
        (length,) = struct.unpack_from("<Q", data)
        if length > len(data) - 8:
            raise ValueError("the header is longer than the file")
        header = json.loads(data[8 : 8 + length])
        body = memoryview(data)[8 + length :]
        tensors = {}
        for name, entry in header.items():
            if name == "__metadata__":
                continue
            start, end = entry["data_offsets"]
            if not 0 <= start <= end <= len(body):
                raise ValueError(f"the offsets of {name!r} leave the file")
            shape = entry["shape"]
            if not isinstance(shape, list) or not all(
                type(size) is int and size >= 0 for size in shape
            ):  # numpy would guess a size of -1
                raise ValueError(f"{name!r} has the shape {shape}")
            array = np.frombuffer(body[start:end], dtype=np.dtype(_DTYPES[entry["dtype"]]))
            tensors[name] = array.reshape(shape)
    except (struct.error, OverflowError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise IntegrityError(
            f"Cannot read the tensors of {where}.", why=f"the file is damaged ({error})", fix="copy the bundle again"
        ) from None
    return tensors
