"""automatic-speech-recognition by a whisper: sounds of any length in windows, timestamps, languages, and texts that are tried again."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Optional

import numpy as np

from ..errors import UsageError
from ..generation import GenerationConfig, Prompt, Texts, generate
from ..log_mel import log_mel, log_mel_range
from ..manifest import Step, TaskEntry
from ..sessions import Session, Tensors
from ..sound import Sound
from .generative import Pieces
from .marked_times import MARK, Marks, Part, cut
from .spoken_languages import CODES, NAMES
from .spoken_words import QUERIES, SPACELESS, alignment, looked_at, token_times, words_of
from .task import Answer, Files, Input, ModelFacts, Row
from .told_before import CONDITIONS, Told
from .tried_again import THRESHOLDS, Tries, at_temperature, average_log, tries_of
from .written_speech import WrittenSpeech

__all__ = ["Whisper"]

_PIECE = 30  # seconds of features that are made at once, to find the loudest
_COLD = 0.5  # a text that was drawn at more than this is not shown to the next window


class Whisper(WrittenSpeech):
    """`predict("clip.wav")` is `{"text"}`; with `return_timestamps=True` also `"chunks"`, `[{"text", "timestamp": (start, end)}]` in
    seconds, and with "word" a chunk for each word.

    A sound of more than 30 seconds is read in windows, each of which begins at the last timestamp of the one before (Radford et al.
    2022, section 3.8), and takes no more memory than one of them. Options:

    - `language` ("en" or "english"; None: what is heard) and `translate` (to English) of a checkpoint that knows several;
      `return_language` tells it of each chunk, and of a text without times in one.
    - `temperature`: one, or several that are tried one after the other while a text packs better than
      `compression_ratio_threshold` or is less likely than `logprob_threshold`; with `no_speech_threshold` such a window is silence.
    - `initial_prompt`, a text that could stand before, or its tokens as `prompt_ids`; `condition_on_prev_tokens` shows each window
      what was written before it, and `prompt_condition_type` ("first-segment", "all-segments") which of them see the prompt too.
    - Every setting of `GenerationConfig` by its name.
    """

    options = {
        **{name: value for name, value in WrittenSpeech.options.items() if name != "tgt_lang"},
        **dict.fromkeys(THRESHOLDS),
        "return_language": None,
        "initial_prompt": None,
        "prompt_ids": None,
        "prompt_condition_type": None,
        "condition_on_prev_tokens": None,
    }

    def __init__(self, entry: TaskEntry, files: Files) -> None:
        super().__init__(entry, files)
        self._has: Mapping[str, Any] = next(step.options for step in entry.postprocess if step.step == "whisper")
        assert self._log is not None  # whose features it hears
        self._sizes: Mapping[str, Any] = self._log
        self._longest: int = self._log["filled"]  # samples of one window
        self._first: int = self._has["untimed"] + 1  # the timestamp of 0.0 seconds

    @classmethod
    def entry(cls, facts: ModelFacts) -> TaskEntry:
        made, has = super().entry(facts), facts.generation
        if "no_timestamps_token_id" not in has:  # of before there were timestamps: as any other
            return made
        forced = dict(has.get("forced_decoder_ids") or facts.config.get("forced_decoder_ids") or [])
        hidden: Sequence[int] = has.get("suppress_tokens") or ()
        step = Step(
            "whisper",
            {
                "untimed": has["no_timestamps_token_id"],
                "languages": {name.strip("<|>"): i for name, i in (has.get("lang_to_id") or {}).items()},
                "tasks": dict(has.get("task_to_id") or {}),
                "language": (has.get("language") or "").strip("<|>") or None,
                "task": has.get("task") or _name_of(forced.get(2), has.get("task_to_id") or {}),
                "first_mark": has.get("max_initial_timestamp_index"),
                "return_timestamps": bool(has.get("return_timestamps")),
                "before": has.get("prev_sot_token_id", hidden[-2] if len(hidden) > 1 else None),
                "alignment": [list(each) for each in alignment(has)],
                "median": facts.config.get("median_filter_width", 7),
                **{name: has.get(name) for name in (*THRESHOLDS, "condition_on_prev_tokens")},
            },
        )
        return TaskEntry(made.name, made.preprocess, (*made.postprocess, step))

    @classmethod
    def sample(cls, text: str, index: int, facts: ModelFacts) -> tuple[Input, dict[str, Any]]:
        languages = facts.generation.get("lang_to_id")
        return {"file": text}, {"language": next(iter(languages)).strip("<|>")} if languages else {}

    def check_options(self, given: Mapping[str, Any]) -> Mapping[str, Any]:
        found = super().check_options({name: value for name, value in given.items() if name != "temperature"})
        return {**found, "tries": tries_of(found, given.get("temperature"))}

    def complete(self, found: dict[str, Any]) -> None:
        config: GenerationConfig = found["config"]
        if config.max_new_tokens is None:  # transformers counts a whisper's length without the prompt
            found["config"] = config.changed({"max_new_tokens": config.max_length})
        self._check_timestamps(found["return_timestamps"])
        self._check_language(found)
        for name in (*THRESHOLDS, "condition_on_prev_tokens"):
            found[name] = self._has.get(name) if found[name] is None else found[name]
        found["prompt_ids"] = self._prompt_ids(found["initial_prompt"], found["prompt_ids"])
        condition = found["prompt_condition_type"] or CONDITIONS[0]
        if condition not in CONDITIONS or (condition == CONDITIONS[1] and not found["condition_on_prev_tokens"]):
            raise UsageError(
                f"Cannot use prompt_condition_type={condition!r}.",
                why=f"it is one of {', '.join(CONDITIONS)}; the second goes with condition_on_prev_tokens=True",
                fix="leave it out",
            )
        found["prompt_condition_type"] = condition

    def _check_timestamps(self, asked: Any) -> None:  # Any: what a caller wrote
        if asked not in (None, False, True, "word"):
            raise UsageError(
                f"Cannot use return_timestamps={asked!r}.",
                why="this model says when each piece of speech begins and ends, or each word",
                fix='pass True, or "word"',
            )
        if asked == "word" and not self._has.get("alignment"):
            raise UsageError(
                "Cannot say when each word is said.",
                why="generation_config.json of this model has no alignment_heads, or the bundle is of before they were carried",
                fix="pass return_timestamps=True, or convert a checkpoint with alignment_heads",
            )

    def _check_language(self, found: dict[str, Any]) -> None:
        asked, known = found["language"] or self._has["language"], self._has["languages"]
        found["language"] = CODES.get(asked.lower(), asked.lower()) if isinstance(asked, str) else asked
        wanted = {None: self._has["task"], True: "translate", False: "transcribe"}.get(found["translate"], "")
        for name, asked, among in (
            ("language", found["language"], known),
            ("translate", wanted, self._has["tasks"]),
        ):
            if asked is not None and asked not in among:
                raise UsageError(
                    f"Cannot use {name}={found[name]!r}.",
                    why="this model knows " + (", ".join(among) or "one language, and to write it down"),
                    fix=f"leave {name} out" + (", or choose one of these" if name == "language" and among else ""),
                )
        if found["language"] and wanted is None and self._has["tasks"]:
            wanted = "transcribe"
        found["translate"] = wanted
        found["return_timestamps"] = found["return_timestamps"] or self._has["return_timestamps"]

    def _prompt_ids(self, text: Any, ids: Any) -> list[int]:  # Any: what a caller wrote
        before = self._has.get("before")
        if text is None and ids is None:
            return []
        if text is not None and ids is not None:
            raise UsageError("Cannot take both initial_prompt and prompt_ids.", why="they are one", fix="leave one out")
        if text is None:
            return [int(each) for each in ids]
        if not isinstance(text, str) or before is None:
            raise UsageError(
                f"Cannot use initial_prompt={text!r}.",
                why="it is a string, and the model needs a token that stands before one (prev_sot_token_id)",
                fix="leave it out",
            )
        found = list(self.encoding(" " + text.strip(), special=False, cut=False).ids)
        special = next((each for each in found if each >= self.config.eos_token_id[0]), None)
        if special is not None:
            raise UsageError(
                f"Cannot use initial_prompt={text!r}.",
                why=f"it holds {self.decoded([special], skip=False)!r}, which is no text",
                fix="take it out",
            )
        return [before, *found]

    def start(self, options: Mapping[str, Any]) -> list[int]:
        first = super().start({**options, "decoder_input_ids": ()})
        if options["language"]:
            first.append(self._has["languages"][options["language"]])
        if options["translate"]:
            first.append(self._has["tasks"][options["translate"]])
        if not options["return_timestamps"]:
            first.append(self._has["untimed"])
        return [*first, *options["decoder_input_ids"]]

    def shown(self, token: int) -> bool:
        return token < self._first - 1

    def prompts(
        self, graphs: Mapping[str, Session], items: Sequence[Input], options: Mapping[str, Any]
    ) -> list[Prompt]:
        return self._prompts(graphs, [self.encode(item, options)[0] for item in items], options)

    def _prompts(
        self,
        graphs: Mapping[str, Session],
        rows: Sequence[Row],
        options: Mapping[str, Any],
        before: Sequence[int] = (),
    ) -> list[Prompt]:
        beside = self.beside(graphs, rows)
        ids = [self.written(row).tolist() for row in rows]
        if self._has["languages"] and not options["language"]:
            texts = Texts(graphs[self.component], len(rows), 1, beside)
            codes = np.array(list(self._has["languages"].values()))
            heard = codes[texts.read([np.array(each[:1]) for each in ids])[:, codes].argmax(axis=1)]
            ids = [[each[0], int(code), *each[1:]] for each, code in zip(ids, heard)]
        made = []
        for i, own in enumerate(ids):
            each = [*before, *own]
            given = {name: value[i : i + 1] for name, value in beside.items()}
            rules = [self._marks(options["config"], len(each))] if options["return_timestamps"] else []
            made.append(Prompt(each, self._context or 2**31, given, None, rules))
        return made

    def _marks(self, config: GenerationConfig, begin: int) -> Marks:
        return Marks(self._has["untimed"], config.eos_token_id[0], begin, self._has["first_mark"])

    def run(
        self, graphs: Mapping[str, Session], inputs: Sequence[Input], options: Mapping[str, Any], batch_size: int = 0
    ) -> list[Answer]:
        answers: list[Answer] = [None] * len(inputs)
        short: list[tuple[int, Row]] = []
        size = batch_size or self.batch_size

        def write() -> None:
            prompts = self._prompts(graphs, [row for _, row in short], options)
            for (place, _), text in zip(short, self.written_by(graphs, prompts, options)):
                answers[place] = {self.answer_key: text}
            short.clear()

        for place, item in enumerate(inputs):
            sound = self.sound(item)
            if not self._at_once(sound, options):
                answers[place] = self._said(self._windows(graphs, sound, options), options)
                continue
            short.append((place, self.started(self.row_of(sound), options)))
            if len(short) == size:
                write()
        if short:
            write()
        return answers

    def stream(
        self, graphs: Mapping[str, Session], items: Sequence[Input], options: Mapping[str, Any]
    ) -> Iterator[tuple[int, str]]:
        """The texts in pieces: short sounds' word by word, and those of windows, one sound after the other, as each is written."""
        cancel: Optional[threading.Event] = options["cancel"]
        sounds = [self.sound(item) for item in items]
        if all(self._at_once(sound, options) for sound in sounds):
            yield from super().stream(graphs, items, options)
            return
        for number, sound in enumerate(sounds):
            pieces = Pieces(self, ())
            for part in self._windows(graphs, sound, options):
                piece = "".join([pieces.add(each) for each in part.ids if self.shown(each)])
                if piece:
                    yield number, piece
                if cancel is not None and cancel.is_set():
                    return
            if rest := pieces.rest():
                yield number, rest

    def _at_once(self, sound: Sound, options: Mapping[str, Any]) -> bool:
        """Whether a sound is one window, and what is written about it stands."""
        asked = options["return_timestamps"] or options["prompt_ids"] or options["return_language"]
        asked = asked or not options["tries"].plain
        return not asked and sound.length_at(self.rate) <= self._longest

    def _said(self, parts: Iterable[Part], options: Mapping[str, Any]) -> Answer:
        chunks, ids, spoken = [], [], 0.0
        heard: dict[str, Optional[str]] = {}
        for part in parts:
            words = [each for each in part.ids if self.shown(each)]
            ids += words
            heard = {"language": NAMES.get(part.language or "")} if options["return_language"] else {}
            if options["return_timestamps"] == "word":
                begin = [spoken, *part.times[:-1]] if part.times else []
                known = [i for i, each in enumerate(part.ids) if each < self.config.eos_token_id[0]]
                for word in words_of([part.ids[i] for i in known], self._plain, spaced=part.language not in SPACELESS):
                    time = begin[known[word.first]], part.times[known[word.last]]
                    chunks.append({"text": word.text, "timestamp": (round(time[0], 2), round(time[1], 2)), **heard})
                spoken = part.times[-1] if part.times else spoken
            elif options["return_timestamps"]:
                chunks.append({"text": self.decoded(words, skip=True), "timestamp": (part.start, part.end), **heard})
        answer: dict[str, Any] = {self.answer_key: self.decoded(ids, skip=True)}
        if options["return_language"] and not options["return_timestamps"]:
            chunks = [{"text": answer[self.answer_key], **heard}]
        return {**answer, "chunks": chunks} if options["return_timestamps"] or options["return_language"] else answer

    def _plain(self, ids: Sequence[int]) -> str:
        return self.decoded(ids, skip=False)

    def _windows(self, graphs: Mapping[str, Session], sound: Sound, options: Mapping[str, Any]) -> Iterator[Part]:
        """What is said, and when; each window goes on from the last timestamp of the one before, however long the sound is."""
        length, size, hop = sound.length_at(self.rate), self._sizes["frames"], self._sizes["hop"]
        frames = max(length // hop, size)  # a short sound is followed by silence
        timed = {**options, "return_timestamps": options["return_timestamps"] or length > self._longest}
        filled = self._longest if frames == size else 0
        sounding = frames if length > self._longest else -(-length // hop)
        loudest = self._loudest(sound, filled, frames)
        told = Told(self._has.get("before"), self._first, (self._context or 2**31) // 2 - 1, options)
        seek = 0
        while seek < frames:
            count = min(size, frames - seek)
            found = log_mel_range(self._features_of(sound, filled, seek, count), loudest)
            whole = np.pad(found, ((0, size - count), (0, 0))).T  # as transformers fills the last window
            row = self.started(Row({"input_features": whole}, 1), timed)
            before = told.before()
            (prompt,) = self._prompts(graphs, [row], timed, before)
            timed["language"] = self._language(prompt)  # of the first window, for all
            heard = self._heard(graphs[self.component], prompt, len(before), timed)
            told.shown = bool(timed["condition_on_prev_tokens"]) and (heard.temperature or 0.0) < _COLD
            if heard.silent:
                seek += count
                continue
            parts, moved = cut(self._ended(heard.ids), self._first, count)
            times = self._times(heard, prompt, sounding - seek) if options["return_timestamps"] == "word" else []
            offset, place = seek * hop / self.rate, 0
            for part in parts:
                own = [each + offset for each in times[place : place + len(part.ids)]]
                place += len(part.ids)
                told.add(part.ids)
                yield Part(part.start + offset, part.end + offset, part.ids, own, timed["language"])
            seek += moved or count

    def _heard(self, decoder: Session, prompt: Prompt, before: int, options: Mapping[str, Any]) -> _Heard:
        """What is written about a window, at the first temperature that gives something to be believed, or the last.

        Args:
            before: tokens of the prompt that stand before the one which starts a text.
        """
        tries: Tries = options["tries"]
        stops = self.stops(options)
        for temperature in tries.temperatures:
            config = at_temperature(options["config"], temperature)
            ((ids,),) = generate(decoder, [prompt], config, stops)
            again, silent, read = False, False, None
            if tries.compression_ratio is not None:
                vocabulary = next(int(spec.shape[-1]) for spec in decoder.outputs if spec.name == "logits")
                again = tries.repeats(ids, vocabulary)
            if tries.logprob is not None:
                read = self._read_again(decoder, prompt, before, ids)
                logits = read["logits"][0]
                if tries.unlikely(average_log(prompt, config, decoder, ids, logits[1:])):
                    first = np.exp(logits[0] - logits[0].max())
                    silent = tries.silent(float(first[self._has["untimed"] - 1] / first.sum()))
                    again = not silent
            if not again:
                break
        if options["return_timestamps"] == "word" and read is None:
            read = self._read_again(decoder, prompt, before, ids)
        return _Heard(ids, temperature, silent, read)

    def _read_again(self, decoder: Session, prompt: Prompt, start: int, ids: Sequence[int]) -> Tensors:
        """The decoder's outputs where the text starts, and before each new token.

        Read at once, and only where they are asked for: so no strategy has to keep them, and nothing else pays for it.
        """
        text = np.array([*prompt.ids, *ids[:-1]], dtype=np.int64)
        places = np.array([[start, *range(len(prompt.ids) - 1, len(text))]], dtype=np.int64)
        return Texts(decoder, 1, len(text), prompt.beside).outputs_at([text], places)

    def _times(self, heard: _Heard, prompt: Prompt, frames: int) -> list[float]:
        """The second of its window at which each new token ends."""
        count = len(self._ended(heard.ids))
        queries = heard.read[QUERIES][0, 2:] if heard.read is not None else np.zeros((0, 0), np.float32)
        if not len(queries):
            return [0.0] * count
        beside = prompt.beside or {}
        last = max(frames // 2, 1)
        keys = [beside[f"cross_key_{layer}"][0, head] for layer, head in self._has["alignment"]]
        ends = token_times(looked_at(queries, keys)[:, :, :last], self._has["median"])
        # The last token was not read: where it is none that ends the text it has the time of the one before.
        seconds = [
            float(np.float32(max(each, 0) * MARK)) for each in (*ends, ends[-1])
        ]  # before: where there is one frame
        return seconds[:count]

    def _ended(self, ids: list[int]) -> list[int]:
        """Without the token that ends a text."""
        return ids[:-1] if ids and ids[-1] in self.config.eos_token_id else ids

    def _language(self, prompt: Prompt) -> Optional[str]:
        names = {code: name for name, code in self._has["languages"].items()}
        return next((names[each] for each in prompt.ids if each in names), None)

    def _features_of(self, sound: Sound, filled: int, first: int, count: int) -> np.ndarray:
        length, options = sound.length_at(self.rate), {**self._sizes, "filled": filled}
        return log_mel(lambda a, b: sound.samples(self.rate, a, b), length, first, count, options)

    def _loudest(self, sound: Sound, filled: int, frames: int) -> float:
        step = _PIECE * self.rate // self._sizes["hop"]
        pieces = (self._features_of(sound, filled, i, min(step, frames - i)) for i in range(0, frames, step))
        return max(float(each.max()) for each in pieces)


@dataclass(frozen=True)
class _Heard:
    """New tokens, and what was found when they were read again."""

    ids: list[int]
    temperature: Optional[float]
    silent: bool
    read: Optional[Tensors]


def _name_of(code: Optional[int], names: Mapping[str, int]) -> Optional[str]:
    return next((name for name, each in names.items() if each == code), None)
