"""Our safetensors are everybody's safetensors, and a damaged file is refused, never guessed at."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays_of

from satchel_runtimes.errors import IntegrityError
from satchel_runtimes.tensors import pack_tensors, unpack_tensors

DTYPES = ("float64", "float32", "float16", "int64", "int32", "int8", "uint8", "bool")

Tensors = Mapping[str, np.ndarray]

tensor_sets = st.dictionaries(
    st.text(max_size=8).filter(lambda name: name != "__metadata__"),
    arrays_of.arrays(
        st.sampled_from(DTYPES).map(np.dtype), arrays_of.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5)
    ),
    max_size=4,
)


def same(ours: Tensors, theirs: Tensors) -> bool:
    return ours.keys() == theirs.keys() and all(
        (ours[name].dtype, ours[name].shape) == (theirs[name].dtype, theirs[name].shape)
        and ours[name].tobytes() == theirs[name].tobytes()  # bytes: a NaN is itself
        for name in ours
    )


@settings(max_examples=100, deadline=None)
@given(tensor_sets)
def test_what_we_write_we_read(tensors: Tensors) -> None:
    assert same(unpack_tensors(pack_tensors(tensors), "here"), tensors)


@settings(max_examples=100, deadline=None)
@given(tensor_sets)
def test_what_we_write_the_safetensors_package_reads(tensors: Tensors) -> None:
    assert same(safetensors.numpy.load(pack_tensors(tensors)), tensors)


@settings(max_examples=100, deadline=None)
@given(tensor_sets)
def test_what_the_safetensors_package_writes_we_read(tensors: Tensors) -> None:
    assert same(unpack_tensors(safetensors.numpy.save(dict(tensors), metadata={"by": "them"}), "here"), tensors)


@pytest.mark.parametrize(
    "array",
    [
        np.arange(12, dtype=np.float32).reshape(3, 4).T,
        np.arange(12, dtype=np.int64)[::2],
        np.arange(3, dtype=">f4"),
        np.float32(3.5),
    ],
    ids=["transposed", "strided", "big-endian", "scalar"],
)
def test_values_are_written_in_order_however_they_lie_in_memory(array: np.ndarray) -> None:
    back = unpack_tensors(pack_tensors({"x": array}), "here")["x"]

    assert back.shape == np.shape(array)
    assert np.array_equal(back, array)


def test_the_same_tensors_are_the_same_bytes_in_whatever_order_they_come() -> None:
    a, b = np.zeros(3, np.float32), np.ones(2, np.int8)

    assert pack_tensors({"a": a, "b": b}) == pack_tensors({"b": b, "a": a})


# Damage


def file_of(header: Any, body: bytes = bytes(16)) -> bytes:  # Any: JSON
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + body


def entry(**changes: Any) -> dict[str, Any]:  # Any: JSON
    return {"x": {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16], **changes}}


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x08\0\0\0",
        struct.pack("<Q", 2**63) + b"{}",
        struct.pack("<Q", 3) + b"{}",
        file_of(b"not JSON"),
        file_of(b"\xff\xfe\xfd"),
        file_of(b"[" * 100_000),
        file_of([]),
        file_of({"x": None}),
        file_of({"x": {}}),
        file_of(entry(dtype="F128")),
        file_of(entry(dtype=["F32"])),
        file_of(entry(shape=[4, 4])),
        file_of(entry(shape=[-1, 2])),
        file_of(entry(shape=[2.0, 2])),
        file_of(entry(shape=[2**80])),
        file_of(entry(shape=[2**32, 2**32])),
        file_of(entry(shape=4)),
        file_of(entry(shape=None)),
        file_of(entry(data_offsets=[0, 17])),
        file_of(entry(data_offsets=[-16, 16])),
        file_of(entry(data_offsets=[16, 0])),
        file_of(entry(data_offsets=[0, 15])),
        file_of(entry(data_offsets=[0])),
        file_of(entry(data_offsets=[0.0, 16.0])),
        file_of(entry(data_offsets="ab")),
        file_of(entry())[:-1],
    ],
)
def test_a_file_whose_header_does_not_fit_is_refused(data: bytes) -> None:
    with pytest.raises(IntegrityError, match="the file is damaged") as caught:
        unpack_tensors(data, "golden/reference.safetensors")

    assert caught.value.what == "Cannot read the tensors of golden/reference.safetensors."
    assert caught.value.fix == "copy the bundle again"
    assert caught.value.exit_code == 16


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200))
@example(file_of(entry(shape=[True, 4])))
def test_arbitrary_bytes_are_read_or_refused_and_nothing_else(data: bytes) -> None:
    try:
        assert isinstance(unpack_tensors(data, "here"), dict)
    except IntegrityError:
        pass


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=2),
    max_leaves=5,
)


@settings(max_examples=300, deadline=None)
@given(
    st.fixed_dictionaries(
        {
            "dtype": st.sampled_from(["F32", "I8", "BOOL", "BF16"]) | json_values,
            "shape": st.lists(st.integers(-2, 5), max_size=3) | json_values,
            "data_offsets": st.lists(st.integers(-20, 20), min_size=2, max_size=2) | json_values,
        }
    )
)
def test_any_header_is_read_as_it_says_or_refused(header: dict[str, Any]) -> None:
    try:
        (array,) = unpack_tensors(file_of({"x": header}), "here").values()
    except IntegrityError:
        return
    start, end = header["data_offsets"]
    assert list(array.shape) == header["shape"]
    assert array.nbytes == end - start
