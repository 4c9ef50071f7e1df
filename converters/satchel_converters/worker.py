"""The stage that needs torch, in a process of its own: load, capture, export, and ask the reference.

    python -m satchel_converters.worker FOLDER      # reads FOLDER/job.json, leaves the stage in FOLDER
                                                    # or FOLDER/apply.json: makes a scheme of a stage
                                                    # or FOLDER/compress.json: makes a model smaller, or trains it
                                                    # or FOLDER/ask.json: answers a user's rows

Progress is a JSON object per line on stdout; an error that a user can mend is error.json and its exit code.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.metadata
import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from satchel_runtimes.errors import SatchelError
from satchel_runtimes.examples import read_examples
from satchel_runtimes.golden import golden_records, inputs_to_json, records_of, records_to_bytes
from satchel_runtimes.manifest import TaskEntry, to_plain
from satchel_runtimes.sessions.cache import CAPACITY
from satchel_runtimes.tasks import task_class

from .applying import APPLY, run_apply
from .asking import ANSWERS, ASK, ROWS, answer_rows, read_ask
from .component import Component
from .compress import COMPRESS
from .format import Artifact, Format, Plan, format_of
from .kit import PARITY
from .pictures import write_pictures
from .process import ERROR
from .samples import calibration_items, golden_items
from .sounds import write_sounds
from .stage import CALIBRATION, INPUTS, REFERENCE_FULL, REFERENCE_GOLDEN, STAGE, open_tasks, read_job

_KEEP = 16_384  # values per array that the build compares; a vocabulary-wide output is judged on this many of its own


def _run(folder: Path) -> None:
    job = read_job(folder)
    job = dataclasses.replace(job, plan=dataclasses.replace(job.plan, longest=job.max_length or 0))
    weights = sum(file.stat().st_size for file in job.source.weights)
    tell("load", f"{job.source.name}, {job.source.parameters:,} parameters, {weights / 2**20:.1f} MiB")
    from .capture import capture, load_model  # torch, which nothing above needs
    from .reference import reference_answers, with_beginnings

    # The oldest torch that reads a kit has no fused attention.
    loaded = load_model(job.source, job.tasks[0], attention="eager" if job.kit else None)
    components = capture(loaded)
    tell("export", f"{job.plan.format} in {job.plan.scheme.name} for {job.plan.engine}")
    chosen = format_of(job.plan.format)
    twin = _traced(chosen, components, job.plan, folder) if job.kit else chosen.export(components, job.plan, folder)
    processors = loaded.processors.save(folder, twin.config)
    # A text that an encoder reads may have its length, and one that is gone on with that of the cache.
    read = [graph for graph in twin.graphs if CAPACITY not in graph.bind] or twin.graphs
    bound = [graph.bind.get(CAPACITY, graph.bind.get("sequence", 0)) for graph in read]
    bound = [each for each in bound if each]
    facts = loaded.facts(job.max_length, bound)
    entries = [task_class(name, facts.config).entry(facts) for name in job.tasks]
    items = golden_items(job.tasks, facts, job.golden)
    processors += write_pictures(job.tasks, folder) + write_sounds(job.tasks, folder)
    tasks = open_tasks(entries, folder)
    tell("reference", f"{len(items)} golden samples through torch", total=len(items))
    items = with_beginnings(loaded, components, tasks, items)
    answers = reference_answers(loaded, components, tasks, items, on_sample=lambda: tell("reference", step=1))
    (folder / REFERENCE_FULL).write_bytes(records_to_bytes(records_of(tasks, items, answers, keep=_KEEP)))
    (folder / REFERENCE_GOLDEN).write_bytes(records_to_bytes(golden_records(tasks, items, answers)))
    (folder / INPUTS).write_text(inputs_to_json(items))
    (folder / CALIBRATION).write_text(inputs_to_json(calibration_items(job.tasks[0], facts)))
    if job.kit:
        from .kit.trace import replay

        tell("verify", f"{len(items)} golden samples through the trace")
        (folder / PARITY).write_text(json.dumps(replay(twin, tasks, items, answers)))
    versions = _versions(("torch", "transformers")) if job.kit else chosen.versions(job.plan.engine.name)
    _write_stage(folder, versions, twin, entries, processors)


def _traced(chosen: Format, components: Sequence[Component], plan: Plan, folder: Path) -> Artifact:
    from .kit.trace import trace

    assert chosen.recipe is not None  # else the options were refused
    return trace(components, plan, folder, reader=chosen.recipe(plan, ()).torch)


def _ask(folder: Path) -> None:
    """What the model itself says to a user's rows, all that it reads of them: nothing of a device cuts them."""
    asked = read_ask(folder)
    tell("load", f"{asked.source.name}, {asked.source.parameters:,} parameters")
    from .capture import capture, load_model
    from .reference import torch_graphs

    loaded = load_model(asked.source, asked.task)
    loaded.processors.save(folder, {})
    entry = loaded.task.entry(loaded.facts())
    task = open_tasks((entry,), folder)[asked.task]
    inputs = [each.input for each in read_examples(folder / ROWS)]
    tell("reference", f"{len(inputs)} rows through torch", total=len(inputs))
    graphs = torch_graphs(loaded, capture(loaded))
    answers = answer_rows(task, graphs, inputs, asked.labels, on_rows=lambda count: tell("reference", step=count))
    (folder / ANSWERS).write_text(json.dumps(answers), "utf-8")


def _write_stage(
    folder: Path,
    versions: Mapping[str, str],
    twin: Artifact,
    entries: Sequence[TaskEntry],
    processors: Sequence[str],
) -> None:
    raw = {
        "graphs": [to_plain(graph) for graph in twin.graphs],
        "entries": [to_plain(entry) for entry in entries],
        "files": twin.files,
        "processors": processors,
        "toolchain": dict(sorted({**versions, **_versions(("tokenizers", "numpy"))}.items())),
    }
    (folder / STAGE).write_text(json.dumps(raw))


def _versions(names: Sequence[str]) -> dict[str, str]:
    return {name: importlib.metadata.version(name) for name in names}


def tell(stage: str, message: str = "", step: int = 0, total: int = 0) -> None:
    print(json.dumps({"stage": stage, "message": message, "step": step, "total": total}), file=_out, flush=True)


# Libraries print to stdout; the parent reads JSON there. So the descriptor is kept, and stdout becomes stderr.
_out = sys.stdout


def main(folder: Path) -> int:
    global _out
    _out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            if (folder / APPLY).is_file():
                run_apply(folder, tell)
            elif (folder / COMPRESS).is_file():
                from .compress.job import run_compress

                run_compress(folder, tell)
            elif (folder / ASK).is_file():
                _ask(folder)
            else:
                _run(folder)
    except SatchelError as error:
        kind = {"kind": type(error).__name__, "what": error.what, "why": error.why, "fix": error.fix}
        (folder / ERROR).write_text(json.dumps(kind))
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
