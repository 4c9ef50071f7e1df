"""One small contract for every engine: a loaded graph with named inputs and outputs.

A new engine is one file in this folder with an `open_session` of the same form, and one line in `_MODULES`.
"""

from __future__ import annotations

import dataclasses
import importlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Optional, Protocol, Union

import numpy as np

from ..bundle import Bundle
from ..errors import SupportError, UsageError
from ..manifest import Graph, TensorSpec

__all__ = ["Session", "SessionOptions", "Tensors", "Used", "open_session"]

Tensors = dict[str, np.ndarray]

# What really runs: `engine` with its version, `threads` (None: the engine's choice) and `delegate` (None: its plain kernels);
# on Neuron also `cores` and `compiler`.
Used = Mapping[str, Union[str, int, None]]

_MODULES = {
    "onnx": ".onnx",
    "tflite": ".tflite",
    "torchscript": ".torchscript",
    "neuron": ".neuron",
}


@dataclass(frozen=True)
class SessionOptions:
    """What a caller asks of an engine; what it does not know is refused, never left out in silence."""

    threads: Optional[int] = None  # intra-op; None takes the bundle's own preference
    trust: bool = False  # load formats whose files are code
    delegate: Optional[str] = None  # an accelerator of the engine, by name or by the path of its library
    cores: Optional[str] = None  # of an engine that is placed on cores: "4", "7-15" or "0,2-3"
    profile: Optional[str] = (
        None  # how the names of traces begin, of an engine that writes them; `profile.py` reads them
    )


class Session(Protocol):
    """One loaded graph on one engine. Timing, batching and retries are built on top, not in here.

    `run` may be called from several threads at once; what it returns belongs to the caller and is never written again.
    """

    @property
    def inputs(self) -> tuple[TensorSpec, ...]: ...

    @property
    def outputs(self) -> tuple[TensorSpec, ...]: ...

    @property
    def used(self) -> Used: ...

    def new_state(self, batch: int = 1, capacity: int = 0) -> Optional[Any]:
        """A cache for so many texts of at most so many tokens, which `run` reads and writes; None where a graph keeps
        nothing between calls. Any: the engine's own, which has `hold` and `select` as `Cache` has them."""

    def run(self, tensors: Mapping[str, np.ndarray], state: Optional[Any] = None) -> Tensors: ...

    def close(self) -> None: ...


def open_session(bundle: Bundle, graphs: tuple[Graph, ...], options: SessionOptions) -> Session:
    """Open the entries of one component on the engine of the bundle's format.

    Args:
        bundle: an opened bundle.
        graphs: every entry of one component; a format with static shapes has one entry per bucket.
        options: what the caller asks of the engine.

    Raises:
        UsageError: an option that this engine does not have.
        SupportError: this runtime has no engine for the format, or the engine cannot run the graph.
        ToolchainError: the engine's package is missing or too old.
        IntegrityError: the file is not what the manifest says.
    """
    format_name = bundle.manifest.target.format
    if format_name not in _MODULES:
        raise SupportError(
            f"Cannot load the bundle {bundle.path}.",
            why=f"it holds {format_name!r}; this runtime opens {', '.join(_MODULES)}",
            fix="update satchel-runtimes, or convert to one of these formats",
        )
    module = importlib.import_module(_MODULES[format_name], __name__)
    if options.delegate is not None and not getattr(module, "DELEGATES", ()):
        raise UsageError(
            f"Cannot use the delegate {options.delegate!r} with the bundle {bundle.path}.",
            why=f"the engine of {format_name} bundles has no delegates",
            fix="leave it out, or convert to tflite",
        )
    if options.cores is not None and not getattr(module, "PLACED", False):
        raise UsageError(
            f"Cannot place the bundle {bundle.path} on the cores {options.cores!r}.",
            why=f"the engine of {format_name} bundles is not placed on cores",
            fix="leave --cores out, or use --threads",
        )
    if options.profile is not None and not getattr(module, "PROFILES", False):
        raise UsageError(
            f"Cannot profile the bundle {bundle.path}.",
            why=f"the engine of {format_name} bundles writes no trace",
            fix="leave it out, or convert to onnx",
        )
    threads = options.threads or _preferred(bundle.manifest.target.threads)
    session: Session = module.open_session(bundle, graphs, dataclasses.replace(options, threads=threads))
    if any(graph.state for graph in graphs):
        from .huge_pages import collapse_beside

        collapse_beside()
    return session


def _preferred(threads: Optional[int]) -> Optional[int]:
    """The bundle's preference, where this machine has as many cores: more threads than cores only wait for each other."""
    if threads is None:
        return None
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or threads
    return min(threads, cores)
