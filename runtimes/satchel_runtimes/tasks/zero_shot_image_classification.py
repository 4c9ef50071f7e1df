"""zero-shot-image-classification: labels that are chosen when it is asked, by how near their text lies to the picture.

Two graphs, one for pictures and one for texts, whose vectors are compared as CLIP does (Radford et al., 2021,
https://arxiv.org/abs/2103.00020), or SigLIP (Zhai et al., 2023, https://arxiv.org/abs/2303.15343).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Optional

import numpy as np

from ..errors import UsageError
from ..manifest import Step, TaskEntry
from ..sessions import Session, Tensors
from .image import ImageTask, image_steps
from .task import (
    DISTRIBUTION,
    INDEPENDENT,
    LABEL_COLUMNS,
    VECTOR,
    Answer,
    Files,
    Input,
    ModelFacts,
    Row,
    sigmoid,
    softmax,
)
from .text import TextTask, tokenize_step
from .zero_shot_classification import chosen_labels, hypotheses

__all__ = ["IMAGES", "TASK", "TEXTS", "ZeroShotImageClassification"]

IMAGES, TEXTS = "image_encoder", "text_encoder"  # the graphs
_SIGLIP_TOKENS = 64  # the pipeline fills every text of a SigLIP up to that many, whatever its tokenizer says

_SAMPLE_LABELS = ("a cat", "two dogs in the snow", "the sea at night", "a chart", "some red shapes", "a house", "noise")


class ZeroShotImageClassification(ImageTask, TextTask):
    """`predict("picture.jpg", candidate_labels=["a cat", "a dog"])` is `[{"score", "label"}, …]`, best first.

    Options as in the pipeline: `candidate_labels`, a list or a string with commas; `hypothesis_template`, a sentence with {}
    for the label. Scores of a CLIP add to 1; those of a SigLIP are each label's own.
    """

    name = "zero-shot-image-classification"
    judged = {"image_embeds": VECTOR, "text_embeds": VECTOR, "scores": DISTRIBUTION}
    joint = ("scores",)
    other_steps = ("tokenize", "characters", "fill")
    options = {"candidate_labels": None, "hypothesis_template": "This is a photo of {}."}
    auto_model = "AutoModelForZeroShotImageClassification"
    architectures: ClassVar[tuple[str, ...]] = ("CLIPModel", "SiglipModel", "ChineseCLIPModel", "GroupViTModel")
    outputs = ("image_embeds", "text_embeds")
    processors = ("image_processor", "tokenizer")
    columns = {
        "image": ("image", "file", "path", "picture", "image_path", "file_name"),
        "label": LABEL_COLUMNS,
    }
    optional = frozenset({"label"})
    target: ClassVar[Optional[str]] = "label"
    metrics: ClassVar[tuple[str, ...]] = ("accuracy", "f1_micro", "f1_macro", "top_5")

    def __init__(self, entry: TaskEntry, files: Files) -> None:
        self._open_processors(entry, files)
        by_name = {step.step: step.options for step in entry.postprocess}
        self._scale, self._bias = by_name["similarity"]["scale"], by_name["similarity"]["bias"]
        self._function = sigmoid if "sigmoid" in by_name else softmax
        self.judged = {**self.judged, "scores": INDEPENDENT if "sigmoid" in by_name else DISTRIBUTION}

    def _open_processors(self, entry: TaskEntry, files: Files) -> None:
        ImageTask.__init__(self, entry, files)
        TextTask.__init__(self, entry, files)
        self._fill: tuple[int, int] = entry.option("fill", "length", 0), entry.option("fill", "id", 0)

    @classmethod
    def head(cls, config: Mapping[str, Any]) -> tuple[str, tuple[str, ...]]:
        listed = config.get("model_type") != "groupvit"  # which transformers' list for the task lacks
        return (cls.auto_model if listed else "architecture"), cls.outputs

    @classmethod
    def entry(cls, facts: ModelFacts) -> TaskEntry:
        siglip = "siglip" in str(facts.config.get("model_type", ""))
        steps = (*image_steps(facts.image_processor), *cls.text_steps(facts))
        similarity = {
            "scale": float(np.exp(facts.scalars.get("logit_scale", 0.0))),
            "bias": facts.scalars.get("logit_bias", 0.0),
        }
        function = "sigmoid" if siglip else "softmax"
        return TaskEntry(cls.name, steps, (Step("similarity", similarity), Step(function)))

    @classmethod
    def text_steps(cls, facts: ModelFacts) -> tuple[Step, ...]:
        if "siglip" not in str(facts.config.get("model_type", "")):
            return (tokenize_step(facts),)
        fill = Step("fill", {"length": _SIGLIP_TOKENS, "id": facts.pad_id})
        return tokenize_step(facts, max_length=_SIGLIP_TOKENS), fill

    @classmethod
    def sample(cls, text: str, index: int, facts: ModelFacts) -> tuple[Input, dict[str, Any]]:
        labels = [_SAMPLE_LABELS[(index + step) % len(_SAMPLE_LABELS)] for step in (0, 1, 3)]
        return {"file": text}, {"candidate_labels": labels}

    def encode(self, item: Input, options: Mapping[str, Any]) -> list[Row]:
        texts = [self._text(text) for text in self.texts(item, options)]
        return [Row(self.tensors(self.picture(item)), 1, component=IMAGES), *texts]

    def texts(self, item: Input, options: Mapping[str, Any]) -> Sequence[str]:
        return hypotheses(options)

    def _text(self, text: str) -> Row:
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
        image, *texts = scores
        similar = np.stack([each["text_embeds"] for each in texts]) @ image["image_embeds"]
        return {"scores": self._function(similar * np.float32(self._scale) + np.float32(self._bias))}

    def answer(self, item: Input, rows: Sequence[Row], scores: Sequence[Tensors], options: Mapping[str, Any]) -> Answer:
        values, labels = self.join(rows, scores)["scores"], chosen_labels(options)
        return [{"score": float(values[i]), "label": labels[i]} for i in np.argsort(-values, kind="stable")]

    def reply(
        self, graphs: Mapping[str, Session], inputs: Sequence[Input], labels: Sequence[str] = (), batch_size: int = 0
    ) -> list[Any]:
        """Which of the data's labels each picture shows, the likeliest first."""
        if not labels:
            raise UsageError(
                "Cannot choose a label for the pictures.", why="the data names none", fix="give rows with labels"
            )
        found = self.run(graphs, inputs, self.check_options({"candidate_labels": list(labels)}), batch_size)
        return [[each["label"] for each in ranked[:5]] for ranked in found]


TASK = ZeroShotImageClassification
