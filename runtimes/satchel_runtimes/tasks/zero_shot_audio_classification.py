"""zero-shot-audio-classification: labels that are chosen when it is asked, by how near their text lies to the sound."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..manifest import TaskEntry
from .audio import AudioTask, audio_steps
from .label_towers import LabelTowers, similarity_steps
from .task import LABEL_COLUMNS, Files, Input, ModelFacts, Row
from .text import tokenize_step

__all__ = ["TASK"]

SOUNDS = "audio_encoder"  # the graph
_SAMPLE_LABELS = ("a bell", "dogs", "rain on a roof", "somebody speaking", "a low hum", "noise")


class ZeroShotAudioClassification(AudioTask, LabelTowers):
    """`predict("sound.wav", candidate_labels=["a bell", "rain"])` is `[{"score", "label"}, …]`, best first.

    Options as in the pipeline: `candidate_labels`, a list or a string with commas; `hypothesis_template`, a sentence with {}
    for the label. Of a sound longer than the model takes (10 seconds of CLAP) the beginning is heard; transformers hears a
    piece that it draws by chance.
    """

    name = "zero-shot-audio-classification"
    other_steps = ("tokenize",)
    options = {"candidate_labels": None, "hypothesis_template": "This is a sound of {}."}
    auto_model = "AutoModel"
    architectures = ("ClapModel",)
    outputs = ("audio_embeds", "text_embeds")
    processors = ("feature_extractor", "tokenizer")
    columns = {"audio": ("audio", "file", "path", "audio_path", "file_name"), "label": LABEL_COLUMNS}
    optional = frozenset({"label"})
    target = "label"
    metrics = ("accuracy", "f1_micro", "f1_macro", "top_5")

    def __init__(self, entry: TaskEntry, files: Files) -> None:
        AudioTask.__init__(self, entry, files)
        LabelTowers.__init__(self, entry, files)

    @classmethod
    def fits(cls, facts: ModelFacts) -> bool:
        return facts.config.get("model_type") == "clap"

    @classmethod
    def entry(cls, facts: ModelFacts) -> TaskEntry:
        steps = (*audio_steps(facts), tokenize_step(facts))
        return TaskEntry(cls.name, steps, similarity_steps(facts, "logit_scale_a"))

    @classmethod
    def sample(cls, text: str, index: int, facts: ModelFacts) -> tuple[Input, dict[str, Any]]:
        labels = [_SAMPLE_LABELS[(index + step) % len(_SAMPLE_LABELS)] for step in (0, 1, 3)]
        return {"file": text}, {"candidate_labels": labels}

    def encode(self, item: Input, options: Mapping[str, Any]) -> list[Row]:
        heard = self.row_of(self.sound(item))
        texts = [self.text_row(text) for text in self.texts(item, options)]
        return [Row(heard.tensors, 1, component=SOUNDS), *texts]


TASK = ZeroShotAudioClassification
