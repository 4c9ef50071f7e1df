"""ONNX for onnxruntime: exported with dynamic axes, then the schemes of this engine.

Fusions stay onnxruntime's own, at load time: fusing ahead (transformers' `ort_fusions="cpu"`) was measured slower on
MiniLM, 0.88 against 0.97 of the best fp32 session at 128 tokens, and 2.0 against 2.7 times in int8.
"""

from __future__ import annotations

import gc
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from satchel_runtimes.errors import SupportError, UsageError
from satchel_runtimes.manifest import Engine, Graph, TensorSpec
from satchel_runtimes.sessions import Session
from satchel_runtimes.sessions.onnx import session_of
from satchel_runtimes.toolchain import need

from .component import Component, specs
from .format import Artifact, Calibration, Format, Plan, Scheme, engine_has, oldest, silent
from .onnx_export import export_component
from .onnx_quantize import BY_PARTS, CALIBRATION_METHODS, Wanted, quantize
from .onnx_tensors import is_large, open_graph, spilling, write_graph
from .process import Tell

if TYPE_CHECKING:
    import onnx

__all__ = ["FORMAT"]

# What each onnxruntime reads at most: (release, opset, IR). From its versioning page,
# https://onnxruntime.ai/docs/reference/compatibility.html. 18 is the least that torch's exporter writes; beyond 20 no
# operator of an encoder gains anything, and a lower opset runs on more devices.
_READS = (((1, 17), 20, 9), ((1, 15), 19, 9), ((1, 14), 18, 8))
_CACHES = ">=1.20"  # the attention of decoders with all of its attributes; run in 1.20.1, 1.22.1 and 1.32
_CACHES8 = ">=1.32"  # that attention over a cache in int8; run in 1.32

SCHEMES = {
    scheme.name: scheme
    for scheme in (
        Scheme("fp32", "reference", 4.0, ">=1.14", "float32 as it was trained", traced=True),
        Scheme("fp16", "size", 2.0, ">=1.14", "half the size; CPUs compute it as float32"),
        Scheme(
            "int8-dynamic",
            "speed",
            1.0,
            ">=1.14",
            "int8 weights per channel, activations quantized on the fly",
            calibrated=True,
        ),
        Scheme(
            "int8-static",
            "speed",
            1.0,
            ">=1.14",
            "int8 weights per channel, uint8 activations with ranges from samples",
            convolutions=True,
            calibrated=True,
            ranges=True,
        ),
        Scheme(
            "int8-mixed",
            "speed",
            1.0,
            ">=1.22",
            "int8, but a better precision for the layers that it hurts most, found by a scan",
            calibrated=True,
        ),
        Scheme("int8-weights", "size", 1.05, ">=1.22", "int8 weights in blocks, float activations"),
        Scheme(
            "int8-weights-kv8",
            "size",
            1.05,
            _CACHES8,
            "int8 weights in blocks, and the cache of what writes text in int8 as well",
            calibrated=True,
        ),
        Scheme(
            "int4-weights", "size", 0.85, ">=1.18", "int4 weights in blocks of 32, int8 embeddings", calibrated=True
        ),
    )
}


def plan(scheme: Scheme, profile: Any, options: Mapping[str, str]) -> Plan:  # Any: a DeviceProfile
    """Opset, IR and session options for the oldest engine that the profile promises.

    Raises:
        SupportError: the profile's engine has no kernels for the scheme, or reads no opset that torch writes.
    """
    engine = next((each for each in profile.engines if each.name.startswith("onnxruntime")), None)
    if engine is None:
        raise SupportError(
            f"Cannot convert to onnx for {profile.name}.",
            why=f"its engines are {', '.join(each.name for each in profile.engines) or 'not known'}",
            fix=f"choose one of its formats: {', '.join(profile.formats)}",
        )
    for needed in (scheme.engine, *((_CACHES,) if options.get("generates") else ())):
        if not engine_has(engine.version, needed):
            raise SupportError(
                f"Cannot make {scheme.name} for {profile.name}.",
                why=f"it needs onnxruntime {needed}; the profile promises {engine.version}",
                fix=f"choose another scheme ({', '.join(SCHEMES)}), or a profile with a newer engine",
            )
    found = next(((o, ir, since) for since, o, ir in _READS if oldest(engine.version) >= since), None)
    if found is None:
        raise SupportError(
            f"Cannot convert to onnx for {profile.name}.",
            why=f"torch writes opset 18 or newer, onnxruntime {engine.version} admits one that reads less",
            fix="update the engine to onnxruntime 1.14 or newer, and the profile with it",
        )
    if options.get("io", "float32") != "float32":
        raise SupportError(
            f"Cannot make {scheme.name} with {options['io']} inputs and outputs.",
            why="activations are float32 at both ends of every scheme of onnx",
            fix="leave --io-dtype out, or convert to tflite in int8-static",
        )
    method = options.get("calibration_method", "")
    if method and method not in CALIBRATION_METHODS:
        raise UsageError(
            f"Cannot calibrate by {method}.",
            why="no such method",
            fix=f"choose one of {', '.join(CALIBRATION_METHODS)}",
        )
    opset, ir, since = found
    wanted = int(options.get("opset", opset))
    if wanted > opset or wanted < 18:
        raise SupportError(
            f"Cannot write opset {wanted} for {profile.name}.",
            why=f"onnxruntime {engine.version} reads up to {opset}, torch writes 18 or newer",
            fix=f"leave --opset out, or choose 18 to {opset}",
        )
    needs = max(since, oldest(scheme.engine), oldest(_CACHES) if options.get("generates") else since)
    # The mixed scheme's products are those of int8-dynamic, so what is fast for one is for the other.
    named = "int8-dynamic" if scheme.name == "int8-mixed" else scheme.name
    session = dict(profile.session_options.get(named, {}))
    return Plan(
        "onnx",
        scheme,
        Engine("onnxruntime", ">=" + ".".join(str(part) for part in needs), wanted, ir, session),
        int8_weights=profile.int8_weights,
        calibration_method=method,
        min_cosine=float(options.get("min_cosine", 0)),
    )


def export(components: Sequence[Component], plan: Plan, out: Path) -> Artifact:
    """Write each component in float32, weights beside the graph so that they stream to disk.

    Raises:
        SupportError: no exporter gives a graph that is right at another shape.
    """
    graphs = []
    for component in components:
        file, weights = export_component(component, plan.engine.opset or _READS[0][1], plan.engine.ir, out)
        given, answered = specs(component.inputs), specs(component.outputs)
        state, window = dict(component.state), component.window
        graphs.append(Graph(component.name, file, given, answered, weights=weights, state=state, window=window))
    return Artifact(out, tuple(graphs), tuple(name for g in graphs for name in (g.file, g.weights) if name))


def apply(twin: Artifact, plan: Plan, out: Path, calibration: Calibration, tell: Tell = silent) -> Artifact:
    """Make a scheme of the exported float32 graphs, each in one file where that can be."""
    graphs: list[Graph] = []
    notes: dict[str, Any] = {}  # Any: JSON
    for graph in twin.graphs:
        # Before the graph: a language model writes them, and is in memory while it does.
        samples = tuple(calibration(graph.component)) if plan.scheme.calibrated else ()
        wanted = Wanted(plan, samples, graph.component, tell, writes=bool(graph.state))
        apart = plan.scheme.name in BY_PARTS and is_large(twin.folder, graph)
        with spilling(out, apart):
            model = quantize(open_graph(twin.folder, graph, apart), wanted)
            model.ir_version = plan.engine.ir or model.ir_version
            graphs.append(write_graph(model, _as_stored(model, graph), out))
        notes |= {
            (name if len(twin.graphs) == 1 else f"{graph.component} {name}"): v for name, v in wanted.notes.items()
        }
        del model
        gc.collect()
    return Artifact(
        out, tuple(graphs), tuple(name for g in graphs for name in (g.file, g.weights) if name), notes=notes
    )


def run(twin: Artifact, graph: Graph) -> Session:
    """A graph of the twin, on one thread: what it writes must not depend on how many there are."""
    engine = need("onnxruntime", extra="convert", to="run the exported graph", of="satchel")
    options = engine.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 3, 1
    opened = engine.InferenceSession(str(twin.folder / graph.file), options, providers=["CPUExecutionProvider"])
    return session_of(graph, opened, 1)


def _as_stored(model: onnx.ModelProto, graph: Graph) -> Graph:
    """With the types of the caches that a scheme has narrowed."""
    import dataclasses

    import onnx

    caches = {each.name for each in model.graph.input if each.type.tensor_type.elem_type == onnx.TensorProto.INT8}
    caches |= {output for name, output in graph.state.items() if name in caches}

    def stored(specs: tuple[TensorSpec, ...]) -> tuple[TensorSpec, ...]:
        return tuple(dataclasses.replace(spec, dtype="int8") if spec.name in caches else spec for spec in specs)

    return dataclasses.replace(graph, inputs=stored(graph.inputs), outputs=stored(graph.outputs))


FORMAT = Format(
    name="onnx",
    engine="onnxruntime",
    shapes="dynamic",
    schemes=SCHEMES,
    packages=("torch", "transformers", "onnx", "onnxscript", "onnxruntime"),
    needs={
        "torch": ">=2.11",
        "transformers": ">=5.23",
        "onnx": ">=1.21",
        "onnxscript": ">=0.7",
        "onnxruntime": ">=1.22",
    },
    extra="convert",
    caches=True,
    plan=plan,
    export=export,
    apply=apply,
    run=run,
    about="ONNX for onnxruntime on any CPU, in the browser and on phones",
)
