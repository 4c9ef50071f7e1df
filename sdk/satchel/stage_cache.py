"""Stages of a conversion, kept by content: the same model, options and toolchain are captured and exported once."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import shutil
import threading
import uuid
from pathlib import Path

import satchel_converters
import satchel_runtimes
from satchel_converters.stage import Job, Stage, Tell, read_stage, run_worker
from satchel_runtimes.bundle import cache_folder

__all__ = ["stage_for", "stages_folder"]

_PACKAGES = ("torch", "transformers", "tokenizers", "onnx", "onnxscript", "onnx-ir", "numpy")
# The oldest stages go first once all of them together are larger than this.
_LIMIT_BYTES = int(os.environ.get("SATCHEL_CACHE_GB", "20")) * 10**9


def stages_folder() -> Path:
    return cache_folder() / "stages"


def stage_for(job: Job, tell: Tell, cancel: threading.Event | None, *, use_cache: bool) -> tuple[Stage, bool]:
    """The stage of a job, and whether it was there already."""
    folder = stages_folder() / _key(job)
    if use_cache and (folder / "stage.json").is_file():
        os.utime(folder)
        tell("cache", f"export and reference answers from {folder.name[:12]}", 0, 0)
        return read_stage(folder), True
    making = stages_folder() / f".making-{uuid.uuid4().hex}"
    making.mkdir(parents=True)
    try:
        run_worker(job, making, tell, cancel)
        if folder.exists():
            shutil.rmtree(folder)
        os.rename(making, folder)
    finally:
        shutil.rmtree(making, ignore_errors=True)
    _shrink(keep=folder)
    return read_stage(folder), False


def _key(job: Job) -> str:
    about = {
        "source": job.source.digest,
        "trust": job.source.trust_remote_code,
        "tasks": job.tasks,
        "format": job.plan.format,
        "opset": job.plan.engine.opset,
        "ir": job.plan.engine.ir,
        "max_length": job.max_length,
        "packages": {name: _version(name) for name in _PACKAGES},
        "code": _code_digest(),
    }
    return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _code_digest() -> str:
    """Of the modules that make a stage, so that an update of satchel never meets what an older one left."""
    digest = hashlib.sha256()
    for package in (satchel_converters, satchel_runtimes):
        for file in sorted(Path(next(iter(package.__path__))).rglob("*.py")):
            digest.update(file.read_bytes())
    return digest.hexdigest()


def _shrink(keep: Path) -> None:
    found = [each for each in stages_folder().iterdir() if not each.name.startswith(".")]
    sizes = {each: sum(file.stat().st_size for file in each.iterdir()) for each in found}
    total = sum(sizes.values())
    for each in sorted(found, key=lambda path: path.stat().st_mtime):
        if total <= _LIMIT_BYTES:
            return
        if each != keep:
            shutil.rmtree(each, ignore_errors=True)
            total -= sizes[each]
