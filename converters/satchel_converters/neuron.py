"""AWS Neuron: which chip a profile means, and how a compile kit for it is finished.

The vendor's compilers cannot be had from the public index, so a conversion here ends in a kit. What stands for the chip in
the vendor's own words is the profile's name.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from satchel_runtimes.errors import SupportError, ToolchainError
from satchel_runtimes.manifest import Engine, Graph

from .component import Component
from .format import Artifact, Calibration, Format, Plan, Recipe, Scheme, copy_twin

__all__ = ["FORMAT"]

_INDEX = "https://pip.repos.neuron.amazonaws.com"  # the public index has stubs by the same names

SCHEMES = {
    "fp32": Scheme("fp32", "reference", 4.0, ">=1.13", "float32; the compiler casts nothing to bfloat16", traced=True)
}

# Both compilers cast float32 to bfloat16 unless they are told not to (AWS Neuron documentation, "Mixed precision and
# performance-accuracy tuning").
_EXACT = {
    "torch-neuron": ("--fast-math", "none"),
    "torch-neuronx": ("--auto-cast", "none", "--optlevel", "2", "--model-type", "transformer"),
}


def plan(scheme: Scheme, profile: Any, options: Mapping[str, str]) -> Plan:  # Any: a DeviceProfile
    """The engine of the profile, its lengths, and the compiler's arguments for its chip.

    Raises:
        SupportError: the device has no Neuron engine.
    """
    engine = next((each for each in profile.engines if each.name in _EXACT), None)
    if engine is None:
        raise SupportError(
            f"Cannot convert to neuron for {profile.name}.",
            why=f"its engines are {', '.join(each.name for each in profile.engines) or 'not known'}",
            fix=f"choose one of its formats: {', '.join(profile.formats)}",
        )
    target = () if engine.name == "torch-neuron" else ("--target", profile.name)
    return Plan(
        "neuron",
        scheme,
        Engine(engine.name, engine.version),
        buckets=profile.sequence_buckets,
        compiler=(*target, *_EXACT[engine.name]),
    )


def recipe(plan: Plan, graphs: Sequence[Graph]) -> Recipe:
    """How `finish.py` compiles for the plan's chip, and what it adds to config.json for other loaders."""
    frozen = plan.engine.name == "torch-neuron"
    compiler = "neuron-cc" if frozen else "neuronx-cc"
    arguments: dict[str, Any] = {"compiler_args": list(plan.compiler)}
    # Inf1: operators that its compiler does not know run on the CPU, which finish.py reports.
    arguments |= {"fallback": True, "dynamic_batch_size": False} if frozen else {"inline_weights_to_neff": True}
    packages = f"'{plan.engine.name}{plan.engine.version}' " + ("'neuron-cc[tensorflow]'" if frozen else compiler)
    return Recipe(
        module=plan.engine.name.replace("-", "_"),
        packages=(plan.engine.name, compiler),
        version=plan.engine.version,
        install=f"pip install {packages} --extra-index-url {_INDEX}",
        arguments=arguments,
        graphs=tuple(dataclasses.replace(each, file=_file(each, graphs)) for each in graphs),
        config={"neuron": _section(graphs, compiler)},
        torch="1.13.1" if frozen else None,
    )


def _file(graph: Graph, graphs: Sequence[Graph]) -> str:
    """The longest has the name that other loaders look for."""
    length = graph.bind["sequence"]
    longest = max(each.bind["sequence"] for each in graphs if each.component == graph.component)
    return f"{graph.component}.neuron" if length == longest else f"{graph.component}_sequence_{length}.neuron"


def _section(graphs: Sequence[Graph], compiler: str) -> dict[str, Any]:
    """As optimum-neuron writes it; `finish.py` fills in the version. It knows one static shape: the longest."""
    longest = max((each.bind["sequence"] for each in graphs), default=None)
    return {
        "compiler_type": compiler,
        "compiler_version": None,
        "auto_cast": "none",
        "auto_cast_type": None,
        "dynamic_batch_size": False,
        "inline_weights_to_neff": True,
        "input_names": [spec.name for spec in graphs[0].inputs] if graphs else [],
        "static_batch_size": 1,
        "static_sequence_length": longest,
    }


def export(components: Sequence[Component], plan: Plan, out: Any) -> Artifact:  # Any: never looked at
    """Raises: ToolchainError, always: this version compiles where a kit is finished."""
    raise ToolchainError(
        "Cannot compile for Neuron here.",
        why="this version of satchel compiles in kits only",
        fix="add --kit, and finish the kit where the compiler is",
    )


def apply(twin: Artifact, plan: Plan, out: Any, calibration: Calibration) -> Artifact:  # Any: a Path
    return copy_twin(twin, out)


FORMAT = Format(
    name="neuron",
    engine="torch-neuronx",
    shapes="static",
    schemes=SCHEMES,
    packages=("torch", "transformers", "torch_neuronx"),
    extra="convert",  # all that a kit needs here
    plan=plan,
    export=export,
    apply=apply,
    recipe=recipe,
    about="AWS Neuron for Inferentia and Trainium; one compiled file per length, made from a compile kit",
)
