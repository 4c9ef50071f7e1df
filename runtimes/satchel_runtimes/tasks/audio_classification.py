"""audio-classification: the labels of a sound, best first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..manifest import Step, TaskEntry
from ..sessions import Session, Tensors
from .audio import AudioTask, audio_steps
from .task import (
    DISTRIBUTION,
    INDEPENDENT,
    LABEL_COLUMNS,
    NUMBER,
    Answer,
    Files,
    Input,
    ModelFacts,
    Row,
    sigmoid,
    softmax,
)
from .text import choice, labels_of, whole_number

__all__ = ["TASK"]


def _as_they_are(logits: np.ndarray) -> np.ndarray:
    return logits.astype(np.float32)


_FUNCTIONS = {"softmax": softmax, "sigmoid": sigmoid, "none": _as_they_are}
_KINDS = {"softmax": DISTRIBUTION, "sigmoid": INDEPENDENT, "none": NUMBER}
_BY_PROBLEM = {"multi_label_classification": "sigmoid", "regression": "none"}


class AudioClassification(AudioTask):
    """`predict("clip.wav")` is `[{"label", "score"}, …]`, best first; for a list one such list per sound.

    Options as in the pipeline: `top_k` (a number; by default all labels); `function_to_apply` is "softmax", "sigmoid"
    or "none".
    """

    name = "audio-classification"
    judged = {"scores": DISTRIBUTION}
    options = {"top_k": None, "function_to_apply": None}
    auto_model = "AutoModelForAudioClassification"
    architectures = ("ForAudioClassification", "ForSequenceClassification")
    outputs = ("logits",)
    columns = {"audio": ("audio", "file", "path", "sound", "audio_path", "file_name"), "label": LABEL_COLUMNS}
    optional = frozenset({"label"})
    target = "label"
    metrics = ("accuracy", "f1_micro", "f1_macro", "top_5")

    def __init__(self, entry: TaskEntry, files: Files) -> None:
        super().__init__(entry, files)
        self.judged = {"scores": _KINDS[self._function()]}

    @classmethod
    def fits(cls, facts: ModelFacts) -> bool:
        """Speech models have their head's name in common with those of text."""
        architecture = str((facts.config.get("architectures") or [""])[0])
        return "conv_stride" in facts.config or architecture.endswith("ForAudioClassification")

    @classmethod
    def entry(cls, facts: ModelFacts) -> TaskEntry:
        function = _BY_PROBLEM.get(str(facts.config.get("problem_type")), "softmax")
        return TaskEntry(cls.name, audio_steps(facts), (Step(function), Step("labels", {"labels": labels_of(facts)})))

    def _function(self) -> str:
        return self.entry_.postprocess[0].step

    def score(self, outputs: Tensors, row: Row) -> Tensors:
        return {"scores": _FUNCTIONS[self._function()](outputs["logits"]), "logits": outputs["logits"]}

    def answer(self, item: Input, rows: Sequence[Row], scores: Sequence[Tensors], options: Mapping[str, Any]) -> Answer:
        values = scores[0]["scores"]
        if options["function_to_apply"] is not None:
            values = _FUNCTIONS[choice(options, "function_to_apply", list(_FUNCTIONS))](scores[0]["logits"])
        labels = self.entry_.option("labels", "labels", ())
        found = [{"score": float(values[i]), "label": labels[i]} for i in np.argsort(-values, kind="stable")]
        return found if options["top_k"] is None else found[: whole_number(options, "top_k")]

    def reply(
        self, graphs: Mapping[str, Session], inputs: Sequence[Input], labels: Sequence[str] = (), batch_size: int = 0
    ) -> list[Any]:
        """Labels, the likeliest first; of independent ones those that are likelier than not."""
        found = self.run(graphs, inputs, self.check_options(self.reply_options), batch_size)
        if self._function() == "sigmoid":
            return [{"labels": [each["label"] for each in ranked if each["score"] > 0.5]} for ranked in found]
        return [[each["label"] for each in ranked[:5]] for ranked in found]


TASK = AudioClassification
