"""satchel doctor"""

from __future__ import annotations

import importlib.metadata
import sys
from pathlib import Path
from typing import Any

import click

from .show import as_json, key_values, size, table
from .toolchain import overview, show_overview

__all__ = ["doctor"]

# package -> what it is for, and what installs it
_PACKAGES = {
    "satchel-runtimes": ("loads bundles", "pip install satchel-runtimes"),
    "numpy": ("loads bundles", "pip install satchel-runtimes"),
    "onnxruntime": ("runs onnx bundles", "pip install 'satchel-runtimes[onnx]'"),
    "tokenizers": ("reads text", "pip install 'satchel-runtimes[text]'"),
    "jinja2": ("holds conversations", "pip install 'satchel-runtimes[chat]'"),
    "llguidance": ("holds a text to a form", "pip install 'satchel-runtimes[structured]'"),
    "torch": ("converts, runs torchscript bundles", "pip install 'satchel[convert]'"),
    "transformers": ("converts", "pip install 'satchel[convert]'"),
    "onnx": ("converts to onnx", "pip install 'satchel[convert]'"),
    "onnxscript": ("converts to onnx", "pip install 'satchel[convert]'"),
    "ai-edge-litert": ("runs tflite bundles", "pip install 'satchel-runtimes[tflite]'"),
    "litert-torch": ("converts to tflite", "pip install 'satchel[convert-tflite]'"),
    "ai-edge-quantizer": ("converts to tflite", "pip install 'satchel[convert-tflite]'"),
    "torch-neuronx": ("converts to and runs neuron, on Inf2, Trn1 and Trn2", "see docs/neuron.md"),
    "neuronx-cc": ("compiles for Inf2, Trn1 and Trn2", "see docs/neuron.md"),
    "torch-neuron": ("converts to and runs neuron, on Inf1", "see docs/neuron.md"),
    "neuron-cc": ("compiles for Inf1", "see docs/neuron.md"),
    "huggingface_hub": ("fetches models", "pip install 'satchel[convert]'"),
}


@click.command()
@click.option("--on", "target", metavar="TARGET", help="Look at a device: ssh://[user@]host[:port].")
@click.option("--python", help="With --on: the interpreter there; python3 by default.")
@click.option("--json", "json_", is_flag=True, help="As JSON.")
def doctor(target: str | None, python: str | None, json_: bool) -> None:
    """Look at this machine: what is installed, what is missing and how to get it, and where caches lie."""
    if target is not None:
        _device(target, python, json_)
        return
    from satchel_device_profiles import list_profiles, load_profile
    from satchel_runtimes.bundle import cache_folder
    from satchel_runtimes.measure import machine

    from ..stage_cache import stages_folder
    from ..trial import machine_kind, stands_for

    packages = [_package(name, *about) for name, about in _PACKAGES.items()]
    judged = [name for name in list_profiles() if stands_for(load_profile(name))[0]]
    about = machine()
    stages = _folder_size(stages_folder())
    if json_:
        as_json(
            {
                "machine": about,
                "packages": packages,
                "toolchains": overview(),
                "judges": judged,
                "cache": str(cache_folder()),
                "stages_bytes": stages,
            }
        )
        return
    key_values(
        "machine",
        {
            "system": str(about["system"]),
            "processor": f"{about['processor']}, {about['cores']} cores, {machine_kind()}",
            "memory": size(about["memory_bytes"]),  # type: ignore[arg-type]  # an int or None
            "python": f"{about['python']}, {sys.executable}",
            "judges latency of": ", ".join(judged) or "no profile: absolute figures are not judged here",
            "stage cache": f"{stages_folder()}, {size(stages)}",
        },
    )
    click.echo()
    rows = [(each["name"], each["version"] or "missing", each["for"], each["fix"]) for each in packages]
    table("packages", ("package", "version", "for", "to install"), rows)
    click.echo()
    show_overview("toolchains in environments of their own")


def _device(target: str, python: str | None, json_: bool) -> None:
    from satchel_runtimes.errors import UsageError

    from ..on_devices import device_at

    with device_at(target, python) as device:
        seen = device.look()
    if seen is None:
        raise UsageError(
            f"Cannot look at {target}.",
            why="a browser tells of itself only when it has measured",
            fix=f"satchel bench BUNDLE --on {target}",
        )
    if json_:
        as_json(seen)
        return
    about, sensors = seen["machine"], seen["sensors"]
    throttled = sensors.get("throttled")
    key_values(
        target,
        {
            "board": about["model"] or "not known",
            "system": str(about["system"]),
            "processor": f"{about['processor'] or about['machine']}, {about['cores']} cores",
            "memory": f"{size(about['memory_bytes'])}, {size(seen['memory_free_bytes'])} of them free",
            "disk": f"{size(seen['disk_free_bytes'])} free in {seen['home']}",
            "python": f"{about['python']}, {seen['python']}",
            "governor": str(sensors.get("governor", "not known")),
            "clock": f"{sensors['mhz']:.0f} MHz" if "mhz" in sensors else "not known",
            "temperature": f"{sensors['celsius']:.0f} °C" if "celsius" in sensors else "not known",
            "throttling": "not known" if throttled is None else ", ".join(throttled) or "none",
            "energy": str(sensors.get("energy", "no sensor")),
        },
    )
    click.echo()
    needs = {name: about for name, about in _PACKAGES.items() if name in seen["packages"]}
    install = f"ssh {target.removeprefix('ssh://')} {python or 'python3'} -m pip install"
    rows = [
        (name, version or "missing", needs.get(name, ("",))[0], "" if version else f"{install} {name}")
        for name, version in seen["packages"].items()
    ]
    table("packages", ("package", "version", "for", "to install"), rows)


# What its vendor distributes, and the public index has stubs of: the module of each.
_VENDORS = {
    "torch-neuronx": "torch_neuronx",
    "neuronx-cc": "neuronxcc",
    "torch-neuron": "torch_neuron",
    "neuron-cc": "neuroncc",
}


def _package(name: str, purpose: str, fix: str) -> dict[str, Any]:
    from satchel_runtimes.toolchain import is_stub

    try:
        version: str | None = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        version = None
    if name in _VENDORS and is_stub(_VENDORS[name]):
        version = "stub"
    return {"name": name, "version": version, "for": purpose, "fix": fix if version in (None, "stub") else ""}


def _folder_size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) if folder.is_dir() else 0
