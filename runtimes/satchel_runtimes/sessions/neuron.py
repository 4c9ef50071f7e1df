"""Compiled Neuron graphs on their cores: static buckets, a copy per core, the rows of a batch spread over the copies.

A Neuron file is TorchScript around a compiled graph, so loading it is running code, and takes a caller who trusts it.
Verified by contract, not on hardware.
"""

from __future__ import annotations

import io
import itertools
import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Callable, Optional, Union

import numpy as np

from ..bundle import Bundle
from ..errors import IntegrityError, SupportError, UsageError
from ..manifest import Graph, TensorSpec
from ..neuron_cores import ALLOCATOR, Visible
from ..neuron_port import FAKE, NeuronPort, open_port
from ..toolchain import need
from . import Session, SessionOptions, Tensors, Used
from .buckets import Bucket, BucketSession
from .code import require_trust
from .neuron_decoder import NeuronDecoder
from .shared_weights import whole

__all__ = ["PLACED", "open_folder", "open_session"]

PLACED = True  # takes `cores`

_OPTIONS = frozenset({"target"})  # what a bundle may say of the engine; it was for the compiler


def open_session(bundle: Bundle, graphs: tuple[Graph, ...], wanted: SessionOptions) -> Session:
    require_trust(bundle, wanted)
    where, engine = f"the bundle {bundle.path}", bundle.manifest.target.engine
    unknown = sorted(set(engine.options) - _OPTIONS)
    if unknown:
        raise IntegrityError(
            f"Cannot load {where}.", why=f"it sets the option {unknown[0]!r}, which is not known", fix="convert again"
        )
    about: Mapping[str, Any] = {}
    if "config.json" in bundle.manifest.files:
        about = _section(bundle.read("config.json"), where)
    port = open_port(engine.name, engine.version, to=f"run {where}")

    def source(file: str) -> Union[str, bytes]:
        path = bundle.file(file)
        return str(path) if path else bundle.read(file)

    return _placed(port, graphs, source, about, wanted, where)


def open_folder(folder: Union[str, Path], *, trust: bool = False, cores: Optional[str] = None) -> Session:
    """Open a folder that optimum-neuron wrote: `model.neuron`, and a `neuron` section in its config.json.

    Such a folder has no hashes, so nothing says that the file is what was written; trust it as you would a program.

    Raises:
        UsageError: it is no such folder.
        IntegrityError: `trust` was not given.
        SupportError: its task is not one whose outputs are known.
        ToolchainError: torch_neuronx is missing or a stub.
    """
    folder, where = Path(folder), f"the folder {folder}"
    if not (folder / "config.json").is_file() or not (folder / "model.neuron").is_file():
        raise UsageError(
            f"Cannot open {where}.", why="it lacks model.neuron or config.json", fix="name what optimum-neuron wrote"
        )
    if not trust:
        raise IntegrityError(
            f"Will not load {where}.",
            why="a Neuron file is code: whoever wrote it runs programs on this machine",
            fix="if you trust where it comes from: open_folder(…, trust=True)",
        )
    about = _section((folder / "config.json").read_bytes(), where)
    if not about:
        raise UsageError(f"Cannot open {where}.", why="config.json has no 'neuron' section", fix="compile it again")
    port = open_port("torch-neuronx", None, to=f"run {where}")
    graph = _optimum_graph(folder, about, where)
    return _placed(
        port, (graph,), lambda file: str(folder / file), about, SessionOptions(trust=trust, cores=cores), where
    )


# What optimum-neuron 0.4.5 gives the outputs of a task: their names and axes, the first two dynamic.
_BATCH, _TOKENS = "batch", "sequence"
_OUTPUTS: Mapping[str, Sequence[tuple[str, tuple[str, ...]]]] = {
    "feature-extraction": (("last_hidden_state", (_BATCH, _TOKENS)), ("pooler_output", (_BATCH,))),
    "fill-mask": (("logits", (_BATCH, _TOKENS)),),
    "text-classification": (("logits", (_BATCH,)),),
    "token-classification": (("logits", (_BATCH, _TOKENS)),),
    "question-answering": (("start_logits", (_BATCH, _TOKENS)), ("end_logits", (_BATCH, _TOKENS))),
}
_INPUTS = ("input_ids", "attention_mask", "token_type_ids")  # in its order
# Architectures that it compiles without the third input, and those whose features come with a pooled output.
_ONE_TYPE = frozenset(["esm", "modernbert", "phi", "distilbert", "camembert", "mpnet", "roberta", "xlm-roberta"])
_POOLED = frozenset(["albert", "bert", "camembert", "esm", "mobilebert", "mpnet", "roberta", "xlm-roberta"])


def _optimum_graph(folder: Path, about: Mapping[str, Any], where: str) -> Graph:
    task = str(about.get("task"))
    if task not in _OUTPUTS:
        raise SupportError(
            f"Cannot open {where}.",
            why=f"it serves {task!r}; known are {', '.join(_OUTPUTS)}",
            fix="convert the model with satchel instead",
        )
    config = json.loads((folder / "config.json").read_text("utf-8"))
    kind = about.get("model_type") or config.get("model_type")
    # satchel's own section has the names; what optimum-neuron leaves out follows from the architecture.
    inputs = about.get("input_names") or (_INPUTS[:2] if kind in _ONE_TYPE else _INPUTS)
    outputs = [name for name, _ in _OUTPUTS[task] if name != "pooler_output" or kind in _POOLED]
    outputs = about.get("output_names") or outputs
    padding = {"input_ids": float(config.get("pad_token_id") or 0)}
    bind = {_TOKENS: int(about["static_sequence_length"])}
    if not about.get("dynamic_batch_size", False):
        bind = {_BATCH: int(about["static_batch_size"]), **bind}
    axes = dict(_OUTPUTS[task])
    return Graph(
        "model",
        "model.neuron",
        tuple(TensorSpec(n, about.get("int_dtype", "int64"), (_BATCH, _TOKENS), padding.get(n, 0.0)) for n in inputs),
        tuple(TensorSpec(name, "float32", axes[name]) for name in outputs),
        bind=bind,
    )


def _section(config: bytes, where: str) -> Mapping[str, Any]:  # Any: JSON
    try:
        found = json.loads(config)["neuron"]
    except KeyError:
        return {}
    except (ValueError, TypeError):
        raise IntegrityError(f"Cannot read {where}.", why="its config.json is not JSON", fix="copy it again") from None
    return found if isinstance(found, Mapping) else {}


def _placed(
    port: NeuronPort,
    graphs: Sequence[Graph],
    source: Callable[[str], Union[str, bytes]],
    about: Mapping[str, Any],
    wanted: SessionOptions,
    where: str,
) -> Session:
    """A session with every graph on each of its cores."""
    if wanted.threads is not None:
        raise UsageError(
            f"Cannot run {where} with {wanted.threads} threads.",
            why="a Neuron graph runs on NeuronCores",
            fix="leave --threads out; --cores spreads batches over cores",
        )
    _refuse_fake(about.get("compiler_type"), port, where)
    visible, places = ALLOCATOR.take(wanted.cores)
    scripts: list[dict[str, Any]] = []
    devices: list[str] = []
    try:
        for place in places or (None,):
            scripts.append({graph.file: port.load(_file(graph, source, where), place) for graph in graphs})
            for loaded in scripts[-1].values():
                _refuse_fake(getattr(loaded, "compiler_type", None), port, where)
            if graphs[0].state:
                devices += [port.settle(loaded, place) for loaded in scripts[-1].values()][:1]
    except BaseException:
        ALLOCATOR.give_back(places)
        raise
    compiler = f"{about.get('compiler_type', port.compiler)} {about.get('compiler_version', 'unknown')}"
    used: Used = {
        "engine": f"{port.engine} {port.version}",
        "threads": None,
        "delegate": None,
        "cores": ",".join(str(visible.names[place]) for place in places) or None,
        "compiler": compiler,
    }
    if graphs[0].state:
        return NeuronDecoder(graphs, list(zip(devices, scripts)), used, places)
    copies = [tuple([Bucket(graph.bind, _call(each[graph.file], graph)) for graph in graphs]) for each in scripts]
    return _NeuronSession(graphs[0], copies, used, visible, places)


def _file(graph: Graph, source: Callable[[str], Union[str, bytes]], where: str) -> Any:  # Any: what torch loads from
    found = source(graph.file)
    if graph.weights is not None:
        return whole(found, source(graph.weights), where)
    return found if isinstance(found, str) else io.BytesIO(found)


def _refuse_fake(compiler_type: Optional[str], port: NeuronPort, where: str) -> None:
    """What the fake compiler of satchel's tests made computes on the CPU: nobody may take it for a Neuron artifact."""
    if compiler_type == FAKE and not port.fake:
        raise IntegrityError(
            f"Will not load {where}.",
            why="a fake compiler made it, for satchel's own tests",
            fix="convert again where the vendor's compiler is",
        )


def _call(loaded: Any, graph: Graph) -> Callable[[Mapping[str, np.ndarray]], Tensors]:  # Any: a script
    torch = need("torch", to="run a compiled graph", install="it comes with the vendor's packages")

    def call(tensors: Mapping[str, np.ndarray]) -> Tensors:
        with torch.no_grad():
            found = loaded(*(torch.from_numpy(np.ascontiguousarray(tensors[spec.name])) for spec in graph.inputs))
        if isinstance(found, Mapping):
            return {name: value.numpy() for name, value in found.items()}
        values = (found,) if isinstance(found, torch.Tensor) else tuple(found)
        return {spec.name: value.numpy() for spec, value in zip(graph.outputs, values)}

    return call


class _NeuronSession(BucketSession):
    """One `BucketSession` per core; a batch is cut into as many parts as there are cores, each run in a thread."""

    def __init__(
        self,
        graph: Graph,
        copies: Sequence[tuple[Bucket, ...]],
        used: Used,
        visible: Visible,
        places: tuple[int, ...],
    ) -> None:
        super().__init__(graph, copies[0], lambda: used)
        self._copies = [BucketSession(graph, buckets, lambda: used) for buckets in copies]
        self._places = places
        self._turn = itertools.count()
        self._pool = ThreadPoolExecutor(len(copies), "neuron") if len(copies) > 1 else None

    def run(self, tensors: Mapping[str, np.ndarray], state: Optional[object] = None) -> Tensors:
        if not self._copies:
            return super().run(tensors, state)  # says that it was closed
        self._check(tensors)
        rows = len(next(iter(tensors.values())))
        if self._pool is None or rows < 2:  # single answers take turns
            return self._copies[next(self._turn) % len(self._copies)].run(tensors, state)
        parts = [each for each in np.array_split(np.arange(rows), len(self._copies)) if len(each)]
        tasks = [
            self._pool.submit(copy.run, {name: value[part[0] : part[-1] + 1] for name, value in tensors.items()})
            for copy, part in zip(self._copies, parts)
        ]
        found = [task.result() for task in tasks]
        return {spec.name: np.concatenate([each[spec.name] for each in found]) for spec in self.outputs}

    def close(self) -> None:
        super().close()
        if self._pool is not None:
            self._pool.shutdown()
        for copy in self._copies:
            copy.close()
        ALLOCATOR.give_back(self._places)
        self._copies, self._places, self._pool = [], (), None

    def _check(self, tensors: Mapping[str, np.ndarray]) -> None:
        """Raises: UsageError for what the compiled graph would refuse in its own words, or be given in another dtype."""
        for spec in self.inputs:
            value = tensors.get(spec.name)
            said = "it is missing" if value is None else f"it is {value.dtype} of {list(value.shape)}"
            if (
                value is None
                or value.ndim != len(spec.shape)
                or not np.can_cast(value.dtype, spec.dtype, "safe")
                or any(isinstance(size, int) and value.shape[at] != size for at, size in enumerate(spec.shape))
            ):
                raise UsageError(
                    f"Cannot run with this {spec.name}.",
                    why=f"{said}; the graph was compiled for {spec.dtype} of {list(spec.shape)}",
                    fix="give what the graph takes",
                )
