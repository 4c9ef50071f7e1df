"""What a format can do, as data, readable without importing its toolchain; and the names of all formats."""

from __future__ import annotations

import importlib
import importlib.metadata
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from satchel_runtimes.errors import SupportError, unknown_name
from satchel_runtimes.manifest import Engine, Graph
from satchel_runtimes.sessions import Session
from satchel_runtimes.toolchain import satisfies

from .component import Component
from .process import Tell

__all__ = [
    "Artifact",
    "Calibration",
    "Format",
    "Plan",
    "Recipe",
    "Scheme",
    "check_scheme",
    "copy_twin",
    "format_of",
    "list_formats",
    "silent",
]

# A new format is one file here, and this line.
_MODULES = {"onnx": ".onnx", "tflite": ".tflite", "torchscript": ".torchscript", "neuron": ".neuron"}


@dataclass(frozen=True)
class Scheme:
    """A way to store and compute the weights.

    `purpose` is what it is for: "reference", "speed" or "size"; a scheme for speed is refused where it is slower than
    its float twin. `engine` bounds the engine versions that have its kernels. One that is `traced` is made by the
    format's `export`, before or while the graph is written; every other by its `apply`, from the float32 twin.
    One for `convolutions` takes the place of int8-dynamic where a model computes with those.
    """

    name: str
    purpose: str
    bytes_per_weight: float
    engine: str
    about: str
    traced: bool = False
    convolutions: bool = False
    calibrated: bool = False  # made with the help of samples
    ranges: bool = False  # fixes the ranges of activations by them, so they must be like the real inputs


@dataclass(frozen=True)
class Plan:
    """What a profile and the options ask of a format."""

    format: str
    scheme: Scheme
    engine: Engine
    buckets: tuple[int, ...] = ()  # lengths of a format with static shapes
    longest: int = 0  # tokens that were asked for; 0: none in particular
    int8_weights: str = "int8"  # or int8-reduced (7 bits) or uint8, as the profile says
    task: str = ""  # the main one, which other tools read in the artifact
    calibration_method: str = ""  # how ranges are taken from samples; "": the format's best
    min_cosine: float = 0.0  # that a mixed precision must reach on the worst sample; 0: what parity asks in the mean
    io: str = "float32"  # what the graph's float inputs and outputs are stored as; or int8, where the scheme has it


@dataclass(frozen=True)
class Artifact:
    """The graphs of one format and scheme, in files below `folder`."""

    folder: Path
    graphs: tuple[Graph, ...]
    files: tuple[str, ...]
    config: Mapping[str, Any] = field(default_factory=dict)  # what config.json has in addition, by key
    notes: Mapping[str, Any] = field(
        default_factory=dict
    )  # what was decided in the making, as JSON, for bundle and report


# Samples to calibrate on, encoded as the device will encode them: of a component's name, its inputs at batch 1.
Calibration = Callable[[str], Iterable[Mapping[str, np.ndarray]]]


@dataclass(frozen=True)
class Recipe:
    """How a machine that has the vendor's compiler finishes a compile kit, as plain data for its `finish.py`."""

    module: str  # to import; its `trace` compiles one graph at one shape
    packages: tuple[str, ...]  # the distributions whose versions the bundle records; the first is the module's own
    version: str  # the range of the first
    install: str  # the command that brings them
    arguments: Mapping[str, Any]  # of `trace`, beside the model, its example inputs and `compiler_workdir`
    graphs: tuple[Graph, ...]  # as the finished bundle has them, in the order of the traced ones
    config: Mapping[str, Any]  # what config.json has in addition, by key
    torch: str | None = None  # a torch older than this one that must read the traced file: 1.13.1


@dataclass(frozen=True)
class Format:
    """One target format.

    `export` runs where torch is and its result is the stage that is cached: the components in float32, the twin of
    every scheme, or in a scheme that is `traced`. `apply` puts the files of a scheme into the bundle: made from the
    twin, or copied where `export` has made them.
    """

    name: str
    engine: str
    shapes: str  # "dynamic" or "static"
    schemes: Mapping[str, Scheme]
    packages: tuple[str, ...]
    extra: str
    plan: Callable[[Scheme, Any, Mapping[str, str]], Plan]  # Any: DeviceProfile, read by attribute
    export: Callable[[Sequence[Component], Plan, Path], Artifact]
    apply: Callable[[Artifact, Plan, Path, Calibration, Tell], Artifact]
    # What a kit for another machine holds, from the plan and the traced graphs; None: all is done here, so no kits.
    recipe: Callable[[Plan, Sequence[Graph]], Recipe] | None = None
    # Runs one of the twin's graphs where it was made; None: no scheme is calibrated on what the model itself writes.
    run: Callable[[Artifact, Graph], Session] | None = None
    # Of an SDK that its vendor distributes, by the engine of the profile: what to import, and how to get it.
    compilers: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    install: Mapping[str, str] = field(default_factory=dict)
    about: str = ""
    caches: bool = False  # whether its graphs can keep a cache between calls, as generation needs
    needs: Mapping[str, str] = field(default_factory=dict)  # the range of a package's versions that does
    notes: tuple[str, ...] = field(default=())

    def packages_for(self, engine: str) -> tuple[str, ...]:
        """The packages of the toolchain that makes it for an engine."""
        return (*self.packages, *self.compilers.get(engine, ()))

    def versions(self, engine: str) -> dict[str, str]:
        """The installed version of each of them."""
        return {name: importlib.metadata.version(name) for name in self.packages_for(engine)}

    def preferred(self, schemes: Sequence[str], convolutional: bool, generates: bool = False) -> tuple[str, ...]:
        """A profile's schemes for this family of models: dynamic int8 for transformers, the static one for convnets, and int8
        weights alone for what writes text: with int8 activations a language model is another one."""
        static = next((each.name for each in self.schemes.values() if each.convolutions), None)
        weights = next((name for name in self.schemes if name == "int8-weights"), None)
        if generates and weights is None:
            return tuple(name for name in schemes if name != "int8-dynamic")
        instead = weights if generates else static if convolutional else None
        return tuple(instead if name == "int8-dynamic" and instead else name for name in schemes)

    def scheme(self, name: str) -> Scheme:
        """Raises: UsageError for a scheme that no format has; SupportError for one that this format lacks."""
        if name in self.schemes:
            return self.schemes[name]
        check_scheme(name)
        raise SupportError(
            f"Cannot make {name} in {self.name}.",
            why=f"{self.name} has {', '.join(self.schemes)}",
            fix="choose one of these, or another format",
        )


def check_scheme(name: str) -> None:
    """Raises: UsageError for a scheme that no format has."""
    everywhere = {each for format in list_formats() for each in format_of(format).schemes}
    if name not in everywhere:
        raise unknown_name("scheme", name, sorted(everywhere))


def silent(stage: str, message: str, step: int, total: int) -> None:
    """Tells nobody."""


def copy_twin(twin: Artifact, out: Path) -> Artifact:
    """The `apply` of a scheme that `export` has made already."""
    for file in twin.files:
        (out / file).parent.mkdir(exist_ok=True)
        shutil.copyfile(twin.folder / file, out / file)
    return Artifact(out, twin.graphs, twin.files)


def list_formats() -> tuple[str, ...]:
    return tuple(_MODULES)


def format_of(name: str) -> Format:
    """Raises: UsageError when no format has this name."""
    if name not in _MODULES:
        raise unknown_name("format", name, _MODULES)
    found: Format = importlib.import_module(_MODULES[name], __package__).FORMAT
    return found


def oldest(version_range: str) -> tuple[int, ...]:
    """The lowest release that a range such as `>=1.17,<2` admits."""
    for clause in version_range.split(","):
        if clause.strip().startswith((">=", "==")):
            return tuple(int(part) for part in clause.strip()[2:].rstrip(".*").split("."))
    return (0,)


def engine_has(version_range: str, needed: str) -> bool:
    """Whether every engine in the profile's range is new enough, judged by the oldest of them."""
    return satisfies(".".join(str(part) for part in oldest(version_range)), needed)
