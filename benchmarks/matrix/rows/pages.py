"""Models that see pages and write about them."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from PIL import Image, ImageFont

from satchel_converters.pictures import draw

from ..row import Row, lively, save, tokenizer
from .writers import donut

__all__ = ["ROWS", "donut_answers", "pix2struct"]

_PAGE: Mapping[str, Any] = {"hidden_size": 32, "d_ff": 48, "d_kv": 8}


def pix2struct(folder: Path, *, seed: int = 0, asked: bool = False) -> None:
    """A reader of patches; one that is asked finds the question above its picture, in the font that Pillow brings."""
    reader = tokenizer("unigram")
    special = {f"{name}_token_id": getattr(reader, f"{name}_token_id") for name in ("pad", "bos", "eos")}
    config = transformers.Pix2StructConfig(
        text_config={
            **_PAGE,
            **special,
            "vocab_size": len(reader),
            "num_layers": 2,
            "num_heads": 4,
            "decoder_start_token_id": reader.pad_token_id,
        },
        vision_config={
            **_PAGE,
            "patch_embed_hidden_size": 192,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "seq_len": 64,
        },
        is_vqa=asked,
    )
    looks = transformers.Pix2StructImageProcessorPil(max_patches=60, patch_size={"height": 8, "width": 8}, is_vqa=asked)
    # Its scores are not scaled: livelier weights lose more to float32 than 1e-4 leaves room for.
    save(folder, lively(transformers.Pix2StructForConditionalGeneration(config), seed, 1.2), reader, looks)
    if asked:
        font: Any = ImageFont.load_default(36)
        (folder / "font.ttf").write_bytes(font.path.getvalue())


def _reads(model: Path, inputs: Sequence[Any], options: Mapping[str, Any]) -> list[Any]:
    """What `generate` writes about each picture, or answers to each question."""
    reader = transformers.AutoTokenizer.from_pretrained(model)
    looks: Any = transformers.Pix2StructImageProcessorPil.from_pretrained(model)
    loaded: Any = transformers.Pix2StructForConditionalGeneration.from_pretrained(model).eval()
    key, found = "answer" if looks.is_vqa else "generated_text", []
    for item in inputs:
        picture = item["image"] if looks.is_vqa else item
        if looks.is_vqa:
            whole = np.asarray(picture.convert("RGB")).transpose(2, 0, 1)
            drawn = looks.render_header(whole, item["question"], font_path=str(model / "font.ttf"))
            picture = Image.fromarray(drawn.transpose(1, 2, 0))
        with torch.inference_mode():
            (ids,) = loaded.generate(**looks(picture, is_vqa=False, return_tensors="pt"), **options)
        found.append({key: reader.decode(ids, skip_special_tokens=True)})
    return [*([each] for each in found), *found]


def donut_answers(folder: Path, *, seed: int = 0) -> None:
    """A Donut that was trained to answer, and that says where its answer ends."""
    marks = ("<s_docvqa>", "<s_question>", "</s_question>", "<s_answer>", "</s_answer>")
    donut(folder, seed=seed, marks=marks, often=marks[-1])


def _asks(model: Path, inputs: Sequence[Any], options: Mapping[str, Any]) -> list[Any]:
    """What the pipeline answers, which takes no settings of `generate`: they are the model's own."""
    looks = transformers.DonutImageProcessorPil.from_pretrained(model)
    ask: Any = transformers.pipeline("document-question-answering", model=str(model), image_processor=looks)
    for name, value in options.items():
        setattr(ask.model.generation_config, name, value)
    return [*(ask(**each) for each in inputs), *ask(list(inputs))]


_ASKED = ("Where is my order?", "How many circles can you see on this page?", "No?")
_OPTIONS = {"max_new_tokens": 12}
_PICTURES = tuple(draw(6000 + i).convert("RGB") for i in range(3))
_QUESTIONS = tuple({"image": picture, "question": text} for picture, text in zip(_PICTURES, _ASKED, strict=True))

ROWS: tuple[Row, ...] = (
    Row("pix2struct", "image-to-text", pix2struct, _PICTURES, _OPTIONS, oracle=_reads),
    Row(
        "pix2struct",
        "visual-question-answering",
        functools.partial(pix2struct, asked=True),
        _QUESTIONS,
        _OPTIONS,
        oracle=_reads,
    ),
    Row("donut", "document-question-answering", donut_answers, _QUESTIONS, _OPTIONS, oracle=_asks),
)
