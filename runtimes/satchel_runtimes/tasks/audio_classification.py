"""audio-classification: the labels of a sound, best first."""

from __future__ import annotations

from ..manifest import TaskEntry
from .audio import AudioTask, audio_steps
from .ranked_labels import RankedLabels, label_steps
from .task import LABEL_COLUMNS, ModelFacts
from .text import labels_of

__all__ = ["TASK"]


_BY_PROBLEM = {"multi_label_classification": "sigmoid", "regression": "none"}


class AudioClassification(RankedLabels, AudioTask):
    """`predict("clip.wav")` is `[{"label", "score"}, …]`, best first; for a list one such list per sound.

    Options as in the pipeline: `top_k` (a number; by default all labels); `function_to_apply` is "softmax", "sigmoid"
    or "none".
    """

    name = "audio-classification"
    options = {"top_k": None, "function_to_apply": None}
    auto_model = "AutoModelForAudioClassification"
    architectures = ("ForAudioClassification", "ForSequenceClassification")
    columns = {"audio": ("audio", "file", "path", "sound", "audio_path", "file_name"), "label": LABEL_COLUMNS}

    @classmethod
    def fits(cls, facts: ModelFacts) -> bool:
        """Speech models have their head's name in common with those of text."""
        architecture = str((facts.config.get("architectures") or [""])[0])
        return "conv_stride" in facts.config or architecture.endswith("ForAudioClassification")

    @classmethod
    def entry(cls, facts: ModelFacts) -> TaskEntry:
        function = _BY_PROBLEM.get(str(facts.config.get("problem_type")), "softmax")
        return TaskEntry(cls.name, audio_steps(facts), label_steps(function, labels_of(facts)))


TASK = AudioClassification
