"""Conversions in the tests: models that are broken on purpose, graphs that are damaged, and what a refusal must leave."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper
from safetensors.numpy import load_file, save_file

import satchel
from satchel_converters import onnx as onnx_format
from satchel_converters.format import Artifact, Calibration, Plan
from satchel_converters.process import Tell
from satchel_runtimes.bundle import sha256_of
from satchel_runtimes.errors import SatchelError
from satchel_runtimes.golden import records_from_bytes, records_to_bytes
from satchel_runtimes.manifest import FileDigest, Manifest

__all__ = [
    "Refusal",
    "add_earlier",
    "append_node",
    "blinded",
    "change_answers",
    "command",
    "damage",
    "digests",
    "one_layer",
    "refused",
    "run",
    "tail_of",
    "variant",
]

REPORT = "model.report.json"


def variant(
    source: Path,
    out: Path,
    *,
    weights: Callable[[dict[str, np.ndarray]], None] | None = None,
    config: Mapping[str, Any] | None = None,
) -> Path:
    """A copy of a Hub folder with other weights, or other keys in its config.json. A stage is found by content, so the
    same variant in another folder is exported once."""
    shutil.copytree(source, out)
    if weights is not None:
        tensors = load_file(out / "model.safetensors")
        weights(tensors)
        save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})
    if config is not None:
        file = out / "config.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), **config}))
    return out


def one_layer(source: Path, out: Path) -> Path:
    """A BERT without all layers but the first."""

    def keep_the_first(tensors: dict[str, np.ndarray]) -> None:
        for name in [each for each in tensors if ".layer." in each and ".layer.0." not in each]:
            del tensors[name]

    return variant(source, out, weights=keep_the_first, config={"num_hidden_layers": 1})


def damage(
    monkeypatch: pytest.MonkeyPatch, change: Callable[[onnx.ModelProto], None], *, schemes: Sequence[str] = ()
) -> None:
    """Change every graph after its scheme was made and before anybody looks at it; those of some schemes or of all."""
    whole = onnx_format.FORMAT

    def apply(twin: Artifact, plan: Plan, out: Path, calibration: Calibration, tell: Tell) -> Artifact:
        artifact = whole.apply(twin, plan, out, calibration, tell)
        for graph in artifact.graphs if not schemes or plan.scheme.name in schemes else ():
            model = onnx.load(out / graph.file)
            change(model)
            onnx.save(model, out / graph.file)
        return artifact

    monkeypatch.setattr(onnx_format, "FORMAT", dataclasses.replace(whole, apply=apply))


def append_node(model: onnx.ModelProto, kind: str, *constants: np.ndarray, **attributes: Any) -> None:
    """Put one more operator between the first output and the world, under the output's old name."""
    name = model.graph.output[0].name
    for node in model.graph.node:
        for place, each in enumerate(node.output):
            if each == name:
                node.output[place] = f"{name}.whole"
    inputs = [f"{name}.whole"]
    for place, value in enumerate(constants):
        inputs.append(f"{name}.constant{place}")
        model.graph.initializer.append(onnx.numpy_helper.from_array(value, inputs[-1]))
    model.graph.node.append(helper.make_node(kind, inputs, [name], **attributes))


def blinded(model: onnx.ModelProto, name: str) -> None:
    """Put nothing in the place of an input, where a graph has it."""
    if not any(each.name == name for each in model.graph.input):
        return
    for node in model.graph.node:
        for place, each in enumerate(node.input):
            if each == name:
                node.input[place] = "nothing"
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.zeros(1, np.float32), "zero"))
    model.graph.node.insert(0, helper.make_node("Mul", [name, "zero"], ["nothing"]))


@dataclasses.dataclass(frozen=True)
class Refusal:
    """An error, and the report that was written of it."""

    error: SatchelError
    report: dict[str, Any]

    def verdict(self, gate: str) -> dict[str, Any]:
        """What a gate said of the last candidate."""
        found: dict[str, Any] = {each["gate"]: each for each in self.report["candidates"][-1]["verdicts"]}[gate]
        return found


def refused(model: Path, folder: Path, kind: type[SatchelError], **options: Any) -> Refusal:
    """Convert where an earlier bundle lies; expect a refusal of this very kind that leaves the earlier one alone.

    To onnx alone, where the device runs it: with all formats of a profile, the next one may well pass.
    """
    if not str(options.get("device", "")).startswith("inf"):
        options = {"format": "onnx", **options}
    out = add_earlier(folder)
    before = digests(out)
    with pytest.raises(SatchelError) as caught:
        satchel.convert(model, out=out, **{"device": "raspberry-pi-5", "replace": True, **options})
    error = caught.value
    report = json.loads((folder / REPORT).read_text())
    assert type(error) is kind, str(error)
    assert (error.what, error.why, error.fix) == tuple(report["error"].values())
    assert digests(out) == before
    assert sorted(each.name for each in folder.iterdir()) == sorted([out.name, REPORT])
    assert report["exit_code"] == kind.exit_code
    assert report["bundle"] is None
    return Refusal(error, report)


def add_earlier(folder: Path) -> Path:
    """Something that an earlier conversion may have left at `model.satchel`."""
    out = folder / "model.satchel"
    (out / "golden").mkdir(parents=True)
    (out / "bundle.json").write_text("{}")
    (out / "golden" / "inputs.json").write_bytes(bytes(range(256)))
    return out


def digests(folder: Path) -> dict[str, str]:
    """Of every file below a folder."""
    files = (file for file in sorted(folder.rglob("*")) if file.is_file())
    return {file.relative_to(folder).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def command(*arguments: str | Path) -> list[str]:
    """The `satchel` command of the environment that runs the tests."""
    return [sys.executable, "-m", "satchel", *map(str, arguments)]


def run(
    *arguments: str | Path, stdin: bytes | None = None, cwd: Path | None = None, path: Sequence[Path] = ()
) -> subprocess.CompletedProcess[str]:
    """Run `satchel` in a process of its own. A traceback is never an answer, whatever the arguments were."""
    found = os.pathsep.join([*map(str, path), *(each for each in sys.path if each)])
    done = subprocess.run(
        command(*arguments),
        input=stdin if stdin is not None else b"",
        capture_output=True,
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": found},
        timeout=300,
        check=False,
    )
    out, said = done.stdout.decode("utf-8"), done.stderr.decode("utf-8")
    assert "Traceback" not in said, said
    return subprocess.CompletedProcess(done.args, done.returncode, out, said)


def tail_of(text: str) -> str:
    """The message of an error, after the lines of progress."""
    lines = text.splitlines()
    why = next(place for place, line in enumerate(lines) if line.startswith("  why: "))
    return "\n".join(lines[why - 1 :])


def change_answers(bundle: Path, side: str) -> None:
    """Golden answers of another model, with digests that fit: what a wrong kernel looks like from the other side."""
    manifest = Manifest.parse((bundle / "bundle.json").read_bytes(), "")
    name = getattr(manifest.golden, side)
    samples = records_from_bytes((bundle / name).read_bytes(), name)
    turned: list[Mapping[str, Any]] = [
        {key: dataclasses.replace(each, values=each.values[::-1].copy()) for key, each in records.items()}
        for records in samples
    ]
    (bundle / name).write_bytes(records_to_bytes(turned))
    with (bundle / name).open("rb") as opened:
        digest = FileDigest((bundle / name).stat().st_size, sha256_of(opened))
    files = {**manifest.files, name: digest}
    (bundle / "bundle.json").write_text(dataclasses.replace(manifest, files=files).to_json())
