"""automatic-speech-recognition by a decoder that writes what an encoder heard: moonshine and speech-to-text models, and as `Whisper` what
tells times."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from ..errors import UsageError
from ..generation import Prompt, generate
from ..manifest import Step, TaskEntry
from ..sessions import Session
from .audio import AudioTask, audio_steps
from .rewriting import RewritingTask
from .task import Answer, Files, Input, ModelFacts, Row
from .text import tokenize_step

__all__ = ["WrittenSpeech"]


class WrittenSpeech(RewritingTask, AudioTask):
    """`predict("clip.wav")` is `{"text"}`. Options: `tgt_lang` of a checkpoint that translates into several languages, and the settings
    of `GenerationConfig` by their names."""

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
    options = {
        "decoder_input_ids": (),
        "cancel": None,
        "return_timestamps": None,
        "language": None,
        "translate": None,
        "tgt_lang": None,
    }
    columns = {"audio": ("audio", "file", "path", "sound", "audio_path"), "text": ("text", "sentence", "transcript")}
    optional = frozenset({"text"})
    target = "text"
    metrics = ("wer",)
    answer_key = "text"
    other_steps = ("tokenize",)

    def __init__(self, entry: TaskEntry, files: Files) -> None:
        RewritingTask.__init__(self, entry, files)
        AudioTask.__init__(self, entry, files)
        self._targets: Mapping[str, int] = entry.option("languages", "codes", {})

    @classmethod
    def entry(cls, facts: ModelFacts) -> TaskEntry:
        several = facts.languages.get("codes")
        steps = (Step("languages", {"codes": dict(several)}),) if several else ()
        return TaskEntry(
            cls.name,
            (*audio_steps(facts), tokenize_step(facts)),
            (cls.generate_step(facts, forced_decoder_ids=None), *steps),
        )

    @classmethod
    def sample(cls, text: str, index: int, facts: ModelFacts) -> tuple[Input, dict[str, Any]]:
        return {"file": text}, {}

    def is_single(self, inputs: Input) -> bool:
        return AudioTask.is_single(self, inputs)

    def texts(self, item: Input, options: Mapping[str, Any]) -> Sequence[str]:
        return ()

    def check_options(self, given: Mapping[str, Any]) -> Mapping[str, Any]:
        found = dict(super().check_options(given))
        self.complete(found)
        return found

    def complete(self, found: dict[str, Any]) -> None:
        """Check the task's own options, and fill in what nobody said."""
        asked = next((name for name in ("return_timestamps", "language", "translate") if found[name]), None)
        if asked:
            raise UsageError(
                f"Cannot use {asked}={found[asked]!r}.", why="this model has no such tokens", fix="leave it out"
            )
        target = found["tgt_lang"]
        if target is not None:
            if target not in self._targets:
                known = ", ".join(self._targets) or "the one that it was trained for"
                raise UsageError(
                    f"Cannot use tgt_lang={target!r}.", why=f"this model writes {known}", fix="choose one of these"
                )
            found["config"] = found["config"].changed({"forced_bos_token_id": self._targets[target]})

    def encode(self, item: Input, options: Mapping[str, Any]) -> list[Row]:
        return [self.started(self.row_of(self.sound(item)), options)]

    def started(self, row: Row, options: Mapping[str, Any]) -> Row:
        start: np.ndarray = np.array(self.start(options), dtype=np.int64)
        return Row({**row.tensors, "decoder_input_ids": start}, row.length, component="encoder")

    def run(
        self, graphs: Mapping[str, Session], inputs: Sequence[Input], options: Mapping[str, Any], batch_size: int = 0
    ) -> list[Answer]:
        size = batch_size or self.batch_size
        answers: list[Answer] = []
        for start in range(0, len(inputs), size):
            prompts = self.prompts(graphs, inputs[start : start + size], options)
            answers += [{self.answer_key: text} for text in self.written_by(graphs, prompts, options)]
        return answers

    def written_by(
        self, graphs: Mapping[str, Session], prompts: Sequence[Prompt], options: Mapping[str, Any]
    ) -> Iterator[str]:
        """The texts that go on from prompts, with what the caller began."""
        made = generate(graphs[self.component], prompts, options["config"], self.stops(options))
        for prompt, found in zip(prompts, made):
            begun = prompt.ids[len(prompt.ids) - len(options["decoder_input_ids"]) :]
            yield self.decoded([each for each in (*begun, *found[0]) if self.shown(each)], skip=True)

    def wrap_single(self, answer: Answer, options: Mapping[str, Any]) -> Answer:
        return answer
