"""What tasks over two towers share: labels that are chosen when it is asked, by how near their text lies to what was given.

Vectors are compared as CLIP does (Radford et al., 2021, https://arxiv.org/abs/2103.00020), or SigLIP (Zhai et al., 2023,
https://arxiv.org/abs/2303.15343).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..errors import UsageError
from ..manifest import Step, TaskEntry
from ..sessions import Session, Tensors
from .task import (
    DISTRIBUTION,
    INDEPENDENT,
    VECTOR,
    Answer,
    Files,
    Input,
    ModelFacts,
    Row,
    sigmoid,
    softmax,
)
from .text import TextTask
from .zero_shot_classification import chosen_labels, hypotheses

__all__ = ["IMAGES", "TEXTS", "LabelTowers", "similarity_steps"]

IMAGES, TEXTS = "image_encoder", "text_encoder"  # the graphs; of sounds, "audio_encoder"


def similarity_steps(facts: ModelFacts, scale: str = "logit_scale") -> tuple[Step, Step]:
    """How the two vectors become scores, by the model's own scalars."""
    factor = float(np.exp(facts.scalars.get(scale, 0.0)))
    if "temperature" in facts.scalars:  # ALIGN
        factor = 1 / facts.scalars["temperature"]
    values = {"scale": factor, "bias": facts.scalars.get("logit_bias", 0.0)}
    function = "sigmoid" if "siglip" in str(facts.config.get("model_type", "")) else "softmax"
    return Step("similarity", values), Step(function)


class LabelTowers(TextTask):
    """The first row of an input is what it is, in one tower; all others are texts, in the other."""

    joint = ("scores",)
    outputs = ("image_embeds", "text_embeds")

    def __init__(self, entry: TaskEntry, files: Files) -> None:
        TextTask.__init__(self, entry, files)
        by_name = {step.step: step.options for step in entry.postprocess}
        similarity = by_name.get("similarity", {"scale": 1.0, "bias": 0.0})
        self._factor, self._bias = np.float32(similarity["scale"]), np.float32(similarity["bias"])
        self._function = sigmoid if "sigmoid" in by_name else softmax
        self._fill: tuple[int, int] = entry.option("fill", "length", 0), entry.option("fill", "id", 0)
        vectors = {name: VECTOR for name in self.outputs}
        self.judged = {**vectors, "scores": INDEPENDENT if "sigmoid" in by_name else DISTRIBUTION}

    def texts(self, item: Input, options: Mapping[str, Any]) -> Sequence[str]:
        return hypotheses(options)

    def text_row(self, text: str) -> Row:
        row = self.row(self.encoding(text))
        length, pad = self._fill
        missing = length - row.length
        ids, types = row.tensors["input_ids"], row.tensors["token_type_ids"]
        if missing > 0:
            ids, types = np.pad(ids, (0, missing), constant_values=pad), np.pad(types, (0, missing))
        mask = np.ones_like(ids)
        mask[row.length :] = 0
        return Row({"input_ids": ids, "attention_mask": mask, "token_type_ids": types}, len(ids), component=TEXTS)

    def score(self, outputs: Tensors, row: Row) -> Tensors:
        ((name, vector),) = outputs.items()
        return {name: vector / np.linalg.norm(vector)}

    def join(self, rows: Sequence[Row], scores: Sequence[Tensors]) -> Tensors:
        (given,), *texts = (list(each.values()) for each in scores)
        similar: np.ndarray = np.concatenate(texts) @ given
        return {"scores": self._function(similar * self._factor + self._bias)}

    def answer(self, item: Input, rows: Sequence[Row], scores: Sequence[Tensors], options: Mapping[str, Any]) -> Answer:
        values, labels = self.join(rows, scores)["scores"], chosen_labels(options)
        return [{"score": float(values[i]), "label": labels[i]} for i in np.argsort(-values, kind="stable")]

    def reply(
        self, graphs: Mapping[str, Session], inputs: Sequence[Input], labels: Sequence[str] = (), batch_size: int = 0
    ) -> list[Any]:
        """Which of the data's labels belongs to each input, the likeliest first."""
        if not labels:
            raise UsageError("Cannot choose a label.", why="the data names none", fix="give rows with labels")
        found = self.run(graphs, inputs, self.check_options({"candidate_labels": list(labels)}), batch_size)
        return [[each["label"] for each in ranked[:5]] for ranked in found]
