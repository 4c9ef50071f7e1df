"""What an ONNX file may not do: make the engine read a file that the bundle does not list and hash."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from satchel_runtimes import load
from satchel_runtimes.bundle import open_bundle
from satchel_runtimes.errors import IntegrityError
from satchel_runtimes.manifest import MANIFEST_NAME
from satchel_runtimes.onnx_file import external_data

FLOAT = TensorProto.FLOAT


def outside(location: str, dims: Sequence[int] = (2,), **more: str) -> TensorProto:
    """A tensor whose values lie in another file."""
    tensor = TensorProto(name="w", data_type=FLOAT, dims=dims, data_location=TensorProto.EXTERNAL)
    for key, value in {"location": location, **more}.items():
        tensor.external_data.add(key=key, value=value)
    return tensor


def inside(name: str = "w") -> TensorProto:
    return numpy_helper.from_array(np.array([1, 2], np.float32), name)


def graph(nodes: Sequence[onnx.NodeProto] = (), **more: Any) -> onnx.GraphProto:  # Any: make_graph's arguments
    return helper.make_graph(nodes, "g", [], [], **more)


def found(model: onnx.ModelProto) -> set[str]:
    return external_data(model.SerializeToString(), "model.onnx")


def constant(value: TensorProto) -> onnx.NodeProto:
    return helper.make_node("Constant", [], ["c"], value=value)


def branch(then: onnx.GraphProto) -> onnx.NodeProto:
    return helper.make_node("If", ["c"], ["y"], then_branch=then, else_branch=graph())


def in_a_loop_in_a_branch(tensor: TensorProto) -> onnx.ModelProto:
    loop = helper.make_node("Loop", [], [], body=graph(initializer=[tensor]))
    return helper.make_model(graph([branch(graph([loop]))]))


def in_a_function(tensor: TensorProto) -> onnx.ModelProto:
    function = helper.make_function("own", "F", [], ["c"], [constant(tensor)], [helper.make_opsetid("", 17)])
    return helper.make_model(graph(), functions=[function])


def in_a_functions_default(tensor: TensorProto) -> onnx.ModelProto:
    default = helper.make_attribute("value", tensor)
    function = helper.make_function("own", "F", [], [], [], [], attribute_protos=[default])
    return helper.make_model(graph(), functions=[function])


def in_training_info(tensor: TensorProto) -> onnx.ModelProto:
    model = helper.make_model(graph())
    model.training_info.add().algorithm.initializer.append(tensor)
    return model


def sparse(values: TensorProto, indices: TensorProto) -> onnx.SparseTensorProto:
    return helper.make_sparse_tensor(values, indices, [4])


def several_tensors(tensor: TensorProto) -> onnx.ModelProto:
    node = helper.make_node("Own", [], [])
    node.attribute.append(onnx.AttributeProto(name="many", type=onnx.AttributeProto.TENSORS, tensors=[tensor]))
    return helper.make_model(graph([node]))


def several_graphs(tensor: TensorProto) -> onnx.ModelProto:
    node, inner = helper.make_node("Own", [], []), graph(initializer=[tensor])
    node.attribute.append(onnx.AttributeProto(name="many", type=onnx.AttributeProto.GRAPHS, graphs=[inner]))
    return helper.make_model(graph([node]))


HIDING_PLACES: dict[str, Callable[[TensorProto], onnx.ModelProto]] = {
    "an initializer": lambda tensor: helper.make_model(graph(initializer=[tensor])),
    "a constant": lambda tensor: helper.make_model(graph([constant(tensor)])),
    "the initializer of a branch": lambda tensor: helper.make_model(graph([branch(graph(initializer=[tensor]))])),
    "a loop in a branch": in_a_loop_in_a_branch,
    "a function": in_a_function,
    "a function's default": in_a_functions_default,
    "sparse values": lambda tensor: helper.make_model(graph(sparse_initializer=[sparse(tensor, inside())])),
    "sparse indices": lambda tensor: helper.make_model(graph(sparse_initializer=[sparse(inside(), tensor)])),
    "a sparse constant": lambda tensor: helper.make_model(
        graph([helper.make_node("Constant", [], ["c"], sparse_value=sparse(tensor, inside()))])
    ),
    "a list of tensors": several_tensors,
    "a list of graphs": several_graphs,
    "training info": in_training_info,
}


@pytest.mark.parametrize("place", HIDING_PLACES)
def test_external_data_is_found_wherever_a_tensor_can_be(place: str) -> None:
    hidden, plain = HIDING_PLACES[place](outside("../secret")), HIDING_PLACES[place](inside())

    assert found(hidden) == {"../secret"}
    assert found(plain) == set()


def test_every_location_of_a_model_is_found() -> None:
    model = helper.make_model(graph([constant(outside("b"))], initializer=[outside("a", offset="8"), inside()]))

    assert found(model) == {"a", "b"}


def test_external_data_counts_even_where_the_tensor_says_that_its_values_are_inside() -> None:
    tensor = outside("../secret")
    tensor.data_location = TensorProto.DEFAULT

    assert found(helper.make_model(graph(initializer=[tensor]))) == {"../secret"}


def test_a_real_model_stands_alone(minilm_bundle: Path) -> None:
    assert external_data((minilm_bundle / "model.onnx").read_bytes(), "model.onnx") == set()


def varint(value: int) -> bytes:
    out = b""
    while value > 0x7F:
        out += bytes([value & 0x7F | 0x80])
        value >>= 7
    return out + bytes([value])


def field(number: int, content: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(content)) + content


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"\x3a", "not an ONNX file"),
        (b"\x3a\x05abc", "a field is longer than its message"),
        (b"\x0d\x01", "the last field is cut off"),
        (b"\x0b", "unknown wire type 3"),
        (b"\x08" + b"\xff" * 12, "a number is too long"),
        (b"\x02\x00", "no field has the number 0"),
        (field(7 + (1 << 29), b""), "no field has the number"),
        (b"\x20\0\0\0ORTM" + b"\0" * 24, "onnxruntime's own format"),
        (b"<html>404 Not Found</html>", "not an ONNX file"),
    ],
)
def test_what_is_not_a_protobuf_is_refused(content: bytes, why: str) -> None:
    with pytest.raises(IntegrityError) as caught:
        external_data(content, "model.onnx")

    assert why in str(caught.value)
    assert "Cannot read model.onnx." in str(caught.value)
    assert caught.value.exit_code == 16


def test_graphs_that_are_nested_without_end_are_refused() -> None:
    content = b""
    for _ in range(200):
        content = field(1, field(5, field(6, content)))

    with pytest.raises(IntegrityError, match="nested too deeply"):
        external_data(field(7, content), "model.onnx")


@settings(max_examples=500, deadline=10_000)  # milliseconds: a file that takes long is as bad as one that crashes
@given(st.binary(max_size=2000))
@example(b"")
def test_arbitrary_bytes_are_read_or_refused_and_nothing_else(content: bytes) -> None:
    try:
        assert isinstance(external_data(content, "model.onnx"), set)
    except IntegrityError:
        pass


@settings(max_examples=200, deadline=10_000)  # milliseconds: a file that takes long is as bad as one that crashes
@given(place=st.sampled_from(sorted(HIDING_PLACES)), data=st.data())
def test_a_damaged_model_is_read_or_refused_and_nothing_else(place: str, data: st.DataObject) -> None:
    content = bytearray(HIDING_PLACES[place](outside("../secret")).SerializeToString())
    content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    del content[data.draw(st.integers(1, len(content))) :]

    try:
        external_data(bytes(content), "model.onnx")
    except IntegrityError:
        pass


@pytest.mark.parametrize("keep", [10, 1000, 1_000_000])
def test_a_truncated_real_model_is_refused(minilm_bundle: Path, keep: int) -> None:
    with pytest.raises(IntegrityError, match="not an ONNX file"):
        external_data((minilm_bundle / "model.onnx").read_bytes()[:keep], "model.onnx")


# In a bundle, with a manifest whose hashes are right: only the ONNX file itself is up to something.


def sign(bundle: Path, **graph_changes: str) -> None:
    """Write a manifest that fits the files."""
    raw = json.loads((bundle / MANIFEST_NAME).read_text("utf-8"))
    raw["graphs"][0].update(graph_changes)
    raw["files"] = {
        file.relative_to(bundle).as_posix(): {
            "bytes": file.stat().st_size,
            "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
        }
        for file in bundle.rglob("*")
        if file.is_file() and file.name != MANIFEST_NAME
    }
    (bundle / MANIFEST_NAME).write_text(json.dumps(raw), "utf-8")


def move_weights(bundle: Path, location: str, file: str = "model.onnx") -> None:
    """Rewrite the real model so that one large tensor lies at `location`; its values go to `weights.bin`."""
    model = onnx.load(bundle / "model.onnx")
    largest = max(model.graph.initializer, key=lambda tensor: len(tensor.raw_data))
    (bundle / "weights.bin").write_bytes(largest.raw_data)
    largest.ClearField("raw_data")
    largest.data_location = TensorProto.EXTERNAL
    largest.external_data.add(key="location", value=location)
    (bundle / "model.onnx").unlink()
    (bundle / file).parent.mkdir(exist_ok=True)
    onnx.save(model, bundle / file)


@pytest.fixture
def no_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    """A test that reaches the engine fails."""
    import onnxruntime

    def reached(*_: object, **__: object) -> None:
        pytest.fail("onnxruntime was given the file")

    monkeypatch.setattr(onnxruntime, "InferenceSession", reached)


def refusal(bundle: Path, **options: str) -> str:
    with pytest.raises(IntegrityError) as caught:
        load(bundle, **options)  # type: ignore[arg-type]  # verify
    assert caught.value.exit_code == 16
    return str(caught.value)


@pytest.mark.usefixtures("no_engine")
@pytest.mark.parametrize(
    "location",
    ["../secret", "/etc/hostname", "config.json", "./weights.bin", "golden/../weights.bin", "", "weights.bin\0"],
)
def test_a_model_that_points_anywhere_but_to_its_weights_never_reaches_the_engine(bundle: Path, location: str) -> None:
    (bundle.parent / "secret").write_bytes(b"secret")
    move_weights(bundle, location)
    sign(bundle, weights="weights.bin")

    message = refusal(bundle)

    assert f"its tensors lie in the file {location!r}, which the manifest does not name as its weights" in message
    assert "do not use this bundle" in message


@pytest.mark.usefixtures("no_engine")
def test_a_model_that_declares_no_weights_may_point_to_none(bundle: Path) -> None:
    move_weights(bundle, "weights.bin")
    sign(bundle)

    assert "its tensors lie in the file 'weights.bin'" in refusal(bundle)


@pytest.mark.usefixtures("no_engine")
def test_a_refused_model_is_not_remembered_as_checked(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SATCHEL_CACHE", str(tmp_path / "cache"))
    move_weights(bundle, "../secret")
    sign(bundle)

    first, second = (refusal(bundle, verify="once") for _ in range(2))

    assert first == second
    assert "'../secret'" in second


@pytest.mark.usefixtures("no_engine")
def test_a_location_counts_from_the_folder_of_the_graph_as_the_engine_counts_it(bundle: Path) -> None:
    move_weights(bundle, "sub/weights.bin", file="sub/model.onnx")  # to the engine: sub/sub/weights.bin
    (bundle / "weights.bin").rename(bundle / "sub/weights.bin")
    sign(bundle, file="sub/model.onnx", weights="sub/weights.bin")

    assert "its tensors lie in the file 'sub/weights.bin'" in refusal(bundle)


@pytest.mark.usefixtures("no_engine")
@pytest.mark.parametrize("content", [b"", b"\x3a\xff", b"not a model", b"\x20\0\0\0ORTM" + b"\0" * 24])
def test_a_file_that_is_no_model_never_reaches_the_engine(bundle: Path, content: bytes) -> None:
    (bundle / "model.onnx").write_bytes(content)
    sign(bundle)

    with pytest.raises(IntegrityError, match="not an ONNX file"):
        load(bundle)


def test_weights_that_the_manifest_declares_are_used(bundle: Path, minilm_bundle: Path) -> None:
    text = "Weights in a file of their own."
    move_weights(bundle, "weights.bin")
    sign(bundle, weights="weights.bin")

    with load(bundle, threads=1) as moved, load(minilm_bundle, threads=1) as whole:
        assert np.array_equal(moved.predict(text), whole.predict(text))


def test_declared_weights_are_hashed_like_every_file(bundle: Path) -> None:
    move_weights(bundle, "weights.bin")
    sign(bundle, weights="weights.bin")
    damaged = bytearray((bundle / "weights.bin").read_bytes())
    damaged[0] ^= 1
    (bundle / "weights.bin").write_bytes(damaged)

    with pytest.raises(IntegrityError, match=r"'weights.bin' was altered"):
        open_bundle(bundle)
