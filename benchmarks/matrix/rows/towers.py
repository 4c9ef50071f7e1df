"""Models of two towers: pictures and texts in one space."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

from satchel_converters.pictures import draw
from satchel_converters.sounds import draw_sound

from ..row import Row, lively, save, statistics, tokenizer

__all__ = ["ROWS"]

_SIZE = 32
_PICTURES = (draw(3001), draw(3006), draw(3004), draw(3011).convert("L"))
_ASKED = {"candidate_labels": ["cat", "a dog and a boat", "the house under the tree", "12 percent in 2024"]}
_VISION: Mapping[str, Any] = {
    "image_size": _SIZE,
    "patch_size": 8,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
}
_TEXT: Mapping[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "max_position_embeddings": 77,
}


def _build(
    kind: str, processor: str, prepared: Mapping[str, Any], sizes: Mapping[str, Any], only_ids: bool, folder: Path
) -> None:
    words = tokenizer("wordpiece")
    if only_ids:
        words.model_input_names = ["input_ids"]
    ids = {name: getattr(words, name) for name in ("bos_token_id", "pad_token_id")}
    text = {"vocab_size": len(words), "eos_token_id": words.sep_token_id, **ids, **sizes.get("text_config", {})}
    config = getattr(transformers, f"{kind}Config")(**{**sizes, "text_config": text})
    steps = getattr(transformers, f"{processor}ImageProcessorPil")(**prepared)
    model: Any = lively(getattr(transformers, f"{kind}Model")(config))
    seen = steps([draw(number).convert("RGB") for number in range(3020, 3028)], return_tensors="pt")
    save(folder, statistics(model, lambda: model.get_image_features(**seen)), words, steps)


def _by_its_class(kind: str, model: Path, inputs: Sequence[Any], options: Mapping[str, Any]) -> list[Any]:
    """What the pipeline computes with a model that its list lacks."""
    ask = transformers.pipeline(
        "zero-shot-image-classification",
        model=getattr(transformers, f"{kind}Model").from_pretrained(model),
        tokenizer=transformers.AutoTokenizer.from_pretrained(model),
        image_processor=transformers.AutoImageProcessor.from_pretrained(model, backend="pil"),
    )
    return [*(ask(each, **options) for each in inputs), *ask(list(inputs), **options)]


def _row(
    name: str,
    kind: str,
    processor: str = "CLIP",
    prepared: Mapping[str, Any] | None = None,
    *,
    only_ids: bool = False,
    listed: bool = True,
    fast: bool = False,
    **sizes: Any,
) -> Row:
    square = {"size": {"shortest_edge": _SIZE}, "crop_size": {"height": _SIZE, "width": _SIZE}}
    build = functools.partial(_build, kind, processor, square if prepared is None else prepared, sizes, only_ids)
    oracle = None if listed else functools.partial(_by_its_class, kind)
    return Row(name, "zero-shot-image-classification", build, _PICTURES, _ASKED, oracle, fast=fast)


def _owlvit(folder: Path) -> None:
    words = tokenizer("wordpiece", model_input_names=["input_ids", "attention_mask"])
    words.model_max_length = 16
    text = {**_TEXT, "vocab_size": len(words), "max_position_embeddings": 16, "pad_token_id": words.pad_token_id}
    config = transformers.OwlViTConfig(text_config=text, vision_config=_VISION, projection_dim=32)
    steps = transformers.OwlViTImageProcessorPil(size={"height": _SIZE, "width": _SIZE})
    save(folder, lively(transformers.OwlViTForObjectDetection(config)), words, steps)


def _found(model: Path, inputs: Sequence[Any], options: Mapping[str, Any]) -> list[Any]:
    """The pipeline, which takes a picture and its labels in one mapping."""
    ask = transformers.pipeline(
        "zero-shot-object-detection",
        model=str(model),
        image_processor=transformers.AutoImageProcessor.from_pretrained(model, backend="pil"),
    )
    rest = {name: value for name, value in options.items() if name != "candidate_labels"}
    items = [{"image": each.convert("RGB"), "candidate_labels": options["candidate_labels"]} for each in inputs]
    return [found for each in items for found in ask([each], **rest)] * 2


def _blip(folder: Path) -> None:
    words = tokenizer("wordpiece", model_input_names=["input_ids", "attention_mask"])
    words.model_max_length = 40
    text = {**_TEXT, "vocab_size": len(words), "max_position_embeddings": 40, "encoder_hidden_size": 32}
    text |= {"pad_token_id": words.pad_token_id, "bos_token_id": words.cls_token_id, "sep_token_id": words.sep_token_id}
    config = transformers.BlipConfig(
        text_config=text, vision_config=_VISION, projection_dim=16, image_text_hidden_size=16
    )
    steps = transformers.BlipImageProcessorPil(size={"height": _SIZE, "width": _SIZE})
    save(folder, lively(transformers.BlipForImageTextRetrieval(config)), words, steps)


def _flava(folder: Path) -> None:
    words = tokenizer("wordpiece", model_input_names=["input_ids", "token_type_ids", "attention_mask"])
    words.model_max_length = 77
    text = {**_TEXT, "vocab_size": len(words), "pad_token_id": words.pad_token_id}
    both = {
        name: _VISION[name] for name in ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
    }
    config = transformers.FlavaConfig(
        text_config=text, image_config={**_VISION}, multimodal_config=both, projection_dim=16, hidden_size=32
    )
    square = {"height": _SIZE, "width": _SIZE}
    save(
        folder,
        lively(transformers.FlavaModel(config)),
        words,
        transformers.FlavaImageProcessorPil(size=square, crop_size=square),
    )


_PAIRS = tuple(
    {"image": picture.convert("RGB"), "texts": texts}
    for picture, texts in zip(
        _PICTURES,
        (
            ["cat", "a dog and a boat"],
            ["the house under the tree"],
            ["12 percent", "No.", "a boat"],
            ["the phone", "cat"],
        ),
        strict=True,
    )
)


def _cosines(model: Path, inputs: Sequence[Any], options: Mapping[str, Any]) -> list[Any]:
    """The model's own logits: BLIP's are the cosines, CLIP's are scaled."""
    words = transformers.AutoTokenizer.from_pretrained(model)
    steps = transformers.AutoImageProcessor.from_pretrained(model, backend="pil")
    config = transformers.AutoConfig.from_pretrained(model)
    loaded = getattr(transformers, config.architectures[0]).from_pretrained(model).eval()
    found = []
    for each in inputs:
        pixels = steps(each["image"], return_tensors="pt")
        values = []
        for text in each["texts"]:
            given = {**words(text, return_tensors="pt"), **pixels}
            with torch.no_grad():
                if config.model_type == "flava":
                    one, other = (
                        torch.nn.functional.normalize(found.pooler_output[:, 0])
                        for found in (
                            loaded.get_image_features(**pixels),
                            loaded.get_text_features(**words(text, return_tensors="pt")),
                        )
                    )
                    values.append(float(one @ other.T))
                elif config.model_type == "blip":
                    values.append(float(loaded(**given, use_itm_head=False).itm_score))
                else:
                    values.append(float(loaded(**given).logits_per_image / loaded.logit_scale.exp()))
        order = sorted(range(len(values)), key=lambda i: -values[i])  # used at once
        found.append([{"index": i, "text": each["texts"][i], "score": values[i]} for i in order])
    return [*found, *found]


def _clap(folder: Path) -> None:
    words = tokenizer("bpe", model_input_names=["input_ids", "attention_mask"])
    words.model_max_length = 77
    text = {**_TEXT, "vocab_size": len(words), "pad_token_id": words.pad_token_id, "max_position_embeddings": 90}
    sounds = {
        "window_size": 8,
        "spec_size": 256,
        "num_mel_bins": 64,
        "patch_embeds_hidden_size": 16,
        "depths": [1, 1],
        "num_attention_heads": [2, 2],
        "hidden_size": 32,
        "enable_fusion": False,
    }
    config = transformers.ClapConfig(text_config=text, audio_config=sounds, projection_dim=16)
    steps = transformers.ClapFeatureExtractor(truncation="rand_trunc")
    model = lively(transformers.ClapModel(config))
    heard = torch.from_numpy(
        np.stack([steps(wave, sampling_rate=48_000)["input_features"][0] for wave in map(_sound, range(2010, 2014))])
    )
    save(folder, statistics(model, lambda: model.get_audio_features(input_features=heard.float())), words, steps)


def _sound(number: int) -> np.ndarray:
    """A sound that is none of the golden ones, at 48 kHz."""
    samples, rate = draw_sound(number, 0.3 + number % 5 / 4)
    wave = samples[:, 0] / 32768
    places = np.arange(0, len(wave), rate / 48_000)
    found: np.ndarray = np.interp(places, np.arange(len(wave)), wave).astype(np.float32)
    return found


def _heard(model: Path, inputs: Sequence[Any], options: Mapping[str, Any]) -> list[Any]:
    """The pipeline, one by one: in a list its texts are those of the first."""
    ask = transformers.pipeline("zero-shot-audio-classification", model=str(model))
    return [ask(each, **options) for each in inputs] * 2


_EFFICIENT = {"image_size": 64, "width_coefficient": 0.25, "depth_coefficient": 0.3, "hidden_dim": 64}
_CLIP = {"vision_config": _VISION, "text_config": _TEXT, "projection_dim": 16}
_TOWERS = _row("clip", "CLIP", **_CLIP)

ROWS: tuple[Row, ...] = (
    Row("clap", "zero-shot-audio-classification", _clap, tuple(map(_sound, (2000, 2001, 2002))), _ASKED, _heard),
    Row("clip", "image-text-retrieval", _TOWERS.build, _PAIRS, {}, _cosines),
    Row("flava", "image-text-retrieval", _flava, _PAIRS, {}, _cosines),
    Row("blip", "image-text-retrieval", _blip, _PAIRS, {}, _cosines),
    Row("owlvit", "zero-shot-object-detection", _owlvit, _PICTURES, {**_ASKED, "threshold": 0.5, "top_k": 12}, _found),
    _row("clip", "CLIP", fast=True, **_CLIP),
    _row(
        "siglip",
        "Siglip",
        "Siglip",
        {"size": {"height": _SIZE, "width": _SIZE}},
        only_ids=True,
        vision_config=_VISION,
        text_config={**_TEXT, "max_position_embeddings": 64},
    ),
    _row("altclip", "AltCLIP", **{**_CLIP, "text_config": {**_TEXT, "project_dim": 16, "max_position_embeddings": 90}}),
    _row("clipseg", "CLIPSeg", **_CLIP),
    _row("metaclip_2", "MetaClip2", **_CLIP),
    _row(
        "align",
        "Align",
        "EfficientNet",
        {"size": {"height": 64, "width": 64}},
        vision_config=_EFFICIENT,
        text_config=_TEXT,
        projection_dim=80,
    ),
    _row("chinese_clip", "ChineseCLIP", "ChineseCLIP", **_CLIP),
    _row(
        "groupvit",
        "GroupViT",
        listed=False,
        vision_config={
            **_VISION,
            "depths": [1, 1, 1],
            "num_group_tokens": [8, 4, 0],
            "num_output_groups": [8, 4, 0],
            "num_hidden_layers": 3,
        },
        text_config=_TEXT,
        projection_dim=16,
        projection_intermediate_dim=32,
    ),
)
