"""Whether a device has what a bundle needs, said before anything is sent."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from satchel_runtimes.errors import SupportError, ToolchainError
from satchel_runtimes.manifest import Manifest
from satchel_runtimes.tasks import task_class
from satchel_runtimes.toolchain import satisfies

__all__ = ["check_needs"]

_PROCESSORS = ("x86_64", "aarch64", "arm64", "AMD64")  # that these engines have wheels for
_WITH_WHEELS = ("onnxruntime", "ai-edge-litert", "torch")


def check_needs(manifest: Manifest, seen: Mapping[str, Any], host: str, python: str) -> None:
    """Compare a bundle with what the agent saw.

    Raises:
        ToolchainError: packages are missing or too old; the fix is the command that installs them there.
        SupportError: there is no engine for the device's processor.
    """
    has: Mapping[str, str | None] = seen["packages"]
    engine, processor = manifest.target.engine, str(seen["machine"]["machine"])
    others = any(has.get(name) for name in engine.also)
    version = has.get(engine.name)
    if version is None and not others and engine.name in _WITH_WHEELS and processor not in _PROCESSORS:
        raise SupportError(
            f"Cannot run {manifest.name} on {host}.",
            why=f"its processor is {processor}; {engine.name} is made for {', '.join(_PROCESSORS[:2])}",
            fix="use a 64-bit system on the board, or build the engine there and name its Python with --python",
        )
    missing = [] if version or others else [f"{engine.name}{engine.version}"]
    pictures = any("image" in task_class(entry.name).modality for entry in manifest.tasks)
    for name, wanted in (("tokenizers", "tokenizer.json" in manifest.files), ("Pillow", pictures)):
        missing += [name] if wanted and not has.get(name) else []
    install = f"ssh {host} {python} -m pip install"
    if missing:
        raise ToolchainError(
            f"Cannot run {manifest.name} on {host}.",
            why=f"{seen['python']} there lacks {', '.join(missing)}",
            fix=f"{install} {' '.join(repr(each) for each in missing)}   "
            f"(where the system forbids it: ssh {host} {python} -m venv satchel, then --python satchel/bin/python)",
        )
    if version not in (None, "unknown") and not satisfies(str(version), engine.version):
        raise ToolchainError(
            f"Cannot run {manifest.name} on {host}.",
            why=f"it needs {engine.name} {engine.version}; {version} is installed there",
            fix=f"{install} --upgrade '{engine.name}{engine.version}'",
        )
