"""Models that read a text with one part and write one with another."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers

from satchel_converters.pictures import draw

from ..row import Row, lively, save, tokenizer

__all__ = [
    "BART",
    "ROWS",
    "SIGHT",
    "T5",
    "TEXTS",
    "WRITERS",
    "blip",
    "blip_answers",
    "captioner",
    "donut",
    "git",
    "pair",
    "rewrites",
    "translator",
    "writer",
]

BART: Mapping[str, Any] = {
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48,
    "max_position_embeddings": 140,
}
T5: Mapping[str, Any] = {
    "d_model": 32,
    "d_kv": 8,
    "d_ff": 48,
    "num_layers": 2,
    "num_decoder_layers": 2,
    "num_heads": 4,
}

# model_type -> its config.
WRITERS: Mapping[str, Mapping[str, Any]] = {
    "bart": BART,
    "bigbird_pegasus": {**BART, "attention_type": "original_full"},
    "blenderbot": BART,
    "blenderbot-small": BART,
    "led": {
        **{name: value for name, value in BART.items() if name != "max_position_embeddings"},
        "max_encoder_position_embeddings": 144,
        "max_decoder_position_embeddings": 140,
        "attention_window": 8,
    },
    "longt5": {**T5, "local_radius": 7},
    "m2m_100": BART,
    "marian": BART,
    "mbart": BART,
    "mt5": T5,
    "pegasus": BART,
    "prophetnet": {
        "hidden_size": 32,
        "num_encoder_layers": 2,
        "num_decoder_layers": 2,
        "num_encoder_attention_heads": 4,
        "num_decoder_attention_heads": 4,
        "encoder_ffn_dim": 48,
        "decoder_ffn_dim": 48,
        "max_position_embeddings": 140,
        "pad_token_id": 0,  # as its checkpoints have: transformers' own cache is right with no other
        "num_buckets": 8,
        "relative_max_distance": 20,
    },
    "t5": T5,
}

_SEEDS = {"mt5": 1}  # where the weights of 0 lose more to float32 than 1e-4 leaves room for: its scores are not scaled


def writer(model_type: str, folder: Path, **own: Any) -> None:
    """Write a small model of an architecture."""
    reader = tokenizer("unigram")
    special = {f"{name}_token_id": getattr(reader, f"{name}_token_id") for name in ("pad", "bos", "eos")}
    settings = {"vocab_size": len(reader), "decoder_start_token_id": reader.eos_token_id, **special}
    settings.update({"forced_eos_token_id": None, **WRITERS[model_type], **own})
    config = transformers.AutoConfig.for_model(model_type, **settings)
    model = transformers.AutoModelForSeq2SeqLM.from_config(config)
    # Twice as lively as an encoder: what comes next must be clear now and then.
    save(folder, lively(model, _SEEDS.get(model_type, 0), 2.0), reader)


def translator(folder: Path, *, seed: int = 0) -> None:
    """An NLLB: its tokenizer marks each text with its language, and its decoder begins with the other one."""
    made = json.loads(tokenizer("bpe").backend_tokenizer.to_str())["model"]
    merges = [tuple(each) for each in made["merges"]]
    reader = transformers.NllbTokenizer(
        vocab=made["vocab"], merges=merges, src_lang="eng_Latn", tgt_lang="fra_Latn", model_max_length=128
    )
    special = {"bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 2}
    config = transformers.AutoConfig.for_model("m2m_100", vocab_size=len(reader), **{**BART, **special})
    save(folder, lively(transformers.AutoModelForSeq2SeqLM.from_config(config), seed, 2.0), reader)


def rewrites(key: str, model: Path, inputs: Sequence[Any], options: Mapping[str, Any]) -> list[Any]:
    """What `generate` writes about each text, as the last pipeline gave it."""
    reader = transformers.AutoTokenizer.from_pretrained(model)
    loaded: Any = transformers.AutoModelForSeq2SeqLM.from_pretrained(model).eval()
    found = []
    for text in inputs:
        with torch.inference_mode():
            (ids,) = loaded.generate(**reader(text, return_tensors="pt"), **options)
        found.append({key: reader.decode(ids, skip_special_tokens=True)})
    return [*([each] for each in found), *found]


_BERT: Mapping[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 140,
}
SIGHT: Mapping[str, Any] = {
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "image_size": 32,
    "patch_size": 8,
}
# What writes about pictures: as its config has it, and how much livelier its weights are.
_CAPTIONS: Mapping[str, Mapping[str, Any]] = {
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64},
    "trocr": {
        "d_model": 32,
        "decoder_layers": 2,
        "decoder_attention_heads": 4,
        "decoder_ffn_dim": 48,
        "max_position_embeddings": 64,
        "cross_attention_hidden_size": 24,
    },
}


def pair(folder: Path, *, seed: int = 0) -> None:
    """Two BERTs, one of which reads and the other writes."""
    reader = tokenizer("unigram")
    sides = [transformers.BertConfig(vocab_size=len(reader), **_BERT) for _ in range(2)]
    config = transformers.EncoderDecoderConfig.from_encoder_decoder_configs(*sides)
    _start(config, reader)
    save(folder, lively(transformers.EncoderDecoderModel(config), seed, 2.0), reader)


def captioner(decoder: str, folder: Path, *, seed: int = 0) -> None:
    """A ViT that sees and a decoder that writes; of TrOCR's the two have other widths."""
    reader = tokenizer("bpe")
    settings = {"vocab_size": len(reader), **_CAPTIONS[decoder]}
    writes = transformers.AutoConfig.for_model(decoder, **settings)
    sees = transformers.ViTConfig(**SIGHT)
    config = transformers.VisionEncoderDecoderConfig.from_encoder_decoder_configs(sees, writes)
    _start(config, reader)
    looks = transformers.ViTImageProcessor(size={"height": 32, "width": 32})
    save(folder, lively(transformers.VisionEncoderDecoderModel(config), seed, 2.0), reader, looks)


def blip(folder: Path, *, seed: int = 0) -> None:
    """A BLIP that writes captions."""
    _blip(transformers.BlipForConditionalGeneration, folder, seed=seed)


def _blip(kind: Any, folder: Path, *, seed: int = 0) -> None:
    reader = tokenizer("wordpiece")
    special = {"bos_token_id": reader.cls_token_id, "sep_token_id": reader.sep_token_id}
    text = {"vocab_size": len(reader), "pad_token_id": reader.pad_token_id, "eos_token_id": reader.sep_token_id}
    config = transformers.BlipConfig(
        text_config={**_BERT, **special, **text, "encoder_hidden_size": 32}, vision_config={**SIGHT, "hidden_size": 32}
    )
    looks = transformers.BlipImageProcessor(size={"height": 32, "width": 32})
    save(folder, lively(kind(config), seed, 2.0), reader, looks)


def blip_answers(folder: Path, *, seed: int = 0) -> None:
    """A BLIP that answers questions."""
    _blip(transformers.BlipForQuestionAnswering, folder, seed=seed)


def donut(folder: Path, *, seed: int = 0, marks: Sequence[str] = ("<s_page>", "</s_page>"), often: str = "") -> None:
    """A reader of whole pages, whose jobs its tokenizer has marks for; one of them it may write often."""
    reader = tokenizer("bpe")
    reader.add_special_tokens({"additional_special_tokens": list(marks)})
    writes = transformers.MBartConfig(vocab_size=len(reader), **{**BART, "d_model": 24}, is_decoder=True)
    sees = transformers.DonutSwinConfig(
        image_size=(64, 48), patch_size=2, embed_dim=12, depths=[1, 1], num_heads=[2, 2], window_size=4
    )
    config = transformers.VisionEncoderDecoderConfig.from_encoder_decoder_configs(sees, writes)
    _start(config, reader)
    looks = transformers.DonutImageProcessorPil(size={"height": 64, "width": 48})
    model = lively(transformers.VisionEncoderDecoderModel(config), seed, 2.0)
    if often:
        model.generation_config.sequence_bias = [[[reader.convert_tokens_to_ids(often)], 6.0]]
    save(folder, model, reader, looks)


def git(folder: Path, *, seed: int = 0) -> None:
    """A GIT, whose decoder reads a picture's tokens as its own."""
    reader = tokenizer("wordpiece")
    special = {"bos_token_id": reader.cls_token_id, "eos_token_id": reader.sep_token_id}
    config = transformers.GitConfig(
        vision_config=dict(SIGHT), vocab_size=len(reader), pad_token_id=reader.pad_token_id, **_BERT, **special
    )
    looks = transformers.CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    save(folder, lively(transformers.GitForCausalLM(config), seed, 2.0), reader, looks)


def _answers(model: Path, inputs: Sequence[Any], options: Mapping[str, Any]) -> list[Any]:
    """What BLIP's `generate` answers, as the last pipeline gave it."""
    reader = transformers.AutoTokenizer.from_pretrained(model)
    looks = transformers.AutoImageProcessor.from_pretrained(model, backend="pil")
    loaded: Any = transformers.BlipForQuestionAnswering.from_pretrained(model).eval()
    found = []
    for item in inputs:
        given = {**looks(item["image"], return_tensors="pt"), **reader(item["question"], return_tensors="pt")}
        given.pop("token_type_ids", None)
        with torch.inference_mode():
            (ids,) = loaded.generate(**given, **options)
        found.append({"answer": reader.decode(ids, skip_special_tokens=True)})
    return [*([each] for each in found), *found]


def _start(config: Any, reader: Any) -> None:  # Any: of transformers, without types
    config.decoder_start_token_id, config.eos_token_id = reader.bos_token_id, reader.eos_token_id
    config.pad_token_id = reader.pad_token_id


def _tells(model: Path, inputs: Sequence[Any], options: Mapping[str, Any]) -> list[Any]:
    """What `generate` writes about each picture, as the last pipeline gave it."""
    reader = transformers.AutoTokenizer.from_pretrained(model)
    looks = transformers.AutoImageProcessor.from_pretrained(model, backend="pil")
    loaded: Any = transformers.AutoModelForImageTextToText.from_pretrained(model).eval()
    found = []
    for picture in inputs:
        with torch.inference_mode():
            (ids,) = loaded.generate(pixel_values=looks(picture, return_tensors="pt")["pixel_values"], **options)
        found.append({"generated_text": reader.decode(ids, skip_special_tokens=True)})
    return [*([each] for each in found), *found]


TEXTS = ("Where is my order?", "A small model that answers quickly is often better than a large one.", "No.")
_FIRST = {"marian": "translation", "m2m_100": "translation", "mbart": "translation", "pegasus": "summarization"}
_KEYS = {"translation": "translation_text", "summarization": "summary_text"}


def _row(model_type: str) -> Row:
    task = _FIRST.get(model_type.removeprefix("bigbird_"), "text2text-generation")
    oracle = functools.partial(rewrites, _KEYS.get(task, "generated_text"))
    build, options = functools.partial(writer, model_type), {"max_new_tokens": 12, "num_beams": 2}
    return Row(model_type, task, build, TEXTS, options, oracle=oracle)


ROWS: tuple[Row, ...] = (
    *map(_row, WRITERS),
    Row(
        "encoder-decoder",
        "text2text-generation",
        pair,
        TEXTS,
        {"max_new_tokens": 12},
        oracle=functools.partial(rewrites, "generated_text"),
    ),
    *(
        Row(
            f"vision-encoder-decoder, {decoder}",
            "image-to-text",
            functools.partial(captioner, decoder),
            tuple(draw(6000 + number) for number in range(3)),
            {"max_new_tokens": 12},
            oracle=_tells,
        )
        for decoder in _CAPTIONS
    ),
    *(
        Row(
            build.__name__,
            "image-to-text",
            build,
            tuple(draw(6000 + number) for number in range(3)),
            {"max_new_tokens": 12},
            oracle=_tells,
        )
        for build in (blip, donut, git)
    ),
    Row(
        "blip",
        "visual-question-answering",
        blip_answers,
        tuple({"image": draw(6000 + i), "question": text} for i, text in enumerate(TEXTS)),
        {"max_new_tokens": 12},
        oracle=_answers,
    ),
)
