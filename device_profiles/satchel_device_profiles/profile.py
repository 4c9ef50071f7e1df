"""The shape of a device profile, and how one is found and read.

`_mb` is 2**20 bytes throughout, as vendors count memory. A rate counts a multiplication and an addition as two.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from satchel_device_profiles.tables import Shape, build, check
from satchel_runtimes.errors import UsageError

if TYPE_CHECKING:
    from importlib.resources.abc import Traversable

__all__ = [
    "Budget",
    "DeviceProfile",
    "Engine",
    "Kind",
    "Measured",
    "MeasuredRun",
    "Parity",
    "ParityLimits",
    "SessionOption",
    "list_profiles",
    "load_profile",
]

_CLAUSE = r"(?:(?:>=|<=|~=|<|>)\d+(?:\.\d+)*|(?:==|!=)\d+(?:\.\d+)*(?:\.\*)?)"

# The first clause is a lower bound: what a file may contain follows from the oldest engine that must read it.
VersionRange = Annotated[
    str,
    Shape(
        re.compile(rf"(?=>=|==|~=){_CLAUSE}(?:, ?{_CLAUSE})*"), "a version range that starts low, such as '>=1.17,<2'"
    ),
]

# The instruction family: a profile of the machine's own kind can be judged on this machine, others only estimated.
Kind = Literal["x86-64", "arm64", "browser", "neuron"]

# Options travel in the bundle to a device and decide how an engine behaves there, so only named ones may.
SessionOption = Literal["optimization.disable_specified_optimizers"]


@dataclass(frozen=True)
class Engine:
    """A program on the device that runs the artifact, and the versions of it that the artifact must work with."""

    name: str
    version: VersionRange
    python: VersionRange | None = None  # None: the engine is used without Python there

    @property
    def oldest(self) -> tuple[int, ...]:
        """The oldest version promised, for instance (1, 17): opset and IR follow from it."""
        lowest = re.match(r"(?:>=|==|~=)(\d+(?:\.\d+)*)", self.version)
        if lowest is None:
            raise ValueError(f"engine {self.name}: {self.version!r} has no lower bound")
        return tuple(int(part) for part in lowest[1].split("."))


@dataclass(frozen=True)
class Budget:
    """What an artifact may cost on the device. None: no budget, so that gate judges by the device's facts alone."""

    size_mb: float | None = None
    latency_ms: float | None = None
    memory_mb: float | None = None
    accuracy_drop_points: float | None = None


@dataclass(frozen=True)
class ParityLimits:
    """How far an answer may be from the reference on this device. None: the limit of its class stands."""

    cosine_mean: float | None = None
    cosine_p05: float | None = None
    relative_error: float | None = None


@dataclass(frozen=True)
class Parity:
    """Parity limits that a device sets differently, by class of numbers."""

    fp32: ParityLimits = ParityLimits()
    fp16: ParityLimits = ParityLimits()
    bf16: ParityLimits = ParityLimits()
    int8: ParityLimits = ParityLimits()
    int4: ParityLimits = ParityLimits()


@dataclass(frozen=True)
class MeasuredRun:
    """A bundle that was measured on the device, as `satchel devices contribute` formats it from a run file.

    Milliseconds are medians of predict, by tokens of the input, with the 95 % interval of each.
    """

    model: str
    format: str
    scheme: str
    engine: str  # with its version
    where: str  # the machine, its system and the date
    satchel: str
    latency_ms: Mapping[str, float]
    interval_ms: Mapping[str, tuple[float, ...]]
    threads: int | None = None  # None: the engine's choice
    shape: str | None = None  # of inputs without a length: 224x224
    tokens_per_second: float | None = None  # behind the first one
    cold_s: float | None = None
    memory_mb: float | None = None
    size_mb: float | None = None
    sustained_s: float | None = None  # how long the load was that the next two belong to
    sustained_first_ms: float | None = None  # of the first minute
    sustained_last_ms: float | None = None
    joules_per_call: float | None = None


@dataclass(frozen=True)
class Measured:
    """What was measured on the device, kept apart from what its vendor says. Belongs to one device alone."""

    where: str | None = None  # the machine, the versions and the date
    fp32_gflops_per_core: float | None = None
    int8_gops_per_core: float | None = None
    memory_bandwidth_gb_s: float | None = None
    runs: tuple[MeasuredRun, ...] = field(default=(), hash=False)


@dataclass(frozen=True)
class DeviceProfile:
    """What satchel must know about a device. An unknown fact is None, so nothing is judged by it."""

    name: str
    title: str
    kind: Kind
    engines: tuple[Engine, ...]
    formats: tuple[str, ...]  # in order of preference
    schemes: tuple[str, ...]  # in order of preference
    generic: bool = False  # stands for any machine of its kind, so this machine can be the judge

    cores: int | None = None
    clock_mhz: int | None = None
    memory_mb: int | None = None  # what the device is sold with; the system takes its share of it
    instruction_sets: tuple[str, ...] | None = None  # as Linux spells them in /proc/cpuinfo, but "neon" for asimd
    peak_fp32_gflops_per_core: float | None = None
    peak_int8_gops_per_core: float | None = None
    memory_bandwidth_gb_s: float | None = None  # of the whole device, at its peak

    # The sign of int8 weights whose kernel is fast and exact here; dynamic activations are always uint8 in onnxruntime.
    # int8-reduced: 7 bits, for x86 kernels without VNNI, which add pairs of products in 16 bits and could saturate.
    int8_weights: Literal["int8", "int8-reduced", "uint8"] = "int8"
    threads: int | None = None  # None: the engine's own choice
    compiler_target: str | None = None  # the device's name in the command line of its vendor's compiler
    sequence_buckets: tuple[int, ...] = ()  # lengths for formats whose shapes are fixed
    session_options: Mapping[str, Mapping[SessionOption, str]] = field(default_factory=dict, hash=False)  # by scheme

    budget: Budget = Budget()
    parity: Parity = Parity()
    measured: Measured = Measured()


def list_profiles() -> tuple[str, ...]:
    """The names of the devices that satchel ships a profile for."""
    files = (entry.name for entry in _shipped().iterdir())
    return tuple(sorted(name.removesuffix(".toml") for name in files if name.endswith(".toml")))


def load_profile(name: str) -> DeviceProfile:
    """The profile of a shipped device by its name, or of a device of your own by the path of its `.toml` file."""
    source = _locate(name, beside=Path(), asked_by=None)
    own = _read(source)
    profile = build(DeviceProfile, _inherit(own, source, (source,)), str(source))
    options = own.get("session_options")  # only its own: inherited ones for a scheme that the child dropped do no harm
    for scheme in options if isinstance(options, dict) else ():
        if scheme not in profile.schemes:
            raise UsageError(
                f"Cannot read the device profile {source}.",
                why=f"session_options names the scheme '{scheme}', which is not among the profile's schemes",
                fix=f"use one of: {', '.join(profile.schemes)}",
            )
    return profile


# A child is another device than its parent: what names the parent, or was measured on it, would be untrue of the child.
_NOT_INHERITED = ("name", "title", "generic", "measured")

_Table = dict[str, object]


def _shipped() -> Traversable:
    return resources.files("satchel_device_profiles") / "data"


def _locate(name: str, *, beside: Path, asked_by: Traversable | None) -> Traversable:
    """The file of a profile: a shipped one by name, otherwise a path, relative to the folder of the file that asks."""
    if name.endswith(".toml"):
        return (beside / name).resolve()
    if name in (known := list_profiles()):
        return _shipped() / f"{name}.toml"
    close = difflib.get_close_matches(name.lower(), known, n=3)
    raise UsageError(
        f"Cannot load the device '{name}'." if asked_by is None else f"Cannot read the device profile {asked_by}.",
        why=("no device has that name" if asked_by is None else f"it extends '{name}', which no device is called")
        + (f"; did you mean {' or '.join(close)}?" if close else ""),
        fix=f"use one of {', '.join(known)}; or the path of a .toml file of your own",
    )


def _read(source: Traversable) -> _Table:
    """The keys of one file, checked while it is still known whose they are."""
    try:
        table: _Table = tomllib.loads(source.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        missing = isinstance(error, FileNotFoundError)
        raise UsageError(
            f"Cannot read the device profile {source}.",
            why="there is no such file" if missing else str(error),
            fix="check the path" if missing else "make it a TOML file that can be read",
        ) from None
    check(DeviceProfile, table, str(source), besides={"extends": str})
    return table


def _inherit(table: _Table, source: Traversable, line: tuple[Traversable, ...]) -> _Table:
    """The table with everything its ancestors say and it does not. `line` is the files from the child to this one."""
    own = {key: value for key, value in table.items() if key != "extends"}
    if "extends" not in table:
        return own
    beside = source.parent if isinstance(source, Path) else Path()
    parent = _locate(str(table["extends"]), beside=beside, asked_by=source)
    if parent in line:
        raise UsageError(
            f"Cannot read the device profile {line[0]}.",
            why=f"it extends itself: {' -> '.join(file.name for file in (*line, parent))}",
            fix="remove one of these 'extends'",
        )
    ancestors = _inherit(_read(parent), parent, (*line, parent))
    return _merge({key: value for key, value in ancestors.items() if key not in _NOT_INHERITED}, own)


def _merge(parent: _Table, child: _Table) -> _Table:
    """The child over its parent: tables key by key and deeply, everything else, lists too, as a whole."""
    merged = dict(parent)
    for key, value in child.items():
        inherited = merged.get(key)
        if isinstance(inherited, dict) and isinstance(value, dict):
            merged[key] = _merge(inherited, value)
        else:
            merged[key] = value
    return merged
