"""Language models that write text."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers

from ..row import Row, lively, save, tokenizer

__all__ = ["CHAT_TEMPLATE", "DECODERS", "ROWS", "decoder"]

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if loop.index0 > 0 and message['role'] == 'system' %}{{ raise_exception('the system speaks first') }}{% endif %}"
    "<s>{{ message['role'] }}: {{ message['content'] | trim }}</s>"
    "{% endfor %}{% if tools %}<s>tools: {{ tools | tojson }}</s>{% endif %}"
    "{% if add_generation_prompt %}<s>assistant: {% endif %}"
)

_NEW: Mapping[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
}
_OLD: Mapping[str, Any] = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128, "n_inner": 48}
_WINDOW = {"sliding_window": 8}
_HEADS = {"head_dim": 8}

# model_type -> its config. Windows are shorter than the texts, so that what lies beyond them shows.
DECODERS: Mapping[str, Mapping[str, Any]] = {
    "bloom": {"hidden_size": 32, "n_layer": 2, "n_head": 4},
    "codegen": {**_OLD, "rotary_dim": 4},
    "falcon": {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "multi_query": True},
    "gemma": {**_NEW, **_HEADS},
    "gemma2": {**_NEW, **_HEADS, **_WINDOW, "query_pre_attn_scalar": 8},
    "gemma3_text": {**_NEW, **_HEADS, **_WINDOW, "query_pre_attn_scalar": 8},
    "gpt2": _OLD,
    "gpt_bigcode": {**_OLD, "multi_query": True},
    "gpt_neo": {
        "hidden_size": 32,
        "num_layers": 2,
        "num_heads": 4,
        "attention_types": [[["global", "local"], 1]],
        "window_size": 8,
        "max_position_embeddings": 128,
        "intermediate_size": 48,
    },
    "gpt_neox": _NEW,
    "gpt_oss": {**_NEW, **_HEADS, **_WINDOW, "num_local_experts": 4},
    "gptj": {**_OLD, "rotary_dim": 4},
    "granite": _NEW,
    "llama": {**_NEW, "tie_word_embeddings": True},
    "mistral": {**_NEW, **_WINDOW},
    "mixtral": {**_NEW, **_WINDOW, "num_local_experts": 4},
    "mpt": {"d_model": 32, "n_layers": 2, "n_heads": 4, "expansion_ratio": 2, "max_seq_len": 128},
    "olmo2": _NEW,
    "opt": {
        "hidden_size": 32,
        "ffn_dim": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": 128,
        "word_embed_proj_dim": 16,
    },
    "phi": _NEW,
    "phi3": _NEW,
    "qwen2": _NEW,
    "qwen3": {**_NEW, **_HEADS},
    "smollm3": _NEW,
    "stablelm": _NEW,
}


def decoder(model_type: str, folder: Path, *, seed: int = 0, **own: Any) -> None:
    """Write a small model of an architecture, with a tokenizer that has a chat template."""
    reader = tokenizer("bpe")
    reader.chat_template = CHAT_TEMPLATE
    special = {f"{name}_token_id": getattr(reader, f"{name}_token_id") for name in ("pad", "bos", "eos")}
    settings = {"vocab_size": len(reader), **special, **DECODERS[model_type], **own}
    config = transformers.AutoConfig.for_model(model_type, **settings)
    # Twice as lively as an encoder: what comes next must be clear now and then.
    save(folder, lively(transformers.AutoModelForCausalLM.from_config(config), seed, 2.0), reader)


def _goes_on(model: Path, inputs: Sequence[Any], options: Mapping[str, Any]) -> list[Any]:
    """What `generate` writes behind each text, as the pipeline gives it."""
    reader = transformers.AutoTokenizer.from_pretrained(model)
    writer: Any = transformers.AutoModelForCausalLM.from_pretrained(model).eval()
    alone = []
    for text in inputs:
        given = reader(text, return_tensors="pt")
        with torch.inference_mode():
            (found,) = writer.generate(**given, **options)
        new = reader.decode(found[given["input_ids"].shape[1] :], skip_special_tokens=True)
        alone.append([{"generated_text": text + new}])
    return [*alone, *alone]


_TEXTS = ("Where is the order", "The small model answers quickly and keeps", "A")

ROWS: tuple[Row, ...] = tuple(
    Row(
        model_type.removesuffix("_text"),
        "text-generation",
        functools.partial(decoder, model_type),
        _TEXTS,
        {"max_new_tokens": 12, "do_sample": False},
        oracle=_goes_on,
    )
    for model_type in DECODERS
)
