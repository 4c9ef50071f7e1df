"""A classifier of Reuters R8 that was trained here, for tests of data and accuracy: an encoder with a logistic regression."""

from __future__ import annotations

import json
import runpy
import shutil
from pathlib import Path

import numpy as np

__all__ = ["WORDS", "newsroom", "reuters", "rows_of", "write_rows"]

_ROOT = Path(__file__).resolve().parents[1]
WORDS = 60  # of each text: half of the time and nearly all that decides


def reuters() -> Path:
    """The folder of Reuters R8, the official split; fetched where it is not there yet."""
    import sys

    sys.path.insert(0, str(_ROOT / "examples"))  # it imports its neighbour
    try:
        found: Path = runpy.run_path(str(_ROOT / "examples" / "real_data.py"))["reuters"]()
    finally:
        sys.path.remove(str(_ROOT / "examples"))
    return found


def rows_of(split: str, count: int) -> list[dict[str, str]]:
    """Different texts, drawn with a fixed seed."""
    lines = (reuters() / f"{split}.jsonl").read_text("utf-8").splitlines()
    rows = {row["text"]: row for row in (_short(json.loads(line)) for line in lines)}
    texts = sorted(rows)
    return [rows[texts[i]] for i in np.random.default_rng(1).permutation(len(texts))[:count]]


def _short(row: dict[str, str]) -> dict[str, str]:
    return {"text": " ".join(row["text"].split()[:WORDS]), "label": row["label"]}


def write_rows(file: Path, rows: list[dict[str, str]]) -> Path:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return file


def newsroom(encoder: Path, out: Path, count: int = 500) -> Path:
    """A folder for AutoModelForSequenceClassification: the encoder with a head trained on rows of the training split."""
    import torch
    from sklearn.linear_model import LogisticRegression
    from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification

    rows = rows_of("train", count)
    labels = sorted({row["label"] for row in rows})
    names = dict(enumerate(labels))
    config = BertConfig.from_pretrained(encoder, id2label=names, label2id={name: i for i, name in names.items()})
    model = BertForSequenceClassification.from_pretrained(encoder, config=config).eval()
    tokenizer = AutoTokenizer.from_pretrained(encoder)
    features = []
    if config.num_hidden_layers == 1:
        # A cut-down encoder has nothing to say at [CLS]: let it look at all words alike, and hand on what it saw.
        layer = model.bert.encoder.layer[0]
        torch.nn.init.zeros_(layer.attention.self.query.weight)
        torch.nn.init.zeros_(layer.attention.self.query.bias)
        torch.nn.init.eye_(model.bert.pooler.dense.weight)
        torch.nn.init.zeros_(model.bert.pooler.dense.bias)
    with torch.inference_mode():
        for start in range(0, count, 50):
            texts = [row["text"] for row in rows[start : start + 50]]
            encoded = tokenizer(texts, padding=True, truncation=True, max_length=256, return_tensors="pt")
            features.append(model.bert(**encoded).pooler_output.numpy())
        seen = np.concatenate(features)
        mean, spread = seen.mean(axis=0), seen.std(axis=0)
        fitted = LogisticRegression(max_iter=3000).fit((seen - mean) / spread, [row["label"] for row in rows])
        weight = fitted.coef_ / spread
        model.classifier.weight.copy_(torch.from_numpy(weight))
        model.classifier.bias.copy_(torch.from_numpy(fitted.intercept_ - weight @ mean))
    model.save_pretrained(out)
    for file in encoder.iterdir():
        if file.name.startswith(("tokenizer", "vocab", "special")):
            shutil.copy(file, out / file.name)
    return out
