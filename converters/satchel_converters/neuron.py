"""Component -> AWS Neuron: one compiled graph per length, for Inf2, Trn1 and Trn2, and for Inf1 where its toolchain is. What writes
has graphs of a piece of a prompt and of a step for each capacity of its cache.

Verified by contract, not on hardware. The compiler is its vendor's and runs where AWS's SDK is installed; elsewhere a
compile kit (`--kit`) prepares the work.
"""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from satchel_runtimes.errors import SupportError, ToolchainError
from satchel_runtimes.manifest import Engine, Graph
from satchel_runtimes.neuron_cores import count_cores
from satchel_runtimes.neuron_port import INSTALL, NeuronPort, open_port
from satchel_runtimes.parity import CLASSES, numeric_class
from satchel_runtimes.sessions.cache import CAPACITY

from .component import Component, specs
from .format import Artifact, Calibration, Format, Plan, Recipe, Scheme, copy_twin
from .kit.finish import share_weights
from .process import Tell
from .shapes import difference, fixed_shapes, others_of, resized

__all__ = ["FORMAT"]

SCHEMES = {
    scheme.name: scheme
    for scheme in (
        Scheme("fp32", "reference", 4.0, ">=1.0", "float32 throughout: --auto-cast none", traced=True),
        Scheme("bf16-matmult", "speed", 4.0, ">=1.0", "matrix multiplications in bfloat16", traced=True),
        Scheme(
            "bf16", "speed", 2.0, ">=1.0", "all operators in bfloat16: the fastest, and the least exact", traced=True
        ),
    )
}

# --auto-cast of neuronx-cc (AWS Neuron documentation, Neuron Compiler CLI Reference Guide).
_CASTS = {"fp32": "none", "bf16-matmult": "matmult", "bf16": "all"}

# --fast-math of neuron-cc, which took the place of --fp32-cast (AWS Neuron documentation, Neuron compiler CLI Reference
# Guide, neuron-cc). "none", its most exact, is fp32-cast-matmult-bf16 with transposes that lose nothing: Inf1 multiplies
# matrices in 16 bits only, so it has no fp32.
_FAST_MATH = {"bf16-matmult": "none", "bf16": "all"}

_OTHERWISE = "; or add --kit: it prepares the work here, to be finished on a machine that has the compiler"

# Tasks as optimum-neuron calls them, where it has another name for the same graph.
_OPTIMUM_TASKS = {"sentence-embedding": "feature-extraction", "zero-shot-classification": "text-classification"}


def plan(scheme: Scheme, profile: Any, options: Mapping[str, str]) -> Plan:  # Any: a DeviceProfile
    """The engine of the profile, its lengths, and the name that its compiler has for the device.

    Raises:
        SupportError: the device has no Neuron engine, or one without this scheme.
    """
    engine = next((each for each in profile.engines if each.name in ("torch-neuronx", "torch-neuron")), None)
    if engine is None:
        raise SupportError(
            f"Cannot convert to neuron for {profile.name}.",
            why=f"its engines are {', '.join(each.name for each in profile.engines) or 'not known'}",
            fix=f"choose one of its formats: {', '.join(profile.formats)}",
        )
    if engine.name == "torch-neuron" and scheme.name not in _FAST_MATH:
        raise SupportError(
            f"Cannot make {scheme.name} for {profile.name}.",
            why="its matrix multiplications are 16 bits wide: the compiler casts float32 to bfloat16 at least there",
            fix=f"choose one of {', '.join(_FAST_MATH)}",
        )
    if engine.name == "torch-neuronx" and profile.compiler_target is None:
        raise SupportError(
            f"Cannot convert to neuron for {profile.name}.",
            why="its profile has no compiler_target, so the compiler cannot be told for which device",
            fix="add it to the profile: inf2, trn1 or trn2",
        )
    if options.get("generates") and engine.name == "torch-neuron":
        raise SupportError(
            f"Cannot convert what writes text for {profile.name}.",
            why="torch-neuron, which its vendor has frozen, keeps no tensors on the device between calls: a cache would be carried "
            "to the host and back for every token",
            fix="choose inf2, trn1 or trn2",
        )
    if options.get("io", "float32") != "float32":
        raise SupportError(
            f"Cannot make {scheme.name} with {options['io']} inputs and outputs.",
            why="activations are float32 at both ends of every scheme of neuron",
            fix="leave --io-dtype out",
        )
    target = {"target": profile.compiler_target} if engine.name == "torch-neuronx" else {}
    return Plan("neuron", scheme, Engine(engine.name, engine.version, options=target), buckets=profile.sequence_buckets)


def arguments(plan: Plan) -> list[str]:
    """The compiler's command line."""
    if plan.engine.name == "torch-neuron":
        # A kit is traced in float32 whatever its scheme, before there is a compiler to ask for casts.
        return ["--fast-math", _FAST_MATH.get(plan.scheme.name, "none")]
    cast = _CASTS[plan.scheme.name]
    kind = [] if cast == "none" else ["--auto-cast-type", "bf16"]
    rest = ["--optlevel", "2", "--model-type", "transformer"]
    return ["--target", plan.engine.options["target"], "--auto-cast", cast, *kind, *rest]


def export(components: Sequence[Component], plan: Plan, out: Path) -> Artifact:
    """Compile each component once per length, and hold each result against torch on the device that is here.

    Raises:
        ToolchainError: the SDK is missing or a stub, or there is no device to prove the graphs on.
        SupportError: the compiler refuses the model, or a compiled graph answers wrongly.
    """
    to = f"convert to neuron for {plan.engine.options.get('target', 'inf1')}"
    port = open_port(plan.engine.name, plan.engine.version, to=to, otherwise=_OTHERWISE)
    if not port.fake and not count_cores():
        raise ToolchainError(
            f"Cannot {to}.",
            why="the SDK is here, a Neuron device to prove the compiled graphs on is not (/dev/neuron*)",
            fix="convert on an instance that has one; or add --kit: its finish.py --compile-only runs on a compile box",
        )
    graphs: list[Graph] = []
    for component, shapes in fixed_shapes(components, plan):
        files = [_file(component.name, shape, last=shape == shapes[-1]) for shape in shapes]
        for shape, file in zip(shapes, files, strict=True):
            _compile(port, component, shape, plan, out / file)
        shared = f"{component.name}/weights.zip" if component.state else None
        if shared and not share_weights([str(out / file) for file in files], str(out / shared)):
            shared = None
        batches = port.batches and not component.state
        graphs += [
            Graph(
                component.name,
                file,
                specs(component.inputs),
                specs(component.outputs),
                bind={axis: size for axis, size in shape.items() if axis != "batch" or not batches},
                weights=shared,
                state=dict(component.state),
            )
            for shape, file in zip(shapes, files, strict=True)
        ]
    config = _config(plan, graphs, port.compiler_type, port.compiler_version, dynamic_batch=port.batches)
    return Artifact(out, tuple(graphs), _members(graphs), config)


def _members(graphs: Sequence[Graph]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name for graph in graphs for name in (graph.file, graph.weights) if name))


def _file(component: str, shape: Mapping[str, int], *, last: bool) -> str:
    """The longest lies where optimum-neuron looks, which wants no second .neuron file there: the others lie below."""
    length = shape.get("sequence", 1)
    if CAPACITY in shape:  # beside their weights
        return f"{component}/capacity_{shape[CAPACITY]}_sequence_{length}.neuron"
    return f"{component}.neuron" if last else f"sequence_{length}/{component}.neuron"


def _compile(port: NeuronPort, component: Component, shape: Mapping[str, int], plan: Plan, file: Path) -> None:
    length, sizes = shape.get("sequence", 1), others_of(component, shape)
    example = resized(component, 1, length, padded=True, sizes=sizes)
    names = [each.name for each in component.inputs]
    work = file.parent / f"compiler-{file.stem}"
    file.parent.mkdir(exist_ok=True)
    # Of a decoder there are several graphs with the same weights, and each text has a cache of its own.
    cached = bool(component.state)
    whole = port.trace(_positional(component), [example[name] for name in names], arguments(plan), work, apart=cached)
    if not cached:
        whole = port.dynamic_batch(whole)
    shutil.rmtree(work, ignore_errors=True)
    _save(whole, file)
    loaded = port.load(str(file), None)
    limit = CLASSES[numeric_class(plan.scheme.name)].relative_error
    checks = ((1, length), (3, length)) if port.batches and not cached else ((1, length),)
    worst = difference(component, _call(loaded, component), checks, padded=True, sizes=sizes)
    if limit is not None and not worst <= limit:
        raise SupportError(
            f"Cannot convert {component.name} to neuron.",
            why=f"the graph for {length} tokens is wrong by {worst:.2g} of the largest value, {limit:g} is allowed",
            fix="choose a scheme with fewer casts, or report the architecture",
        )


def _positional(component: Component) -> Any:  # Any: a class that needs torch to exist
    """By position, with the outputs as a tuple: what the vendor's trace takes."""
    import torch

    names = [each.name for each in component.inputs]

    class Positional(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = component.module

        def forward(self, *tensors: Any) -> tuple[Any, ...]:
            return tuple(self.inner(**dict(zip(names, tensors, strict=True))).values())

    return Positional().eval()


def _save(compiled: Any, file: Path) -> None:  # Any: torch does not type its scripts
    import torch

    jit: Any = torch.jit
    jit.save(compiled, str(file))


def _call(loaded: Any, component: Component) -> Any:  # Any: a script
    import torch

    def call(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        with torch.no_grad():
            found = loaded(*(torch.from_numpy(np.ascontiguousarray(tensors[each.name])) for each in component.inputs))
        return {each.name: value.numpy() for each, value in zip(component.outputs, found, strict=True)}

    return call


def apply(twin: Artifact, plan: Plan, out: Path, calibration: Calibration, tell: Tell) -> Artifact:
    return copy_twin(twin, out)  # the compiler casts


def recipe(plan: Plan, graphs: Sequence[Graph]) -> Recipe:
    """What a kit's finish.py tells the compiler; the names and the config are those of `export`."""
    old = plan.engine.name == "torch-neuron"
    compiler = "neuron-cc" if old else "neuronx-cc"
    last = {graph.component: graph for graph in graphs}
    named = tuple(
        dataclasses.replace(graph, file=_file(graph.component, graph.bind, last=graph is last[graph.component]))
        for graph in graphs
    )
    given: dict[str, Any] = {"compiler_args": " ".join(arguments(plan)), "inline_weights_to_neff": True}
    if old:
        given = {"compiler_args": arguments(plan), "fallback": True}
    return Recipe(
        plan.engine.name.replace("-", "_"),
        (plan.engine.name, compiler),
        plan.engine.version,
        "pip " + INSTALL.format(engine=plan.engine.name, compiler=compiler),
        given,
        named,
        _config(plan, named, compiler, None, dynamic_batch=False) if named else {},
        torch="1.13.1" if old else None,
    )


def _config(
    plan: Plan, graphs: Sequence[Graph], compiler: str, version: str | None, *, dynamic_batch: bool
) -> dict[str, Any]:
    """The `neuron` section of config.json, with the keys of optimum-neuron 0.4.5, about the longest graph; the last
    three are satchel's own."""
    longest = max(graphs, key=lambda graph: (graph.bind.get(CAPACITY, 0), graph.bind.get("sequence", 0)))
    cast = _CASTS[plan.scheme.name]
    return {
        "neuron": {
            "compiler_type": compiler,
            "compiler_version": version,
            "inline_weights_to_neff": not longest.state,
            "static_batch_size": 1,
            "static_sequence_length": longest.bind.get(CAPACITY, longest.bind.get("sequence", 1)),
            "dynamic_batch_size": dynamic_batch and not longest.state,
            "tensor_parallel_size": 1,
            "optlevel": "2",
            "auto_cast": None if cast == "none" else cast,
            "auto_cast_type": None if cast == "none" else "bf16",
            "instance_type": plan.engine.options.get("target"),
            "int_dtype": "int64",
            "float_dtype": "fp32",
            "output_attentions": False,
            "output_hidden_states": False,
            "task": _OPTIMUM_TASKS.get(plan.task, plan.task) or None,
            "input_names": [spec.name for spec in longest.inputs],
            "output_names": [spec.name for spec in longest.outputs],
            "compiler_args": arguments(plan),
        }
    }


FORMAT = Format(
    name="neuron",
    engine="torch-neuronx",
    shapes="static",
    schemes=SCHEMES,
    packages=("torch", "transformers"),
    extra="convert",
    plan=plan,
    export=export,
    apply=apply,
    recipe=recipe,
    caches=True,
    compilers={"torch-neuronx": ("torch_neuronx",), "torch-neuron": ("torch_neuron",)},
    install={
        "torch-neuronx": INSTALL.format(engine="torch-neuronx", compiler="neuronx-cc") + _OTHERWISE,
        "torch-neuron": INSTALL.format(engine="torch-neuron", compiler="neuron-cc") + _OTHERWISE,
    },
    about="AWS Neuron for Inf2, Trn1, Trn2 and Inf1; lengths are compiled graphs; by contract, not on hardware",
)
