"""What the models that write about pictures have of their own, whichever task they serve."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["is_donut", "own_settings", "writes_apart"]


def is_donut(config: Mapping[str, Any]) -> bool:
    return str((config.get("encoder") or {}).get("model_type")).startswith("donut")


def writes_apart(config: Mapping[str, Any]) -> bool:
    """Whether one part reads and another writes; a BLIP-2 with a language model has one for both."""
    return config.get("model_type") != "blip-2" or not config.get("use_decoder_only_language_model", True)


def own_settings(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """What a model's own `generate` sets."""
    kind, text = config.get("model_type"), config.get("text_config") or {}
    if kind == "git":
        return {"decoder_start_token_id": config["bos_token_id"]}
    if kind == "blip":
        first, last = text["bos_token_id"], text["sep_token_id"]
        return {"decoder_start_token_id": first, "eos_token_id": last, "pad_token_id": text["pad_token_id"]}
    if kind == "blip-2":  # it asks its T5 alone, which has settings of its own
        names = ("decoder_start_token_id", "bos_token_id", "eos_token_id", "pad_token_id")
        return {name: text[name] for name in names if text.get(name) is not None}
    return {}
