"""What tasks share that speak a text: what they refuse, where their chance comes from, and how their sound is judged."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, Callable, Optional

import numpy as np

from ..errors import UsageError
from ..log_mel import decibel_mel
from ..manifest import Step, TaskEntry
from ..sessions import Session
from .task import SOUND, Answer, Files, Input, ModelFacts, Row
from .text import TextTask, tokenize_step, wrong_type

__all__ = ["VOICE_FILE", "SpeakingTask", "dice", "field_of", "heard", "in_pieces", "number"]

VOICE_FILE = "voice.npy"  # of a bundle: the embedding of the speaker that is taken where a caller names none

_ENDLESS = 2**31 - 1  # tokens of a text, where a model sets no end
_SAID = 60  # letters of a golden text; whatever is right for these is for more
_LONGEST = 600  # seconds of one text
_RANGE = 60.0  # decibels below the loudest of a sound, where nobody hears more
_PIECE = 1024  # frames that become sound in one call

Run = Callable[[np.ndarray], np.ndarray]


class SpeakingTask(TextTask):
    """`predict("Hello.")` is `{"audio": float32 [samples], "sampling_rate"}`.

    Texts of a list are spoken one after the other: what pads one would be heard. No text is cut.
    """

    judged = {"sound": SOUND}
    name = "text-to-speech"
    outputs = ("waveform",)
    speaks = True

    def __init__(self, entry: TaskEntry, files: Files) -> None:
        super().__init__(entry, files)
        self.settings: Mapping[str, Any] = next(each.options for each in entry.postprocess if each.step == "speech")
        self.rate: int = self.settings["sampling_rate"]
        silent = [self.tokenizer.token_to_id(each) for each in (self.settings["unknown"], " ", "▁") if each]
        self._silent = {each for each in silent if each is not None}

    @staticmethod
    def text_step(facts: ModelFacts, longest: int = _ENDLESS) -> Step:
        step = tokenize_step(facts, policy="do_not_truncate")
        return Step(step.step, {**step.options, "max_length": min(step.options["max_length"], longest)})

    @classmethod
    def sample(cls, text: str, index: int, facts: ModelFacts) -> tuple[Input, dict[str, Any]]:
        """The text, or where the voice knows too few of its letters one of as many that it knows."""
        own, said = facts.alphabet, text[:_SAID]
        if 2 * sum(each in own for each in said.lower()) <= len(said):
            said = "".join([own[(place * place + 7 * index) % len(own)] for place in range(max(len(said), 3))])
        return said, {"seed": index}

    @classmethod
    def sounding(cls, facts: ModelFacts, **more: Any) -> Step:
        return Step("speech", {"unknown": facts.special_tokens.get("unk_token"), **more})

    def encode(self, item: Input, options: Mapping[str, Any]) -> list[Row]:
        if not isinstance(item, str):
            raise wrong_type(self, item)
        encoding: Any = self.encoding(item)  # Any: of `tokenizers`, or one in Python
        said = [i for i, special in zip(encoding.ids, encoding.special_tokens_mask) if not special]
        if not set(said) - self._silent:
            raise UsageError(
                "Cannot speak the text.",
                why=f"it is {item[:40]!r}, and the voice knows none of its letters" if item.strip() else "it is empty",
                fix="give a text with words in the language of the voice",
            )
        return [self.spoken_row(np.array(encoding.ids, dtype=np.int64), options)]

    @abstractmethod
    def spoken_row(self, ids: np.ndarray, options: Mapping[str, Any]) -> Row: ...

    @abstractmethod
    def speak(self, graphs: Mapping[str, Session], row: Row, options: Mapping[str, Any]) -> np.ndarray:
        """The sound, float32 [samples]."""

    def run(
        self, graphs: Mapping[str, Session], inputs: Sequence[Input], options: Mapping[str, Any], batch_size: int = 0
    ) -> list[Answer]:
        made = []
        for item in inputs:
            (row,) = self.encode(item, options)
            if row.length > self.max_length:
                raise UsageError(
                    f"Cannot speak a text of {row.length} tokens.",
                    why=f"the voice holds {self.max_length}, and no text is cut",
                    fix="give its sentences one by one, as a list",
                )
            made.append({"audio": self.speak(graphs, row, options), "sampling_rate": self.rate})
        return made

    def answer(self, item: Input, rows: Sequence[Row], scores: Any, options: Mapping[str, Any]) -> Answer:
        raise NotImplementedError  # `run` speaks

    def check_length(self, frames: float, hop: int) -> None:
        """Raises: UsageError for a sound without end, which would take all memory."""
        seconds = frames * hop / self.rate
        if not seconds <= _LONGEST:  # also of what is no number
            raise UsageError(
                f"Cannot speak for {seconds:.0f} seconds.",
                why=f"one text may take {_LONGEST}",
                fix="give its sentences one by one, as a list",
            )


def dice(seed: Any) -> np.random.RandomState:
    """numpy's generator that never changes (https://numpy.org/neps/nep-0019-rng-policy.html): a seed is the same on every device.

    Raises:
        UsageError: no seed.
    """
    whole = isinstance(seed, (int, np.integer)) and not isinstance(seed, bool)
    if seed is not None and not (whole and 0 <= seed < 2**32):
        raise UsageError(
            f"Cannot use seed={seed!r}.",
            why="it is a whole number from 0 to 4294967295, or None for another sound each time",
            fix="pass seed=0",
        )
    return np.random.RandomState(seed)


def heard(samples: np.ndarray, rate: int) -> np.ndarray:
    """Decibels by frame and band of hearing, float32 [frames, 80]; what is far below the loudest is silence."""
    options = {"window": 1024, "hop": 256, "bins": 80, "low": 0.0, "high": rate / 2}
    found = decibel_mel(samples, rate, options)
    loud: np.ndarray = np.maximum(found, found.max(initial=-np.inf) - _RANGE)
    return loud


def in_pieces(session: Session, run: Run, frames: np.ndarray, context: int, hop: int) -> np.ndarray:
    """The sound of frames [frames, size] in constant memory: each piece with as many neighbours as it hears.

    Args:
        session: of the graph that `run` runs; one of fixed sizes takes smaller pieces.
    """
    count, most = len(frames), getattr(session, "largest", {}).get("frames", 0)
    size = min(_PIECE, max(most - 2 * context, 1)) if most else _PIECE
    parts = []
    for start in range(0, count, size):
        first, last, end = max(start - context, 0), min(start + size + context, count), min(start + size, count)
        made = run(frames[first:last])
        parts.append(made[(start - first) * hop : (end - first) * hop])
    whole: np.ndarray = np.concatenate(parts) if len(parts) > 1 else parts[0]
    return whole


def field_of(config: Mapping[str, Any]) -> tuple[int, int]:
    """Of a HiFi-GAN: the frames that one hears on each side of it, and the samples that it becomes."""
    blocks = zip(config["resblock_kernel_sizes"], config["resblock_dilation_sizes"])
    block = max(
        sum((kernel * each - each) // 2 + (kernel - 1) // 2 for each in dilations) for kernel, dilations in blocks
    )
    rates, kernels = config["upsample_rates"], config["upsample_kernel_sizes"]
    field = 3  # of the last convolution, of seven samples
    for rate, kernel in zip(reversed(rates), reversed(kernels)):
        field = -(-(field + block + kernel) // rate)
    return field + 3, int(np.prod(rates))


def number(options: Mapping[str, Any], name: str, default: float, least: Optional[float] = 0.0) -> float:
    """Raises: UsageError for what is no number, or not above `least`."""
    value = default if options[name] is None else options[name]
    good = isinstance(value, (int, float)) and not isinstance(value, bool) and np.isfinite(value)
    if not good or (least is not None and value <= least):
        raise UsageError(
            f"Cannot use {name}={options[name]!r}.", why=f"it is a number above {least}", fix=f"pass {name}=1"
        )
    return float(value)
