"""Models that read a text with one part and write one with another."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import transformers

from ..row import lively, save, tokenizer

__all__ = ["WRITERS", "writer"]

_BART: Mapping[str, Any] = {
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48,
    "max_position_embeddings": 140,
}
_T5: Mapping[str, Any] = {
    "d_model": 32,
    "d_kv": 8,
    "d_ff": 48,
    "num_layers": 2,
    "num_decoder_layers": 2,
    "num_heads": 4,
}

# model_type -> its config.
WRITERS: Mapping[str, Mapping[str, Any]] = {
    "bart": _BART,
    "bigbird_pegasus": {**_BART, "attention_type": "original_full"},
    "blenderbot": _BART,
    "blenderbot-small": _BART,
    "longt5": {**_T5, "local_radius": 7},
    "m2m_100": _BART,
    "marian": _BART,
    "mbart": _BART,
    "mt5": _T5,
    "pegasus": _BART,
    "t5": _T5,
}


def writer(model_type: str, folder: Path, *, seed: int = 0, **own: Any) -> None:
    """Write a small model of an architecture."""
    reader = tokenizer("unigram")
    special = {f"{name}_token_id": getattr(reader, f"{name}_token_id") for name in ("pad", "bos", "eos")}
    settings = {"vocab_size": len(reader), "decoder_start_token_id": reader.eos_token_id, **special}
    settings.update({"forced_eos_token_id": None, **WRITERS[model_type], **own})
    config = transformers.AutoConfig.for_model(model_type, **settings)
    model = transformers.AutoModelForSeq2SeqLM.from_config(config)
    # Twice as lively as an encoder: what comes next must be clear now and then.
    save(folder, lively(model, seed, 2.0), reader)
