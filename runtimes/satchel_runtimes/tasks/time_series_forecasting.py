"""time-series-forecasting: the values that follow those of one or several series. `transformers` has no pipeline for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..errors import IntegrityError, SupportError, UsageError
from ..manifest import Step, TaskEntry
from ..sessions import Tensors
from .task import NUMBER, Answer, Files, Input, ModelFacts, Row, Task

__all__ = ["TASK"]


class TimeSeriesForecasting(Task):
    """`predict(array)` of the past, float [steps, channels], is the future, float32 [steps, channels], in the same units.

    Of a longer past the last steps are taken, as many as the model reads. A model of one channel also takes [steps]; in JSON the past
    is `{"values": [[…], …]}`. Missing values are refused: fill them as suits the series.
    """

    name = "time-series-forecasting"
    modality = "series"
    judged = {"forecast": NUMBER}
    processors = ()
    auto_model = "architecture"  # transformers has no Auto class for it
    architectures = ("ForPrediction",)
    outputs = ("prediction_outputs",)
    columns = {"values": ("values", "past_values", "series")}
    rows_are_inputs = False

    def __init__(self, entry: TaskEntry, files: Files) -> None:
        try:
            self.steps = int(entry.option("series", "steps"))
            self.channels = int(entry.option("series", "channels"))
        except (TypeError, ValueError) as error:
            raise IntegrityError(
                f"Cannot serve {entry.name} from {files.path}.",
                why=f"its steps are not complete ({error!r})",
                fix="convert the model again",
            ) from None

    @classmethod
    def fits(cls, facts: ModelFacts) -> bool:
        return "context_length" in facts.config and "num_input_channels" in facts.config

    @classmethod
    def entry(cls, facts: ModelFacts) -> TaskEntry:
        if facts.config.get("loss", "mse") != "mse":
            raise SupportError(
                f"Cannot carry a model of the type {facts.config.get('model_type')} for {cls.name}.",
                why="it was trained with the loss nll and answers parameters of a distribution, not values",
                fix="take a checkpoint that was trained with the loss mse",
            )
        size = {"steps": int(facts.config["context_length"]), "channels": int(facts.config["num_input_channels"])}
        return TaskEntry(cls.name, (Step("series", size),), ())

    @classmethod
    def sample(cls, text: str, index: int, facts: ModelFacts) -> tuple[Input, dict[str, Any]]:
        """Waves, trends and noise of many sizes; `text` is the number of the sample."""
        chance = np.random.RandomState(int(text))
        steps, channels = int(facts.config["context_length"]), int(facts.config["num_input_channels"])
        times = np.arange(steps)[:, None]
        waves = np.sin(times * chance.uniform(0.02, 1.5, channels) + chance.uniform(0, 6, channels))
        level, trend, noise = chance.randn(channels) * 3, chance.randn(channels) / steps, chance.rand()
        made = (waves + level + trend * times + noise * chance.randn(steps, channels)) * 10 ** chance.uniform(-1, 2)
        return {"values": np.round(made, 4).tolist()}, {}

    @property
    def shape(self) -> str:
        return f"{self.steps}x{self.channels}"

    @property
    def size(self) -> int:
        return self.steps

    def is_single(self, inputs: Input) -> bool:
        return not isinstance(inputs, (list, tuple))

    def encode(self, item: Input, options: Mapping[str, Any]) -> list[Row]:
        given = item.get("values") if isinstance(item, Mapping) and set(item) == {"values"} else item
        try:
            if not isinstance(given, (np.ndarray, list)):
                raise TypeError("it is no array")
            past: np.ndarray = np.asarray(given, np.float32)
        except (ValueError, TypeError) as error:
            raise self._wrong(type(item).__name__, str(error)) from None
        if past.ndim == 1 and self.channels == 1:
            past = past[:, None]
        if past.ndim != 2 or past.shape[1] != self.channels or len(past) < self.steps:
            raise self._wrong(f"an array {list(past.shape)}", "its shape does not fit")
        past = past[-self.steps :]
        if not np.isfinite(past).all():
            step, channel = np.argwhere(~np.isfinite(past))[0].tolist()
            raise UsageError(
                f"Cannot run {self.name} on this past.",
                why=f"the value of channel {channel} is NaN or infinite, {self.steps - step} steps before the end",
                fix="fill what is missing as suits the series, for instance with the value before it",
            )
        return [Row({"past_values": np.ascontiguousarray(past)}, 1)]

    def score(self, outputs: Tensors, row: Row) -> Tensors:
        return {"forecast": outputs["prediction_outputs"]}

    def answer(self, item: Input, rows: Sequence[Row], scores: Sequence[Tensors], options: Mapping[str, Any]) -> Answer:
        return np.array(scores[0]["forecast"], np.float32)

    def _wrong(self, what: str, why: str) -> UsageError:
        return UsageError(
            f"Cannot run {self.name} on {what}.",
            why=f"{why}; it takes at least {self.steps} steps of {self.channels} channels",
            fix=f'pass a float array [steps, {self.channels}], or {{"values": [[…], …]}}',
        )


TASK = TimeSeriesForecasting
