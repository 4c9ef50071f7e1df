"""`bundle.json`: what a bundle is, in dataclasses that read, write and describe themselves.

The dataclasses are the one source: the reader checks JSON against their annotations, and `json_schema()` derives
`bundle.schema.json` from the same annotations for the other runtimes.
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Optional, TypeVar, Union, get_args, get_origin, get_type_hints

from .errors import IntegrityError
from .toolchain import satisfies

__all__ = [
    "KIT_NAME",
    "MANIFEST_NAME",
    "SCHEMAS",
    "Engine",
    "FileDigest",
    "Golden",
    "Graph",
    "Manifest",
    "Measured",
    "Source",
    "Step",
    "Target",
    "TaskEntry",
    "TensorSpec",
    "check_member_name",
    "from_plain",
    "json_schema",
    "to_plain",
]

MANIFEST_NAME = "bundle.json"
KIT_NAME = "kit.json"  # of a compile kit, which becomes a bundle where the vendor's compiler is
SCHEMAS = (1,)  # every schema that this runtime reads; the last is the one that it writes
MAX_MANIFEST_BYTES = 4 * 1024 * 1024  # 20,000 class labels take 1 MB; beyond this somebody is playing tricks
MAX_MANIFEST_DEPTH = 32
_MAX_DIGITS = 400  # the largest float has 309; Python's own time to read a number grows with the square of its length

# Values that JSON knows; a step's options are open because each step names its own.
Json = Any


@dataclass(frozen=True)
class TensorSpec:
    """A graph's input or output. A dynamic axis is its name, a fixed one its size."""

    name: str
    dtype: str
    shape: tuple[Union[int, str], ...]
    padding: Optional[float] = None  # the value that fills what is beyond the valid positions; inputs only


@dataclass(frozen=True)
class Graph:
    """One callable: a file, or a signature in one (`entry`), with the axes that it fixes (`bind`)."""

    component: str
    file: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    entry: Optional[str] = None
    bind: dict[str, int] = field(default_factory=dict)
    weights: Optional[str] = None  # a shared file of weights beside `file`
    state: dict[str, str] = field(default_factory=dict)  # each input that is cache -> the output that it comes out as
    window: Optional[int] = None  # tokens that layers see whose cache lies along `window_capacity`

    @property
    def caches(self) -> tuple[TensorSpec, ...]:
        return tuple(spec for spec in self.inputs if spec.name in self.state)

    @property
    def given(self) -> tuple[TensorSpec, ...]:
        """The inputs of each call, without what a session keeps."""
        return tuple(spec for spec in self.inputs if spec.name not in self.state)

    @property
    def answered(self) -> tuple[TensorSpec, ...]:
        """The outputs of each call, likewise."""
        kept = set(self.state.values())
        return tuple(spec for spec in self.outputs if spec.name not in kept)


@dataclass(frozen=True)
class Source:
    """Where the weights came from."""

    id: str
    revision: Optional[str]
    license: Optional[str]
    model_type: str
    architecture: str
    parameters: int


@dataclass(frozen=True)
class Engine:
    """What the device must have to run the graphs, and the options that its sessions are opened with."""

    name: str
    version: str  # a PEP 440 range
    opset: Optional[int] = None
    ir: Optional[int] = None
    options: dict[str, str] = field(default_factory=dict)
    also: tuple[str, ...] = ()  # other engines that compute these graphs alike, whatever their version

    def __str__(self) -> str:
        opset = f", opset {self.opset}, IR {self.ir}" if self.opset is not None else ""
        return f"{self.name} {self.version}{opset}"


@dataclass(frozen=True)
class Target:
    device: str
    format: str
    scheme: str
    engine: Engine
    threads: Optional[int] = None


@dataclass(frozen=True)
class Step:
    """One named step of pre- or post-processing with its options."""

    step: str
    options: dict[str, Json] = field(default_factory=dict)


@dataclass(frozen=True)
class TaskEntry:
    """A task that the bundle serves: the way in and the way out."""

    name: str
    preprocess: tuple[Step, ...]
    postprocess: tuple[Step, ...]

    def option(self, step: str, name: str, default: Json = None) -> Json:
        """The option of the first step with that name."""
        for each in self.preprocess + self.postprocess:
            if each.step == step:
                return each.options.get(name, default)
        return default


@dataclass(frozen=True)
class Golden:
    """Samples before preprocessing, what the reference said, and what this artifact said where it was built."""

    inputs: str
    reference: str
    artifact: str


@dataclass(frozen=True)
class Measured:
    """Figures of the build, with their units in the names. An absent figure was not measured."""

    size_bytes: int
    where: str
    parity: dict[str, Json] = field(default_factory=dict)
    latency_ms: dict[str, Json] = field(default_factory=dict)
    peak_rss_bytes: Optional[int] = None
    accuracy: Optional[dict[str, Json]] = None  # by metric, on the user's data, with the reference's beside it
    verdicts: dict[str, str] = field(default_factory=dict)
    notes: dict[str, Json] = field(default_factory=dict)  # what the converter decided: layers kept precise, methods


@dataclass(frozen=True)
class FileDigest:
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """`bundle.json`: enough to load and verify a bundle, with no other file."""

    name: str
    source: Source
    target: Target
    tasks: tuple[TaskEntry, ...]
    graphs: tuple[Graph, ...]
    golden: Golden
    measured: Measured
    toolchain: dict[str, str]
    files: dict[str, FileDigest]
    failed: bool = False  # kept for a look with --keep-failed; a runtime refuses it unless told
    schema: int = SCHEMAS[-1]

    @staticmethod
    def parse(data: bytes, where: str) -> Manifest:
        """Read and check `bundle.json`.

        Raises:
            IntegrityError: too large, not JSON, another schema, an unknown or missing key, a wrong type, or a path
                that leaves the bundle.
        """
        raw = _json(data, where)
        schema = raw.get("schema")
        if isinstance(schema, bool) or schema not in SCHEMAS:
            reads = ", ".join(str(known) for known in SCHEMAS)
            raise IntegrityError(
                f"Cannot read the bundle {where}.",
                why=f"it has schema {schema!r}; this runtime reads {reads}",
                fix="convert again with the satchel version that runs on the device, or update satchel-runtimes there",
            )
        manifest = _fill(Manifest, raw, MANIFEST_NAME, where)
        members = list(manifest.files)
        members += [graph.file for graph in manifest.graphs]
        members += [graph.weights for graph in manifest.graphs if graph.weights]
        members += [manifest.golden.inputs, manifest.golden.reference, manifest.golden.artifact]
        for member in members:
            check_member_name(member, where)
            if member not in manifest.files:
                raise _altered(where, f"it names {member!r}, which `files` does not list")
        for name, digest in manifest.files.items():
            if digest.bytes < 0 or not re.fullmatch(r"[0-9a-f]{64}", digest.sha256):
                raise _altered(where, f"the digest of {name!r} is not one")
        for graph in manifest.graphs:
            if graph.weights and graph.weights.rpartition("/")[0] != graph.file.rpartition("/")[0]:
                # Engines look for weights from the folder of the graph: elsewhere they would find another file.
                raise _altered(where, f"the weights {graph.weights!r} do not lie beside their graph {graph.file!r}")
            if not set(graph.state) <= {spec.name for spec in graph.inputs} or not set(graph.state.values()) <= {
                spec.name for spec in graph.outputs
            }:
                raise _altered(where, f"the cache of {graph.file!r} is not among its inputs and outputs")
        try:
            satisfies("0", manifest.target.engine.version)
        except ValueError as error:
            raise _altered(where, f"the engine's version: {error}") from None
        return manifest

    def to_json(self) -> str:
        return json.dumps(to_plain(self), indent=1, ensure_ascii=False, allow_nan=False) + "\n"

    def graphs_of(self, component: str) -> tuple[Graph, ...]:
        return tuple(graph for graph in self.graphs if graph.component == component)


def check_member_name(name: str, where: str) -> None:
    """Refuse a path that could leave the bundle on any system that reads it.

    Raises:
        IntegrityError: absolute, with a drive letter, a backslash, a control character, `..`, `.` or an empty part.
    """
    parts = name.split("/")
    leaves = (
        name.startswith("/")
        or re.match(r"[A-Za-z]:", name) is not None
        or any(part in ("", ".", "..") for part in parts)
        or any(ord(letter) < 32 or letter in "\\:\x7f" for letter in name)
    )
    if leaves:
        raise IntegrityError(
            f"Cannot read the bundle {where}.",
            why=f"it names the path {name!r}, which leaves the bundle",
            fix="do not use this bundle; convert the model again",
        )


def _altered(where: str, why: str) -> IntegrityError:
    return IntegrityError(
        f"Cannot read the bundle {where}.", why=why, fix="copy the bundle again, or convert the model again"
    )


def _json(data: bytes, where: str) -> dict[str, Json]:
    if len(data) > MAX_MANIFEST_BYTES:
        raise _altered(where, f"{MANIFEST_NAME} has {len(data):,} bytes; at most {MAX_MANIFEST_BYTES:,} are read")

    def once(pairs: list[tuple[str, Json]]) -> dict[str, Json]:
        result = dict(pairs)
        if len(result) != len(pairs):
            raise ValueError("a key stands twice")  # two readers could disagree on which one counts
        return result

    def constant(name: str) -> Json:
        raise ValueError(f"{name} is not a JSON number")

    def number(text: str) -> Json:
        if len(text) > _MAX_DIGITS:
            raise ValueError(f"a number has {len(text):,} digits")
        if text.lstrip("-").isdigit():
            return int(text)
        if not math.isfinite(float(text)):
            raise ValueError(f"{text} is too large for a number")
        return float(text)

    try:
        raw = json.loads(
            data.decode("utf-8"), object_pairs_hook=once, parse_constant=constant, parse_int=number, parse_float=number
        )
        _check_tree(raw)
    except (ValueError, RecursionError) as error:
        raise _altered(where, f"{MANIFEST_NAME} is not valid JSON: {error}") from None
    if not isinstance(raw, dict):
        raise _altered(where, f"{MANIFEST_NAME} is not a JSON object")
    return raw


def _check_tree(raw: Json) -> None:
    """Refuse what this reader takes and a later step, or another reader, would fall over."""
    level = [raw]
    for _ in range(MAX_MANIFEST_DEPTH):
        children: list[Json] = []
        for node in level:
            if isinstance(node, dict):
                children += node.keys()
                children += node.values()
            elif isinstance(node, list):
                children += node
            elif isinstance(node, str):
                node.encode("utf-8")  # raises ValueError for half a surrogate pair, which no file name can hold
        if not children:
            return
        level = children
    raise ValueError(f"it is nested deeper than {MAX_MANIFEST_DEPTH} levels")


T = TypeVar("T")


@cache
def _hints(kind: Any) -> dict[str, Any]:
    return get_type_hints(kind)


def _required(kind: type[Any]) -> set[str]:
    missing = dataclasses.MISSING
    return {f.name for f in dataclasses.fields(kind) if f.default is missing and f.default_factory is missing}


def _fill(kind: type[T], raw: Json, at: str, where: str) -> T:
    if not isinstance(raw, Mapping):
        raise _altered(where, f"{at} is not an object")
    hints = _hints(kind)  # type: ignore[arg-type]  # a class is hashable; mypy doubts it for a type variable
    unknown, missing = sorted(set(raw) - set(hints)), sorted(_required(kind) - set(raw))
    if unknown:
        raise _altered(where, f"{at} has the unknown key {unknown[0]!r}")
    if missing:
        raise _altered(where, f"{at} lacks the key {missing[0]!r}")
    return kind(**{key: _value(hints[key], value, f"{at}: {key}", where) for key, value in raw.items()})


def _value(kind: Any, raw: Json, at: str, where: str) -> Any:  # Any: annotations are not types
    origin, inner = get_origin(kind), get_args(kind)
    if kind is Any:
        return raw
    if dataclasses.is_dataclass(kind):
        return _fill(kind, raw, at, where)  # type: ignore[arg-type]  # a dataclass type, not an instance
    if origin is Union:
        if raw is None and type(None) in inner:
            return None
        for choice in inner:
            fits = dataclasses.is_dataclass(choice) or (get_origin(choice) is dict and isinstance(raw, Mapping))
            if choice is not type(None) and (fits or _is_plain(choice, raw)):
                return _value(choice, raw, at, where)
    elif origin is tuple and isinstance(raw, list):
        return tuple(_value(inner[0], each, f"{at}[{i}]", where) for i, each in enumerate(raw))
    elif origin is dict and isinstance(raw, Mapping):
        return {key: _value(inner[1], each, f"{at}[{key!r}]", where) for key, each in raw.items()}
    elif _is_plain(kind, raw):
        return int(raw) if kind is int else raw
    raise _altered(where, f"{at} is {type(raw).__name__}, expected {_word(kind)}")


def _is_plain(kind: Any, raw: Json) -> bool:
    if kind is float:
        return isinstance(raw, (int, float)) and not isinstance(raw, bool) and math.isfinite(raw)
    if kind is int:  # JSON has one kind of number: to JSON Schema and to TypeScript 2.0 is an integer
        return isinstance(raw, int) and not isinstance(raw, bool) or isinstance(raw, float) and raw.is_integer()
    return kind in (str, bool) and isinstance(raw, kind)


def _word(kind: Any) -> str:
    return getattr(kind, "__name__", str(kind).replace("typing.", ""))


def from_plain(kind: type[T], raw: Json) -> T:
    """Read one of the dataclasses above from what `to_plain` made.

    Raises:
        IntegrityError: a key or type that does not fit.
    """
    return _fill(kind, raw, kind.__name__, "in memory")


def to_plain(value: Any) -> Json:
    """Dataclasses, tuples and mappings as JSON knows them."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: to_plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {key: to_plain(each) for key, each in value.items()}
    if isinstance(value, (tuple, list)):
        return [to_plain(each) for each in value]
    return value


def json_schema() -> dict[str, Json]:
    """The JSON Schema of `bundle.json`, derived from the dataclasses above."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "satchel bundle.json",
        **_schema_of(Manifest),
    }


def _schema_of(kind: Any) -> dict[str, Json]:
    origin, inner = get_origin(kind), get_args(kind)
    if kind is Any:
        return {}
    if kind is Manifest or dataclasses.is_dataclass(kind):
        properties = {name: _schema_of(hint) for name, hint in _hints(kind).items()}
        if kind is Manifest:
            properties["schema"] = {"enum": list(SCHEMAS)}
        required = sorted(_required(kind) | ({"schema"} if kind is Manifest else set()))
        return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}
    if origin is Union:
        return {"anyOf": [_schema_of(choice) for choice in inner]}
    if origin is tuple:
        return {"type": "array", "items": _schema_of(inner[0])}
    if origin is dict:
        return {"type": "object", "additionalProperties": _schema_of(inner[1])}
    return {"type": {str: "string", int: "integer", float: "number", bool: "boolean", type(None): "null"}[kind]}
