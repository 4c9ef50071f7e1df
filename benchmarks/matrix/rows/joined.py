"""Models that see and read at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

from satchel_converters.pictures import draw

from ..row import Row, lively, named_labels, save, tokenizer

__all__ = ["ROWS"]

_SMALL: Mapping[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 64,
}
_ASKED = tuple(
    {"image": draw(number).convert("RGB"), "question": question}
    for number, question in (
        (3001, "Where is the house?"),
        (3006, "How many books are in the picture of the boat, and who reads them in the evening?"),
        (3004, "Cat?"),
    )
)
_ANY_SIZE = {"tflite": "A TFLite graph takes one size; this processor gives each picture its own."}


def _vilt(folder: Path) -> None:
    words = tokenizer("wordpiece", model_input_names=["input_ids", "token_type_ids", "attention_mask"])
    words.model_max_length = 64
    config = transformers.ViltConfig(
        vocab_size=len(words), image_size=96, patch_size=16, modality_type_vocab_size=2, **_SMALL
    )
    named_labels(config, ("yes", "no", "two", "red", "a boat", "the house"))
    steps = transformers.ViltImageProcessorPil(size={"shortest_edge": 96}, size_divisor=16)
    save(folder, lively(transformers.ViltForQuestionAnswering(config)), words, steps)


def _answers(model: Path, inputs: Sequence[Any], options: Mapping[str, Any]) -> list[Any]:
    """What the pipeline of transformers 4 computed, with the model and the processors themselves."""
    words = transformers.AutoTokenizer.from_pretrained(model)
    steps = transformers.AutoImageProcessor.from_pretrained(model, backend="pil")
    loaded = transformers.ViltForQuestionAnswering.from_pretrained(model).eval()
    found = []
    for each in inputs:
        given = {**words(each["question"], return_tensors="pt"), **steps(each["image"], return_tensors="pt")}
        with torch.no_grad():
            scores, places = loaded(**given).logits[0].sigmoid().topk(options["top_k"])
        names = loaded.config.id2label
        found.append(
            [{"score": score, "answer": names[i]} for score, i in zip(scores.tolist(), places.tolist(), strict=True)]
        )
    return [*found, *found]


_FEATURES = 24


def _lxmert(folder: Path) -> None:
    words = tokenizer("wordpiece", model_input_names=["input_ids", "token_type_ids", "attention_mask"])
    words.model_max_length = 64
    sizes = {name: size for name, size in _SMALL.items() if name != "num_hidden_layers"}
    config = transformers.LxmertConfig(
        vocab_size=len(words), l_layers=2, x_layers=2, r_layers=2, visual_feat_dim=_FEATURES, num_qa_labels=6, **sizes
    )
    named_labels(config)
    save(folder, lively(transformers.LxmertForQuestionAnswering(config)), words)


def _visual_bert(folder: Path) -> None:
    words = tokenizer("wordpiece", model_input_names=["input_ids", "token_type_ids", "attention_mask"])
    words.model_max_length = 64
    config = transformers.VisualBertConfig(vocab_size=len(words), visual_embedding_dim=_FEATURES, **_SMALL)
    named_labels(config)
    save(folder, lively(transformers.VisualBertForQuestionAnswering(config)), words)


def _regions(*, boxes: bool) -> tuple[Any, ...]:
    numbers = np.random.default_rng(0)
    asked = []
    for count, each in zip((36, 3, 17), _ASKED, strict=True):
        corners = np.sort(numbers.random((count, 2, 2)), axis=1).reshape(count, 4).astype(np.float32)
        features = numbers.standard_normal((count, _FEATURES)).astype(np.float32)
        asked.append({"question": each["question"], "features": features, **({"boxes": corners} if boxes else {})})
    return tuple(asked)


def _by_regions(model: Path, inputs: Sequence[Any], options: Mapping[str, Any]) -> list[Any]:
    """The model itself on as many regions as there are, and the softmax with which it was trained."""
    words = transformers.AutoTokenizer.from_pretrained(model)
    config = transformers.AutoConfig.from_pretrained(model)
    loaded = getattr(transformers, config.architectures[0]).from_pretrained(model).eval()
    found = []
    for each in inputs:
        seen = {name: torch.from_numpy(each[name])[None] for name in ("features", "boxes") if name in each}
        if "boxes" in seen:
            seen = {"visual_feats": seen["features"], "visual_pos": seen["boxes"]}
        else:
            ones = torch.ones(seen["features"].shape[:2], dtype=torch.long)
            seen = {"visual_embeds": seen["features"], "visual_attention_mask": ones}
        with torch.no_grad():
            outputs = loaded(**words(each["question"], return_tensors="pt"), **seen)
        logits = outputs.question_answering_score if "visual_feats" in seen else outputs.logits
        scores, places = logits[0].softmax(-1).topk(options["top_k"])
        found.append(
            [
                {"score": score, "answer": config.id2label[i]}
                for score, i in zip(scores.tolist(), places.tolist(), strict=True)
            ]
        )
    return [*found, *found]


ROWS: tuple[Row, ...] = (
    Row("lxmert", "region-question-answering", _lxmert, _regions(boxes=True), {"top_k": 4}, _by_regions),
    Row("visual_bert", "region-question-answering", _visual_bert, _regions(boxes=False), {"top_k": 4}, _by_regions),
    Row("vilt", "visual-question-answering", _vilt, _ASKED, {"top_k": 4}, _answers, _ANY_SIZE),
)
