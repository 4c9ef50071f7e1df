"""What several test files start from: a real model, a real bundle of it, and a model small enough to export in seconds."""

from __future__ import annotations

import json
import os
import platform
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from tests import bundles, warm_workers
from tests.neuron_machine import FAKES, device_tree, forget

from satchel_converters import process

_ROOT = Path(__file__).resolve().parents[1]

# Stages are kept between runs of the tests, apart from the user's own, and each worker of pytest-xdist has its own: some
# tests look at what a conversion leaves there. A worker inherits what the first process has set. Subprocesses inherit it.
_CACHE = os.environ.get("SATCHEL_CACHE", str(_ROOT / ".cache" / "tests" / "satchel"))
os.environ["SATCHEL_CACHE"] = os.path.join(_CACHE, os.environ.get("PYTEST_XDIST_WORKER", ""))


@pytest.fixture(scope="session", autouse=True)
def _warm_workers() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(process, "_start", warm_workers.start)
        yield


def _multiplies_int8() -> bool:
    """Whether products of int8 are exact here: with AVX2 alone onnxruntime and torch add pairs of them in 16 bits, which
    saturates, and their float products round otherwise too."""
    if platform.machine() not in ("x86_64", "AMD64"):
        return True
    file = Path("/proc/cpuinfo")
    flags = file.read_text() if file.is_file() else ""
    return any(name in flags for name in ("avx512_vnni", "avx_vnni", "amx_int8"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if _multiplies_int8():
        return
    for item in items:
        if item.get_closest_marker("int8_dot"):
            item.add_marker(pytest.mark.skip(reason="this processor has no exact products of int8"))


@pytest.fixture(scope="session")
def minilm() -> Path:
    """The Hub folder of all-MiniLM-L6-v2."""
    return bundles.minilm()


@pytest.fixture(scope="session")
def minilm_bundle(minilm: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle as a user makes one. Tests that damage it take `bundle`, a copy."""
    from satchel.convert import convert

    return convert(minilm, device="raspberry-pi-5", out=tmp_path_factory.mktemp("bundles") / "minilm.satchel")


@pytest.fixture
def bundle(minilm_bundle: Path, tmp_path: Path) -> Iterator[Path]:
    """A copy of a real bundle; its files are one's own, so they may be damaged."""
    copy = tmp_path / "copy.satchel"
    shutil.copytree(minilm_bundle, copy)
    yield copy
    shutil.rmtree(copy, ignore_errors=True)  # pytest keeps the folders of three runs; these are 25 MB each


@pytest.fixture(scope="session")
def tiny(minilm: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Hub folder that is exported in seconds: MiniLM cut down to one layer and 32 of its 384 dimensions."""
    import safetensors.numpy

    folder = tmp_path_factory.mktemp("models") / "tiny"
    shutil.copytree(minilm, folder, ignore=shutil.ignore_patterns("model.safetensors", "data_config.json"))
    sizes = {384: 32, 1536: 64}
    weights = {
        name: np.ascontiguousarray(value[tuple(slice(sizes.get(size)) for size in value.shape)])
        for name, value in safetensors.numpy.load_file(minilm / "model.safetensors").items()
        if "encoder.layer" not in name or "encoder.layer.0." in name
    }
    safetensors.numpy.save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((minilm / "config.json").read_text("utf-8"))
    config.update(hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2)
    (folder / "config.json").write_text(json.dumps(config), "utf-8")
    return folder


@pytest.fixture(scope="module")
def fakes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The fakes where Python finds them, on a machine with two devices of two cores."""
    with pytest.MonkeyPatch.context() as patch:
        forget()
        patch.syspath_prepend(str(FAKES))
        patch.setenv("SATCHEL_NEURON_ROOT", str(device_tree(tmp_path_factory.mktemp("neuron"), 2, 2)))
        patch.delenv("NEURON_RT_VISIBLE_CORES", raising=False)
        patch.delenv("NEURON_RT_NUM_CORES", raising=False)
        yield FAKES
    forget()


@pytest.fixture
def no_sdk(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine as most are; what it runs in processes of their own finds no fakes."""
    monkeypatch.setattr(sys, "path", [each for each in sys.path if each != str(FAKES)])
    monkeypatch.delenv("SATCHEL_NEURON_ROOT", raising=False)
