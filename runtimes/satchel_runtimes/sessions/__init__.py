"""One small contract for every engine: a loaded graph with named inputs and outputs.

A new engine is one file in this folder with an `open_session` of the same form, and one line in `_MODULES`.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Mapping
from typing import Optional, Protocol

import numpy as np

from ..bundle import Bundle
from ..errors import SupportError
from ..manifest import Graph, TensorSpec

__all__ = ["Session", "Tensors", "open_session"]

Tensors = dict[str, np.ndarray]

_MODULES = {
    "onnx": ".onnx",
    "tflite": ".tflite",
}


class Session(Protocol):
    """One loaded graph on one engine. Timing, batching and retries are built on top, not in here.

    `run` may be called from several threads at once; what it returns belongs to the caller and is never written again.
    """

    @property
    def inputs(self) -> tuple[TensorSpec, ...]: ...

    @property
    def outputs(self) -> tuple[TensorSpec, ...]: ...

    def new_state(self) -> Optional[object]: ...

    def run(self, tensors: Mapping[str, np.ndarray], state: Optional[object] = None) -> Tensors: ...

    def close(self) -> None: ...


def open_session(bundle: Bundle, graphs: tuple[Graph, ...], *, threads: Optional[int] = None) -> Session:
    """Open the entries of one component on the engine of the bundle's format.

    Args:
        bundle: an opened bundle.
        graphs: every entry of one component; a format with static shapes has one entry per bucket.
        threads: intra-op threads; None takes the bundle's own preference.

    Raises:
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
    session: Session = module.open_session(bundle, graphs, threads or _preferred(bundle.manifest.target.threads))
    return session


def _preferred(threads: Optional[int]) -> Optional[int]:
    """The bundle's preference, where this machine has as many cores: more threads than cores only wait for each other."""
    if threads is None:
        return None
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or threads
    return min(threads, cores)
