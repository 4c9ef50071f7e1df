"""Bundles on devices: proved there, then measured, and brought back as one run file that reports are made of."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from satchel_benchmarks.transports import open_device
from satchel_benchmarks.transports.device import Device
from satchel_runtimes.bundle import open_bundle
from satchel_runtimes.errors import SatchelError, UsageError
from satchel_runtimes.manifest import to_plain

__all__ = ["bench_on", "device_at", "read_runs", "write_runs"]

SCHEMA = 1
Tell = Callable[[str], None]
Json = Any  # a run file's


@contextmanager
def device_at(target: str, python: str | None = None, https: str | None = None) -> Iterator[Device]:
    device = open_device(target, python=python, https=https)
    try:
        yield device
    finally:
        device.close()


def bench_on(
    targets: Sequence[str],
    bundles: Sequence[Path],
    options: Mapping[str, Any],
    *,
    python: str | None = None,
    https: str | None = None,
    tell: Tell = lambda words: None,
) -> list[Json]:
    """Measure each bundle on each device, one after the other.

    Args:
        targets: `local`, `ssh://[user@]host[:port]`, `browser`, `adb://serial`.
        options: those of the agent's `measure`.
        python: the interpreter on the devices.
        https: for a browser, a PEM file with certificate and key, or `OWN` for ones that are made for the run; None: plain http.

    Raises:
        SatchelError: a device cannot be reached, lacks something, or answers otherwise than the build machine (exit 10).
    """
    found = []
    for target in targets:
        with device_at(target, python, https) as device:
            tell(f"{target}: looking at it")
            seen = device.look()
            for bundle in bundles:
                about = f"{target}: {bundle.name}: "
                result = device.measure(bundle, options, lambda words, about=about: tell(about + words))  # type: ignore[misc]  # bound now
                found.append({"on": target, "device": seen, "bundle": _about(bundle), **result})
    return found


def _about(bundle: Path) -> Json:
    """What the build machine knows, for the report: the bundle itself may be elsewhere by then."""
    manifest = open_bundle(bundle, verify="once").manifest
    source = to_plain(manifest.source)
    return {
        "name": manifest.name,
        "source": source,
        "format": manifest.target.format,
        "scheme": manifest.target.scheme,
        "device": manifest.target.device,
        "size_bytes": sum(each.bytes for each in manifest.files.values()),
        "measured": to_plain(manifest.measured),
    }


def write_runs(results: Sequence[Json], out: Path) -> None:
    """Whole or not at all."""
    beside = out.with_name(f".{out.name}.{os.getpid()}")
    try:
        beside.write_text(json.dumps({"schema": SCHEMA, "results": list(results)}, indent=1) + "\n", "utf-8")
        os.replace(beside, out)
    finally:
        beside.unlink(missing_ok=True)


def read_runs(file: Path) -> list[Json]:
    """Raises: UsageError where the file is none that `bench --out` wrote."""
    try:
        raw = json.loads(file.read_text("utf-8"))
        if raw["schema"] > SCHEMA:
            raise SatchelError(
                f"Cannot read {file}.",
                why=f"it has schema {raw['schema']}; this satchel reads {SCHEMA}",
                fix="update satchel",
            )
        found: list[Json] = list(raw["results"])
        for each in found:
            each["run"]["latency"], each["on"], each["bundle"]["name"]  # what all readers take for granted
    except OSError as error:
        raise UsageError(
            f"Cannot read {file}.", why=error.strerror or str(error), fix="name a file that bench --out wrote"
        ) from None
    except (ValueError, KeyError, TypeError) as error:
        why = f"it is no run of satchel bench ({type(error).__name__}: {error})"
        raise UsageError(f"Cannot read {file}.", why=why, fix="name a file that bench --out wrote") from None
    return found
