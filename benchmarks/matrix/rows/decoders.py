"""Models that were made to write text, with heads that read it: decoders alone, and encoders of encoder-decoders."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import transformers

from ..row import Row
from .text import text_row

__all__ = ["ROWS"]

_GROUPED: Mapping[str, Any] = {"num_key_value_heads": 2, "head_dim": 8}  # heads share keys and values
_GPT: Mapping[str, Any] = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 140}
_T5: Mapping[str, Any] = {"d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4}


def _classify(name: str, config: Callable[..., Any], **sizes: Any) -> Row:
    return text_row(name, config, "bpe", **sizes)


def _tag(name: str, config: Callable[..., Any], **sizes: Any) -> Row:
    return text_row(name, config, "bpe", "token-classification", **sizes)


def _embed(name: str, config: Callable[..., Any], **sizes: Any) -> Row:
    return text_row(name, config, "bpe", "feature-extraction", **sizes)


ROWS: tuple[Row, ...] = (
    _classify("gpt2", transformers.GPT2Config, fast=True, **_GPT),
    _classify(
        "gpt_bigcode",
        transformers.GPTBigCodeConfig,
        absent={"tflite": "The converter gets the one key that all heads share wrong."},
        **_GPT,
    ),
    _classify("gptj", transformers.GPTJConfig, rotary_dim=4, **_GPT),
    _classify("openai-gpt", transformers.OpenAIGPTConfig, **_GPT),
    _classify("ctrl", transformers.CTRLConfig, dff=48, **_GPT),
    _embed("codegen", transformers.CodeGenConfig, rotary_dim=4, **_GPT),
    _classify(
        "gpt_neo",
        transformers.GPTNeoConfig,
        num_layers=2,
        num_heads=4,
        attention_types=[[["global", "local"], 1]],
        window_size=16,
    ),
    _tag("gpt_neox", transformers.GPTNeoXConfig),
    _classify("opt", transformers.OPTConfig, ffn_dim=48, word_embed_proj_dim=32),
    _tag("bloom", transformers.BloomConfig, n_head=4, n_layer=2),
    _classify("falcon", transformers.FalconConfig),
    _classify("mpt", transformers.MptConfig, d_model=32, n_layers=2, n_heads=4, max_seq_len=140),
    _tag("biogpt", transformers.BioGptConfig),
    _classify("phi", transformers.PhiConfig),
    _tag("phi3", transformers.Phi3Config, num_key_value_heads=2),
    _classify("llama", transformers.LlamaConfig, **_GROUPED),
    _tag("mistral", transformers.MistralConfig, sliding_window=16, **_GROUPED),
    _classify("qwen2", transformers.Qwen2Config, **_GROUPED),
    _embed("qwen3", transformers.Qwen3Config, **_GROUPED),
    _classify("gemma", transformers.GemmaConfig, **_GROUPED),
    _tag("gemma2", transformers.Gemma2Config, **_GROUPED),
    _classify("gemma3_text", transformers.Gemma3TextConfig, **_GROUPED),
    _tag("stablelm", transformers.StableLmConfig, **_GROUPED),
    _tag("smollm3", transformers.SmolLM3Config, **_GROUPED),
    _classify("olmo2", transformers.Olmo2Config, **_GROUPED),
    _embed("granite", transformers.GraniteConfig, **_GROUPED),
    text_row("t5", transformers.T5Config, "unigram", "token-classification", **_T5),
    text_row("umt5", transformers.UMT5Config, "unigram", "token-classification", **_T5),
)
