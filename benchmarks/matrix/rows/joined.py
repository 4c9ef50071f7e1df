"""Models that see and read at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

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
    "max_position_embeddings": 40,
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
    words.model_max_length = 40
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


ROWS: tuple[Row, ...] = (Row("vilt", "visual-question-answering", _vilt, _ASKED, {"top_k": 4}, _answers, _ANY_SIZE),)
