"""sentence-embedding: one vector per text, pooled and normalized as the model's sentence-transformers modules say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..errors import SupportError
from ..examples import Example
from ..manifest import Step, TaskEntry
from ..sessions import Session, Tensors
from .task import VECTOR, Answer, Input, ModelFacts, Row
from .text import TextTask, tokenize_step

__all__ = ["TASK"]

# sentence-transformers' Pooling: the switch in 1_Pooling/config.json -> our mode
_POOLING = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}


class SentenceEmbedding(TextTask):
    """`predict("text")` is a float32 array of shape [hidden], as `SentenceTransformer.encode` gives it."""

    name = "sentence-embedding"
    judged = {"embedding": VECTOR}
    auto_model = "AutoModel"
    architectures = ("Model",)
    outputs = ("last_hidden_state",)
    columns = {
        "text": ("text", "sentence1", "sentence", "text1", "premise", "anchor"),
        "text_pair": ("text_pair", "sentence2", "text2", "hypothesis", "positive"),
        "score": ("score", "similarity", "similarity_score", "label"),
    }
    optional = frozenset({"text_pair", "score"})
    target = "score"
    metrics = ("spearman",)

    @classmethod
    def fits(cls, facts: ModelFacts) -> bool:
        return any(module["type"].endswith("Pooling") for module in facts.modules)

    @classmethod
    def entry(cls, facts: ModelFacts) -> TaskEntry:
        max_length = None
        post: list[Step] = []
        for module in facts.modules:
            kind, config = module["type"].rpartition(".")[2], module["config"]
            if kind == "Transformer":
                max_length = config.get("max_seq_length")
            elif kind == "Pooling":
                modes = [mode for switch, mode in _POOLING.items() if config.get(switch)]
                post.append(Step("pool", {"modes": modes or [config.get("pooling_mode", "mean")]}))
            elif kind == "Normalize":
                post.append(Step("normalize", {}))
            else:
                raise SupportError(
                    "Cannot convert to sentence-embedding.",
                    why=f"the model has the sentence-transformers module {kind}, which satchel does not carry yet",
                    fix="convert with --task feature-extraction and apply the module yourself",
                )
        if not post:
            post = [Step("pool", {"modes": ["mean"]})]
        return TaskEntry(cls.name, (tokenize_step(facts, max_length=max_length),), tuple(post))

    def score(self, outputs: Tensors, row: Row) -> Tensors:
        vector = outputs["last_hidden_state"]
        for step in self.entry_.postprocess:
            if step.step == "pool":
                vector = _pool(vector.astype(np.float32, copy=False), step.options["modes"])
            elif step.step == "normalize":
                # The smallest norm as in torch.nn.functional.normalize.
                vector = vector / max(float(np.linalg.norm(vector)), 1e-12)
        return {"embedding": vector.astype(np.float32, copy=False)}

    def answer(self, item: Input, rows: Sequence[Row], scores: Sequence[Tensors], options: Mapping[str, Any]) -> Answer:
        return scores[0]["embedding"]

    @classmethod
    def example(cls, parts: Mapping[str, Any]) -> Example:
        """A pair of texts is a list of two."""
        made = super().example(parts)
        return Example(list(made.input.values()), made.target) if isinstance(made.input, dict) else made

    def reply(
        self, graphs: Mapping[str, Session], inputs: Sequence[Input], labels: Sequence[str] = (), batch_size: int = 0
    ) -> list[Any]:
        """The cosine of each pair."""
        texts = list(dict.fromkeys(text for pair in inputs for text in pair))
        found = self.run(graphs, texts, self.options, batch_size)
        vectors = {text: each / max(float(np.linalg.norm(each)), 1e-12) for text, each in zip(texts, found)}
        return [float(vectors[one] @ vectors[other]) for one, other in inputs]


def _pool(states: np.ndarray, modes: Sequence[str]) -> np.ndarray:
    """States [tokens, hidden] of one text to one vector; several modes stand side by side, in the library's order."""
    count = states.shape[0]
    pooled = []
    for mode in modes:
        if mode == "cls":
            pooled.append(states[0])
        elif mode == "max":
            pooled.append(states.max(axis=0))
        elif mode == "mean":
            pooled.append(states.sum(axis=0) / count)
        elif mode == "mean_sqrt_len":
            pooled.append(states.sum(axis=0) / np.sqrt(np.float32(count)))
        elif mode == "weightedmean":
            weights = np.arange(1, count + 1, dtype=np.float32)
            pooled.append((states * weights[:, None]).sum(axis=0) / weights.sum())
        elif mode == "lasttoken":
            pooled.append(states[-1])
        else:
            raise SupportError(
                f"Cannot pool by {mode!r}.", why="no such mode", fix=f"one of {', '.join(_POOLING.values())}"
            )
    return pooled[0] if len(pooled) == 1 else np.concatenate(pooled)


TASK = SentenceEmbedding
