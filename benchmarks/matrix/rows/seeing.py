"""Language models that see."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers

from satchel_converters.pictures import draw

from ..row import Row, lively, save, tokenizer
from .writers import SIGHT, T5

__all__ = ["ROWS", "blip_2", "blip_2_t5", "idefics", "idefics3", "llava", "qwen2_vl", "smolvlm"]

_TEMPLATE = (
    "{% for message in messages %}<s>{{ message['role'] }}: {% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}{% for part in message['content'] %}{% if part['type'] == 'image' %}<image>{% else %}{{ part['text'] }}"
    "{% endif %}{% endfor %}{% endif %}</s>{% endfor %}{% if add_generation_prompt %}<s>assistant: {% endif %}"
)
_WRITES: Mapping[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "tie_word_embeddings": False,
}
_TURN = "<end_of_utterance>"
_MARKS = ("<image>", "<fake_token_around_image>", "<global-img>", _TURN)


def _reader() -> Any:  # Any: of transformers, without types
    reader = tokenizer("bpe")
    tiles = [f"<row_{i}_col_{j}>" for i in range(1, 7) for j in range(1, 7)]
    reader.add_special_tokens({"additional_special_tokens": [*_MARKS, *tiles]})
    reader.chat_template, reader.model_max_length = _TEMPLATE, 256
    return reader


def _special(reader: Any) -> dict[str, Any]:
    return {f"{name}_token_id": getattr(reader, f"{name}_token_id") for name in ("bos", "eos", "pad")}


def llava(folder: Path, *, seed: int = 0) -> None:
    """A CLIP that sees and a llama that writes."""
    reader = _reader()
    number = reader.convert_tokens_to_ids("<image>")
    config = transformers.LlavaConfig(
        vision_config=transformers.CLIPVisionConfig(**SIGHT),
        text_config=transformers.LlamaConfig(vocab_size=len(reader), **_WRITES, **_special(reader)),
        image_token_id=number,
        image_token_index=number,
    )
    sides = {"height": 32, "width": 32}
    looks = transformers.CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size=sides)
    processor = transformers.LlavaProcessor(
        looks, reader, patch_size=8, vision_feature_select_strategy="default", num_additional_image_tokens=1
    )
    processor.chat_template = _TEMPLATE
    save(folder, lively(transformers.LlavaForConditionalGeneration(config), seed, 2.0), reader, looks)
    processor.save_pretrained(folder)


def _tiled(kind: str, folder: Path, *, seed: int = 0, split: bool = True) -> None:
    reader = _reader()
    config = getattr(transformers, f"{kind}Config")(
        vision_config=dict(SIGHT),
        text_config=transformers.LlamaConfig(vocab_size=len(reader), **_WRITES, **_special(reader)),
        image_token_id=reader.convert_tokens_to_ids("<image>"),
        scale_factor=2,
        pad_token_id=reader.pad_token_id,
    )
    looks = getattr(transformers, f"{kind}ImageProcessorPil")(
        size={"longest_edge": 96}, max_image_size={"longest_edge": 32}, do_image_splitting=split
    )
    model = getattr(transformers, f"{kind}ForConditionalGeneration")(config)
    save(folder, lively(model, seed, 2.0), reader, looks)


idefics3 = functools.partial(_tiled, "Idefics3")
smolvlm = functools.partial(_tiled, "SmolVLM")


def blip_2(folder: Path, *, seed: int = 0) -> None:
    """An OPT behind a Q-Former."""
    reader = _reader()
    text = transformers.OPTConfig(
        vocab_size=len(reader),
        hidden_size=32,
        word_embed_proj_dim=32,
        ffn_dim=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=256,
        **_special(reader),
    )
    _blip_2(folder, reader, text, seed)


def blip_2_t5(folder: Path, *, seed: int = 0) -> None:
    """A T5 behind a Q-Former."""
    reader = _reader()
    special = {**_special(reader), "decoder_start_token_id": reader.pad_token_id}
    _blip_2(folder, reader, transformers.T5Config(vocab_size=len(reader), **T5, **special), seed)


def _blip_2(folder: Path, reader: Any, text: Any, seed: int) -> None:
    reader.chat_template = None
    number = reader.convert_tokens_to_ids("<image>")
    looks_at = {**_WRITES, "vocab_size": 10, "encoder_hidden_size": 24}
    config = transformers.Blip2Config(
        vision_config=dict(SIGHT),
        qformer_config={name: looks_at[name] for name in looks_at if name != "num_key_value_heads"},
        text_config=text.to_dict(),
        num_query_tokens=5,
        image_text_hidden_size=16,
        image_token_index=number,
        image_token_id=number,
    )
    looks = transformers.BlipImageProcessorPil(size={"height": 32, "width": 32})
    save(folder, lively(transformers.Blip2ForConditionalGeneration(config), seed, 2.0), reader, looks)


def idefics(folder: Path, *, seed: int = 0, resampled: bool = True) -> None:
    """A language model with layers between its own that look at pictures."""
    reader = tokenizer("bpe")
    words = len(reader)
    reader.add_special_tokens({"additional_special_tokens": ["<fake_token_around_image>", "<image>", _TURN]})
    reader.model_max_length = 256
    config = transformers.IdeficsConfig(
        vocab_size=words,
        additional_vocab_size=len(reader) - words,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=4,
        num_attention_heads=4,
        max_position_embeddings=256,
        cross_layer_interval=2,
        qk_layer_norms=resampled,
        alpha_initializer="ones",
        use_resampler=resampled,
        vision_config={
            "embed_dim": 24,
            "image_size": 32,
            "patch_size": 8,
            "intermediate_size": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
        },
        perceiver_config={
            "use_resampler": resampled,
            "resampler_n_latents": 5,
            "resampler_depth": 2,
            "resampler_n_heads": 2,
            "resampler_head_dim": 8,
            "qk_layer_norms_perceiver": True,
        },
        **_special(reader),
    )
    looks = transformers.IdeficsImageProcessorPil(image_size=32)
    save(folder, lively(transformers.IdeficsForVisionText2Text(config), seed, 2.0), reader, looks)


def qwen2_vl(folder: Path, *, seed: int = 0) -> None:
    """A language model that is told where each token of a picture is in height and width."""
    reader = tokenizer("bpe")
    marks = ["<|vision_start|>", "<|image_pad|>", "<|vision_end|>", "<|video_pad|>"]
    reader.add_special_tokens({"additional_special_tokens": marks})
    shown = _TEMPLATE.replace("<image>", "".join(marks[:3]))
    reader.chat_template, reader.model_max_length = shown, 256
    start, image, end, film = (reader.convert_tokens_to_ids(each) for each in marks)
    config = transformers.Qwen2VLConfig(
        text_config={
            **_WRITES,
            **_special(reader),
            "vocab_size": len(reader),
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 1, 1]},
        },
        vision_config={
            "depth": 2,
            "embed_dim": 32,
            "hidden_size": 32,
            "mlp_ratio": 2,
            "num_heads": 4,
            "patch_size": 4,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
        },
        image_token_id=image,
        video_token_id=film,
        vision_start_token_id=start,
        vision_end_token_id=end,
        tie_word_embeddings=False,
    )
    looks = transformers.Qwen2VLImageProcessorPil(
        patch_size=4, merge_size=2, temporal_patch_size=2, size={"shortest_edge": 256, "longest_edge": 2048}
    )
    save(folder, lively(transformers.Qwen2VLForConditionalGeneration(config), seed, 2.0), reader, looks)


def _places(model: Path, inputs: Sequence[Any], options: Mapping[str, Any]) -> list[Any]:
    """What Qwen2-VL says to each user's pictures and text; its own processor needs packages for films."""
    reader = transformers.AutoTokenizer.from_pretrained(model)
    looks = transformers.Qwen2VLImageProcessorPil.from_pretrained(model)
    loaded: Any = transformers.Qwen2VLForConditionalGeneration.from_pretrained(model).eval()
    settings = {name: value for name, value in options.items() if name != "return_full_text"}
    found = []
    for item in inputs:
        pictures = item.get("images") or [item["image"]]
        parts = [*({"type": "image"} for _ in pictures), {"type": "text", "text": item["text"]}]
        said = [{"role": "user", "content": parts}]
        text = reader.apply_chat_template(said, tokenize=False, add_generation_prompt=True)
        seen = looks(pictures, return_tensors="pt")
        before, *others = text.split("<|image_pad|>")
        for grid, after in zip(seen["image_grid_thw"], others, strict=True):
            before += "<|image_pad|>" * (int(grid.prod()) // 4) + after
        ids = reader(before, add_special_tokens=False, return_tensors="pt")["input_ids"]
        kinds = (ids == loaded.config.image_token_id).to(torch.int64)
        with torch.inference_mode():
            (made,) = loaded.generate(input_ids=ids, mm_token_type_ids=kinds, **seen, **settings)
        given = reader.decode(ids[0], skip_special_tokens=True)
        reply = reader.decode(made, skip_special_tokens=True)[len(given) :]
        found.append([{"input_text": item["text"], "generated_text": reply}])
    return [*found, *found]


def _looks_on(model: Path, inputs: Sequence[Any], options: Mapping[str, Any]) -> list[Any]:
    """What IDEFICS writes behind each text with pictures in it."""
    reader = transformers.AutoTokenizer.from_pretrained(model)
    looks = transformers.IdeficsImageProcessorPil.from_pretrained(model)
    loaded: Any = transformers.IdeficsForVisionText2Text.from_pretrained(model).eval()
    processor: Any = transformers.IdeficsProcessor(looks, reader)
    settings = {name: value for name, value in options.items() if name != "return_full_text"}
    found = []
    for item in inputs:
        given = processor(text=_prompt(item), add_end_of_utterance_token=False)
        with torch.inference_mode():
            (ids,) = loaded.generate(**given, **settings)
        before = reader.decode(given["input_ids"][0], skip_special_tokens=True)
        reply = reader.decode(ids, skip_special_tokens=True)[len(before) :]
        found.append([{"input_text": item["text"], "generated_text": reply}])
    return [*found, *found]


def _prompt(item: Mapping[str, Any]) -> list[Any]:
    """Texts and pictures in their order; where the text has no marks, the pictures come first."""
    pictures = item.get("images") or [item["image"]]
    texts = item["text"].split("<image>")
    if len(texts) == 1:
        return [*pictures, *texts]
    parts = [part for pair in zip(texts, [*pictures, ""], strict=True) for part in pair]
    return [part for part in parts if not isinstance(part, str) or part]


def _goes_on(model: Path, inputs: Sequence[Any], options: Mapping[str, Any]) -> list[Any]:
    """What BLIP-2 writes behind each picture and text."""
    reader = transformers.AutoTokenizer.from_pretrained(model)
    looks = transformers.AutoImageProcessor.from_pretrained(model, backend="pil")
    loaded: Any = transformers.Blip2ForConditionalGeneration.from_pretrained(model).eval()
    processor: Any = transformers.Blip2Processor(looks, reader, num_query_tokens=loaded.config.num_query_tokens)
    settings = {name: value for name, value in options.items() if name != "return_full_text"}
    found = []
    for item in inputs:
        given = processor(images=item["image"], text=item["text"], return_tensors="pt")
        with torch.inference_mode():
            (ids,) = loaded.generate(**given, **settings)
        before = reader.decode(given["input_ids"][0], skip_special_tokens=True)
        whole = reader.decode(
            torch.cat([given["input_ids"][0], ids[-settings["max_new_tokens"] :]]), skip_special_tokens=True
        )
        found.append([{"input_text": item["text"], "generated_text": whole[len(before) :]}])
    return [*found, *found]


def _tells(key: str, model: Path, inputs: Sequence[Any], options: Mapping[str, Any]) -> list[Any]:
    """What BLIP-2 with a T5 writes about each picture, or answers to each question."""
    reader = transformers.AutoTokenizer.from_pretrained(model)
    looks = transformers.AutoImageProcessor.from_pretrained(model, backend="pil")
    loaded: Any = transformers.Blip2ForConditionalGeneration.from_pretrained(model).eval()
    processor: Any = transformers.Blip2Processor(looks, reader, num_query_tokens=loaded.config.num_query_tokens)
    settings = {name: value for name, value in options.items() if name != "prompt"}
    found = []
    for item in inputs:
        picture, said = (item["image"], item["question"]) if key == "answer" else (item, options.get("prompt"))
        given = processor(images=picture, text=said, return_tensors="pt")
        with torch.inference_mode():
            (ids,) = loaded.generate(**given, **settings)
        found.append({key: reader.decode(ids, skip_special_tokens=True)})
    return [*([each] for each in found), *found]


def _answers(model: Path, inputs: Sequence[Any], options: Mapping[str, Any]) -> list[Any]:
    """What `generate` says to each picture and question."""
    reader = transformers.AutoTokenizer.from_pretrained(model)
    looks = transformers.AutoImageProcessor.from_pretrained(model, backend="pil")
    loaded: Any = transformers.AutoModelForImageTextToText.from_pretrained(model).eval()
    if loaded.config.model_type == "llava":
        processor: Any = transformers.LlavaProcessor.from_pretrained(model, image_processor=looks)
    else:  # SmolVLM's own needs packages for films; of a picture it makes the same
        side = loaded.config.vision_config
        tokens = (side.image_size // side.patch_size) ** 2 // loaded.config.scale_factor**2
        processor = transformers.Idefics3Processor(looks, reader, image_seq_len=tokens)
    settings = {name: value for name, value in options.items() if name != "return_full_text"}
    found = []
    for item in inputs:
        parts = [{"type": "image"}, {"type": "text", "text": item["text"]}]
        said = [{"role": "user", "content": parts}]
        text = reader.apply_chat_template(said, tokenize=False, add_generation_prompt=True)
        given = processor(images=[item["image"]], text=text, add_special_tokens=False, return_tensors="pt")
        with torch.inference_mode():
            (ids,) = loaded.generate(**given, **settings)
        before = reader.decode(given["input_ids"][0], skip_special_tokens=True)
        reply = reader.decode(ids, skip_special_tokens=True)[len(before) :]
        found.append([{"input_text": item["text"], "generated_text": reply}])
    return [*found, *found]


_ASKED = ("What is it?", "How many circles can you see here?")


def _row(name: str, build: Callable[..., None], oracle: Any = _answers) -> Row:
    inputs = tuple({"image": draw(6000 + i), "text": text} for i, text in enumerate(_ASKED))
    options = {"max_new_tokens": 12, "return_full_text": False}
    return Row(name, "image-text-to-text", build, inputs, options, oracle=oracle)


_PICTURES = tuple(draw(6000 + i) for i in range(3))

ROWS: tuple[Row, ...] = (
    _row("blip_2", blip_2, _goes_on),
    Row(
        "idefics",
        "image-text-to-text",
        idefics,
        (
            {"image": _PICTURES[0], "text": _ASKED[0]},
            {"images": list(_PICTURES[1:]), "text": "Where is <image> the <image>order? It has</s> not"},
        ),
        {"max_new_tokens": 12, "return_full_text": False},
        oracle=_looks_on,
    ),
    _row("idefics3", idefics3),
    _row("llava", llava),
    Row(
        "qwen2_vl",
        "image-text-to-text",
        qwen2_vl,
        (
            {"image": _PICTURES[0], "text": _ASKED[0]},
            {"images": list(_PICTURES[1:]), "text": _ASKED[1]},
        ),
        {"max_new_tokens": 12, "return_full_text": False},
        oracle=_places,
        absent={"tflite": "Each picture has a size of its own."},
    ),
    _row("smolvlm", smolvlm),
    Row(
        "blip_2, t5",
        "image-to-text",
        blip_2_t5,
        _PICTURES,
        {"max_new_tokens": 12},
        oracle=functools.partial(_tells, "generated_text"),
    ),
    Row(
        "blip_2, t5",
        "visual-question-answering",
        blip_2_t5,
        tuple({"image": draw(6000 + i), "question": text} for i, text in enumerate((*_ASKED, "No?"))),
        {"max_new_tokens": 12},
        oracle=functools.partial(_tells, "answer"),
    ),
)
