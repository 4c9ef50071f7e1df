"""Finish a satchel compile kit: compile its graphs for AWS Neuron, prove them, and write the bundle.

    python finish.py                       # in the kit's folder; the bundle comes to lie beside it
    python finish.py --out minilm.satchel --workdir /tmp/work

It needs Python 3.7 or newer, numpy, torch, and torch_neuron (Inf1) or torch_neuronx (Inf2, Trn1, Trn2); nothing of
satchel. What it does, in this order:

    1. every file of the kit is checked against its sha256,
    2. the toolchain is checked against what the kit was made for,
    3. each graph is compiled at its shape,
    4. the golden rows run through the compiled graphs, which must answer as the model did,
    5. the bundle is written beside the target and renamed into place.

The bundle's path is the only line on stdout, progress goes to stderr. Exit codes: 0 done, 2 usage, 10 a compiled graph
answers otherwise than the model, 13 the bundle is over the size budget, 14 the compiler cannot compile a graph, 15 the toolchain is missing, a stub or of another
version, 16 the kit was altered, 1 anything else that you can mend, 130 interrupted. After any but 0 nothing is left.
"""

# This file runs where the vendor's toolchain is: Python 3.7 syntax, and no import beyond the list above.
from __future__ import annotations

import argparse
import hashlib
import importlib
import json
import os
import platform
import re
import shutil
import signal
import struct
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from typing import Any

DEVICE = "neuron:0"  # as torch calls the first core
KIT = "kit.json"
BUNDLE = "bundle.json"

# What the compilers and torch raise for a graph that they cannot compile; a bug of this file stays a traceback.
COMPILER_ERRORS = (
    RuntimeError,
    ValueError,
    TypeError,
    AttributeError,
    KeyError,
    IndexError,
    AssertionError,
    OSError,
    subprocess.SubprocessError,
)


class Refused(Exception):
    """Something that you can mend: what happened, why, how, and the exit code."""

    def __init__(self, code: int, what: str, why: str, fix: str) -> None:
        super().__init__(what)
        self.code, self.what, self.why, self.fix = code, what, why, fix

    def __str__(self) -> str:
        return f"{self.what}\n  why: {self.why}\n  fix: {self.fix}"


def tell(stage: str, message: str) -> None:
    print(f"{stage}: {message}", file=sys.stderr, flush=True)


# --- 1. the kit ------------------------------------------------------------------------------------------------------


def read_kit(folder: str) -> dict[str, Any]:
    """kit.json, after every file that it lists was found whole."""
    try:
        with open(os.path.join(folder, KIT), encoding="utf-8") as file:
            kit: dict[str, Any] = json.load(file)
        if kit["satchel_kit"] != 1:
            raise altered(folder, f"it has schema {kit['satchel_kit']!r}; this script reads 1")
        if kit["seal"] != seal_of(kit):
            raise altered(folder, f"{KIT} was altered")
        files = kit["files"]
    except FileNotFoundError:
        raise Refused(2, f"There is no kit in {folder}.", f"it holds no {KIT}", "name the folder of a kit") from None
    except (ValueError, KeyError, TypeError) as error:
        raise altered(folder, f"{KIT} cannot be read ({error!r})") from None
    for name, digest in files.items():
        path = os.path.join(folder, *name.split("/"))
        if not os.path.isfile(path):
            raise altered(folder, f"the file {name!r} is missing")
        if os.path.getsize(path) != digest["bytes"] or sha256_of(path) != digest["sha256"]:
            raise altered(folder, f"{name!r} was altered: its size or sha256 is not what {KIT} says")
    return kit


def seal_of(kit: dict[str, Any]) -> str:
    rest = {key: value for key, value in kit.items() if key != "seal"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def altered(folder: str, why: str) -> Refused:
    return Refused(
        16, f"Cannot use the kit {folder}.", why, "copy the kit again, or make it again with satchel convert"
    )


def sha256_of(path: str) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        for chunk in iter(lambda: file.read(1 << 20), b""):
            digest.update(chunk)
    return digest.hexdigest()


# --- 2. the toolchain ------------------------------------------------------------------------------------------------


def open_toolchain(recipe: dict[str, Any]) -> tuple[Any, dict[str, str]]:
    """The vendor's module, and the versions that the bundle will name."""
    name, package, install = recipe["module"], recipe["packages"][0], recipe["install"]
    what = "Cannot compile this kit."
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise Refused(15, what, f"the package {error.name!r} is not installed", install) from None
    except (ImportError, RuntimeError, OSError) as error:
        said = (str(error).strip().splitlines() or [""])[0][:200]
        stub = "wrong package" in str(error).lower()
        why = "is a stub from the public index, not the vendor's" if stub else f"cannot be imported: {said}"
        fix = f"pip uninstall {package}, then {install}" if stub else install
        raise Refused(15, what, f"the installed package {package!r} {why}", fix) from None
    if getattr(module, "__file__", None) is None or not hasattr(module, "trace"):
        why = f"the installed package {package!r} is a stub: it has the name, not the code"
        raise Refused(15, what, why, f"pip uninstall {package}, then {install}")
    import torch

    versions = {package: getattr(module, "__version__", None) or version_of(package) or "0"}
    if not lies_in(versions[package], recipe["version"]):
        why = f"it needs {package} {recipe['version']}; {versions[package]} is installed"
        raise Refused(15, what, why, install)
    for other in recipe["packages"][1:]:
        found = version_of(other)
        if found is not None:
            versions[other] = found
    versions["torch, where it was compiled"] = torch.__version__
    return module, versions


def version_of(package: str) -> str | None:
    try:
        from importlib import metadata  # new in Python 3.8
    except ImportError:
        pkg_resources: Any = importlib.import_module("pkg_resources")  # of setuptools, on Python 3.7

        try:
            return str(pkg_resources.get_distribution(package).version)
        except pkg_resources.DistributionNotFound:
            return None
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def lies_in(version: str, wanted: str) -> bool:
    """Whether a release lies in a range such as `>=2.9,<2.10` or `==1.13.*`."""

    def release(text: str) -> list[int]:
        return [int(part) for part in re.findall(r"\d+", re.split(r"[^\d.]", text)[0])]

    ours = release(version)
    for clause in wanted.split(","):
        match = re.match(r"\s*(>=|<=|==|<|>)\s*([\d.]+?)(\.\*)?\s*$", clause)
        if match is None:
            raise ValueError(f"{clause!r} is not a version range")
        sign, theirs = match.group(1), release(match.group(2))
        width = len(theirs) if match.group(3) else max(len(ours), len(theirs))
        a, b = [(each + [0] * width)[:width] for each in (ours, theirs)]
        if not {">=": a >= b, "<=": a <= b, "==": a == b, "<": a < b, ">": a > b}[sign]:
            return False
    return True


# --- 3. compiling ----------------------------------------------------------------------------------------------------


def compile_graphs(
    kit: dict[str, Any], folder: str, module: Any, versions: dict[str, str], workdir: str
) -> list[dict[str, Any]]:
    """Compile every graph into `workdir`; one that an earlier run left there, made from the same, is taken as it is."""
    inputs = read_tensors(os.path.join(folder, kit["examples"]))
    made = []
    for place, graph in enumerate(kit["graphs"]):
        words = f"{graph['component']} at {shape_words(graph)} ({place + 1} of {len(kit['graphs'])})"
        target = os.path.join(workdir, *graph["file"].split("/"))
        os.makedirs(os.path.dirname(target), exist_ok=True)
        # A device that only runs the graphs may lack the compiler, so of the toolchain the module alone must be the same.
        vendor = versions[kit["recipe"]["packages"][0]]
        basis = [kit["files"][graph["source"]], graph["bind"], arguments_of(kit, graph), vendor]
        about = earlier(target, basis)
        if about is None:
            tell("compile", words)
            started = time.time()
            example = [inputs.get(f"{place}/{spec['name']}", empty(spec, graph)) for spec in graph["inputs"]]
            compiled = compile_graph(kit, graph, os.path.join(folder, graph["source"]), example, module, workdir)
            about = {
                "file": graph["file"],
                "bind": graph["bind"],
                "seconds": round(time.time() - started, 1),
                "operators_on_cpu": operators_on_cpu(compiled) if kit["recipe"]["arguments"].get("fallback") else [],
                "toolchain": versions,
                "basis": json.loads(json.dumps(basis)),
            }
            save(compiled, target)
            about["sha256"] = sha256_of(target)
            write_json(target + ".json", about)
        else:
            tell("compile", f"{words}: from an earlier run")
        if about["operators_on_cpu"]:
            tell("compile", f"stays on the CPU: {', '.join(about['operators_on_cpu'])}")
        made.append(about)
    return made


def earlier(target: str, basis: list[Any]) -> dict[str, Any] | None:
    try:
        with open(target + ".json", encoding="utf-8") as file:
            about: dict[str, Any] = json.load(file)
        if about["basis"] == json.loads(json.dumps(basis)) and about["sha256"] == sha256_of(target):
            return about
    except (OSError, ValueError, KeyError, TypeError):
        pass  # none, or one that was cut off
    return None


def compile_graph(
    kit: dict[str, Any], graph: dict[str, Any], source: str, example: list[Any], module: Any, workdir: str
) -> Any:
    import torch

    class Model(torch.nn.Module):
        """Around the script: `trace` takes a script as it is, and would compile nothing."""

        def __init__(self) -> None:
            super().__init__()
            self.model = script_in(source).eval()

        def forward(self, *tensors: Any) -> Any:
            return self.model(*tensors)

    work = os.path.join(workdir, "compiler-" + graph["file"].replace("/", "-"))
    try:
        model = Model().eval()
        with torch.no_grad():
            tensors = tuple(torch.from_numpy(each) for each in example)
            return module.trace(model, tensors, compiler_workdir=work, **arguments_of(kit, graph))
    except COMPILER_ERRORS as error:
        lines = [line for line in str(error).strip().splitlines() if line.strip()] or [""]
        raise Refused(
            14,
            f"Cannot compile {graph['component']} at {shape_words(graph)}.",
            f"{type(error).__name__}: {lines[0][:300]}",
            "look at the compiler's log (--workdir keeps it), or make the kit with other options",
        ) from None


def arguments_of(kit: dict[str, Any], graph: dict[str, Any]) -> dict[str, Any]:
    """Of several graphs with a cache the weights are the same, so they stay out of what is compiled."""
    own: dict[str, Any] = {"inline_weights_to_neff": False} if graph["state"] else {}
    return {**kit["recipe"]["arguments"], **own}


LEAST = 1024  # bytes of a member that is worth a place of its own
SHARED = "satchel-shared.json"  # as satchel_runtimes/sessions/shared_weights.py reads it


def share_weights(files: list[str], weights: str) -> bool:
    """Take what several saved graphs have alike, member by member, out of them and into one zip; whether there was anything.

    Weights that a graph was compiled without (`inline_weights_to_neff=False`) are members of its file, one for each tensor.
    """
    seen: dict[str, int] = {}
    for file in files:
        with zipfile.ZipFile(file) as archive:
            for digest in {digest for _, digest in large_members(archive)}:
                seen[digest] = seen.get(digest, 0) + 1
    shared = {digest for digest, count in seen.items() if count > 1}
    if not shared:
        return False
    written: set[str] = set()
    with zipfile.ZipFile(weights, "w", zipfile.ZIP_STORED) as common:
        for file in files:
            with zipfile.ZipFile(file) as archive, zipfile.ZipFile(file + ".part", "w", zipfile.ZIP_STORED) as lean:
                taken = {name: digest for name, digest in large_members(archive) if digest in shared}
                for name in archive.namelist():
                    if name not in taken:
                        lean.writestr(zipfile.ZipInfo(name), archive.read(name))
                    elif taken[name] not in written:
                        common.writestr(zipfile.ZipInfo(taken[name]), archive.read(name))
                        written.add(taken[name])
                lean.writestr(zipfile.ZipInfo(SHARED), json.dumps(taken, sort_keys=True))
            os.replace(file + ".part", file)
    return True


def large_members(archive: zipfile.ZipFile) -> list[tuple[str, str]]:
    large = [each.filename for each in archive.infolist() if each.file_size >= LEAST]
    return [(name, hashlib.sha256(archive.read(name)).hexdigest()) for name in large]


def script_in(file: str) -> Any:
    import torch

    jit: Any = torch.jit  # some releases of torch have no types there
    return jit.load(file)


def save(compiled: Any, target: str) -> None:
    import torch

    torch.jit.save(compiled, target + ".part")
    os.replace(target + ".part", target)


def operators_on_cpu(compiled: Any) -> list[str]:
    """torch_neuron leaves what its compiler does not know as operators of torch, around the compiled parts."""
    kinds = {node.kind() for node in compiled.inlined_graph.nodes()}
    return sorted(kind for kind in kinds if kind.startswith("aten::"))


def shape_words(graph: dict[str, Any]) -> str:
    return ", ".join(f"{axis} {size}" for axis, size in graph["bind"].items())


# --- 4. the proof ----------------------------------------------------------------------------------------------------


def replay(
    kit: dict[str, Any], folder: str, module: Any, workdir: str
) -> tuple[list[dict[str, Any]], dict[str, float]]:
    """The raw outputs of the compiled graphs for every golden row, and the figures that were held against the limits."""
    import numpy as np
    import torch

    rows = read_tensors(os.path.join(folder, kit["rows"]["file"]))
    loaded: dict[str, Any] = {}
    answers, errors, cosines = [], [0.0], []
    where = ""
    tell("verify", f"{len(kit['rows']['about'])} golden rows through the compiled graphs")

    def run(graph: dict[str, Any], tensors: list[Any]) -> list[Any]:
        if graph["file"] not in loaded:
            loaded[graph["file"]] = load(os.path.join(workdir, graph["file"]), module if graph["state"] else None)
        try:
            with torch.no_grad():
                found = loaded[graph["file"]](*tensors)
        except RuntimeError as error:
            raise no_device(graph, error) from None
        return [found] if isinstance(found, torch.Tensor) else list(found)

    for place, about in enumerate(kit["rows"]["about"]):
        outputs = {}
        if "calls" in about:
            outputs = {
                name: thinned(each, kit["rows"]["most"], 0) for name, each in written(kit, place, rows, run).items()
            }
        else:
            graph = smallest(kit, about)
            given = padded(graph, {spec["name"]: rows[f"{place:05}/input/{spec['name']}"] for spec in graph["inputs"]})
            for spec, value in zip(graph["outputs"], run(graph, [torch.from_numpy(each) for each in given])):
                whole = value.detach().to(torch.float32).numpy()[0]
                if "sequence" in spec["shape"][1:]:
                    whole = whole[: about["length"]]
                outputs[spec["name"]] = thinned(whole, kit["rows"]["most"], 0)
        for name, expected in about["outputs"].items():
            theirs = rows[f"{place:05}/values/{name}"]
            distance, cosine = compare(outputs.get(name), expected, theirs, rows.get(f"{place:05}/positions/{name}"))
            if distance > max(errors):
                where = f"row {place}, {about['length']} tokens, {name}"
            errors.append(distance)
            cosines.append(cosine)
        answers.append(outputs)
    figures = {
        "relative_error": max(errors),
        "cosine_mean": float(np.mean(cosines)),
        "cosine_p05": float(np.percentile(cosines, 5)),
    }
    judge(figures, kit["limits"], where)
    return answers, figures


def written(kit: dict[str, Any], place: int, rows: dict[str, Any], run: Callable[..., list[Any]]) -> dict[str, Any]:
    """What a model that writes answers to a row: each call goes on with the cache that the call before it left on the device."""
    import numpy as np
    import torch

    past: dict[str, Any] = {}
    known: dict[str, Any] = {}  # what an encoder's graph answered
    kept: dict[str, list[Any]] = {name: [] for name in kit["rows"]["about"][place]["outputs"]}
    for number, call in enumerate(kit["rows"]["about"][place]["calls"]):
        graph = kit["graphs"][call["graph"]]
        tensors = []
        for spec in graph["inputs"]:
            name = spec["name"]
            if name in past and list(past[name].shape) == list(empty(spec, graph).shape):
                tensors.append(past[name])
                continue
            whole = rows.get(f"{place:05}/call/{number}/{name}")
            if whole is None:  # of a cache, what a smaller graph left; there is none before the first call
                whole = empty(spec, graph)
                before = past[name].cpu().numpy() if name in past else known.get(name, whole)
                whole[tuple(slice(0, size) for size in before.shape)] = before
            tensor = torch.from_numpy(whole)
            tensors.append(tensor.to(DEVICE) if graph["state"] else tensor)
        found = dict(zip([spec["name"] for spec in graph["outputs"]], run(graph, tensors)))
        if not graph["state"]:
            known.update({name: value.detach().numpy() for name, value in found.items()})
            continue
        past = {name: found[output] for name, output in graph["state"].items()}
        if any(str(each.device) != DEVICE for each in past.values()):
            raise no_device(graph, RuntimeError("its cache came back to the host, where all inputs lay on the device"))
        if call["answers"]:
            for name, parts in kept.items():
                parts.append(found[name].cpu().to(torch.float32).numpy()[0, 0])
    return {name: np.stack(each) for name, each in kept.items()}


def empty(spec: dict[str, Any], graph: dict[str, Any]) -> Any:
    import numpy as np

    shape = [graph["bind"].get(axis, 1) if isinstance(axis, str) else axis for axis in spec["shape"]]
    return np.full(shape, spec["padding"] or 0, dtype=spec["dtype"])


def load(file: str, module: Any = None) -> Any:
    """A saved graph; one with a cache is moved to the device with its weights, for which it takes the vendor's module."""
    try:
        script = script_in(file)
        if module is not None:
            module.move_trace_to_device(script, 0)
        return script
    except (RuntimeError, ValueError) as error:
        raise no_device({"file": os.path.basename(file)}, error) from None


def no_device(graph: dict[str, Any], error: Exception) -> Refused:
    return Refused(
        15,
        f"Cannot run the compiled {graph['file']} here.",
        (str(error).strip().splitlines() or [""])[-1][:300],
        "run this on an instance with Neuron devices; a compile box does --compile-only, and both use one --workdir",
    )


def smallest(kit: dict[str, Any], about: dict[str, Any]) -> dict[str, Any]:
    """The graph of the fewest tokens that holds the row."""
    fitting = [each for each in kit["graphs"] if each["component"] == about["component"]]
    fitting = [each for each in fitting if each["bind"]["sequence"] >= about["length"]]
    best: dict[str, Any] = min(fitting, key=lambda each: each["bind"]["sequence"])
    return best


def padded(graph: dict[str, Any], row: dict[str, Any]) -> list[Any]:
    """A row in the compiled shape, filled up with each input's padding value."""
    tensors = []
    for spec in graph["inputs"]:
        whole = empty(spec, graph)
        value = row[spec["name"]]
        whole[(slice(None),) + tuple(slice(0, size) for size in value.shape)] = value
        tensors.append(whole)
    return tensors


def compare(ours: Any, expected: dict[str, Any], theirs: Any, positions: Any) -> tuple[float, float]:
    """The largest error over the reference's largest magnitude, and the cosine. Anything that cannot be is infinite."""
    import numpy as np

    if ours is None or list(ours.shape) != expected["shape"] or np.isnan(ours).any():
        return float("inf"), -1.0
    ours = ours.ravel() if positions is None else ours.ravel()[positions]
    same = ours == theirs  # equal infinities are equal, and their difference is not a number
    a, b = np.where(same & ~np.isfinite(ours), 0, ours), np.where(same & ~np.isfinite(theirs), 0, theirs)
    a, b = a.astype(np.float64), b.astype(np.float64)
    error = float(np.abs(a - b).max()) if a.size else 0.0
    norms = float(np.linalg.norm(a) * np.linalg.norm(b))
    cosine = float(a @ b) / norms if norms else float(not a.any() and not b.any())
    return error / max(expected["peak"], 1e-30), cosine


def judge(figures: dict[str, float], limits: dict[str, Any], where: str) -> None:
    """The raw outputs must lie within the limits of the scheme's class: a relative error where it has one, else cosines."""
    if limits["relative_error"] is not None:
        checks = [("relative_error", figures["relative_error"] <= limits["relative_error"], "at most")]
    else:
        checks = [(name, figures[name] >= limits[name], "at least") for name in ("cosine_mean", "cosine_p05")]
    for name, good, words in checks:
        if not good:
            raise Refused(
                10,
                "The compiled graphs do not answer as the model does.",
                f"{name} is {figures[name]:.4g}, {words} {limits[name]:.4g} is allowed ({where})",
                "make the kit with a scheme that is closer to float32, or report the difference",
            )


# --- records of the golden samples, as satchel_runtimes/golden.py reads them --------------------------------------------


def spread(size: int, keep: int, seed: int) -> Any:
    """One position out of each of `keep` equal parts; every satchel runtime finds the same ones."""
    import numpy as np

    if keep >= size:
        return np.arange(size)
    edges = np.arange(keep + 1, dtype=np.int64) * size // keep
    hashed = (np.arange(keep, dtype=np.int64) + seed * 7919 + 1) * 2654435761 % 2**32
    return edges[:-1] + hashed % (edges[1:] - edges[:-1])


def thinned(array: Any, most: int, seed: int) -> Any:
    return array if array.size <= most else array.ravel()[spread(array.size, most, seed)]


def artifact_records(kit: dict[str, Any], answers: list[dict[str, Any]]) -> bytes:
    """What the compiled graphs said here, so that another device can tell whether it computes the same."""
    import numpy as np

    index, parts = [], []
    for place, rows in enumerate(kit["rows"]["samples"]):
        for number, row in enumerate(rows):
            for name, value in answers[row].items():
                flat = thinned(value, kit["rows"]["keep"], place).ravel()
                finite = value[np.isfinite(value)]
                norm, peak = float(np.linalg.norm(finite)), float(np.abs(finite).max()) if finite.size else 0.0
                how = int(flat.size < value.size)  # 0: whole, 1: spread positions
                raw = f"{number}/raw/{name}"
                index.append([place, raw, "raw", list(value.shape), norm, peak, int(flat.size), how, 0])
                parts.append(flat.astype(np.float32))
    tensors = {
        "index": np.frombuffer(json.dumps(index, separators=(",", ":")).encode(), dtype=np.uint8),
        "lead": np.zeros(0, np.float32),
        "positions": np.zeros(0, np.int32),
        "top": np.zeros(0, np.int32),
        "values": np.concatenate(parts),
    }
    return pack_tensors(tensors)


DTYPES = {"F32": "<f4", "I64": "<i8", "I32": "<i4", "U8": "|u1"}


def read_tensors(path: str) -> dict[str, Any]:
    """A safetensors file: the length of a JSON header, the header, then the values."""
    import numpy as np

    with open(path, "rb") as file:
        data = file.read()
    (length,) = struct.unpack_from("<Q", data)
    tensors = {}
    for name, entry in json.loads(data[8 : 8 + length].decode("utf-8")).items():
        start, end = entry["data_offsets"]
        values = np.frombuffer(data[8 + length + start : 8 + length + end], dtype=DTYPES[entry["dtype"]])
        tensors[name] = values.reshape(entry["shape"]).copy()
    return tensors


def pack_tensors(tensors: dict[str, Any]) -> bytes:
    names = {code.lstrip("<|"): name for name, code in DTYPES.items()}
    header, chunks, end = {}, [], 0
    for name, array in sorted(tensors.items()):
        chunk = array.tobytes()
        kind = names[array.dtype.str.lstrip("<|")]
        header[name] = {"dtype": kind, "shape": list(array.shape), "data_offsets": [end, end + len(chunk)]}
        chunks.append(chunk)
        end += len(chunk)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + b"".join(chunks)


# --- 5. the bundle ---------------------------------------------------------------------------------------------------


def write_bundle(
    kit: dict[str, Any],
    folder: str,
    workdir: str,
    stage: str,
    answers: list[dict[str, Any]],
    figures: dict[str, float],
    versions: dict[str, str],
) -> None:
    """Everything of the bundle in `stage`, its manifest last."""
    shutil.copytree(os.path.join(folder, kit["bundle"]), stage)
    for graph in kit["graphs"]:
        target = os.path.join(stage, *graph["file"].split("/"))
        os.makedirs(os.path.dirname(target), exist_ok=True)
        shutil.copyfile(os.path.join(workdir, *graph["file"].split("/")), target)
    manifest = dict(kit["manifest"])
    manifest["graphs"] = share_by_component(manifest["graphs"], stage)
    with open(os.path.join(stage, *manifest["golden"]["artifact"].split("/")), "wb") as file:
        file.write(artifact_records(kit, answers))
    with open(os.path.join(stage, "config.json"), encoding="utf-8") as opened:
        config = json.load(opened)
    config.update(kit["recipe"]["config"])
    if "compiler_version" in config.get("neuron", {}):
        compiler = kit["recipe"]["packages"][-1]
        config["neuron"]["compiler_version"] = versions.get(compiler, "unknown")
    write_json(os.path.join(stage, "config.json"), config)
    files = {name: digest_of(os.path.join(stage, *name.split("/"))) for name in sorted(files_below(stage))}
    manifest["files"] = files
    manifest["toolchain"] = {**manifest["toolchain"], **versions}
    size = sum(each["bytes"] for each in files.values())
    limit = kit["limits"]["size_mb"]
    if limit is not None and size > limit * 2**20:
        why = f"{size / 2**20:.1f} MiB, at most {limit:g} allowed"
        raise Refused(13, "The bundle is too large.", why, "make the kit with a smaller scheme or a larger budget")
    rounded = {name: round(value, 9) for name, value in figures.items()}
    manifest["measured"] = {
        **manifest["measured"],
        "size_bytes": size,
        "where": f"{platform.machine()}, {versions_words(versions)}",
        "parity": {task["name"]: {"raw": rounded} for task in manifest["tasks"]},
        "verdicts": {
            **{gate: "passed" for gate in ("toolchain", "integrity", "support", "parity", "size")},
            **{gate: "not_judged" for gate in ("accuracy", "latency", "memory")},
        },
    }
    write_json(os.path.join(stage, BUNDLE), manifest)


def share_by_component(graphs: list[dict[str, Any]], stage: str) -> list[dict[str, Any]]:
    """The graphs of the manifest, after those with a cache have their weights in one file beside them."""
    made = [dict(graph) for graph in graphs]
    for component in sorted({graph["component"] for graph in made if graph["state"]}):
        own = [graph for graph in made if graph["component"] == component]
        weights = component + "/weights.zip"
        files = [os.path.join(stage, *graph["file"].split("/")) for graph in own]
        if share_weights(files, os.path.join(stage, *weights.split("/"))):
            for graph in own:
                graph["weights"] = weights
    return made


def versions_words(versions: dict[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in versions.items() if "," not in name)


def files_below(folder: str) -> Iterator[str]:
    for parent, _, names in os.walk(folder):
        for name in names:
            yield os.path.relpath(os.path.join(parent, name), folder).replace(os.sep, "/")


def digest_of(path: str) -> dict[str, Any]:
    return {"bytes": os.path.getsize(path), "sha256": sha256_of(path)}


def write_json(path: str, value: Any) -> None:
    with open(path, "w", encoding="utf-8") as file:
        json.dump(value, file, indent=1, ensure_ascii=False)
        file.write("\n")


def check_target(out: str, replace: bool) -> None:
    if not os.path.lexists(out):
        return
    if not replace:
        raise Refused(2, f"Will not overwrite {out}.", "it exists already", "add --replace, or choose another --out")
    if not os.path.isfile(os.path.join(out, BUNDLE)):
        raise Refused(
            2, f"Will not replace {out}.", "it is not a bundle", "choose another --out, or remove it yourself"
        )


def publish(stage: str, out: str, replace: bool) -> None:
    """One rename; an earlier bundle is moved aside for that moment, and back if it fails."""
    check_target(out, replace)
    if not os.path.lexists(out):
        os.rename(stage, out)
        return
    aside = stage + "-old"
    os.rename(out, aside)
    try:
        os.rename(stage, out)
    except BaseException:
        os.rename(aside, out)
        raise
    shutil.rmtree(aside)


def sweep(parent: str, name: str) -> None:
    """Remove what a killed run left; where it died between two renames, the earlier bundle comes back."""
    for each in os.listdir(parent):
        match = re.match(re.escape(f".{name}.finishing-") + r"(\d+)(-work|-old)?$", each)
        if match is None or alive(int(match.group(1))):
            continue
        path = os.path.join(parent, each)
        if match.group(2) == "-old" and not os.path.lexists(os.path.join(parent, name)):
            os.rename(path, os.path.join(parent, name))
        else:
            shutil.rmtree(path, ignore_errors=True)


def alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # somebody else's
    return True


# --- the command -----------------------------------------------------------------------------------------------------


def finish(folder: str, out: str | None, workdir: str | None, replace: bool, compile_only: bool) -> dict[str, Any]:
    """The whole work; the report that --json prints."""
    tell("check", f"the kit {folder}")
    kit = read_kit(folder)
    out = os.path.abspath(out or os.path.join(os.path.dirname(folder), kit["name"] + ".satchel"))
    check_target(out, replace)
    module, versions = open_toolchain(kit["recipe"])
    tell("check", f"toolchain: {versions_words(versions)}")
    parent, name = os.path.split(out)
    os.makedirs(parent, exist_ok=True)
    sweep(parent, name)
    stage = os.path.join(parent, f".{name}.finishing-{os.getpid()}")
    work = os.path.abspath(workdir) if workdir else stage + "-work"
    try:
        os.makedirs(work, exist_ok=True)
        graphs = compile_graphs(kit, folder, module, versions, work)
        report: dict[str, Any] = {"bundle": None, "device": kit["device"], "toolchain": versions}
        report["graphs"] = [{k: v for k, v in each.items() if k != "basis"} for each in graphs]
        if compile_only:
            return report
        answers, figures = replay(kit, folder, module, work)
        tell("write", out)
        write_bundle(kit, folder, work, stage, answers, figures, graphs[0]["toolchain"])
        publish(stage, out, replace)
        return {**report, "bundle": out, "parity": figures, "limits": kit["limits"]}
    finally:
        shutil.rmtree(stage, ignore_errors=True)
        if not workdir:
            shutil.rmtree(work, ignore_errors=True)


def interrupt(number: int, frame: Any) -> None:
    raise KeyboardInterrupt


def main() -> int:
    parser = argparse.ArgumentParser(
        description="Compile a satchel kit for AWS Neuron, prove it, and write the bundle.",
        epilog="Exit codes: 0 done, 2 usage, 10 parity, 13 size, 14 not compilable, 15 toolchain, 16 altered kit, 130 interrupted.",
    )
    here = os.path.dirname(os.path.abspath(__file__))
    parser.add_argument("kit", nargs="?", default=here, help="the kit's folder; by default that of this script")
    parser.add_argument("--out", help="the bundle's folder; by default <name>.satchel beside the kit")
    parser.add_argument("--workdir", help="keep the compiler's files and the compiled graphs here, and start from them")
    parser.add_argument(
        "--compile-only", action="store_true", help="stop before the proof, which needs a Neuron device"
    )
    parser.add_argument("--replace", action="store_true", help="exchange an existing bundle of that name")
    parser.add_argument("--json", action="store_true", help="a report on stdout instead of the bundle's path")
    given = parser.parse_args()
    if given.compile_only and not given.workdir:
        parser.error("--compile-only needs a --workdir, where the compiled graphs stay")
    signal.signal(signal.SIGTERM, interrupt)
    # The compilers talk on stdout, also below Python: what is for the caller goes to a copy of it.
    answer = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    try:
        report = finish(os.path.abspath(given.kit), given.out, given.workdir, given.replace, given.compile_only)
    except Refused as error:
        print(error, file=sys.stderr)
        return error.code
    except KeyboardInterrupt:
        print("Interrupted; nothing was written.", file=sys.stderr)
        return 130
    except OSError as error:
        print(Refused(1, "Cannot finish the kit.", str(error), "check the disk and its permissions"), file=sys.stderr)
        return 1
    print(json.dumps(report, indent=1) if given.json else report["bundle"] or given.workdir, file=answer, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
