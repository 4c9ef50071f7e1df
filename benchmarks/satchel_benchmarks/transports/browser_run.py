"""What a page measured, as the same result that an agent brings: what it does not tell is absent, what it tells wrongly is refused.

The page posts, times in milliseconds and memory in bytes:

    {"ok": true,
     "device":   {"user_agent", "cores", "memory_bytes"?, "isolated"?, "platform"?, "model"?, "screen"?, "gpu"?},
     "golden":   {"finding": "same" | …, "says"?, "parity"?: [{"task", "against", "passed", …}], "seconds"?},
     "measured": {"engine": "onnxruntime-web 1.30.0 wasm", "threads", "task"?, "shape"?, "versions"?,
                  "latency": {"16": [1.2, …]},                            # each run; or a summary, named as in `Latency`
                  "cold"?: {"import_ms"?, "load_ms", "predict_ms"}, "memory_bytes"?,
                  "sustained"?: {"seconds", "tokens"?, "windows": [{"seconds", "latency": [1.2, …]}]}}}
"""

from __future__ import annotations

import datetime
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from satchel_runtimes.errors import IntegrityError, ParityError
from satchel_runtimes.golden import SAME
from satchel_runtimes.manifest import Manifest, to_plain
from satchel_runtimes.measure import Latency, summarize
from satchel_runtimes.run import Cold, Run
from satchel_runtimes.sustained import Sustained, Window

from .device import Json

__all__ = ["run_of_page"]

_MINUTE = 60.0


def run_of_page(said: Json, manifest: Manifest, bundle: Path, settings: Mapping[str, Any]) -> Json:
    """Raises: ParityError where the golden samples differ; IntegrityError where the page's words cannot be read."""
    try:
        golden, device, measured = said["golden"], said["device"], said["measured"]
        if golden["finding"] != SAME:
            raise ParityError(
                f"{bundle.name}: {golden.get('says') or 'the browser computes something else than the build machine'}",
                why=str(golden.get("why") or golden["finding"]),
                fix="do not ship this bundle to that browser; convert it for browser-mobile, or with fp32",
            )
        about = _machine(device)
        made: Json = {
            "device": {
                "machine": {**about, "model": device.get("model")},
                "sensors": {},
                "python": None,
                "packages": {},
                "browser": device,
            },
            "replay": {
                "finding": SAME,
                "says": str(golden.get("says") or "this browser computes what the build machine did"),
                "parity": list(golden.get("parity", ())),
                "seconds": float(golden.get("seconds", 0.0)),
            },
            "cooled_s": 0.0,
            "run": _run(measured, manifest, about).to_plain(),
            "sensors": {},
        }
        load = measured.get("sustained")
        if load:
            tokens = int(load.get("tokens", _middle(settings["lengths"])))
            made["sustained"] = {"tokens": tokens, **to_plain(_sustained(load))}
        return made
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise IntegrityError(
            "Cannot read what the page measured.",
            why=f"{type(error).__name__}: {error}",
            fix="use the page of the same satchel: make web in a checkout, and reload it on the phone",
        ) from None


def _machine(device: Json) -> Json:
    """Named as `measure.machine` names them, so that readers need not ask what measured."""
    agent = str(device["user_agent"])
    return {
        "system": str(device.get("platform") or agent),
        "machine": "browser",
        "processor": agent,
        "cores": int(device["cores"]),
        "instruction_sets": [],
        "memory_bytes": device.get("memory_bytes"),
        "python": None,
        "emulated": None,
    }


def _run(measured: Json, manifest: Manifest, about: Json) -> Run:
    target, engine = manifest.target, str(measured["engine"])
    cold = measured.get("cold")
    size = sum(each.bytes for each in manifest.files.values())
    return Run(
        bundle=manifest.name,
        device=target.device,
        format=target.format,
        scheme=target.scheme,
        engine=engine,
        task=str(measured.get("task") or manifest.tasks[0].name),
        threads=measured["threads"],
        latency={int(tokens): _latency(each) for tokens, each in measured["latency"].items()},
        throughput=None,
        cold=_cold(cold, _memory(measured.get("memory_bytes"), size)) if cold else None,
        size_bytes=size,
        machine=about,
        load_before=(),
        load_after=(),
        versions={"satchel": manifest.toolchain.get("satchel"), **measured.get("versions", {})},
        when=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        together=uuid.uuid4().hex,
        samples={},
        shape=str(measured.get("shape") or ""),
    )


def _latency(found: Any) -> Latency:
    """Of single runs, which get the interval that every other figure has; or a summary that the page made itself."""
    if isinstance(found, Mapping):
        figures = [each for each in found.values() if each is not None]
        if not all(isinstance(each, (int, float)) and np.isfinite(each) and each >= 0 for each in figures):
            raise ValueError(f"{str(dict(found))[:60]} is no latency")
        return Latency(**found)
    return summarize(_seconds(found))


def _seconds(milliseconds: Sequence[float]) -> np.ndarray:
    found = np.asarray(milliseconds, np.float64) / 1e3
    if found.ndim != 1 or not found.size or not np.isfinite(found).all() or (found < 0).any():
        raise ValueError(f"{str(milliseconds)[:60]!r} are no times")
    return found


def _memory(told: int | None, size: int) -> int | None:
    """Some browsers count a page without the memory of its engine, in which the whole bundle lies: then it is not known."""
    return None if told is None or told < size else int(told)


def _cold(found: Json, memory: int | None) -> Cold:
    parts = {name: float(found.get(f"{name}_ms", 0.0)) / 1e3 for name in ("import", "load", "predict")}
    whole = sum(parts.values())
    return Cold(1, whole, whole, whole, parts["import"], parts["load"], parts["predict"], memory)


def _sustained(load: Json) -> Sustained:
    every = [(float(each["seconds"]), each["latency"]) for each in load["windows"]]
    if not every:
        raise ValueError("a load without windows")
    whole = float(load.get("seconds", every[-1][0]))
    windows = tuple(Window(seconds, _latency(found), None, None) for seconds, found in every)
    return Sustained(
        whole,
        _of_windows([found for seconds, found in every if seconds <= _MINUTE] or [every[0][1]]),
        _of_windows([found for seconds, found in every if seconds > whole - _MINUTE] or [every[-1][1]]),
        windows,
        None,
        None,
        None,
        None,
    )


def _of_windows(found: Sequence[Any]) -> Latency:
    """All of their runs; of summaries, the middle one by its median."""
    if any(isinstance(each, Mapping) for each in found):
        made = sorted((_latency(each) for each in found), key=lambda each: each.p50_ms)
        return made[len(made) // 2]
    return summarize(np.concatenate([_seconds(each) for each in found]))


def _middle(lengths: Sequence[int]) -> int:
    return int(lengths[len(lengths) // 2])
