"""What a device does alone when another machine asks it: look at itself, say which files it lacks, prove a bundle, measure it.

    python agent.pyz look
    python agent.pyz missing FOLDER             # {"name": {"bytes": …, "sha256": …}, …} on stdin
    python agent.pyz measure BUNDLE '{"threads": 1, …}'
    python agent.pyz predict BUNDLE '{"inputs": […], "options": {…}}'

Every line on stdout is a JSON object: {"step": words} while it works, then {"result": …} or {"error": …} with its exit code.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Callable, Optional

from .errors import SatchelError
from .sensors import Sensors, disk_free_bytes

__all__ = ["COMMANDS", "main"]

Tell = Callable[[str], None]

_PACKAGES = {  # the module of each distribution that a bundle may need here
    "numpy": "numpy",
    "onnxruntime": "onnxruntime",
    "ai-edge-litert": "ai_edge_litert",
    "tflite-runtime": "tflite_runtime",
    "torch": "torch",
    "torch-neuronx": "torch_neuronx",
    "tokenizers": "tokenizers",
    "Pillow": "PIL",
    "soundfile": "soundfile",
    "jinja2": "jinja2",
}


def look(tell: Tell) -> dict[str, Any]:
    """This machine: what it is, what is installed, what its sensors say, and where files would go."""
    from .measure import machine

    found = Sensors().look()
    home = Path.home()
    return {
        "machine": {**machine(), "model": _board()},
        "sensors": found,
        "python": sys.executable,
        "packages": {name: _version(name, module) for name, module in _PACKAGES.items()},
        "memory_free_bytes": _memory_free(),
        "disk_free_bytes": disk_free_bytes(home),
        "home": str(home),
    }


def missing(folder: str, wanted: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Files that are not there as they should be."""
    return [name for name, digest in wanted.items() if not _is(Path(folder, name), digest)]


def _is(file: Path, digest: Mapping[str, Any]) -> bool:
    if not file.is_file() or file.is_symlink() or file.stat().st_size != digest["bytes"]:
        return False
    found = hashlib.sha256()
    with file.open("rb") as opened:
        for chunk in iter(lambda: opened.read(1 << 20), b""):
            found.update(chunk)
    return bool(found.hexdigest() == digest["sha256"])


def measure(bundle: str, options: Mapping[str, Any], tell: Tell) -> dict[str, Any]:
    """Golden samples first: what is wrong is not worth measuring.

    Options: those of `bench`, `sustain_s` (seconds of load, with `cool_s` at most to become cool before), `profile` (time by
    operator, after everything that is timed), and `verify` alone.
    """
    from .bench import bench, caller
    from .findings import findings
    from .golden import replay
    from .manifest import to_plain
    from .predictor import load
    from .sustained import Window, cool_down, sustain

    options = dict(options)
    traced = options.pop("profile", False)
    only, seconds, cool = options.pop("verify", False), options.pop("sustain_s", 0.0), options.pop("cool_s", 120.0)
    loading = {name: options[name] for name in ("threads", "trust", "delegate", "cores") if name in options}
    sensors = Sensors()
    begun_at = sensors.celsius()
    tell("golden samples")
    begun = time.perf_counter()
    with load(bundle, **loading) as predictor:
        found = findings(replay(predictor), predictor.manifest.target.scheme)
    result: dict[str, Any] = {
        "replay": {
            "finding": found.finding,
            "says": found.says,
            "parity": found.rows,
            "seconds": time.perf_counter() - begun,
        }
    }
    found.check(Path(bundle).name)
    if only:
        return result
    result["cooled_s"] = cool_down(begun_at, cool, sensors, tell)
    (run,) = bench(Path(bundle), on_step=tell, **options)
    result["run"] = run.to_plain()
    if seconds:
        result["cooled_s"] += cool_down(begun_at, cool, sensors, tell)
        with load(bundle, **loading, verify="once") as predictor:
            call, tokens = caller(predictor, options.get("lengths", (16, 64, 128)))

            def told(window: Window) -> None:
                warm = "" if window.celsius is None else f", {window.celsius:.0f} °C"
                tell(f"load for {window.seconds:.0f} of {seconds:.0f} s: {window.latency.p50_ms:.2f} ms{warm}")

            result["sustained"] = {"tokens": tokens, **to_plain(sustain(call, seconds, on_window=told))}
    result["sensors"] = sensors.look()
    if traced:
        from .profile import profile

        tell("time by operator")
        lengths = options.get("lengths", (16, 64, 128))
        result["profile"] = to_plain(profile(Path(bundle), lambda loaded: caller(loaded, lengths), **loading))
    return result


def predict(bundle: str, asked: Mapping[str, Any], tell: Tell) -> list[Any]:
    from .predictor import load

    with load(bundle, **asked.get("load", {})) as predictor:
        return [predictor.predict(each, **asked.get("options", {})) for each in asked["inputs"]]


COMMANDS = ("look", "missing", "measure", "predict")


def main(arguments: Optional[Sequence[str]] = None) -> int:
    given = list(sys.argv[1:] if arguments is None else arguments)
    # What libraries print is not an answer: the answers keep the descriptor, and stdout becomes stderr.
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def say(**message: Any) -> None:
        print(json.dumps(message, default=_plain, ensure_ascii=True), file=out, flush=True)

    def tell(words: str) -> None:
        say(step=words)

    try:
        name, rest = given[0], given[1:]
        if name == "look":
            say(result=look(tell))
        elif name == "missing":
            say(result=missing(rest[0], json.load(sys.stdin)))
        elif name == "measure":
            say(result=measure(rest[0], json.loads(rest[1]), tell))
        else:
            say(result=predict(rest[0], json.loads(rest[1]), tell))
    except SatchelError as error:
        kind = type(error).__name__
        say(error={"kind": kind, "what": error.what, "why": error.why, "fix": error.fix})
        return error.exit_code
    except ImportError as error:  # it is there, and cannot be loaded
        if "failed to map" in str(error):
            return _no_memory(say, "a library did not fit")
        places = {*Path(error.path or "").parts, (error.name or "").partition(".")[0]}
        package = next((name for name, module in _PACKAGES.items() if module in places), error.name)
        say(
            error={
                "kind": "ToolchainError",
                "what": f"Cannot load {package} on the device.",
                "why": str(error).strip().splitlines()[-1][:300],
                "fix": f"it may be made for another processor: {sys.executable} -m pip install --force-reinstall {package}",
            }
        )
        return 15
    except MemoryError:
        return _no_memory(say, "MemoryError")
    return 0


def _no_memory(say: Callable[..., None], why: str) -> int:
    fix = "free memory there, or convert to a smaller scheme"
    say(error={"kind": "SizeError", "what": "The device ran out of memory.", "why": why, "fix": fix})
    return 13


def _plain(value: Any) -> Any:  # Any: numpy's arrays and numbers as JSON knows them
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} is not JSON")


def _version(name: str, module: str) -> Optional[str]:
    """Found without importing it: torch takes seconds on a small board."""
    import importlib.metadata

    if importlib.util.find_spec(module) is None:
        return None
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:  # of a distribution with another name
        return "unknown"


def _board() -> Optional[str]:
    try:
        return Path("/proc/device-tree/model").read_text("utf-8", "replace").strip("\0 \n") or None
    except OSError:
        return None


def _memory_free() -> Optional[int]:
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return None


if __name__ == "__main__":
    sys.exit(main())
