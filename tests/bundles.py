"""Bundles for the tests, made once and kept in `.cache/tests`."""

from __future__ import annotations

import hashlib
import json
import runpy
import shutil
from pathlib import Path
from typing import Any

from satchel_runtimes.manifest import (
    MANIFEST_NAME,
    Engine,
    FileDigest,
    Golden,
    Graph,
    Manifest,
    Measured,
    Source,
    Target,
    TensorSpec,
)
from satchel_runtimes.tasks import task_class
from satchel_runtimes.tasks.task import ModelFacts

__all__ = ["CACHE", "bundle_of", "make_bundle", "minilm", "model_of"]

_ROOT = Path(__file__).resolve().parents[1]
CACHE = _ROOT / ".cache" / "tests"


def minilm() -> Path:
    """The Hub folder of all-MiniLM-L6-v2, fetched as `make quickstart` does where it is not there yet."""
    found: Path = runpy.run_path(str(_ROOT / "examples" / "real_models.py"))["minilm"]()
    return found


def model_of(builder: str) -> Path:
    """The folder of a model from tests/models.py."""
    from tests import models

    built: Path = models.BUILDERS[builder](minilm(), CACHE / "models" / builder)
    return built


def bundle_of(builder: str, task: str) -> Path:
    """A bundle of a model from tests/models.py."""
    return make_bundle(model_of(builder), task, CACHE / "bundles" / f"{builder}-{task}")


def make_bundle(model_folder: Path, task: str, out: Path) -> Path:
    """An fp32 ONNX bundle of a Hugging Face folder; the graph is exported once, the manifest written anew."""
    kind = task_class(task)
    config = json.loads((model_folder / "config.json").read_text())
    out.mkdir(parents=True, exist_ok=True)
    if not (out / "model.onnx").exists():
        _export(model_folder, kind.auto_model, kind.outputs, out / "model.onnx")
    shutil.copy(model_folder / "tokenizer.json", out)
    for name in ("inputs", "reference", "artifact"):
        (out / name).write_text("{}")
    axes = ("batch", "sequence")
    pooled = task in ("text-classification", "zero-shot-classification")
    manifest = Manifest(
        name=out.name,
        source=Source(str(model_folder), None, None, config["model_type"], config["architectures"][0], 0),
        target=Target("generic-x86", "onnx", "fp32", Engine("onnxruntime", ">=1.17", opset=18), threads=1),
        tasks=(kind.entry(_facts(model_folder, config)),),
        graphs=(
            Graph(
                "model",
                "model.onnx",
                tuple(TensorSpec(name, "int64", axes, 0.0) for name in _INPUTS),
                tuple(TensorSpec(name, "float32", ("batch", "labels") if pooled else axes) for name in kind.outputs),
            ),
        ),
        golden=Golden("inputs", "reference", "artifact"),
        measured=Measured(0, "here"),
        toolchain={},
        files={path.name: _digest(path) for path in sorted(out.iterdir()) if path.name != MANIFEST_NAME},
    )
    (out / MANIFEST_NAME).write_text(manifest.to_json())
    return out


_INPUTS = ("input_ids", "attention_mask", "token_type_ids")


def _export(folder: Path, auto_model: str, outputs: tuple[str, ...], file: Path) -> None:
    import torch
    import transformers

    class Plain(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = getattr(transformers, auto_model).from_pretrained(folder).eval()

        def forward(self, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
            answer = self.model(**dict(zip(_INPUTS, tensors)))
            return tuple(answer[name] for name in outputs)

    example = tuple(torch.ones(2, 7, dtype=torch.long) for _ in _INPUTS)
    axes = {0: torch.export.Dim("batch"), 1: torch.export.Dim("sequence", max=512)}
    beside = file.with_suffix(".part")
    torch.onnx.export(
        Plain().eval(),
        example,
        beside,
        dynamo=True,
        opset_version=18,
        external_data=False,
        input_names=_INPUTS,
        output_names=outputs,
        dynamic_shapes=((axes,) * len(_INPUTS),),
        verbose=False,
    )
    beside.rename(file)


def _facts(folder: Path, config: dict[str, Any]) -> ModelFacts:  # Any: config.json
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    return ModelFacts(
        config,
        min(tokenizer.model_max_length, config["max_position_embeddings"]),
        tokenizer.truncation_side,
        tokenizer.mask_token,
        dict(tokenizer.special_tokens_map),
        bool(tokenizer.clean_up_tokenization_spaces),
    )


def _digest(path: Path) -> FileDigest:
    data = path.read_bytes()
    return FileDigest(len(data), hashlib.sha256(data).hexdigest())
