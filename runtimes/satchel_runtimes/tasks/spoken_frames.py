"""text-to-speech by a decoder that writes a spectrogram, a few frames at a time, and a vocoder that makes sound of it: SpeechT5."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Callable, Optional

import numpy as np

from ..errors import IntegrityError, UsageError
from ..manifest import TaskEntry
from ..sessions import Session, Tensors
from .speaking import VOICE_FILE, SpeakingTask, dice, field_of, heard, in_pieces, number
from .task import INDEPENDENT, SOUND, Files, ModelFacts, Row

__all__ = ["SpokenFrames"]

_STEPS = 8  # of the decoder, for a golden text
_CAPACITY = 256  # of a cache before it grows
_VOCODER = "add --vocoder microsoft/speecht5_hifigan, or the folder of another SpeechT5HifiGan"


@dataclass(frozen=True)
class _Wanted:
    state: Any  # of the generator; Any: numpy's
    voice: np.ndarray  # float32 [1, size]
    threshold: float
    shortest: int  # steps of the decoder
    longest: int


class SpokenFrames(SpeakingTask):
    """`predict("Hello.", speaker_embeddings=…)` is `{"audio": float32 [samples], "sampling_rate"}`.

    Options: `speaker_embeddings`, as numbers or as the path of a .npy file (those of the bundle where it has some); `seed` of the
    decoder's dropout, which is a part of the model (the same speech each time; None for another); and as in transformers
    `threshold`, `minlenratio` and `maxlenratio`, which say when it ends.
    """

    judged = {"stop": INDEPENDENT, "sound": SOUND}
    generates = True
    auto_model = "AutoModelForTextToSpectrogram"
    architectures = ("SpeechT5ForTextToSpeech",)
    options = {"seed": 0, "speaker_embeddings": None, "threshold": 0.5, "minlenratio": 0.0, "maxlenratio": 20.0}
    takes_voice = True
    cannot = {
        "neuron": "its graphs keep no cache between calls",
        "tflite": "a decoder in LiteRT reads tokens here, and this one reads the frames that it wrote",
    }

    @classmethod
    def check_model(cls, facts: ModelFacts) -> None:
        bins = facts.config.get("num_mel_bins", 80)
        if not facts.vocoder:
            raise UsageError(
                "Cannot convert this model to speak.",
                why="it writes spectrograms, and no vocoder was named that makes sound of them",
                fix=f"{_VOCODER}; or put that folder into the model's own and call it vocoder",
            )
        kind, taken = facts.vocoder.get("architectures"), facts.vocoder.get("model_in_dim", 80)
        if kind != ["SpeechT5HifiGan"] or taken != bins:
            why = (
                f"the model writes {bins} bands, the vocoder takes {taken}"
                if kind == ["SpeechT5HifiGan"]
                else f"it is {kind}"
            )
            raise UsageError("Cannot use this vocoder.", why=why, fix=_VOCODER)

    def __init__(self, entry: TaskEntry, files: Files) -> None:
        super().__init__(entry, files)
        self._own: Optional[np.ndarray] = None
        if self.settings["voice"]:
            try:
                self._own = np.load(io.BytesIO(files.read(VOICE_FILE)), allow_pickle=False)
            except ValueError as error:
                raise IntegrityError(
                    f"Cannot read {VOICE_FILE} of {files.path}.", why=str(error), fix="convert the model again"
                ) from None

    @classmethod
    def entry(cls, facts: ModelFacts) -> TaskEntry:
        config, vocoder = facts.whole, facts.vocoder
        field, hop = field_of(vocoder)
        around = (config["speech_decoder_postnet_kernel"] - 1) // 2 * config["speech_decoder_postnet_layers"]
        settings = {
            "sampling_rate": vocoder["sampling_rate"],
            "hop": hop,
            "context": field + around,
            "bins": config["num_mel_bins"],
            "frames": config["reduction_factor"],
            "dropped": config["speech_decoder_prenet_layers"] * config["speech_decoder_prenet_units"],
            "kept": config["speech_decoder_prenet_dropout"],  # as transformers draws: the chance to stay
            "longest": config["max_speech_positions"],
            "speaker": config["speaker_embedding_dim"],
            "voice": bool(facts.voice),
        }
        step = cls.text_step(facts, config["max_text_positions"])
        return TaskEntry(cls.name, (step,), (cls.sounding(facts, **settings),))

    @classmethod
    def sample(cls, text: str, index: int, facts: ModelFacts) -> tuple[Any, dict[str, Any]]:
        said, options = super().sample(text, index, facts)
        if not facts.voice:  # some voice, whose numbers are short
            size = facts.whole["speaker_embedding_dim"]
            options["speaker_embeddings"] = [
                (place * place + 31 * (index + 1) * place) % 7 - 3 for place in range(size)
            ]
        return said, options

    def spoken_row(self, ids: np.ndarray, options: Mapping[str, Any]) -> Row:
        at_once = self.settings["frames"]
        wanted = _Wanted(
            dice(options["seed"]).get_state(),
            self._voice(options["speaker_embeddings"]),
            number(options, "threshold", 0.5, None),
            int(len(ids) * number(options, "minlenratio", 0.0, None) / at_once),
            int(len(ids) * number(options, "maxlenratio", 20.0, None) / at_once),
        )
        # Parity tells rows apart by what they hold.
        told = {"speaker_embeddings": wanted.voice[0], "seed": np.array([options["seed"] or 0])}
        return Row({"input_ids": ids, **told}, len(ids), wanted, component="encoder")

    def _voice(self, given: Any) -> np.ndarray:
        size = self.settings["speaker"]
        if given is None:
            if self._own is None:
                raise UsageError(
                    "Cannot speak without a voice.",
                    why="the model speaks as the speaker whose embedding it is given, and the bundle has none",
                    fix=f"pass speaker_embeddings, {size} numbers or a .npy file of them; or convert again with --speaker",
                )
            given = self._own
        return voice_of(given, size)

    def speak(self, graphs: Mapping[str, Session], row: Row, options: Mapping[str, Any]) -> np.ndarray:
        wanted: _Wanted = row.extra
        frames = []
        for step, (made, stop) in enumerate(self._written(graphs, row), 1):
            frames.append(made)
            if step >= wanted.shortest and (step >= wanted.longest or stop.sum() >= wanted.threshold):
                break
            self.check_length(step * self.settings["frames"], self.settings["hop"])
        whole: np.ndarray = np.concatenate(frames)
        context, hop = self.settings["context"], self.settings["hop"]
        return in_pieces(graphs["vocoder"], lambda part: self._sounding(graphs, part), whole, context, hop)

    def forward(
        self, graphs: Mapping[str, Session], rows: Sequence[Row], batch_size: int
    ) -> Iterator[tuple[int, Tensors]]:
        """The first steps, each from what the one before made: errors grow here as they do in use."""
        for place, row in enumerate(rows):
            steps = [each for _, each in zip(range(_STEPS), self._written(graphs, row))]
            frames = np.concatenate([made for made, _ in steps])
            stop = np.stack([each for _, each in steps])
            yield place, {"spectrogram": frames, "stop": stop, "waveform": self._sounding(graphs, frames)}

    def score(self, outputs: Tensors, row: Row) -> Tensors:
        return {"stop": outputs["stop"], "sound": heard(outputs["waveform"], self.rate)}

    def call(self, graphs: Mapping[str, Session], rows: Mapping[str, Row], tokens: int) -> Callable[[], object]:
        """The encoder on so many tokens, and the first of the sound."""
        row = next(iter(rows.values()))
        said = Row({**row.tensors, "input_ids": np.resize(row.tensors["input_ids"], tokens)}, tokens, row.extra)
        return lambda: next(self.forward(graphs, [said], 1))

    def _written(self, graphs: Mapping[str, Session], row: Row) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Frames and the chances that they are the last, step by step, without end.

        Raises:
            UsageError: more than the decoder has places for.
        """
        wanted: _Wanted = row.extra
        random, settings, decoder = dice(0), self.settings, graphs["decoder"]
        random.set_state(wanted.state)
        encoded = graphs["encoder"].run({"input_ids": row.tensors["input_ids"][None]})
        cache: Any = decoder.new_state(1, min(_CAPACITY, settings["longest"]))  # Any: the engine's own
        last: np.ndarray = np.zeros((1, 1, settings["bins"]), np.float32)
        for step in range(settings["longest"]):
            cache.hold(step + 1)
            kept = random.random_sample((1, 1, settings["dropped"])) < settings["kept"]
            given = {
                "input_values": last,
                "position_ids": np.array([[step]], dtype=np.int64),
                "kept": kept.astype(np.float32),
                "speaker_embeddings": wanted.voice,
                **encoded,
            }
            found = decoder.run({spec.name: given[spec.name] for spec in decoder.inputs}, cache)
            made = found["frames"].reshape(-1, settings["bins"])
            last = made[None, -1:]
            yield made, found["stop"][0, 0]
        raise UsageError(
            "Cannot end the speech.",
            why=f"the decoder has places for {settings['longest']} steps, and did not say that it is done",
            fix="give shorter texts, or a lower threshold or maxlenratio",
        )

    def _sounding(self, graphs: Mapping[str, Session], frames: np.ndarray) -> np.ndarray:
        sound: np.ndarray = graphs["vocoder"].run({"spectrogram": frames[None]})["waveform"][0]
        return sound


def voice_of(given: Any, size: int) -> np.ndarray:
    """A speaker's embedding as the decoder takes it, float32 [1, size].

    Raises:
        UsageError: a file that cannot be read, or not so many numbers.
    """
    if isinstance(given, str):
        try:
            given = np.load(given, allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise UsageError(
                f"Cannot read the voice {given}.",
                why=str(error).splitlines()[0],
                fix="name a .npy file, as numpy.save writes it, or pass the numbers",
            ) from None
    try:
        found = np.asarray(given, dtype=np.float32)
    except (ValueError, TypeError):  # lists of several lengths, or of words
        found = np.zeros(0, np.float32)
    if found.shape not in ((size,), (1, size)) or not np.isfinite(found).all():
        raise UsageError(
            "Cannot use these speaker_embeddings.",
            why=f"their shape is {list(found.shape)}, the model takes [{size}] or [1, {size}] finite numbers",
            fix="take the x-vector of one speaker, such as a row of the data set Matthijs/cmu-arctic-xvectors",
        )
    voice: np.ndarray = np.ascontiguousarray(found.reshape(1, size))
    return voice
