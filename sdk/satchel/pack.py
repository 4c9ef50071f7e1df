"""Put a bundle together: graphs, processors, golden samples and the manifest, with a digest of every file."""

from __future__ import annotations

import dataclasses
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import satchel_runtimes
from satchel_converters.format import Artifact, Plan, format_of
from satchel_converters.stage import INPUTS, REFERENCE_GOLDEN, Stage
from satchel_runtimes.bundle import sha256_of
from satchel_runtimes.golden import records_to_bytes
from satchel_runtimes.manifest import MANIFEST_NAME, FileDigest, Golden, Manifest, Measured, Source, Target
from satchel_runtimes.parity import Record

from .gates import Evidence, Verdict
from .options import Prepared

__all__ = ["digests", "pack", "pack_twin", "seal", "write_artifact_answers"]

_GOLDEN = Golden("golden/inputs.json", "golden/reference.safetensors", "golden/artifact.safetensors")


def pack(prepared: Prepared, stage: Stage, artifact: Artifact, plan: Plan, folder: Path) -> Manifest:
    """Add to the graphs in `folder` what a device needs beside them. The artifact's own answers come after the replay."""
    for name in stage.processors:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(stage.folder / name, folder / name)
    golden = folder / "golden"
    golden.mkdir(exist_ok=True)
    shutil.copy(stage.folder / INPUTS, folder / _GOLDEN.inputs)
    shutil.copy(stage.folder / REFERENCE_GOLDEN, folder / _GOLDEN.reference)
    (folder / _GOLDEN.artifact).write_bytes(records_to_bytes([]))
    for file in folder.rglob("*"):
        os.chmod(file, 0o755 if file.is_dir() else 0o644)  # some writers make files that only their owner reads
    manifest = _manifest(prepared, stage, artifact, plan, folder)
    (folder / MANIFEST_NAME).write_text(manifest.to_json())
    return manifest


def pack_twin(prepared: Prepared, stage: Stage, plan: Plan, folder: Path) -> Manifest:
    """The float twin as a bundle of its own, for a comparison."""
    for name in (*stage.twin.files, *stage.processors):
        # A copy, not a hard link: onnx refuses weights with two names, to this stage's next reader and after a kill for ever.
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(stage.folder / name, folder / name)
    (folder / "golden").mkdir(exist_ok=True)
    for name in (_GOLDEN.inputs, _GOLDEN.reference, _GOLDEN.artifact):
        (folder / name).write_bytes(b"[]")
    scheme = format_of(plan.format).schemes["fp32"]
    twin_plan = dataclasses.replace(plan, scheme=scheme, engine=dataclasses.replace(plan.engine, options={}))
    manifest = _manifest(prepared, stage, stage.twin, twin_plan, folder)
    (folder / MANIFEST_NAME).write_text(manifest.to_json())
    return manifest


def write_artifact_answers(folder: Path, samples: Sequence[Mapping[str, Record]]) -> None:
    """Record what the artifact said on this machine, and its digest in the manifest."""
    (folder / _GOLDEN.artifact).write_bytes(records_to_bytes(samples))
    manifest = _read(folder)
    files = {**manifest.files, _GOLDEN.artifact: _digest(folder / _GOLDEN.artifact)}
    measured = dataclasses.replace(manifest.measured, size_bytes=sum(each.bytes for each in files.values()))
    (folder / MANIFEST_NAME).write_text(dataclasses.replace(manifest, files=files, measured=measured).to_json())


def seal(
    folder: Path, *, verdicts: Sequence[Verdict] = (), evidence: Evidence | None = None, failed: bool = False
) -> None:
    """Write what was measured into the manifest, or mark a refused bundle that is kept for a look."""
    manifest = _read(folder)
    measured = manifest.measured
    if evidence is not None:
        measured = dataclasses.replace(
            measured,
            where=evidence.here,
            parity={task: {k: round(v, 6) for k, v in p.figures.items()} for task, p in evidence.reference.items()},
            latency_ms={str(tokens): dataclasses.asdict(each) for tokens, each in evidence.latency.items()},
            peak_rss_bytes=evidence.peak_rss_bytes,
            accuracy={each.metric: each.to_plain() for each in evidence.metrics} or None,
            verdicts={each.gate: each.status for each in verdicts},
        )
    (folder / MANIFEST_NAME).write_text(dataclasses.replace(manifest, measured=measured, failed=failed).to_json())


def _manifest(prepared: Prepared, stage: Stage, artifact: Artifact, plan: Plan, folder: Path) -> Manifest:
    source = prepared.source
    files = digests(folder)
    # A local folder's path is nobody's business on a device.
    identity = source.name if Path(source.id).is_absolute() else source.id
    return Manifest(
        name=source.name,
        source=Source(
            identity, source.revision, source.license, source.model_type, source.architecture, source.parameters
        ),
        target=Target(
            prepared.profile.name,
            plan.format,
            plan.scheme.name,
            plan.engine,
            prepared.options.threads or prepared.profile.threads,
        ),
        tasks=stage.entries,
        graphs=artifact.graphs,
        golden=_GOLDEN,
        measured=Measured(sum(each.bytes for each in files.values()), "", notes=dict(artifact.notes)),
        toolchain={"satchel": satchel_runtimes.__version__, **stage.toolchain},
        files=files,
    )


def digests(folder: Path) -> dict[str, FileDigest]:
    """Of every file below a folder but the manifest."""
    return {
        file.relative_to(folder).as_posix(): _digest(file)
        for file in sorted(folder.rglob("*"))
        if file.is_file() and file.name != MANIFEST_NAME
    }


def _digest(file: Path) -> FileDigest:
    with file.open("rb") as opened:
        return FileDigest(file.stat().st_size, sha256_of(opened))


def _read(folder: Path) -> Manifest:
    return Manifest.parse((folder / MANIFEST_NAME).read_bytes(), str(folder))
