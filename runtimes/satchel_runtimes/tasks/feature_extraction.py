"""feature-extraction: the last hidden states of every token, special tokens included, as the pipeline gives them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..manifest import TaskEntry
from ..sessions import Tensors
from .task import VECTOR, Answer, Input, ModelFacts, Row
from .text import TextTask, tokenize_step

__all__ = ["TASK"]


class FeatureExtraction(TextTask):
    """`predict("text")` is a float32 array of shape [1, tokens, hidden]; for a list, a list of such arrays."""

    name = "feature-extraction"
    judged = {"features": VECTOR}
    auto_model = "AutoModel"
    architectures = ("Model",)
    outputs = ("last_hidden_state",)

    @classmethod
    def fits(cls, facts: ModelFacts) -> bool:
        return "num_channels" not in facts.config  # a model that sees has features of pictures

    @classmethod
    def entry(cls, facts: ModelFacts) -> TaskEntry:
        return TaskEntry(cls.name, (tokenize_step(facts),), ())

    def score(self, outputs: Tensors, row: Row) -> Tensors:
        return {"features": outputs["last_hidden_state"]}

    def answer(self, item: Input, rows: Sequence[Row], scores: Sequence[Tensors], options: Mapping[str, Any]) -> Answer:
        features = scores[0]["features"]
        # A row of a batch is a view of it: a copy lets the rest of the batch go.
        return np.array(features[None], dtype=np.float32)


TASK = FeatureExtraction
