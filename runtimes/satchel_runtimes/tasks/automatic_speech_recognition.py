"""automatic-speech-recognition by CTC: what was said, and when, by the likeliest token of every frame."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from ..errors import SupportError, UsageError
from ..manifest import Step, TaskEntry
from ..sessions import Session, Tensors
from ..sound import Sound
from .audio import AudioTask, audio_steps
from .task import DISTRIBUTION, Answer, Files, Input, ModelFacts, Row, Task, forward, softmax
from .text import SPACES_TO_CLEAN, choice
from .whisper import Whisper
from .written_speech import WrittenSpeech

__all__ = ["TASK"]


class SpeechRecognition(AudioTask):
    """`predict("clip.wav")` is `{"text"}`; with `return_timestamps` also `"chunks"`, `[{"text", "timestamp": (start, end)}]`
    in seconds.

    Options as in the pipeline: `return_timestamps` is "char" or "word"; `chunk_length_s` cuts a long sound into pieces
    that overlap by `stride_length_s` (a number, or one for each side; a sixth of the piece by default), so that an hour takes no
    more memory than `batch_size` pieces. A language model is not used: tokens are chosen greedily.
    """

    name = "automatic-speech-recognition"
    judged = {"probabilities": DISTRIBUTION}
    options = {"return_timestamps": None, "chunk_length_s": 0, "stride_length_s": None}
    processors = ("feature_extractor", "tokenizer")
    auto_model = "AutoModelForCTC"
    architectures = ("ForCTC",)
    outputs = ("logits",)
    columns = {"audio": ("audio", "file", "path", "sound", "audio_path"), "text": ("text", "sentence", "transcript")}
    optional = frozenset({"text"})
    target = "text"
    metrics = ("wer",)
    too_long = "pass chunk_length_s=30: pieces of 30 seconds that overlap"

    @classmethod
    def for_model(cls, config: Mapping[str, Any]) -> type[Task]:
        written = Whisper if config.get("model_type") == "whisper" else WrittenSpeech
        return written if config.get("is_encoder_decoder") else cls

    @classmethod
    def for_entry(cls, entry: TaskEntry) -> type[Task]:
        steps = {step.step for step in entry.postprocess}
        return cls if "ctc" in steps else Whisper if "whisper" in steps else WrittenSpeech

    def __init__(self, entry: TaskEntry, files: Files) -> None:
        super().__init__(entry, files)
        self._ctc = next(step.options for step in entry.postprocess if step.step == "ctc")
        self._step = int(np.prod(self._strides))  # samples of a frame

    @classmethod
    def entry(cls, facts: ModelFacts) -> TaskEntry:
        if not facts.ctc:
            raise SupportError(
                "Cannot carry the tokenizer of this model.",
                why="it is not one for CTC: it has no token between words",
                fix="take a checkpoint with a Wav2Vec2CTCTokenizer",
            )
        return TaskEntry(cls.name, audio_steps(facts), (Step("ctc", dict(facts.ctc)),))

    def encode(self, item: Input, options: Mapping[str, Any]) -> list[Row]:
        return list(self._pieces(self.sound(item), options))

    def score(self, outputs: Tensors, row: Row) -> Tensors:
        return {"probabilities": softmax(outputs["logits"])}

    def answer(self, item: Input, rows: Sequence[Row], scores: Sequence[Tensors], options: Mapping[str, Any]) -> Answer:
        return self._text([_kept(row, each) for row, each in zip(rows, scores)], options)

    def run(
        self, graphs: Mapping[str, Session], inputs: Sequence[Input], options: Mapping[str, Any], batch_size: int = 0
    ) -> list[Answer]:
        if not options["chunk_length_s"]:
            return super().run(graphs, inputs, options, batch_size)
        answers = []
        for item in inputs:  # a piece is gone when its tokens are known
            pieces, kept = self._pieces(self.sound(item), options), []
            while rows := list(itertools.islice(pieces, batch_size or self.batch_size)):
                found = {i: self.score(each, rows[i]) for i, each in forward(graphs, rows, len(rows))}
                kept += [_kept(row, found[i]) for i, row in enumerate(rows)]
            answers.append(self._text(kept, options))
        return answers

    def reply(
        self, graphs: Mapping[str, Session], inputs: Sequence[Input], labels: Sequence[str] = (), batch_size: int = 0
    ) -> list[Any]:
        return [each["text"] for each in super().reply(graphs, inputs, labels, batch_size)]

    def _pieces(self, sound: Sound, options: Mapping[str, Any]) -> Iterator[Row]:
        """Rows, each with how many of its frames at the left and at the right belong to its neighbours."""
        whole = sound.length_at(self.rate)
        length, left, right = self._cuts(options)
        if not length:
            yield self.row_of(sound)
            return
        for start in range(0, whole, length - left - right):
            stop, last = min(start + length, whole), start + length >= whole
            before, after = (left if start else 0), (0 if last else right)
            if stop - start > before and (stop - start >= self._least or not start):
                # Rounded as the pipeline rounds, by the same expressions.
                samples, frames = stop - start, round((stop - start) * (1 / self._step))
                own = round(before / samples * frames), frames - round(after / samples * frames)
                yield self.row_of(sound, start, stop, own)
            if last:
                return

    def _cuts(self, options: Mapping[str, Any]) -> tuple[int, int, int]:
        """Samples of a piece and of its overlaps, in whole frames."""
        length, stride = options["chunk_length_s"], options["stride_length_s"]
        sides = (length / 6, length / 6) if stride is None else stride
        sides = (sides, sides) if isinstance(sides, (int, float)) else sides
        try:
            made = [round(float(each) * self.rate / self._step) * self._step for each in (length, *sides)]
            right_size = len(made) == 3 and min(made) >= 0 and (not made[0] or made[0] > made[1] + made[2])
        except (TypeError, ValueError, OverflowError):
            right_size = False
        if not right_size:
            raise UsageError(
                f"Cannot use chunk_length_s={length!r} with stride_length_s={stride!r}.",
                why="both are seconds, and a piece must be longer than its two overlaps",
                fix="pass chunk_length_s=30, and leave stride_length_s out",
            )
        return made[0], made[1], made[2]

    def _text(self, kept: Sequence[np.ndarray], options: Mapping[str, Any]) -> Answer:
        ctc = self._ctc
        names = ctc["tokens"]
        tokens = [names[i] if i < len(names) else ctc["unknown"] for i in np.concatenate(kept).tolist()]
        spoken = []  # characters with the frames from and to
        place = 0
        for token, run in itertools.groupby(tokens):
            begin, place = place, place + len(list(run))
            if token != ctc["blank"]:
                spoken.append((ctc["space"] if token == ctc["delimiter"] else token, begin, place))
        text = "".join(each[0] for each in spoken).strip()
        text = text.lower() if ctc["lower"] else text
        if ctc["clean_up"]:
            for each in SPACES_TO_CLEAN:
                text = text.replace(each, each.strip())
        if options["return_timestamps"] is None:
            return {"text": text}
        wanted = choice(options, "return_timestamps", ("char", "word"))
        found = _words(spoken, ctc["space"]) if wanted == "word" else spoken
        return {"text": text, "chunks": [{"text": each, "timestamp": self._seconds(a, b)} for each, a, b in found]}

    def _seconds(self, *frames: int) -> tuple[float, ...]:
        return tuple(each * self._step / self.rate for each in frames)


def _kept(row: Row, scores: Tensors) -> np.ndarray:
    """The likeliest token of each frame that is this piece's own."""
    ids: np.ndarray = scores["probabilities"].argmax(axis=-1)
    return ids if row.extra is None else ids[row.extra[0] : row.extra[1]]


def _words(spoken: Sequence[tuple[str, int, int]], space: str) -> list[tuple[str, int, int]]:
    groups = [
        (not blank, list(run)) for blank, run in itertools.groupby(spoken, key=lambda character: character[0] == space)
    ]
    return [("".join(each[0] for each in run), run[0][1], run[-1][2]) for word, run in groups if word]


TASK = SpeechRecognition
