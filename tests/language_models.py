"""Small language models, and what transformers writes with them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers
from benchmarks.matrix.rows.generators import decoder

__all__ = ["WORDS", "Checkpoint"]

WORDS = "A small model that answers quickly is often better than a large one that does not. "


class Checkpoint:
    """A Hub folder of one."""

    def __init__(self, model_type: str, folder: Path, **own: Any) -> None:
        torch.manual_seed(0)
        decoder(model_type, folder, **own)
        self.folder = folder
        self.model: Any = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
        self.reader: Any = transformers.AutoTokenizer.from_pretrained(folder)

    def expected(self, text: str, **options: Any) -> str:
        given = self.reader(text, return_tensors="pt")
        with torch.inference_mode():
            (ids,) = self.model.generate(**given, **options)
        before = len(self.reader.decode(given["input_ids"][0], skip_special_tokens=True))
        return text + str(self.reader.decode(ids, skip_special_tokens=True))[before:]

    def text_of(self, tokens: int) -> str:
        return str(self.reader.decode(self.reader(WORDS * 8)["input_ids"][:tokens]))
