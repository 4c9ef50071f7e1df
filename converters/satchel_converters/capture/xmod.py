"""X-MOD with the adapters of its default language: which one a text goes through is a scatter that TFLite does not have, and
without `lang_ids`, which no pipeline gives, it is always that one.

https://github.com/huggingface/transformers/blob/main/src/transformers/models/xmod/modeling_xmod.py, `XmodOutput.lang_adapter`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from .rewrite import capture_rewritten

if TYPE_CHECKING:
    from ..component import Component
    from . import Loaded

__all__ = ["capture"]


def capture(loaded: Loaded) -> tuple[Component, ...]:
    config: Any = loaded.model.config

    def adapted(self: Any, lang_ids: torch.Tensor, hidden_states: torch.Tensor) -> torch.Tensor:
        norm = self.adapter_layer_norm
        if norm is None:
            norm = self.LayerNorm if self.adapter_reuse_layer_norm else torch.nn.Identity()
        normed = norm(hidden_states)
        kept = normed if self.ln_before_adapter else hidden_states
        result: torch.Tensor = self.adapter_modules[config.default_language](normed) + kept
        return result

    return capture_rewritten(loaded, {"XmodOutput.lang_adapter": adapted})
