"""voice-activity-detection: when somebody speaks, by a model that answers for every frame of a sound."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from ..errors import UsageError
from ..manifest import Step, TaskEntry
from ..sessions import Tensors
from .audio import MAX_SECONDS, AudioTask, audio_steps
from .task import DISTRIBUTION, INDEPENDENT, Answer, Files, Input, ModelFacts, Row, sigmoid, softmax
from .text import labels_of

__all__ = ["TASK"]


class VoiceActivityDetection(AudioTask):
    """`predict("clip.wav")` is `[{"label", "score", "start", "end"}, …]`, the earliest first; for a list one such list per
    sound. `transformers.pipeline` has no such task.

    A segment is a run of frames whose probability of the label exceeds `threshold`; `start` and `end` are seconds,
    `score` is the mean probability of its frames, those of filled gaps too. A label stands for "speech", for one
    speaker, or for whatever the checkpoint was trained on, and labels whose probabilities are independent may overlap.

    Options: `threshold` (0.5); `min_silence_s`, gaps in a label shorter than this are filled; `min_duration_s`, segments
    shorter than this are then left out (both 0).
    """

    name = "voice-activity-detection"
    options = {"threshold": 0.5, "min_silence_s": 0.0, "min_duration_s": 0.0}
    auto_model = "AutoModelForAudioFrameClassification"
    architectures = ("ForAudioFrameClassification",)
    outputs = ("logits",)
    columns = {"audio": ("audio", "file", "path", "sound", "audio_path", "file_name")}

    def __init__(self, entry: TaskEntry, files: Files) -> None:
        super().__init__(entry, files)
        self._alone = entry.postprocess[0].step == "sigmoid"
        self.judged = {"probabilities": INDEPENDENT if self._alone else DISTRIBUTION}
        self._step = math.prod(self._strides)  # samples from one frame to the next

    @classmethod
    def entry(cls, facts: ModelFacts) -> TaskEntry:
        # transformers' own examples read these heads by a sigmoid; a config that says that one label excludes the others is heard.
        exclusive = facts.config.get("problem_type") == "single_label_classification"
        function = Step("softmax" if exclusive else "sigmoid")
        return TaskEntry(cls.name, audio_steps(facts), (function, Step("labels", {"labels": labels_of(facts)})))

    def score(self, outputs: Tensors, row: Row) -> Tensors:
        """Probabilities of each frame, float32 [frames, labels]."""
        return {"probabilities": (sigmoid if self._alone else softmax)(outputs["logits"])}

    def encode(self, item: Input, options: Mapping[str, Any]) -> list[Row]:
        _check(options, "threshold", 1)  # before the model runs
        for name in ("min_silence_s", "min_duration_s"):
            _check(options, name, MAX_SECONDS)
        return super().encode(item, options)

    def answer(self, item: Input, rows: Sequence[Row], scores: Sequence[Tensors], options: Mapping[str, Any]) -> Answer:
        probabilities = scores[0]["probabilities"]
        # In samples, which are whole: 0.14 seconds of 50 frames are a little more than 7.
        gap, least = (round(options[name] * self.rate) for name in ("min_silence_s", "min_duration_s"))
        found = []
        for number, label in enumerate(self.entry_.option("labels", "labels", ())):
            track = probabilities[:, number]
            for first, stop in _runs(track > options["threshold"], gap / self._step):
                if (stop - first) * self._step >= least:
                    start, end = (frame * self._step / self.rate for frame in (first, stop))
                    found.append({"label": label, "score": float(track[first:stop].mean()), "start": start, "end": end})
        return sorted(found, key=lambda segment: (segment["start"], segment["end"]))


def _runs(active: np.ndarray, gap: float) -> Iterator[tuple[int, int]]:
    """First frame, and the frame after the last, of each run; runs less than `gap` frames apart are one."""
    edges = np.flatnonzero(np.diff(active, prepend=False, append=False))
    inner = [(stop, first) for stop, first in zip(edges[1::2].tolist(), edges[2::2].tolist()) if first - stop >= gap]
    bounds = [*edges[:1].tolist(), *itertools.chain.from_iterable(inner), *edges[-1:].tolist()]
    yield from zip(bounds[::2], bounds[1::2])


def _check(options: Mapping[str, Any], name: str, most: int) -> None:
    """Refuse an option that is not a number from 0 to `most`.

    Raises:
        UsageError: another type, NaN, below 0 or above `most`.
    """
    value = options[name]
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= most:
        raise UsageError(
            f"Cannot use {name}={value!r}.", why=f"it is a number from 0 to {most}", fix="pass one, or leave it out"
        )


TASK = VoiceActivityDetection
