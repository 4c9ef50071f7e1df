"""What only TorchScript has: files that are code, shapes that a trace is tied to, and int8 made before the trace."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.bundles import model_of
from tests.conversions import run

import satchel
from satchel_runtimes import load
from satchel_runtimes.bundle import sha256_of
from satchel_runtimes.errors import IntegrityError, SupportError, UsageError

DEVICE = "generic-x86-64"


def convert(model: Path, out: Path, scheme: str = "fp32", **options: Any) -> Path:  # Any: options of convert
    return satchel.convert(model, device=DEVICE, format="torchscript", quantize=scheme, out=out, **options)


def manifest_of(bundle: Path) -> Any:  # Any: JSON
    return json.loads((bundle / "bundle.json").read_text())


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return convert(model_of("text_classifier"), tmp_path_factory.mktemp("torchscript") / "classifier.satchel")


def test_a_classifier_answers_as_the_pipeline_does(classifier: Path) -> None:
    import transformers

    pipeline = transformers.pipeline("text-classification", model=str(model_of("text_classifier")), device="cpu")
    texts = ["The team won the final in the last minute.", "The bank raised its interest rate."]

    with load(classifier, trust=True) as predictor:
        for ours, theirs in zip(predictor.predict(texts), pipeline(texts), strict=True):
            assert ours["label"] == theirs["label"]
            assert ours["score"] == pytest.approx(theirs["score"], abs=1e-5)


def test_int8_of_minilm_passes_its_gates_in_a_quarter_of_the_size(minilm: Path, tmp_path: Path) -> None:
    # --prefer size: how fast it is on this machine at this moment is no matter of this test.
    bundle = convert(minilm, tmp_path / "minilm.satchel", "int8-dynamic", prefer="size")

    measured = manifest_of(bundle)["measured"]
    assert measured["verdicts"]["parity"] == "passed"
    # Measured 0.992; with torch.ao's own module, which halves the range of activations, 0.970.
    assert measured["parity"]["sentence-embedding"]["cosine_mean"] > 0.99
    assert measured["size_bytes"] < 25 * 2**20


def test_the_successor_of_the_format_answers_alike_at_any_shape(minilm: Path, tmp_path: Path) -> None:
    bundle = convert(minilm, tmp_path / "minilm.satchel", "fp32-export")

    assert [graph["file"] for graph in manifest_of(bundle)["graphs"]] == ["model.pt2"]
    with pytest.raises(IntegrityError, match="is code"):
        load(bundle)
    with (
        load(bundle, trust=True) as predictor,
        load(convert(minilm, tmp_path / "traced.satchel"), trust=True) as traced,
    ):
        for text in ("one", "Where is my order? " * 20):
            # The same kernels in the same order.
            np.testing.assert_allclose(predictor.predict(text), traced.predict(text), atol=1e-6)


# A file that is code


def test_an_untrusted_bundle_is_refused_before_torch_is_imported(classifier: Path) -> None:
    program = (
        "import sys\nfrom satchel_runtimes import load\nfrom satchel_runtimes.errors import IntegrityError\n"
        f"try: load({str(classifier)!r})\n"
        "except IntegrityError as error: print(error)\n"
        "print('torch' in sys.modules)"
    )

    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert "is code" in done.stdout
    assert "trust=True" in done.stdout and "--trust" in done.stdout
    assert done.stdout.strip().endswith("False")


def test_the_command_asks_for_trust_and_takes_it(classifier: Path) -> None:
    refused = run("predict", classifier, "The team won the final.")
    trusted = run("predict", classifier, "The team won the final.", "--trust", "--json")

    assert refused.returncode == 16
    assert "--trust" in refused.stderr
    assert trusted.returncode == 0
    assert json.loads(trusted.stdout)["label"]
    assert trusted.stderr == ""
    assert run("verify", classifier, "--trust").returncode == 0


def test_a_file_of_code_is_hashed_at_every_load(classifier: Path, tmp_path: Path) -> None:
    import os

    bundle = Path(shutil.copytree(classifier, tmp_path / "bundle"))
    load(bundle, trust=True, verify="once").close()
    found = (bundle / "model.pt").stat()
    data = bytearray((bundle / "model.pt").read_bytes())
    data[len(data) // 2] ^= 1
    (bundle / "model.pt").write_bytes(data)
    os.utime(bundle / "model.pt", ns=(found.st_atime_ns, found.st_mtime_ns))

    with pytest.raises(IntegrityError, match="altered"):
        load(bundle, trust=True, verify="once")


def test_a_zip_that_is_no_torchscript_is_refused_before_torch_sees_it(classifier: Path, tmp_path: Path) -> None:
    import zipfile

    bundle = Path(shutil.copytree(classifier, tmp_path / "bundle"))
    with zipfile.ZipFile(bundle / "model.pt", "w") as archive:
        archive.writestr("model/data.pkl", b"cos\nsystem\n(S'true'\ntR.")
    manifest = manifest_of(bundle)
    with (bundle / "model.pt").open("rb") as opened:
        manifest["files"]["model.pt"] = {"bytes": (bundle / "model.pt").stat().st_size, "sha256": sha256_of(opened)}
    (bundle / "bundle.json").write_text(json.dumps(manifest))

    with pytest.raises(IntegrityError, match="not a TorchScript archive"):
        load(bundle, trust=True)


def test_no_path_of_the_machine_that_converted_is_in_the_file(classifier: Path) -> None:
    data = (classifier / "model.pt").read_bytes()

    for path in (str(Path(satchel.__file__).parents[1]), sys.prefix, "site-packages"):
        assert path.encode() not in data


# Shapes


@pytest.fixture(scope="module")
def longformer(minilm: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two layers with random weights, spread so that the outputs are of the size of a trained model's."""
    import torch
    from transformers import LongformerConfig, LongformerModel

    folder = tmp_path_factory.mktemp("models") / "longformer"
    torch.manual_seed(3)
    config = LongformerConfig(
        vocab_size=30522,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        attention_window=[16, 16],
        max_position_embeddings=140,
        pad_token_id=0,
        type_vocab_size=1,
    )
    model = LongformerModel(config).eval()
    with torch.no_grad():
        for name, value in model.named_parameters():
            if value.dim() > 1:
                value.normal_(std=0.5 if "embeddings" in name else 0.25)
    model.save_pretrained(folder)
    for name in ("tokenizer.json", "special_tokens_map.json"):
        shutil.copy(minilm / name, folder)
    tokenizer = json.loads((minilm / "tokenizer_config.json").read_text())
    tokenizer.update(model_max_length=128, model_input_names=["input_ids", "attention_mask"])
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer))
    return folder


def test_a_trace_that_is_wrong_at_other_shapes_is_pinned_to_its_own(longformer: Path, tmp_path: Path) -> None:
    bundle = convert(longformer, tmp_path / "longformer.satchel")

    (graph,) = manifest_of(bundle)["graphs"]
    assert graph["bind"] == {"batch": 1, "sequence": 128}
    with load(bundle, trust=True) as predictor:
        session = predictor.graphs["model"]
        ids = np.full((1, 129), 7, np.int64)
        with pytest.raises(UsageError, match="sequence 128"):
            session.run({"input_ids": ids, "attention_mask": np.ones_like(ids)})

        one, two = predictor.predict(["a short text", "another one, a little longer than that"])
    # Answers are those of the model: the parity gate has seen 72 samples, alone and in batches; here only that they differ.
    assert np.abs(one).max() > 0.1
    assert one.shape != two.shape or np.abs(one - two).max() > 0.1


def test_a_model_that_cannot_be_traced_is_not_supported() -> None:
    import torch

    from satchel_converters.component import Axis, Component, Input, Output
    from satchel_converters.torchscript import trace

    class Undecided(torch.nn.Module):
        def forward(self, input_ids: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"logits": input_ids.sum().item()}  # type: ignore[dict-item]  # that is what is wrong

    ids = torch.ones(1, 4, dtype=torch.long)
    axes = (Axis("batch"), Axis("sequence"))
    component = Component(
        "model",
        Undecided(),
        (Input("input_ids", "int64", axes),),
        (Output("logits", "float32", axes),),
        {"input_ids": ids},
    )

    with pytest.raises(SupportError) as caught:
        trace(component, component.example)
    assert caught.value.exit_code == 14


def test_a_device_without_torch_gets_no_torchscript(minilm: Path, tmp_path: Path) -> None:
    with pytest.raises(SupportError, match="the device runs onnx, tflite"):
        satchel.convert(minilm, device="raspberry-pi-5", format="torchscript", out=tmp_path / "m.satchel")
