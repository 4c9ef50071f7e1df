"""Run a format's `apply` here, or in a worker where its toolchain has an environment of its own or limits are set."""

from __future__ import annotations

import json
import tempfile
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from satchel_runtimes.manifest import Graph, from_plain, to_plain
from satchel_runtimes.tensors import pack_tensors, unpack_tensors

from .format import Artifact, Calibration, Plan, format_of
from .process import Room, Tell, run_process

__all__ = ["APPLY", "apply_scheme", "run_apply"]

APPLY, _MADE, _SAMPLES = "apply.json", "artifact.json", "samples.safetensors"


def apply_scheme(
    twin: Artifact,
    plan: Plan,
    out: Path,
    calibration: Calibration,
    *,
    room: Room,
    tell: Tell,
    cancel: threading.Event | None = None,
) -> Artifact:
    """Put the files of a scheme into `out`.

    Raises:
        SatchelError: what `apply` refuses, wherever it runs; or a limit was reached.
    """
    if not room:
        return format_of(plan.format).apply(twin, plan, out, calibration, tell)
    with tempfile.TemporaryDirectory(prefix="satchel-apply-") as made:
        folder = Path(made)
        components = dict.fromkeys(graph.component for graph in twin.graphs) if plan.scheme.calibrated else {}
        samples = {
            f"{component}/{number:06}/{name}": value
            for component in components
            for number, tensors in enumerate(calibration(component))
            for name, value in tensors.items()
        }
        (folder / _SAMPLES).write_bytes(pack_tensors(samples))
        (folder / APPLY).write_text(
            json.dumps({"plan": to_plain(plan), "twin": _plain(twin), "out": str(out.absolute())})
        )
        run_process("quantization", folder, tell, cancel, room)
        return _artifact(json.loads((folder / _MADE).read_text()))


def run_apply(folder: Path, tell: Tell) -> None:
    """The worker's side."""
    raw = json.loads((folder / APPLY).read_text())
    plan = from_plain(Plan, raw["plan"])

    def calibration(component: str) -> Iterator[Mapping[str, np.ndarray]]:
        samples: dict[str, dict[str, np.ndarray]] = {}
        for key, value in unpack_tensors((folder / _SAMPLES).read_bytes(), _SAMPLES).items():
            of, number, name = key.split("/", 2)
            if of == component:
                samples.setdefault(number, {})[name] = value
        return (samples[number] for number in sorted(samples))

    made = format_of(plan.format).apply(_artifact(raw["twin"]), plan, Path(raw["out"]), calibration, tell)
    (folder / _MADE).write_text(json.dumps(_plain(made)))


def _plain(artifact: Artifact) -> dict[str, Any]:  # Any: JSON
    graphs = [to_plain(graph) for graph in artifact.graphs]
    return {
        "folder": str(artifact.folder.absolute()),
        "graphs": graphs,
        "files": list(artifact.files),
        "notes": dict(artifact.notes),
    }


def _artifact(raw: Mapping[str, Any]) -> Artifact:  # Any: JSON
    graphs = tuple(from_plain(Graph, each) for each in raw["graphs"])
    return Artifact(Path(raw["folder"]), graphs, tuple(raw["files"]), notes=raw["notes"])
