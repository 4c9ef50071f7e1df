"""sentence-similarity: how near each of some sentences is to one, by the cosine of their embeddings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..errors import UsageError
from ..sessions import Session, Tensors
from .sentence_embedding import SentenceEmbedding
from .task import Answer, Input, ModelFacts, Row, Task
from .text import wrong_type

__all__ = ["TASK"]


class SentenceSimilarity(SentenceEmbedding):
    """`predict({"source_sentence": "…", "sentences": ["…", "…"]})` is a list of cosines, in the order of the sentences."""

    name = "sentence-similarity"
    text_kind = "{'source_sentence', 'sentences'}"

    @classmethod
    def fits(cls, facts: ModelFacts) -> bool:
        return False  # who asks for it says so: a bundle that embeds sentences has all that it needs already

    @classmethod
    def sample(cls, text: str, index: int, facts: ModelFacts) -> tuple[Input, dict[str, Any]]:
        return {"source_sentence": text, "sentences": ["Where is the parcel?", "It rains."]}, {}

    def encode(self, item: Input, options: Mapping[str, Any]) -> list[Row]:
        if not isinstance(item, Mapping) or set(item) != {"source_sentence", "sentences"}:
            raise wrong_type(self, item)
        source, sentences = item["source_sentence"], item["sentences"]
        if not isinstance(sentences, (list, tuple)) or not sentences:
            raise UsageError(
                f"Cannot compare with {str(sentences)[:60]}.",
                why="sentences are a list of strings, at least one",
                fix='pass {"source_sentence": "…", "sentences": ["…", "…"]}',
            )
        for text in (source, *sentences):
            if not isinstance(text, str):
                raise wrong_type(self, text)
        return [self.row(self.encoding(text)) for text in (source, *sentences)]

    def answer(self, item: Input, rows: Sequence[Row], scores: Sequence[Tensors], options: Mapping[str, Any]) -> Answer:
        vectors = np.stack([each["embedding"] for each in scores])
        # The smallest norm as in torch.nn.functional.normalize.
        vectors = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
        cosines: list[float] = (vectors[1:] @ vectors[0]).tolist()
        return cosines

    def reply(
        self, graphs: Mapping[str, Session], inputs: Sequence[Input], labels: Sequence[str] = (), batch_size: int = 0
    ) -> list[Any]:
        """The cosine of each pair of texts."""
        pairs = [{"source_sentence": one, "sentences": [other]} for one, other in inputs]
        return [found[0] for found in Task.reply(self, graphs, pairs, labels, batch_size)]


TASK = SentenceSimilarity
