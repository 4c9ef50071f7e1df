"""Models that read text."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import transformers

from ..row import Row, lively, named_labels, save, tokenizer

__all__ = ["ROWS"]

_TEXTS = (
    "Where is my order?",
    "A small model that answers quickly is often better than a large one that does not.",
    "No.",
)
_SMALL: Mapping[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 140,
}
_HEADS = {"text-classification": "AutoModelForSequenceClassification", "fill-mask": "AutoModelForMaskedLM"}


def _build(config: Callable[..., Any], kind: str, sizes: Mapping[str, Any], head: str, folder: Path) -> None:
    """A model of a config class with a tokenizer of its kind and a head for `LABELS`."""
    words = tokenizer(kind)
    made = config(vocab_size=len(words), pad_token_id=words.pad_token_id, **{**_SMALL, **sizes})
    named_labels(made)
    words.model_max_length = 128
    save(folder, lively(getattr(transformers, head).from_config(made)), words)


def _row(name: str, config: Callable[..., Any], kind: str = "wordpiece", *, fast: bool = False, **sizes: Any) -> Row:
    task = "text-classification"
    return Row(
        name, task, functools.partial(_build, config, kind, sizes, _HEADS[task]), _TEXTS, {"top_k": None}, fast=fast
    )


ROWS: tuple[Row, ...] = (
    _row("bert", transformers.BertConfig, fast=True),
    _row("roberta", transformers.RobertaConfig, "bpe"),
    _row("xlm-roberta", transformers.XLMRobertaConfig, "unigram"),
    _row("albert", transformers.AlbertConfig, "unigram", embedding_size=16),
    _row("electra", transformers.ElectraConfig, embedding_size=16),
    _row("distilbert", transformers.DistilBertConfig, dim=32, n_layers=2, n_heads=4, hidden_dim=48),
)
