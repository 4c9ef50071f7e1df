"""region-question-answering: a question about a picture that a detector has seen before, as features of its regions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..errors import UsageError
from ..manifest import Step, TaskEntry
from ..sessions import Tensors
from .chosen_answer import ChosenAnswer
from .task import DISTRIBUTION, Files, Input, ModelFacts, Row, softmax
from .text import labels_of, tokenize_step, wrong_type

__all__ = ["MASK", "MOST_REGIONS", "TASK", "region_inputs"]

MASK = "visual_attention_mask"
MOST_REGIONS = 36  # what the detectors of both models keep of a picture; https://huggingface.co/papers/1908.07490


class RegionQuestionAnswering(ChosenAnswer):
    """`predict({"question": "…", "features": features, "boxes": boxes})` is `[{"score", "answer"}, …]`, the likeliest first.

    `features` is float [regions, size], of at most 36 regions, as a detector such as Faster R-CNN pools them; `boxes` is
    float [regions, 4], left, top, right and bottom as fractions of the picture, for models that know where a region is.
    transformers has no pipeline for it.

    Options: `top_k`, how many answers.
    """

    name = "region-question-answering"
    text_kind = "{'question', 'features', 'boxes'}"
    judged = {"scores": DISTRIBUTION}
    auto_model = "architecture"
    architectures = ("LxmertForQuestionAnswering", "VisualBertForQuestionAnswering")
    outputs = ("logits",)

    def __init__(self, entry: TaskEntry, files: Files) -> None:
        super().__init__(entry, files)
        self._inputs: Mapping[str, int] = entry.option("regions", "inputs")
        self._fields = ("features", "boxes")[: len(self._inputs)]

    @classmethod
    def head(cls, config: Mapping[str, Any]) -> tuple[str, tuple[str, ...]]:
        lxmert = config.get("model_type") == "lxmert"
        return cls.auto_model, ("question_answering_score",) if lxmert else cls.outputs

    @classmethod
    def fits(cls, facts: ModelFacts) -> bool:
        return facts.config.get("model_type") in ("lxmert", "visual_bert")

    @classmethod
    def entry(cls, facts: ModelFacts) -> TaskEntry:
        labels, count = labels_of(facts), int(facts.config.get("num_qa_labels", 9500))
        if facts.config.get("model_type") == "lxmert" and len(labels) != count:  # it counts its answers apart
            labels = [f"LABEL_{i}" for i in range(count)]
        steps = (tokenize_step(facts), Step("regions", {"inputs": region_inputs(facts.config)}))
        return TaskEntry(cls.name, steps, (Step("softmax"), Step("labels", {"labels": labels})))

    @classmethod
    def sample(cls, text: Any, index: int, facts: ModelFacts) -> tuple[Input, dict[str, Any]]:
        """Features by a seed: as numbers they would be most of a bundle."""
        regions = {"seed": index, "regions": 1 + index * 5 % MOST_REGIONS}
        return {"question": text if text.strip() else "What is it?", "features": regions}, {}

    def texts(self, item: Input, options: Mapping[str, Any]) -> Sequence[str]:
        return (item["question"],)

    def encode(self, item: Input, options: Mapping[str, Any]) -> list[Row]:
        if isinstance(item, Mapping) and isinstance(item.get("features"), Mapping):
            item = {**item, **self._drawn(item["features"])}
        if not isinstance(item, Mapping) or set(item) != {"question", *self._fields}:
            raise wrong_type(self, item)
        if not isinstance(item["question"], str) or not item["question"].strip():
            raise UsageError("Cannot answer.", why="there is no question", fix='give a text as "question"')
        row = self.row(self.encoding(item["question"]))
        regions = {
            name: self._array(item[field], field, size)
            for field, (name, size) in zip(self._fields, self._inputs.items())
        }
        counts = {len(value) for value in regions.values()}
        if len(counts) > 1:
            raise UsageError(
                "Cannot answer.", why="features and boxes are not of as many regions", fix="give a box for each region"
            )
        padded = {name: _filled(value) for name, value in regions.items()}
        padded[MASK] = (np.arange(MOST_REGIONS) < counts.pop()).astype(np.int64)
        return [Row({**row.tensors, **padded}, row.length)]

    def _array(self, given: Any, field: str, size: int) -> np.ndarray:
        """Raises: UsageError where these are no finite numbers of the model's size."""
        try:
            values: np.ndarray = np.asarray(given, dtype=np.float32)
        except (TypeError, ValueError):
            values = np.zeros(0, np.float32)
        if values.ndim != 2 or values.shape[1] != size or not 0 < len(values) <= MOST_REGIONS:
            raise UsageError(
                f"Cannot use these {field} of shape {list(values.shape)}.",
                why=f"the model takes float [regions, {size}], of 1 to {MOST_REGIONS} regions",
                fix=f"give the {field} of the likeliest regions",
            )
        if not np.isfinite(values).all():
            raise UsageError(
                f"Cannot use these {field}.", why="some are NaN or infinite", fix="leave those regions out"
            )
        return values

    def _drawn(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """A sample's regions; numpy promises the same numbers of `RandomState` on every machine."""
        if set(given) != {"seed", "regions"}:
            raise wrong_type(self, given)
        numbers, count = np.random.RandomState(given["seed"]), given["regions"]
        drawn = {"features": np.maximum(numbers.standard_normal((count, next(iter(self._inputs.values())))), 0)}
        if "boxes" in self._fields:
            drawn["boxes"] = np.sort(numbers.random_sample((count, 2, 2)), axis=1).reshape(count, 4)
        return drawn

    def score(self, outputs: Tensors, row: Row) -> Tensors:
        (logits,) = outputs.values()
        return {"scores": softmax(logits)}


def region_inputs(config: Mapping[str, Any]) -> dict[str, int]:
    """The model's inputs for features and, where it has them, boxes: the size of each."""
    if config.get("model_type") == "lxmert":
        return {"visual_feats": int(config.get("visual_feat_dim", 2048)), "visual_pos": 4}
    return {"visual_embeds": int(config.get("visual_embedding_dim", 512))}


def _filled(values: np.ndarray) -> np.ndarray:
    made: np.ndarray = np.zeros((MOST_REGIONS, values.shape[1]), np.float32)
    made[: len(values)] = values
    return made


TASK = RegionQuestionAnswering
