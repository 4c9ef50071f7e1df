"""automatic-speech-recognition by a decoder that writes what an encoder heard: whisper, moonshine and speech-to-text models."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Optional

import numpy as np

from ..errors import UsageError
from ..generation import GenerationConfig, Prompt, Texts, generate
from ..log_mel import log_mel, log_mel_range
from ..manifest import Step, TaskEntry
from ..sessions import Session
from ..sound import Sound
from .audio import AudioTask, audio_steps
from .rewriting import RewritingTask
from .task import Answer, Files, Input, ModelFacts, Row, log_softmax
from .text import tokenize_step

__all__ = ["WrittenSpeech"]

_MARK = 0.02  # seconds between two timestamps
_FRAMES = 2  # of features, between two timestamps
_PIECE = 100  # seconds of features that are made at once, to find the loudest


class WrittenSpeech(RewritingTask, AudioTask):
    """`predict("clip.wav")` is `{"text"}`; with `return_timestamps=True` also `"chunks"`, `[{"text", "timestamp": (start, end)}]` in
    seconds.

    Options: `language` ("en"; None: what is heard) and `translate` (to English) of a whisper that knows several; and every setting of `GenerationConfig` by its name. A sound of more than 30 seconds is read in windows, each of which
    begins at the last timestamp of the one before (Radford et al. 2022, section 3.8), and takes no more memory than one of them.
    """

    name = "automatic-speech-recognition"
    modality = "audio"
    processors = ("feature_extractor", "tokenizer")
    auto_model = "AutoModelForSpeechSeq2Seq"
    architectures = (
        "MoonshineForConditionalGeneration",
        "Speech2TextForConditionalGeneration",
        "SpeechT5ForSpeechToText",
        "WhisperForConditionalGeneration",
    )
    options = {"decoder_input_ids": (), "cancel": None, "return_timestamps": None, "language": None, "translate": None}
    columns = {"audio": ("audio", "file", "path", "sound", "audio_path"), "text": ("text", "sentence", "transcript")}
    optional = frozenset({"text"})
    target = "text"
    metrics = ("wer",)
    answer_key = "text"
    other_steps = ("tokenize",)

    def __init__(self, entry: TaskEntry, files: Files) -> None:
        RewritingTask.__init__(self, entry, files)
        AudioTask.__init__(self, entry, files)
        found = next((step.options for step in entry.postprocess if step.step == "whisper"), None)
        self._whisper: Optional[Mapping[str, Any]] = found
        self._longest = self._log["filled"] if self._log else 0  # samples of one window

    @classmethod
    def entry(cls, facts: ModelFacts) -> TaskEntry:
        steps = [cls.generate_step(facts, forced_decoder_ids=None)]
        has = facts.generation
        if "no_timestamps_token_id" in has:
            forced = dict(has.get("forced_decoder_ids") or facts.config.get("forced_decoder_ids") or [])
            steps.append(
                Step(
                    "whisper",
                    {
                        "untimed": has["no_timestamps_token_id"],
                        "languages": {name.strip("<|>"): i for name, i in (has.get("lang_to_id") or {}).items()},
                        "tasks": dict(has.get("task_to_id") or {}),
                        "language": (has.get("language") or "").strip("<|>") or None,
                        "task": has.get("task") or _name_of(forced.get(2), has.get("task_to_id") or {}),
                        "first_mark": has.get("max_initial_timestamp_index"),
                        "return_timestamps": bool(has.get("return_timestamps")),
                    },
                )
            )
        return TaskEntry(cls.name, (*audio_steps(facts), tokenize_step(facts)), tuple(steps))

    @classmethod
    def sample(cls, text: str, index: int, facts: ModelFacts) -> tuple[Input, dict[str, Any]]:
        languages = facts.generation.get("lang_to_id")
        return {"file": text}, {"language": next(iter(languages)).strip("<|>")} if languages else {}

    def is_single(self, inputs: Input) -> bool:
        return AudioTask.is_single(self, inputs)

    def texts(self, item: Input, options: Mapping[str, Any]) -> Sequence[str]:
        return ()

    def check_options(self, given: Mapping[str, Any]) -> Mapping[str, Any]:
        found = dict(super().check_options(given))
        if self._whisper is None:
            asked = next((name for name in ("return_timestamps", "language", "translate") if found[name]), None)
            if asked:
                raise UsageError(
                    f"Cannot use {asked}={found[asked]!r}.", why="this model has no such tokens", fix="leave it out"
                )
            return found
        config: GenerationConfig = found["config"]
        if config.max_new_tokens is None:  # transformers counts a whisper's length without the prompt
            found["config"] = config.changed({"max_new_tokens": config.max_length})
        if found["return_timestamps"] not in (None, False, True):
            raise UsageError(
                f"Cannot use return_timestamps={found['return_timestamps']!r}.",
                why="this model says when each piece of speech begins and ends, not each word",
                fix="pass True",
            )
        found["language"], known = found["language"] or self._whisper["language"], self._whisper["languages"]
        wanted = {None: self._whisper["task"], True: "translate", False: "transcribe"}.get(found["translate"], "")
        for name, asked, among in (
            ("language", found["language"], known),
            ("translate", wanted, self._whisper["tasks"]),
        ):
            if asked is not None and asked not in among:
                raise UsageError(
                    f"Cannot use {name}={found[name]!r}.",
                    why="this model knows " + (", ".join(among) or "one language, and to write it down"),
                    fix=f"leave {name} out" + (", or choose one of these" if name == "language" and among else ""),
                )
        if found["language"] and wanted is None and self._whisper["tasks"]:
            wanted = "transcribe"
        found["translate"] = wanted
        found["return_timestamps"] = bool(found["return_timestamps"] or self._whisper["return_timestamps"])
        return found

    def start(self, options: Mapping[str, Any]) -> list[int]:
        first = super().start({**options, "decoder_input_ids": ()})
        if self._whisper is not None:
            if options["language"]:
                first.append(self._whisper["languages"][options["language"]])
            if options["translate"]:
                first.append(self._whisper["tasks"][options["translate"]])
            if not options["return_timestamps"]:
                first.append(self._whisper["untimed"])
        return [*first, *options["decoder_input_ids"]]

    def encode(self, item: Input, options: Mapping[str, Any]) -> list[Row]:
        return [self._started(self.row_of(self.sound(item)), options)]

    def _started(self, row: Row, options: Mapping[str, Any]) -> Row:
        start: np.ndarray = np.array(self.start(options), dtype=np.int64)
        return Row({**row.tensors, "decoder_input_ids": start}, row.length, component="encoder")

    def prompts(
        self, graphs: Mapping[str, Session], items: Sequence[Input], options: Mapping[str, Any]
    ) -> list[Prompt]:
        return self._prompts(graphs, [self.encode(item, options)[0] for item in items], options)

    def _prompts(self, graphs: Mapping[str, Session], rows: Sequence[Row], options: Mapping[str, Any]) -> list[Prompt]:
        beside = self.beside(graphs, rows)
        ids = [self.written(row).tolist() for row in rows]
        if self._whisper is not None and self._whisper["languages"] and not options["language"]:
            texts = Texts(graphs[self.component], len(rows), 1, beside)
            codes = np.array(list(self._whisper["languages"].values()))
            heard = codes[texts.read([np.array(each[:1]) for each in ids])[:, codes].argmax(axis=1)]
            ids = [[each[0], int(code), *each[1:]] for each, code in zip(ids, heard)]
        made = []
        for i, each in enumerate(ids):
            given = {name: value[i : i + 1] for name, value in beside.items()}
            rules = [self._marks(options["config"], len(each))] if options["return_timestamps"] else []
            made.append(Prompt(each, self._context or 2**31, given, None, rules))
        return made

    def _marks(self, config: GenerationConfig, begin: int) -> _Marks:
        assert self._whisper is not None  # `check_options` said so
        return _Marks(self._whisper["untimed"], config.eos_token_id[0], begin, self._whisper["first_mark"])

    def run(
        self, graphs: Mapping[str, Session], inputs: Sequence[Input], options: Mapping[str, Any], batch_size: int = 0
    ) -> list[Answer]:
        answers: list[Answer] = [None] * len(inputs)
        short: list[tuple[int, Row]] = []
        size, stops = batch_size or self.batch_size, self.stops(options)

        def write() -> None:
            prompts = self._prompts(graphs, [row for _, row in short], options)
            made = generate(graphs[self.component], prompts, options["config"], stops)
            for (place, _), prompt, found in zip(short, prompts, made):
                begun = prompt.ids[len(prompt.ids) - len(options["decoder_input_ids"]) :]
                answers[place] = self._said([_Part(0.0, 0.0, [*begun, *found[0]])], options)
            short.clear()

        for place, item in enumerate(inputs):
            sound = self.sound(item)
            long = self._whisper is not None and sound.length_at(self.rate) > self._longest
            if long or options["return_timestamps"]:
                answers[place] = self._said(self._windows(graphs, sound, options), options)
                continue
            short.append((place, self._started(self.row_of(sound), options)))
            if len(short) == size:
                write()
        if short:
            write()
        return answers

    def wrap_single(self, answer: Answer, options: Mapping[str, Any]) -> Answer:
        return answer

    def _ended(self, ids: list[int]) -> list[int]:
        """Without the token that ends a text."""
        return ids[:-1] if ids and ids[-1] in self.config.eos_token_id else ids

    def _said(self, parts: Iterable[_Part], options: Mapping[str, Any]) -> Answer:
        first_mark = self._whisper["untimed"] if self._whisper is not None else 2**62
        chunks, ids = [], []
        for part in parts:
            words = [each for each in part.ids if each < first_mark]
            ids += words
            if options["return_timestamps"]:
                chunks.append({"text": self.decoded(words, skip=True), "timestamp": (part.start, part.end)})
        answer: dict[str, Any] = {self.answer_key: self.decoded(ids, skip=True)}
        return {**answer, "chunks": chunks} if options["return_timestamps"] else answer

    def _windows(self, graphs: Mapping[str, Session], sound: Sound, options: Mapping[str, Any]) -> Iterator[_Part]:
        """What is said, and when; each window goes on from the last timestamp of the one before, however long the sound is."""
        assert self._log is not None and self._whisper is not None  # else nothing is timed
        timed = {**options, "return_timestamps": True}
        length, size = sound.length_at(self.rate), self._log["frames"]
        frames = max(length // self._log["hop"], size)  # a short sound is followed by silence
        filled = self._longest if frames == size else 0
        loudest = self._loudest(sound, filled, frames)
        seek, stops = 0, self.stops(options)
        while seek < frames:
            count = min(size, frames - seek)
            found = log_mel_range(self._features_of(sound, filled, seek, count), loudest)
            whole = np.pad(found, ((0, size - count), (0, 0))).T  # as transformers fills the last window
            row = self._started(Row({"input_features": whole}, 1), timed)
            prompts = self._prompts(graphs, [row], timed)
            timed["language"] = self._language(prompts[0])  # of the first window, for all
            ((ids,),) = generate(graphs[self.component], prompts, timed["config"], stops)
            parts, moved = _cut(self._ended(ids), self._whisper["untimed"] + 1, count)
            offset = seek * self._log["hop"] / self.rate
            yield from (_Part(part.start + offset, part.end + offset, part.ids) for part in parts)
            seek += moved or count

    def _language(self, prompt: Prompt) -> Optional[str]:
        assert self._whisper is not None
        names = {code: name for name, code in self._whisper["languages"].items()}
        return next((names[each] for each in prompt.ids if each in names), None)

    def _features_of(self, sound: Sound, filled: int, first: int, count: int) -> np.ndarray:
        assert self._log is not None
        length, options = sound.length_at(self.rate), {**self._log, "filled": filled}
        return log_mel(lambda a, b: sound.samples(self.rate, a, b), length, first, count, options)

    def _loudest(self, sound: Sound, filled: int, frames: int) -> float:
        assert self._log is not None
        step = _PIECE * self.rate // self._log["hop"]
        pieces = (self._features_of(sound, filled, i, min(step, frames - i)) for i in range(0, frames, step))
        return max(float(each.max()) for each in pieces)


@dataclass(frozen=True)
class _Part:
    """Tokens with the seconds from and to."""

    start: float
    end: float
    ids: list[int]


def _name_of(code: Optional[int], names: Mapping[str, int]) -> Optional[str]:
    return next((name for name, each in names.items() if each == code), None)


def _cut(ids: list[int], first: int, frames: int) -> tuple[list[_Part], int]:
    """The pieces of speech that timestamps mark in the tokens of a window, and the frames after which the next window begins.

    Two timestamps in a row end one piece and begin the next. Where the tokens end with such a pair the window was cut in the middle
    of a piece, which the next one reads again.

    Args:
        ids: without the prompt.
        first: the timestamp of 0.0 seconds.
        frames: that the window has.
    """
    marked = [each >= first for each in ids]
    ends = [i + 1 for i in range(len(ids) - 1) if marked[i] and marked[i + 1]]
    whole = marked[-2:] == [False, True]  # nothing is said behind the last timestamp

    def seconds(token: int) -> float:
        return (token - first) * _MARK

    if not ends:
        last = next((each for each in reversed(ids) if each >= first), first)
        # By transformers' own expression, which rounds.
        end = (
            last - first if last != first else int(np.float32(frames) * np.float32(0.01) / np.float32(_MARK))
        ) * _MARK
        return [_Part(0.0, end, ids)], frames
    ends = [*ends, len(ids)] if whole else [*ends[:-1], ends[-1] + 1]
    parts, begin = [], 0
    for place, stop in enumerate(ends):
        piece = ids[begin:stop]
        end = piece[-2] if place == len(ends) - 1 and not whole else piece[-1]
        parts.append(_Part(seconds(piece[0]), seconds(end), piece))
        begin = stop
    return parts, frames if whole else (ids[begin - 2] - first) * _FRAMES


@dataclass(frozen=True)
class _Marks:
    """Which timestamps may come: in pairs, never back in time, and one first; all of them together against every other token."""

    untimed: int  # the token that stands for "without", behind which timestamps begin
    eos: int
    begin: int  # tokens of the prompt
    first: Optional[int]  # the last timestamp that a text may begin with

    def __call__(self, ids: np.ndarray, scores: np.ndarray) -> np.ndarray:
        marks = self.untimed + 1
        scores[self.untimed] = -np.inf
        said = ids[self.begin :]
        last = len(said) >= 1 and said[-1] >= marks
        before = len(said) < 2 or said[-2] >= marks
        if last and before:
            scores[marks:] = -np.inf
        elif last:
            scores[: self.eos] = -np.inf
        came = said[said >= marks]
        if len(came):
            scores[marks : int(came[-1]) + (0 if last and not before else 1)] = -np.inf
        if not len(said):
            scores[:marks] = -np.inf
            if self.first is not None:
                scores[marks + self.first + 1 :] = -np.inf
        logs = log_softmax(scores)
        top = logs[marks:].max()
        with np.errstate(divide="ignore", invalid="ignore"):
            together = top + np.log(np.exp(logs[marks:] - top).sum()) if np.isfinite(top) else -np.inf
        if together > logs[:marks].max():
            scores[:marks] = -np.inf
        return scores
