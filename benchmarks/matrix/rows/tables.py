"""Models that read tables."""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import transformers

from ..row import Row, lively, save, tokenizer

__all__ = ["ROWS"]

_STARS = {
    "Repository": ["Transformers", "Datasets", "Tokenizers", "n/a"],
    "Stars": ["36,542", "4512", "3934", ""],
    "Since": ["March 2018", "2020", "December 24, 2019", "June 2021"],
}
_ORDERS = {"Where": ["Berlin", "the house under the tree"], "Price": ["12.50", "7"]}
_QUESTIONS = (
    {"table": _STARS, "query": "Which repository has more than 4000 stars?"},
    {"table": _ORDERS, "query": ["What is the sum of the prices?", "Where is the order from before 2021?"]},
    {"table": {"Word": [f"word {number} of the book" for number in range(40)]}, "query": "How many?"},  # too long
)


def _tapas(folder: Path, **own: Any) -> None:
    with tempfile.TemporaryDirectory() as plain:
        words = tokenizer("wordpiece").get_vocab()
        names = [*sorted(words, key=lambda word: words[word]), "[EMPTY]"]
        vocabulary = Path(plain) / "vocab.txt"
        vocabulary.write_text("".join(f"{name}\n" for name in names), "utf-8")
        reader = transformers.TapasTokenizer(str(vocabulary), model_max_length=128)
        config = transformers.TapasConfig(
            vocab_size=len(names),
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=4,
            intermediate_size=48,
            max_position_embeddings=128,
            **own,
        )
        save(
            folder,
            lively(transformers.TapasForQuestionAnswering(config), seed=own.get("num_aggregation_labels", 0)),
            reader,
        )


def _answers(model: Path, inputs: Sequence[Any], options: Mapping[str, Any]) -> list[Any]:
    ask: Any = transformers.pipeline("table-question-answering", model=str(model))
    return 2 * [ask(dict(each), **options) for each in inputs]


ROWS: tuple[Row, ...] = (
    Row("tapas", "table-question-answering", _tapas, _QUESTIONS, {"sequential": True}, oracle=_answers),
    Row(
        "tapas-aggregation",
        "table-question-answering",
        functools.partial(
            _tapas,
            num_aggregation_labels=4,
            aggregation_labels={0: "NONE", 1: "SUM", 2: "AVERAGE", 3: "COUNT"},
            no_aggregation_label_index=0,
        ),
        _QUESTIONS,
        oracle=_answers,
    ),
)
