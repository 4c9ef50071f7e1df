"""Models that read pages: words, where they stand and, of some, the picture."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import save_file

from satchel_converters.pictures import draw

from ..row import Row, lively, save, tokenizer

__all__ = ["ROWS"]

_SMALL: Mapping[str, Any] = {
    "hidden_size": 36,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 140,
}
_SQUARE = {"height": 64, "width": 64}


def _page(text: str) -> list[tuple[str, list[int]]]:
    return [
        (word, [place % 5 * 150 + 10, place // 5 * 60 + 5, place % 5 * 150 + 10 + 11 * len(word), place // 5 * 60 + 45])
        for place, word in enumerate(text.split())
    ]


_PAGES = tuple(
    {"question": question, "word_boxes": _page(text), "image": draw(number).convert("RGB")}
    for question, text, number in (
        ("Where is my order?", "The order was placed on Monday and it has not arrived yet", 3001),
        ("How many?", "Prices rose by 12 percent", 3006),
        (
            "What answers quickly?",
            "The small model answers quickly and keeps its words on the phone of the house",
            3004,
        ),
    )
)
_TEXT_ONLY = tuple({name: value for name, value in page.items() if name != "image"} for page in _PAGES)


def _layoutlm(folder: Path) -> None:
    words = tokenizer("wordpiece", model_input_names=["input_ids", "token_type_ids", "attention_mask"])
    words.model_max_length = 128
    config = transformers.LayoutLMConfig(
        vocab_size=len(words), pad_token_id=words.pad_token_id, max_2d_position_embeddings=1024, **_SMALL
    )
    save(folder, lively(transformers.LayoutLMForQuestionAnswering(config)), words)


def _layoutlmv3(folder: Path) -> None:
    with tempfile.TemporaryDirectory() as plain:
        tokenizer("bpe").save_pretrained(plain)
        words = transformers.LayoutLMv3TokenizerFast.from_pretrained(plain, model_max_length=128)
    config = transformers.LayoutLMv3Config(
        vocab_size=len(words),
        pad_token_id=words.pad_token_id,
        max_2d_position_embeddings=1024,
        coordinate_size=6,
        shape_size=6,
        input_size=64,
        patch_size=16,
        **_SMALL,
    )
    steps = transformers.LayoutLMv3ImageProcessorPil(size=_SQUARE, apply_ocr=False)
    save(folder, lively(transformers.LayoutLMv3ForQuestionAnswering(config)), words, steps)


def _layoutlmv2(folder: Path) -> None:
    """All but a model that could be built: its class does not exist without detectron2."""
    with tempfile.TemporaryDirectory() as plain:
        tokenizer("wordpiece").save_pretrained(plain)
        transformers.LayoutLMv2TokenizerFast.from_pretrained(plain, model_max_length=128).save_pretrained(folder)
    config = transformers.LayoutLMv2Config(architectures=["LayoutLMv2ForQuestionAnswering"], **_SMALL)
    config.save_pretrained(folder)
    transformers.LayoutLMv2ImageProcessorPil(size=_SQUARE, apply_ocr=False).save_pretrained(folder)
    save_file({"nothing": torch.zeros(1)}, folder / "model.safetensors", metadata={"format": "pt"})


def _seeing(model: Path, inputs: Sequence[Any], options: Mapping[str, Any]) -> list[Any]:
    """The pipeline's steps with the picture under the name by which the model takes it; the pipeline's own name for it is
    `image`, which the model lets pass unseen."""
    ask: Any = transformers.pipeline(
        "document-question-answering",
        model=str(model),
        image_processor=transformers.AutoImageProcessor.from_pretrained(model, backend="pil"),
    )
    found = []
    for each in inputs:
        made = []
        for window in ask.preprocess(each):
            window["pixel_values"] = window.pop("image")
            with torch.no_grad():
                outputs = ask._forward(window)
            length = window["input_ids"].shape[1]
            made.append({**outputs, **{name: outputs[name][:, :length] for name in ("start_logits", "end_logits")}})
        found.append(ask.postprocess(made, **options))
    return [*found, *found]


def _row(name: str, build: Callable[[Path], None], pages: tuple[Any, ...], oracle: Any = None) -> Row:
    return Row(name, "document-question-answering", build, pages, {"top_k": 3}, oracle=oracle)


def _whole(model: Path, inputs: Sequence[Any], options: Mapping[str, Any]) -> list[Any]:
    ask = transformers.pipeline("document-question-answering", model=str(model))
    found = [ask(dict(each), **options) for each in inputs]
    return [*found, *ask([dict(each) for each in inputs], **options)]


ROWS: tuple[Row, ...] = (
    _row("layoutlm", _layoutlm, _TEXT_ONLY, _whole),
    _row("layoutlmv3", _layoutlmv3, _PAGES, _seeing),
    Row(
        "layoutlmv2",
        "document-question-answering",
        _layoutlmv2,
        _PAGES,
        absent=dict.fromkeys(
            ("onnx", "torchscript", "tflite"), "Its picture backbone is detectron2's, which is optional and not here."
        ),
    ),
)
