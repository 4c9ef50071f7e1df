"""A bundle is read whole, as it was written, or refused with exit 16 and a way out; and its manifest has one meaning."""

from __future__ import annotations

import copy
import dataclasses
import json
import os
import shutil
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import satchel_runtimes
from satchel_runtimes import load
from satchel_runtimes.bundle import open_bundle
from satchel_runtimes.errors import IntegrityError, UsageError
from satchel_runtimes.manifest import (
    MANIFEST_NAME,
    MAX_MANIFEST_BYTES,
    FileDigest,
    Graph,
    Manifest,
    TensorSpec,
    from_plain,
    json_schema,
    to_plain,
)

FILES = (
    "config.json",
    "golden/artifact.safetensors",
    "golden/inputs.json",
    "golden/reference.safetensors",
    "model.onnx",
    "tokenizer.json",
    "tokenizer_config.json",
)
SCHEMA_FILE = Path(satchel_runtimes.__file__).with_name("bundle.schema.json")

Json = Any  # whatever JSON holds
Edit = Callable[[Json], object]


def refusal(path: Path, **options: Any) -> str:  # Any: open_bundle's options
    with pytest.raises(IntegrityError) as caught:
        open_bundle(path, **options)
    assert caught.value.exit_code == 16
    assert caught.value.fix
    assert str(path) in caught.value.what
    return caught.value.why


def edit(bundle: Path, change: Edit) -> None:
    raw = json.loads((bundle / MANIFEST_NAME).read_text("utf-8"))
    change(raw)
    (bundle / MANIFEST_NAME).write_text(json.dumps(raw), "utf-8")


def damage(file: Path, at: int = 100) -> None:
    data = bytearray(file.read_bytes())
    data[at % len(data)] ^= 1
    file.write_bytes(data)


def zipped(bundle: Path, *, compression: int = zipfile.ZIP_STORED, leave_out: str = "") -> Path:
    archive = bundle.with_suffix(".zip")
    with zipfile.ZipFile(archive, "w", compression) as out:
        for file in sorted(bundle.rglob("*")):
            name = file.relative_to(bundle).as_posix()
            if file.is_file() and name != leave_out:
                out.write(file, name)
    return archive


@pytest.fixture
def zip_bundle(bundle: Path) -> Path:
    return zipped(bundle)


# A bundle that is whole


def test_a_bundle_opens_with_every_file_that_it_lists(bundle: Path) -> None:
    opened = open_bundle(bundle)

    assert sorted(opened.manifest.files) == list(FILES)
    assert all(len(opened.read(name)) == digest.bytes for name, digest in opened.manifest.files.items())


def test_a_bundle_may_be_reached_through_a_symlink_of_its_own_name(bundle: Path) -> None:
    current = bundle.with_name("current")
    current.symlink_to(bundle)

    assert open_bundle(current).manifest == open_bundle(bundle).manifest


def test_only_listed_files_can_be_read_from_a_bundle(bundle: Path) -> None:
    (bundle / "notes.txt").write_text("mine")
    opened = open_bundle(bundle)

    for read in (opened.read, opened.file):
        with pytest.raises(IntegrityError, match=r"'notes.txt' is not one of its files"):
            read("notes.txt")


def test_where_there_is_no_bundle_the_path_is_at_fault(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is nothing at that path") as caught:
        open_bundle(tmp_path / "gone.satchel")

    assert caught.value.exit_code == 2


def test_an_unknown_way_to_verify_is_refused_with_those_there_are(bundle: Path) -> None:
    with pytest.raises(UsageError, match="always, once"):
        open_bundle(bundle, verify="never")


# Files


@pytest.mark.parametrize("name", FILES)
def test_one_altered_bit_in_any_file_is_noticed(bundle: Path, name: str) -> None:
    damage(bundle / name)

    assert f"{name!r} was altered: its sha256 is" in refusal(bundle)


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_named(bundle: Path, name: str) -> None:
    (bundle / name).unlink()

    assert refusal(bundle) == f"the file {name!r} is missing"


@pytest.mark.parametrize("name", FILES)
def test_a_truncated_file_is_named_with_both_sizes(bundle: Path, name: str) -> None:
    size = (bundle / name).stat().st_size
    os.truncate(bundle / name, size - 1)

    assert refusal(bundle) == f"{name!r} has {size - 1:,} bytes, the manifest says {size:,}"


def test_a_folder_without_a_manifest_is_no_bundle(bundle: Path) -> None:
    (bundle / MANIFEST_NAME).unlink()

    assert "holds no bundle.json" in refusal(bundle)


@pytest.mark.parametrize("name", ["config.json", "golden", MANIFEST_NAME])
def test_a_symlink_in_a_bundle_is_refused_even_to_the_very_same_bytes(bundle: Path, name: str) -> None:
    (bundle / name).rename(bundle.with_name("elsewhere"))
    (bundle / name).symlink_to(bundle.with_name("elsewhere"))

    assert "goes through a symlink, which could leave the bundle" in refusal(bundle)


def test_a_file_that_became_a_pipe_is_refused_and_not_waited_for(bundle: Path) -> None:
    (bundle / "config.json").unlink()
    os.mkfifo(bundle / "config.json")

    assert refusal(bundle) == "'config.json' is not a regular file"


def test_a_manifest_that_became_a_pipe_is_refused_and_not_waited_for(bundle: Path) -> None:
    (bundle / MANIFEST_NAME).unlink()
    os.mkfifo(bundle / MANIFEST_NAME)

    assert "holds no bundle.json" in refusal(bundle)


def test_a_file_that_became_a_folder_is_refused(bundle: Path) -> None:
    (bundle / "config.json").unlink()
    (bundle / "config.json").mkdir()

    assert refusal(bundle) == "'config.json' is not a regular file"


@pytest.mark.parametrize(
    ("name", "why"), [("config.json/inside", "is missing"), ("a" * 300, "cannot be read (File name too long)")]
)
def test_a_listed_file_that_no_disk_could_hold_is_refused(bundle: Path, name: str, why: str) -> None:
    edit(bundle, lambda raw: raw["files"].update({name: raw["files"]["config.json"]}))

    assert refusal(bundle) == f"the file {name!r} {why}"


def test_what_its_gates_refused_is_opened_only_when_asked(bundle: Path) -> None:
    edit(bundle, lambda raw: raw.update(failed=True))

    assert "its gates refused it" in refusal(bundle)
    assert open_bundle(bundle, allow_failed=True).manifest.failed


# The manifest


@pytest.mark.parametrize("schema", [3, 0, "1", None, True, 1.5, [1], {}])
def test_a_bundle_of_another_schema_is_refused_with_a_way_out(bundle: Path, schema: Json) -> None:
    edit(bundle, lambda raw: raw.update(schema=schema))

    with pytest.raises(
        IntegrityError, match="convert again with the satchel version that runs on the device"
    ) as caught:
        open_bundle(bundle)
    assert caught.value.why == f"it has schema {schema!r}; this runtime reads 1"


def test_a_manifest_without_its_schema_is_refused(bundle: Path) -> None:
    edit(bundle, lambda raw: raw.pop("schema"))

    assert refusal(bundle) == "it has schema None; this runtime reads 1"


def put(*path: Json) -> Edit:
    """Set what lies at a path of keys to the last argument."""
    *way, key, value = path

    def change(raw: Json) -> None:
        for step in way:
            raw = raw[step]
        raw[key] = value

    return change


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (put("extra", 1), "bundle.json has the unknown key 'extra'"),
        (put("target", "engine", "extra", 1), "bundle.json: target: engine has the unknown key 'extra'"),
        (put("graphs", 0, "inputs", 0, "extra", 1), "graphs[0]: inputs[0] has the unknown key 'extra'"),
        (put("files", "config.json", {"bytes": 612}), "files['config.json'] lacks the key 'sha256'"),
        (put("name", None), "bundle.json: name is NoneType, expected str"),
        (put("name", ["a"]), "name is list, expected str"),
        (put("source", []), "bundle.json: source is not an object"),
        (put("source", "parameters", "22713216"), "source: parameters is str, expected int"),
        (put("source", "parameters", True), "source: parameters is bool, expected int"),
        (put("source", "parameters", 1.5), "source: parameters is float, expected int"),
        (put("source", "revision", 7), "source: revision is int"),
        (put("target", "threads", "4"), "target: threads is str"),
        (put("target", "engine", "options", {"a": 1}), "options['a'] is int, expected str"),
        (put("tasks", {}), "tasks is dict, expected tuple"),
        (put("tasks", 0, "preprocess", 0, "options", None), "options is NoneType"),
        (put("graphs", [None]), "graphs[0] is not an object"),
        (put("graphs", 0, "inputs", 0, "shape", [None]), "shape[0] is NoneType"),
        (put("graphs", 0, "bind", {"batch": "1"}), "bind['batch'] is str, expected int"),
        (put("golden", "inputs", 0), "golden: inputs is int, expected str"),
        (put("measured", "accuracy", "high"), "measured: accuracy is str"),
        (put("failed", "no"), "failed is str, expected bool"),
        (put("files", "config.json", 612), "files['config.json'] is not an object"),
        (put("files", "config.json", "bytes", -1), "the digest of 'config.json' is not one"),
        (put("files", "config.json", "sha256", "ABC"), "the digest of 'config.json' is not one"),
        (put("files", "config.json", "sha256", "f" * 63 + "\n"), "the digest of 'config.json' is not one"),
        (put("target", "engine", "version", "new"), "the engine's version: 'new' is not a version range"),
        (put("graphs", 0, "weights", "golden/inputs.json"), "do not lie beside their graph 'model.onnx'"),
        (put("graphs", 0, "file", "other.onnx"), "it names 'other.onnx', which `files` does not list"),
        (put("graphs", 0, "weights", "w.bin"), "it names 'w.bin', which `files` does not list"),
        (put("golden", "inputs", "golden/x.json"), "it names 'golden/x.json', which `files` does not list"),
    ],
)
def test_a_manifest_that_says_anything_else_than_it_should_is_refused_by_name(
    bundle: Path, change: Edit, why: str
) -> None:
    edit(bundle, change)

    assert why in refusal(bundle)


@pytest.mark.parametrize("key", ["name", "source", "target", "tasks", "graphs", "golden", "measured", "files"])
def test_a_missing_key_is_named(bundle: Path, key: str) -> None:
    edit(bundle, lambda raw: raw.pop(key))

    assert refusal(bundle) == f"bundle.json lacks the key {key!r}"


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "not valid JSON"),
        (b"{", "not valid JSON"),
        (b"\xff\xfe{}", "not valid JSON"),
        (b"[]", "bundle.json is not a JSON object"),
        (b'{"schema": 1, "schema": 1}', "a key stands twice"),
        (b'{"schema": 1, "name": NaN}', "NaN is not a JSON number"),
        (b'{"schema": 1, "name": -Infinity}', "-Infinity is not a JSON number"),
        (b'{"schema": 1, "name": 1e999}', "1e999 is too large for a number"),
        (b'{"schema": 1, "name": ' + b"9" * 5000 + b"}", "a number has 5,000 digits"),
        (b'{"schema": 1, "name": "\\ud800"}', "surrogates not allowed"),
        (b'{"schema": 1, "name": ' + b"[" * 33 + b"]" * 33 + b"}", "it is nested deeper than 32 levels"),
        (b'{"schema": 1, "name": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "not valid JSON"),
    ],
)
def test_a_manifest_that_is_not_plain_json_is_refused(bundle: Path, content: bytes, why: str) -> None:
    (bundle / MANIFEST_NAME).write_bytes(content)

    assert why in refusal(bundle)


def test_a_manifest_over_the_size_limit_is_refused_before_it_is_read(bundle: Path) -> None:
    os.truncate(bundle / MANIFEST_NAME, MAX_MANIFEST_BYTES + 1)  # zeros: not JSON either, but that must not be said

    assert refusal(bundle) == "bundle.json has 4,194,305 bytes; at most 4,194,304 are read"


LEAVING = [
    "/etc/passwd",
    "..",
    "../secret",
    "golden/../../secret",
    "C:secret",
    "c:/secret",
    "golden\\inputs.json",
    "config.json:stream",
    "golden//inputs.json",
    "golden/",
    "./config.json",
    "",
    "config.json\0",
    "config\n.json",
    "config\x7f.json",
]


@pytest.mark.parametrize("name", LEAVING)
def test_a_path_that_leaves_the_bundle_on_any_system_is_refused(bundle: Path, name: str) -> None:
    edit(bundle, lambda raw: raw["files"].update({name: raw["files"]["config.json"]}))

    assert refusal(bundle) == f"it names the path {name!r}, which leaves the bundle"


@pytest.mark.parametrize("way", [("graphs", 0, "file"), ("golden", "inputs"), ("golden", "artifact")])
def test_no_entry_of_the_manifest_may_leave_the_bundle(bundle: Path, way: tuple[Json, ...]) -> None:
    edit(bundle, put(*way, "../secret"))

    assert "which leaves the bundle" in refusal(bundle)


# verify="once"


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SATCHEL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def remembered(bundle: Path) -> bool:
    return open_bundle(bundle, verify="once").remembered


def test_a_checked_bundle_is_remembered_by_the_next_process(bundle: Path, own_cache: Path) -> None:
    code = "import sys; from satchel_runtimes.bundle import open_bundle as o; print(o(sys.argv[1], verify='once').remembered)"
    command = [sys.executable, "-c", code, str(bundle)]

    answers = [subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip() for _ in range(2)]

    assert answers == ["False", "True"]


def test_verify_always_remembers_nothing_and_trusts_no_memory(bundle: Path, own_cache: Path) -> None:
    assert not open_bundle(bundle).remembered
    assert not remembered(bundle)
    assert remembered(bundle)
    assert not open_bundle(bundle).remembered


def test_a_changed_byte_is_noticed_although_size_and_mtime_are_put_back(bundle: Path, own_cache: Path) -> None:
    remembered(bundle)
    file = bundle / "model.onnx"
    before = file.stat()

    damage(file)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))

    assert "'model.onnx' was altered" in refusal(bundle, verify="once")


@pytest.mark.parametrize("name", ["config.json", MANIFEST_NAME])
def test_a_touched_or_exchanged_file_is_checked_again(bundle: Path, own_cache: Path, name: str) -> None:
    remembered(bundle)
    assert remembered(bundle)

    os.utime(bundle / name, ns=(0, 0))
    after_touch = remembered(bundle)
    shutil.copy2(bundle / name, bundle / "copy")
    os.replace(bundle / "copy", bundle / name)
    after_exchange = remembered(bundle)

    assert (after_touch, after_exchange, remembered(bundle)) == (False, False, True)


def test_a_changed_manifest_is_read_anew(bundle: Path, own_cache: Path) -> None:
    remembered(bundle)
    edit(bundle, put("name", "another"))

    assert not remembered(bundle)
    assert open_bundle(bundle, verify="once").manifest.name == "another"


def test_a_file_that_shrank_or_vanished_is_refused_whatever_was_remembered(bundle: Path, own_cache: Path) -> None:
    remembered(bundle)

    os.truncate(bundle / "config.json", 10)
    assert "'config.json' has 10 bytes" in refusal(bundle, verify="once")
    (bundle / "config.json").unlink()
    assert "'config.json' is missing" in refusal(bundle, verify="once")


@pytest.mark.parametrize("where", ["file/below", "/proc/satchel"])
def test_a_cache_that_cannot_be_written_costs_only_the_shortcut(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("SATCHEL_CACHE", str(tmp_path / where))

    assert not remembered(bundle)
    assert not remembered(bundle)


def test_a_memory_that_was_scribbled_on_is_not_believed(bundle: Path, own_cache: Path) -> None:
    remembered(bundle)
    for kept in (own_cache / "verified").iterdir():
        kept.write_bytes(b'{"files": \xff')

    assert not remembered(bundle)


def test_torchscript_is_code_and_checked_at_every_load(bundle: Path, own_cache: Path) -> None:
    edit(bundle, put("target", "format", "torchscript"))

    assert not remembered(bundle)
    assert not remembered(bundle)
    damage(bundle / "model.onnx")
    assert "'model.onnx' was altered" in refusal(bundle, verify="once")


# The same as an uncompressed zip


def test_a_stored_zip_answers_as_its_folder_does(bundle: Path, zip_bundle: Path) -> None:
    with load(bundle, threads=1) as folder, load(zip_bundle, threads=1) as archive:
        text = "A zip is one file to copy."

        assert np.array_equal(folder.predict(text), archive.predict(text))
        assert archive.manifest == folder.manifest


def test_a_compressed_zip_is_refused_with_the_way_to_make_it(bundle: Path) -> None:
    archive = zipped(bundle, compression=zipfile.ZIP_DEFLATED)

    assert "is compressed; a bundle's zip is stored as it is (zip -0)" in refusal(archive)


@pytest.mark.parametrize("name", FILES)
def test_a_zip_that_lacks_a_member_is_refused(bundle: Path, name: str) -> None:
    assert refusal(zipped(bundle, leave_out=name)) == f"the file {name!r} is missing"


def test_a_zip_without_a_manifest_is_no_bundle(bundle: Path) -> None:
    assert "holds no bundle.json" in refusal(zipped(bundle, leave_out=MANIFEST_NAME))


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_zip_that_holds_a_member_twice_is_refused(zip_bundle: Path) -> None:
    with zipfile.ZipFile(zip_bundle, "a") as archive:
        archive.writestr("config.json", "{}")

    assert refusal(zip_bundle) == "the zip holds 'config.json' twice"


def test_an_altered_member_of_a_zip_is_noticed(bundle: Path) -> None:
    damage(bundle / "tokenizer.json")

    assert "'tokenizer.json' was altered" in refusal(zipped(bundle))


def test_a_member_of_another_size_is_noticed(bundle: Path) -> None:
    (bundle / "config.json").write_text("{}")

    assert "'config.json' has 2 bytes, the manifest says" in refusal(zipped(bundle))


@pytest.mark.parametrize("keep", [0, 1, 100, -1])
def test_a_truncated_zip_is_refused(zip_bundle: Path, keep: int) -> None:
    os.truncate(zip_bundle, keep if keep >= 0 else zip_bundle.stat().st_size + keep)

    assert "neither a folder nor a whole zip" in refusal(zip_bundle)


def test_a_file_that_is_no_zip_is_refused(bundle: Path) -> None:
    assert "neither a folder nor a whole zip" in refusal(bundle / "model.onnx")


def test_an_encrypted_member_is_refused(zip_bundle: Path) -> None:
    data = bytearray(zip_bundle.read_bytes())
    directory = struct.unpack_from("<I", data, data.rfind(b"PK\5\6") + 16)[0]
    data[directory + 8] |= 1
    zip_bundle.write_bytes(data)

    assert "is encrypted" in refusal(zip_bundle)


def test_a_zip_whose_graph_wants_a_file_beside_it_is_refused_because_there_is_none(bundle: Path) -> None:
    edit(bundle, put("graphs", 0, "weights", "config.json"))

    assert "unpack this zip to a folder" in refusal(zipped(bundle))


@pytest.fixture(scope="module")
def small_zip(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A zip with a manifest and no model: what matters here is its structure."""
    archive = tmp_path_factory.mktemp("zip") / "small.zip"
    with zipfile.ZipFile(archive, "w") as out:
        out.writestr(MANIFEST_NAME, SMALL.to_json())
        out.writestr("a", b"")
    return archive.read_bytes()


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_damaged_zip_is_refused_and_never_a_crash(small_zip: bytes, tmp_path: Path, data: st.DataObject) -> None:
    damaged = bytearray(small_zip)
    for _ in range(data.draw(st.integers(1, 3))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    (tmp_path / "damaged.zip").write_bytes(damaged)

    try:
        opened = open_bundle(tmp_path / "damaged.zip", allow_failed=True)
    except IntegrityError:
        return
    assert set(opened.manifest.files) == {"a"}


# The manifest in Python, in JSON and in JSON Schema


def manifest_of(**changes: Any) -> Manifest:  # Any: fields of the manifest
    from satchel_runtimes.manifest import Engine, Golden, Measured, Source, Target

    whole: dict[str, Any] = {
        "name": "small",
        "source": Source("small", None, None, "bert", "BertModel", 0),
        "target": Target("box", "onnx", "fp32", Engine("onnxruntime", ">=1.17")),
        "tasks": (),
        "graphs": (),
        "golden": Golden("a", "a", "a"),
        "measured": Measured(0, ""),
        "toolchain": {},
        "files": {"a": FileDigest(0, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855")},
    }
    return Manifest(**{**whole, **changes})


SMALL = manifest_of()


def test_the_schema_that_ships_is_the_one_of_the_dataclasses() -> None:
    again = 'python -c "import json; from satchel_runtimes.manifest import json_schema; print(json.dumps(json_schema(), indent=1))"'

    assert SCHEMA_FILE.read_text("utf-8") == json.dumps(json_schema(), indent=1) + "\n", (
        f"write it again: {again} > {SCHEMA_FILE}"
    )


def test_the_schema_is_one_and_a_real_manifest_fits_it(bundle: Path) -> None:
    schema = json.loads(SCHEMA_FILE.read_text("utf-8"))

    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(json.loads((bundle / MANIFEST_NAME).read_text("utf-8")), schema)


def test_a_real_manifest_comes_back_from_json_as_it_was(bundle: Path) -> None:
    text = (bundle / MANIFEST_NAME).read_text("utf-8")

    manifest = Manifest.parse(text.encode(), "here")

    assert manifest.to_json() == text
    assert Manifest.parse(manifest.to_json().encode(), "here") == manifest


names = st.text("abcdefghij-_. é图😀\"'", min_size=1, max_size=12).filter(lambda name: name not in (".", ".."))
numbers = (
    st.integers(-(2**53), 2**53) | st.integers(-9, 9).map(float) | st.floats(allow_nan=False, allow_infinity=False)
)
json_values = st.recursive(
    st.none() | st.booleans() | numbers | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
tensor_specs = st.builds(
    TensorSpec,
    name=names,
    dtype=st.sampled_from(["int64", "float32"]),
    shape=st.lists(st.integers(0, 2**31) | names, max_size=4).map(tuple),
    padding=st.none() | st.floats(allow_nan=False, allow_infinity=False),
)


@settings(max_examples=100, deadline=None)
@given(
    name=names,
    files=st.dictionaries(names, st.integers(0, 2**60).map(lambda size: FileDigest(size, "0" * 64)), max_size=4),
    inputs=st.lists(tensor_specs, max_size=3).map(tuple),
    parity=st.dictionaries(st.text(max_size=5), json_values, max_size=3),
    toolchain=st.dictionaries(st.text(max_size=5), st.text(max_size=5), max_size=3),
)
def test_any_manifest_comes_back_from_json_as_it_was(
    name: str,
    files: dict[str, FileDigest],
    inputs: tuple[TensorSpec, ...],
    parity: dict[str, Json],
    toolchain: dict[str, str],
) -> None:
    manifest = manifest_of(
        name=name,
        files={**SMALL.files, **files},
        graphs=(Graph("model", "a", inputs, inputs, bind={"batch": 2}),),
        measured=dataclasses.replace(SMALL.measured, parity=parity),
        toolchain=toolchain,
    )

    assert Manifest.parse(manifest.to_json().encode(), "here") == manifest
    assert from_plain(Manifest, to_plain(manifest)) == manifest
    jsonschema.Draft202012Validator(json_schema()).validate(json.loads(manifest.to_json()))


def places(node: Json, way: tuple[Json, ...] = ()) -> Iterator[tuple[Json, ...]]:
    if way:
        yield way
    for key, child in node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ():
        yield from places(child, (*way, key))


@settings(max_examples=400, deadline=None)
@given(data=st.data())
def test_json_schema_and_the_reader_agree_on_every_key_and_type(minilm_bundle: Path, data: st.DataObject) -> None:
    raw = json.loads((minilm_bundle / MANIFEST_NAME).read_text("utf-8"))
    for _ in range(data.draw(st.integers(1, 2))):
        *way, key = data.draw(st.sampled_from(sorted(places(raw), key=str)))
        parent = raw
        for step in way:
            parent = parent[step]
        change = data.draw(st.sampled_from(["delete", "replace", "add"]))
        if change == "delete":
            del parent[key]
        elif change == "add" and isinstance(parent, dict):
            parent[data.draw(st.text(max_size=3))] = data.draw(json_values)
        else:
            parent[key] = data.draw(json_values | st.just(copy.deepcopy(parent)))

    fits = jsonschema.Draft202012Validator(json_schema()).is_valid(raw)

    if fits:
        from_plain(Manifest, raw)
    else:
        with pytest.raises(IntegrityError):
            Manifest.parse(json.dumps(raw).encode(), "here")


def test_plain_values_of_another_shape_are_refused_by_name() -> None:
    with pytest.raises(IntegrityError, match="TensorSpec: shape is str, expected tuple"):
        from_plain(TensorSpec, {"name": "x", "dtype": "int64", "shape": "batch"})
