"""zero-shot-image-classification: labels that are chosen when it is asked, by how near their text lies to the picture."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Optional

from ..manifest import Step, TaskEntry
from .image import ImageTask, image_steps
from .label_towers import IMAGES, LabelTowers, similarity_steps
from .task import LABEL_COLUMNS, Files, Input, ModelFacts, Row
from .text import tokenize_step

__all__ = ["TASK", "ZeroShotImageClassification"]

_SIGLIP_TOKENS = 64  # the pipeline fills every text of a SigLIP up to that many, whatever its tokenizer says

_SAMPLE_LABELS = ("a cat", "two dogs in the snow", "the sea at night", "a chart", "some red shapes", "a house", "noise")


class ZeroShotImageClassification(ImageTask, LabelTowers):
    """`predict("picture.jpg", candidate_labels=["a cat", "a dog"])` is `[{"score", "label"}, …]`, best first.

    Options as in the pipeline: `candidate_labels`, a list or a string with commas; `hypothesis_template`, a sentence with {}
    for the label. Scores of a CLIP add to 1; those of a SigLIP are each label's own.
    """

    name = "zero-shot-image-classification"
    other_steps = ("tokenize", "characters", "fill")
    options = {"candidate_labels": None, "hypothesis_template": "This is a photo of {}."}
    auto_model = "AutoModelForZeroShotImageClassification"
    architectures: ClassVar[tuple[str, ...]] = (
        *("CLIPModel", "SiglipModel", "ChineseCLIPModel", "GroupViTModel"),
        *("AlignModel", "AltCLIPModel", "CLIPSegModel", "MetaClip2Model"),
    )
    processors = ("image_processor", "tokenizer")
    columns = {
        "image": ("image", "file", "path", "picture", "image_path", "file_name"),
        "label": LABEL_COLUMNS,
    }
    optional = frozenset({"label"})
    target: ClassVar[Optional[str]] = "label"
    metrics: ClassVar[tuple[str, ...]] = ("accuracy", "f1_micro", "f1_macro", "top_5")

    def __init__(self, entry: TaskEntry, files: Files) -> None:
        ImageTask.__init__(self, entry, files)
        LabelTowers.__init__(self, entry, files)

    @classmethod
    def head(cls, config: Mapping[str, Any]) -> tuple[str, tuple[str, ...]]:
        listed = config.get("model_type") != "groupvit"  # which transformers' list for the task lacks
        return (cls.auto_model if listed else "architecture"), cls.outputs

    @classmethod
    def fits(cls, facts: ModelFacts) -> bool:
        # They compare by cosines alone, without a scale for shares.
        return facts.config.get("model_type") not in ("blip", "flava")

    @classmethod
    def entry(cls, facts: ModelFacts) -> TaskEntry:
        return TaskEntry(
            cls.name, (*image_steps(facts.image_processor), *cls.text_steps(facts)), similarity_steps(facts)
        )

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
        texts = [self.text_row(text) for text in self.texts(item, options)]
        return [Row(self.tensors(self.picture(item)), 1, component=IMAGES), *texts]


TASK = ZeroShotImageClassification
