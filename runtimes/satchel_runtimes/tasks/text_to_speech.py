"""text-to-speech by a model that makes a sound of a text at once: VITS, and what MMS trained of it for a thousand languages.

An encoder says how many frames each letter takes and what they are like; between the graphs each letter is repeated by so many and
noise is added; a decoder makes the sound. All chance is drawn here, from `seed`, and is given to the graphs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Callable

import numpy as np

from ..errors import SupportError, UsageError
from ..manifest import TaskEntry
from ..sessions import Session, Tensors
from .speaking import SpeakingTask, dice, field_of, heard, in_pieces, number
from .spoken_frames import SpokenFrames
from .task import NUMBER, SOUND, VECTOR, Files, ModelFacts, Row, Task

__all__ = ["TASK"]

_JUDGED = 96  # frames of a golden sound that are made and compared
_MEASURED = 2  # frames of each token in a call that is measured

_ELSEWHERE = {
    "bark": "Bark writes tokens with three decoders, one after the other, and reads the sound from the codes of an EnCodec; satchel has"
    " no graphs for that codec yet",
}


@dataclass(frozen=True)
class _Wanted:
    """What is done between the graphs."""

    state: Any  # of the generator, after the noise of the durations; Any: numpy's
    rate: float
    noise_scale: float
    durations: np.ndarray  # frames of each token, int64; empty: those that the encoder says


class TextToSpeech(SpeakingTask):
    """`predict("Hello.")` is `{"audio": float32 [samples], "sampling_rate"}`.

    Options: `seed` (the same speech each time; None for another), `speaking_rate`, `noise_scale` and `noise_scale_duration` (those of
    config.json by default), `speaker_id` of a model of several voices, and `durations`, the frames that each token takes.
    """

    judged = {"durations": VECTOR, "length": NUMBER, "sound": SOUND}
    auto_model = "AutoModelForTextToWaveform"
    architectures = ("VitsModel", "BarkModel")
    options = {
        "seed": 0,
        "speaking_rate": None,
        "noise_scale": None,
        "noise_scale_duration": None,
        "speaker_id": None,
        "durations": (),
    }
    begins = ("durations",)
    cannot = {"neuron": "its lengths are numbers of tokens, and a sound has frames"}

    @classmethod
    def for_model(cls, config: Mapping[str, Any]) -> type[Task]:
        return SpokenFrames if config.get("model_type") == "speecht5" else cls

    @classmethod
    def for_entry(cls, entry: TaskEntry) -> type[Task]:
        return cls if entry.option("speech", "speakers") is not None else SpokenFrames

    @classmethod
    def check_model(cls, facts: ModelFacts) -> None:
        kind = facts.config.get("model_type")
        if kind != "vits":
            raise SupportError(
                f"Cannot speak with a model of type {kind!r}.",
                why=_ELSEWHERE.get(str(kind), "satchel speaks with vits and speecht5"),
                fix="take a VITS or MMS-TTS checkpoint, or SpeechT5",
            )

    def __init__(self, entry: TaskEntry, files: Files) -> None:
        super().__init__(entry, files)
        self._speakers: int = self.settings["speakers"]

    @classmethod
    def entry(cls, facts: ModelFacts) -> TaskEntry:
        config = facts.whole
        field, hop = field_of(config)
        kernel, dilation = config["wavenet_kernel_size"], config["wavenet_dilation_rate"]
        layers = range(config["prior_encoder_num_wavenet_layers"])
        flow = sum((kernel - 1) * dilation**layer // 2 for layer in layers) * config["prior_encoder_num_flows"]
        names = ("speaking_rate", "noise_scale", "noise_scale_duration", "sampling_rate")
        settings = {
            **{name: config[name] for name in names},
            "speakers": config["num_speakers"] if config["num_speakers"] > 1 else 0,
            "size": config["flow_size"],
            "hop": hop,
            "context": field + flow,
        }
        return TaskEntry(cls.name, (cls.text_step(facts),), (cls.sounding(facts, **settings),))

    @classmethod
    def sample(cls, text: str, index: int, facts: ModelFacts) -> tuple[Any, dict[str, Any]]:
        said, options = super().sample(text, index, facts)
        speakers = facts.whole["num_speakers"]
        return said, {**options, "speaker_id": index % speakers} if speakers > 1 else options

    def spoken_row(self, ids: np.ndarray, options: Mapping[str, Any]) -> Row:
        random = dice(options["seed"])
        scale = number(options, "noise_scale_duration", self.settings["noise_scale_duration"], None)
        rate = number(options, "speaking_rate", self.settings["speaking_rate"])
        noise = random.standard_normal((len(ids), 2)).astype(np.float32) * np.float32(scale)
        tensors = {"input_ids": ids, "duration_noise": noise, "attention_mask": np.ones_like(ids)}
        if self._speakers:
            tensors["speaker_id"] = np.array(self._speaker(options["speaker_id"]), dtype=np.int64)
        elif options["speaker_id"] is not None:
            raise UsageError(
                f"Cannot speak as speaker {options['speaker_id']!r}.", why="the model has one voice", fix="leave it out"
            )
        given = _frames_of(options["durations"])
        louder = number(options, "noise_scale", self.settings["noise_scale"], None)
        return Row(tensors, len(ids), _Wanted(random.get_state(), rate, louder, given), component="encoder")

    def _speaker(self, given: Any) -> int:
        found = 0 if given is None else given
        if isinstance(found, bool) or not isinstance(found, (int, np.integer)) or not 0 <= found < self._speakers:
            raise UsageError(
                f"Cannot speak as speaker {given!r}.",
                why=f"the model has {self._speakers} voices",
                fix=f"pass a whole number from 0 to {self._speakers - 1}",
            )
        return int(found)

    def speak(self, graphs: Mapping[str, Session], row: Row, options: Mapping[str, Any]) -> np.ndarray:
        latents, _ = self._latents(graphs, row)
        context, hop = self.settings["context"], self.settings["hop"]
        return in_pieces(graphs["decoder"], lambda part: self._decoded(graphs, part, row), latents, context, hop)

    def begun(self, graphs: Mapping[str, Session], item: Any, options: Mapping[str, Any]) -> Mapping[str, Any]:
        """How long the model's own letters are: parity compares sounds of the same length."""
        (row,) = self.encode(item, self.check_options(options))
        found = self._encoded(graphs, row)["durations"]
        return {"durations": self._frames(found, row).tolist()}

    def forward(
        self, graphs: Mapping[str, Session], rows: Sequence[Row], batch_size: int
    ) -> Iterator[tuple[int, Tensors]]:
        for place, row in enumerate(rows):
            latents, durations = self._latents(graphs, row)
            yield place, {"durations": durations, "waveform": self._decoded(graphs, latents[:_JUDGED], row)}

    def score(self, outputs: Tensors, row: Row) -> Tensors:
        durations = outputs["durations"]
        # One letter a little longer is not heard; a rhythm is, and a tempo.
        return {"durations": durations, "length": durations.sum(), "sound": heard(outputs["waveform"], self.rate)}

    def call(self, graphs: Mapping[str, Session], rows: Mapping[str, Row], tokens: int) -> Callable[[], object]:
        row = next(iter(rows.values()))
        longer = {
            name: np.resize(value, (tokens, *value.shape[1:])) for name, value in row.tensors.items() if value.ndim
        }
        wanted = replace(row.extra, durations=np.full(tokens, _MEASURED))
        said = Row({**row.tensors, **longer}, tokens, wanted, "encoder")
        return lambda: self.speak(graphs, said, {})

    def _encoded(self, graphs: Mapping[str, Session], row: Row) -> Tensors:
        session = graphs["encoder"]
        found = session.run({spec.name: row.tensors[spec.name][None] for spec in session.inputs})
        return {name: value[0] for name, value in found.items()}

    def _frames(self, durations: np.ndarray, row: Row) -> np.ndarray:
        """How often each token is repeated."""
        given = row.extra.durations
        if len(given) and len(given) != len(durations):
            raise UsageError(
                "Cannot speak with these durations.",
                why=f"there are {len(given)}, and the text has {len(durations)} tokens",
                fix="give one for each token, or leave them out",
            )
        frames: np.ndarray = given if len(given) else np.ceil(durations * np.float32(1.0 / row.extra.rate))
        self.check_length(float(frames.sum()), self.settings["hop"])
        return frames.astype(np.int64)

    def _latents(self, graphs: Mapping[str, Session], row: Row) -> tuple[np.ndarray, np.ndarray]:
        """What the decoder takes, float32 [frames, size], and how many frames each token would take."""
        found, random = self._encoded(graphs, row), dice(0)
        random.set_state(row.extra.state)
        frames = self._frames(found["durations"], row)
        means = np.repeat(found["prior_means"], frames, axis=0)
        scales = np.repeat(found["prior_log_variances"], frames, axis=0)
        if not len(means):  # transformers makes one frame of nothing
            means = scales = np.zeros((1, self.settings["size"]), np.float32)
        noise = random.standard_normal(means.shape).astype(np.float32)
        latents: np.ndarray = means + noise * np.exp(scales) * np.float32(row.extra.noise_scale)
        return latents, found["durations"]

    def _decoded(self, graphs: Mapping[str, Session], latents: np.ndarray, row: Row) -> np.ndarray:
        session = graphs["decoder"]
        there: np.ndarray = np.ones((1, len(latents)), np.float32)
        given = {"latents": latents[None], "frames_mask": there, **{n: each[None] for n, each in row.tensors.items()}}
        sound: np.ndarray = session.run({spec.name: given[spec.name] for spec in session.inputs})["waveform"][0]
        return sound[: len(latents) * self.settings["hop"]]


def _frames_of(given: Any) -> np.ndarray:
    """Raises: UsageError for what is no list of whole numbers from 0 up."""
    listed = isinstance(given, (list, tuple, np.ndarray))
    if not listed or not all(isinstance(each, (int, np.integer)) and each >= 0 for each in given):
        raise UsageError(
            f"Cannot speak with the durations {str(given)[:40]}.",
            why="they are the frames of each token, whole numbers from 0 up",
            fix="give one for each token, or leave them out",
        )
    found: np.ndarray = np.array(given, dtype=np.int64)
    return found


TASK: type[Task] = TextToSpeech
