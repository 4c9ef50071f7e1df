"""Stages of a conversion, kept by content: the same model, options and toolchain are captured and exported once."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import json
import os
import shutil
import threading
import time
import uuid
from pathlib import Path

import satchel_converters
import satchel_runtimes
from satchel_converters.format import format_of
from satchel_converters.process import Tell
from satchel_converters.stage import STAGE, Job, Stage, read_stage, run_worker
from satchel_runtimes.bundle import cache_folder

__all__ = ["code_digest", "stage_for", "stages_folder", "version_of"]

_SIZES = "sizes.json"  # in a stage's folder: the size of each of its files, written last
_STALE_SECONDS = 24 * 3600  # a stage is made in minutes; what is older was killed
_PACKAGES = ("torch", "transformers", "tokenizers", "onnx", "onnxscript", "onnx-ir", "numpy") + (
    "torch-neuronx",
    "neuronx-cc",
    "torch-neuron",
    "neuron-cc",
)
# The oldest stages go first once all of them together are larger than this.
_LIMIT_BYTES = int(os.environ.get("SATCHEL_CACHE_GB", "20")) * 10**9


def stages_folder() -> Path:
    return cache_folder() / "stages"


def stage_for(job: Job, tell: Tell, cancel: threading.Event | None, *, use_cache: bool) -> tuple[Stage, bool]:
    """The stage of a job, and whether it was there already."""
    folder = stages_folder() / _key(job)
    if use_cache and _is_whole(folder):
        with contextlib.suppress(OSError):  # a cache that others own may still be read
            os.utime(folder)
        tell("cache", f"export and reference answers from {folder.name[:12]}", 0, 0)
        return read_stage(folder), True
    making = stages_folder() / f".making-{uuid.uuid4().hex}"
    making.mkdir(parents=True)
    try:
        _sweep()
        run_worker(job, making, tell, cancel)
        (making / _SIZES).write_text(json.dumps(_sizes(making)))
        _publish(making, folder, replace=not use_cache)
    finally:
        shutil.rmtree(making, ignore_errors=True)
    _shrink(keep=folder)
    return read_stage(folder), False


def _sizes(folder: Path) -> dict[str, int]:
    files = (file for file in folder.rglob("*") if file.is_file())
    return {file.relative_to(folder).as_posix(): file.stat().st_size for file in files}


def _is_whole(folder: Path) -> bool:
    """Whether every file of a stage is there in its full size: a disk that was full, or a hand in the cache, shows here."""
    try:
        sizes = json.loads((folder / _SIZES).read_text())
        return STAGE in sizes and all((folder / name).stat().st_size == size for name, size in sizes.items())
    except (OSError, ValueError, AttributeError, TypeError):
        return False


def _publish(making: Path, folder: Path, *, replace: bool) -> None:
    if not replace and _is_whole(folder):
        return  # another conversion made the same meanwhile, and may be reading it
    if os.path.lexists(folder):
        away = making.with_name(f"{making.name}-old")
        os.rename(folder, away)
        shutil.rmtree(away, ignore_errors=True)
    try:
        os.rename(making, folder)
    except OSError:
        if not _is_whole(folder):  # else another conversion was faster by a moment
            raise


def _sweep() -> None:
    """Remove what killed conversions left half made."""
    for each in stages_folder().glob(".making-*"):
        with contextlib.suppress(OSError):
            if time.time() - each.stat().st_mtime > _STALE_SECONDS:
                shutil.rmtree(each, ignore_errors=True)


def _key(job: Job) -> str:
    about = {
        "source": job.source.digest,
        "trust": job.source.trust_remote_code,
        "tasks": job.tasks,
        "format": job.plan.format,
        "scheme": job.plan.scheme.name,
        "engine": job.plan.engine.name,
        "target": job.plan.engine.options.get("target"),
        "opset": job.plan.engine.opset,
        "ir": job.plan.engine.ir,
        "buckets": job.plan.buckets,
        # of a scheme that the export itself makes; a float32 stage serves every profile
        "int8_weights": None if job.plan.scheme.name == "fp32" else job.plan.int8_weights,
        "max_length": job.max_length,
        "golden": job.golden,
        "kit": job.kit,
        "packages": _packages(job),
        "code": code_digest(),
    }
    return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()


def _packages(job: Job) -> dict[str, str | None]:
    """The versions that the worker will meet."""
    if job.room.toolchain is not None:
        return dict(job.room.toolchain.versions)
    return {name: version_of(name) for name in (*_PACKAGES, *format_of(job.plan.format).packages)}


def version_of(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def code_digest() -> str:
    """Of the modules that make a stage, so that an update of satchel never meets what an older one left."""
    digest = hashlib.sha256()
    for package in (satchel_converters, satchel_runtimes):
        for file in sorted(Path(next(iter(package.__path__))).rglob("*.py")):
            digest.update(file.read_bytes())
    return digest.hexdigest()


def _shrink(keep: Path) -> None:
    found: list[tuple[float, int, Path]] = []
    for each in stages_folder().iterdir():
        with contextlib.suppress(OSError):  # another conversion may be removing it
            if not each.name.startswith("."):
                size = sum(_sizes(each).values())
                found.append((each.stat().st_mtime, size, each))
    total = sum(size for _, size, _ in found)
    for _, size, each in sorted(found):
        if total <= _LIMIT_BYTES:
            return
        if each != keep:
            shutil.rmtree(each, ignore_errors=True)
            total -= size
