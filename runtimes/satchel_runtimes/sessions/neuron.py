"""Neuron graphs: TorchScript with compiled parts inside, which the vendor's module teaches torch to run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Callable

import numpy as np

from ..bundle import Bundle
from ..errors import IntegrityError, SupportError
from ..manifest import Graph
from ..toolchain import need, require_version
from . import Session, SessionOptions, Tensors
from .buckets import Bucket, BucketSession

__all__ = ["open_session"]


def open_session(bundle: Bundle, graphs: tuple[Graph, ...], wanted: SessionOptions) -> Session:
    to = f"run the bundle {bundle.path}"
    if not wanted.trust:
        raise IntegrityError(
            f"Will not load the bundle {bundle.path}.",
            why="a Neuron file is TorchScript, and loading that runs the code in it",
            fix="add trust=True (--trust), if you trust where the bundle comes from",
        )
    engine = bundle.manifest.target.engine
    neuron = need(engine.name.replace("-", "_"), extra="neuron", to=to)
    require_version(engine.name, neuron.__version__, engine.version, to=to)
    torch = need("torch", extra="neuron", to=to)
    buckets = []
    for graph in graphs:
        file = bundle.file(graph.file)
        if file is None:
            raise SupportError(
                f"Cannot {to}.", why="Neuron files are loaded by path", fix="unpack the zip into a folder"
            )
        try:
            script = torch.jit.load(str(file))
        except (RuntimeError, ValueError) as error:
            raise SupportError(
                f"Cannot run {graph.file} of the bundle {bundle.path}.",
                why=f"{engine.name} {neuron.__version__} refuses it: {str(error).strip().splitlines()[-1][:300]}",
                fix="run it on an instance with Neuron devices, with the version that compiled it",
            ) from None
        buckets.append(Bucket(graph.bind, _call(torch, script, graph)))
    used = {"engine": f"{engine.name} {neuron.__version__}", "threads": wanted.threads, "delegate": None}
    return BucketSession(graphs[0], tuple(buckets), lambda: used)


def _call(torch: Any, script: Any, graph: Graph) -> Callable[[Mapping[str, np.ndarray]], Tensors]:  # Any: imported late
    def call(tensors: Mapping[str, np.ndarray]) -> Tensors:
        with torch.no_grad():
            found = script(*(torch.from_numpy(np.ascontiguousarray(tensors[spec.name])) for spec in graph.inputs))
        values = (found,) if isinstance(found, torch.Tensor) else found
        return {spec.name: value.numpy() for spec, value in zip(graph.outputs, values)}

    return call
