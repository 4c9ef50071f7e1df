"""XLM and FlauBERT with their own tokenizers: Moses finds the words, and pieces of words were merged."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from pathlib import Path
from typing import Any

import transformers

from ..row import CORPUS, LABELS, Row, lively, named_labels, save

__all__ = ["ROWS", "flaubert_tokenizer", "xlm_tokenizer"]

_SIZES = {"emb_dim": 32, "n_layers": 2, "n_heads": 4, "max_position_embeddings": 140}
_TEXTS = ("Mr. Lee won't come: it's 1,000 miles…", "L'été, p. 3 «aujourd'hui»!", "no")


def _files(folder: Path, *, lower: bool) -> list[str]:
    """vocab.json and merges.txt, learnt from a few lines."""
    words = [word for line in CORPUS for word in (line.lower() if lower else line).split()]
    found = [[*word[:-1], f"{word[-1]}</w>"] for word in words]
    merges: list[tuple[str, str]] = []
    for _ in range(120):
        counted = Counter(pair for word in found for pair in itertools.pairwise(word))
        best = max(sorted(counted), key=counted.__getitem__)
        merges.append(best)
        for word in found:
            place = 0
            while place < len(word) - 1:
                if (word[place], word[place + 1]) == best:
                    word[place : place + 2] = ["".join(best)]
                place += 1
    letters = sorted(set("".join(words)))
    special = ("<s>", "</s>", "<pad>", "<unk>", *(f"<special{number}>" for number in range(10)))
    names = dict.fromkeys(
        (*special, *letters, *(f"{each}</w>" for each in letters), *("".join(each) for each in merges))
    )
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps({name: number for number, name in enumerate(names)}), "utf-8")
    (folder / "merges.txt").write_text("\n".join(map(" ".join, merges)) + "\n", "utf-8")
    return [str(folder / name) for name in ("vocab.json", "merges.txt")]


def xlm_tokenizer(folder: Path, **settings: Any) -> Any:  # Any: of transformers, without types
    return transformers.XLMTokenizer(*_files(folder, lower=True), model_max_length=128, **settings)


def flaubert_tokenizer(folder: Path, **settings: Any) -> Any:  # Any: as above
    return transformers.FlaubertTokenizer(*_files(folder, lower=False), model_max_length=128, **settings)


def _xlm(folder: Path, *, seed: int = 0) -> None:
    reader = xlm_tokenizer(folder)
    config = transformers.XLMConfig(vocab_size=len(reader), mask_token_id=reader.mask_token_id, pad_index=2, **_SIZES)
    save(folder, lively(transformers.XLMWithLMHeadModel(config), seed), reader)


def _flaubert(folder: Path, *, seed: int = 0) -> None:
    reader = flaubert_tokenizer(folder)
    config = transformers.FlaubertConfig(vocab_size=len(reader), pad_index=2, num_labels=len(LABELS), **_SIZES)
    named_labels(config)
    save(folder, lively(transformers.FlaubertForSequenceClassification(config), seed), reader)


ROWS: tuple[Row, ...] = (
    Row("xlm, Moses", "fill-mask", _xlm, tuple(f"{text} <special1>" for text in _TEXTS)),
    Row("flaubert, Moses", "text-classification", _flaubert, _TEXTS, {"top_k": None}),
)
