"""Make a compile kit: everything that a machine with the vendor's compiler needs to write the bundle, and no bundle yet."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from typing import Any

from satchel_converters.format import Artifact, Recipe, format_of
from satchel_converters.kit import FINISH, PARITY
from satchel_converters.kit.rows import GoldenRows, examples, golden_rows
from satchel_converters.stage import Job, Stage
from satchel_runtimes.golden import MAX_ELEMENTS, RAW_LIMIT
from satchel_runtimes.manifest import KIT_NAME, MANIFEST_NAME, Graph, Manifest, to_plain

from .gates import NOT_JUDGED, PASSED, Verdict
from .options import Prepared
from .pack import digests, pack
from .progress import Reporter
from .publish import Target
from .report import Outcome
from .stage_cache import stage_for
from .trial import limits_for

__all__ = ["make_kit"]

_BUNDLE, _ROWS, _EXAMPLES = "bundle", "rows.safetensors", "examples.safetensors"


def make_kit(prepared: Prepared, target: Target, reporter: Reporter, outcomes: list[Outcome]) -> Outcome:
    """Stage a kit of the first candidate that the format can be asked for; nothing of it can be measured here.

    Raises:
        SatchelError: what the export, or the traced model's proof, refused.
    """
    candidate = next(each for each in prepared.candidates if each.plan is not None)
    plan, writer = candidate.plan, format_of(candidate.format)
    assert plan is not None and writer.recipe is not None  # `prepare` leaves such candidates only
    fp32 = dataclasses.replace(plan, scheme=writer.schemes["fp32"])  # the scheme is the compiler's: one trace for all
    job = Job(prepared.source, prepared.tasks, fp32, prepared.options.sequence_length, kit=True, room=candidate.room)
    stage, _ = stage_for(job, reporter.tell, reporter.cancel, use_cache=prepared.options.cache)
    recipe = writer.recipe(plan, stage.twin.graphs)
    reporter.tell("pack", f"the traced model, {len(stage.items)} golden samples, and finish.py")
    folder = target.folder
    for name in stage.twin.files:
        shutil.copyfile(stage.folder / name, folder / name)
    rows = golden_rows(stage)
    (folder / _ROWS).write_bytes(rows.tensors)
    (folder / _EXAMPLES).write_bytes(examples(stage.twin.graphs, rows))
    shutil.copyfile(FINISH, folder / FINISH.name)
    (folder / "README.txt").write_text(_readme(prepared, recipe), "utf-8")
    (folder / _BUNDLE).mkdir()
    manifest = pack(prepared, stage, Artifact(folder, recipe.graphs, ()), plan, folder / _BUNDLE)
    for name in (MANIFEST_NAME, manifest.golden.artifact):  # finish.py writes both
        (folder / _BUNDLE / name).unlink()
    about = _about(prepared, stage, recipe, rows, manifest, plan.scheme.name)
    about["files"] = to_plain(digests(folder))
    about["seal"] = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()
    (folder / KIT_NAME).write_text(json.dumps(about, indent=1) + "\n")
    for file in folder.rglob("*"):
        os.chmod(file, 0o755 if file.is_dir() else 0o644)
    outcome = Outcome(candidate.format, candidate.scheme, _verdicts(stage, recipe))
    outcomes.append(outcome)
    return outcome


def _about(
    prepared: Prepared, stage: Stage, recipe: Recipe, rows: GoldenRows, manifest: Manifest, scheme: str
) -> dict[str, Any]:
    count = sum(len(rows.about[place]["outputs"]) for sample in rows.samples for place in sample)
    return {
        "satchel_kit": 1,
        "about": "a compile kit, not a bundle: python finish.py makes one, where the compiler is; see README.txt",
        "name": prepared.source.name,
        "device": prepared.profile.name,
        "recipe": {
            "module": recipe.module,
            "packages": recipe.packages,
            "version": recipe.version,
            "install": recipe.install,
            "arguments": dict(recipe.arguments),
            "config": dict(recipe.config),
        },
        "graphs": [_graph(*each) for each in zip(stage.twin.graphs, recipe.graphs, strict=True)],
        "examples": _EXAMPLES,
        "rows": {
            "file": _ROWS,
            "about": rows.about,
            "samples": rows.samples,
            "most": RAW_LIMIT,
            "keep": max(MAX_ELEMENTS // max(count, 1), 1),
        },
        "limits": {**dataclasses.asdict(limits_for(prepared.profile, scheme)), "size_mb": prepared.budget.size_mb},
        "bundle": _BUNDLE,
        "manifest": {**to_plain(manifest), "files": {}},
    }


def _graph(traced: Graph, compiled: Graph) -> dict[str, Any]:
    return {**to_plain(compiled), "source": traced.file}


def _verdicts(stage: Stage, recipe: Recipe) -> tuple[Verdict, ...]:
    """What the gates can say before the compiler has run."""
    figures: Mapping[str, Mapping[str, float]] = json.loads((stage.folder / PARITY).read_text())
    task, found = next(iter(figures.items()))
    error = found.get("relative_error", 0.0)
    reader = f"torch {recipe.torch} has every operator of the traced model" if recipe.torch else "traced"
    later = "finish.py judges it, where the compiler is"
    return (
        Verdict("toolchain", NOT_JUDGED, f"{recipe.packages[0]} {recipe.version}: {later}"),
        Verdict("integrity", PASSED, "safetensors weights, every file hashed"),
        Verdict("support", PASSED, f"{reader}; the compiler: {later}"),
        Verdict(
            "parity",
            PASSED,
            f"{task}: the traced model, padded as it will be compiled, relative error {error:.2g}; the compiled: {later}",
            error,
        ),
        Verdict("accuracy", NOT_JUDGED, "no task data was given"),
        *(Verdict(gate, NOT_JUDGED, later) for gate in ("size",)),
        *(Verdict(gate, NOT_JUDGED, "nothing is compiled yet") for gate in ("latency", "memory")),
    )


def _readme(prepared: Prepared, recipe: Recipe) -> str:
    module, package = recipe.module, recipe.packages[0]
    return f"""\
This folder is a compile kit, not a bundle: {prepared.source.name} for {prepared.profile.title}.

It was prepared on a machine without the compiler. One command finishes it, on an instance of that kind:

    {recipe.install}
    python finish.py

That needs {package} {recipe.version} with its own torch, numpy, and nothing of satchel. It compiles the model, proves
that the compiled graphs answer as the model did, and writes {prepared.source.name}.satchel beside this folder. The thin
runtime loads that: satchel_runtimes.load(..., trust=True).

On a compile box without the device, `python finish.py --compile-only --workdir DIR` does the long part; the same
`--workdir DIR` on the device does the rest. `python finish.py --help` has all options and exit codes.

model.pt               the traced model (TorchScript, eager attention)
examples.safetensors   the inputs that each graph is compiled with
rows.safetensors       the golden samples as the model takes them, and its raw outputs
bundle/                what goes into the bundle as it is: tokenizer, config, golden samples
kit.json               compiler arguments, limits, the manifest to be, and a sha256 of every file
finish.py              imports {module}; read it before you run it
"""
