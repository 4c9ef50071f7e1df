"""Sound in: the steps of a model's feature extractor with numpy alone, and rows of samples or of log-mel features."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, Callable, ClassVar

import numpy as np

from ..errors import IntegrityError, SupportError, UsageError
from ..log_mel import decibel_mel, kaldi_fbank, log_mel, log_mel_range
from ..manifest import Step, TaskEntry
from ..sound import Sound, open_sound, sound_of
from .task import Files, Input, ModelFacts, Row, Task

__all__ = ["MAX_SECONDS", "AudioTask", "audio_steps", "frame_count", "receptive_field"]

MAX_SECONDS = 180  # of one row: attention takes memory by the square of it, 3 minutes some gigabytes


def audio_steps(facts: ModelFacts) -> tuple[Step, ...]:
    """A feature extractor's settings, as transformers gives them with the defaults of its class, as steps.

    Raises:
        SupportError: a feature extractor that is not served here.
    """
    has = facts.feature_extractor
    kind = str(has.get("feature_extractor_type", ""))
    if kind not in _STEPS_OF:
        raise SupportError(
            f"Cannot carry the feature extractor {kind or 'of this model'}.",
            why=f"satchel computes those of {', '.join(_STEPS_OF)}",
            fix="report the checkpoint",
        )
    maps = ("ClapFeatureExtractor", "Speech2TextFeatureExtractor", "WhisperFeatureExtractor")
    if (has.get("feature_size", 1) != 1 and kind not in maps) or has.get("padding_value", 0.0) != 0.0:
        raise SupportError(
            f"Cannot carry the feature extractor {kind}.",
            why="it pads with other values than 0, or has several channels",
            fix="report the checkpoint",
        )
    return (Step("mono"), Step("resample", {"rate": int(has["sampling_rate"])}), *_STEPS_OF[kind](facts))


# Kernels and strides where they are the class's own, by model_type.
_CONVOLUTIONS: Mapping[str, tuple[tuple[int, ...], tuple[int, ...]]] = {"moonshine": ((127, 7, 3), (64, 3, 2))}


def _of_waves(facts: ModelFacts) -> tuple[Step, ...]:
    """Of samples, for a model whose first layers are convolutions over them."""
    fixed = _CONVOLUTIONS.get(str(facts.config.get("model_type")), ((), ()))
    kernels, strides = facts.config.get("conv_kernel") or fixed[0], facts.config.get("conv_stride") or fixed[1]
    if not kernels or not strides or facts.config.get("add_adapter"):
        raise SupportError(
            f"Cannot carry a model of the type {facts.config.get('model_type')}.",
            why="its config does not say how many samples make a frame, or it has an adapter that joins frames",
            fix="report the checkpoint",
        )
    normalize = (Step("normalize_wave"),) if facts.feature_extractor.get("do_normalize") else ()
    squeeze = int(facts.config.get("squeeze_factor", 1))
    return (
        *normalize,
        Step("frames", {"kernels": list(kernels), "strides": list(strides), "least": squeeze}),
    )


def _of_kaldi(facts: ModelFacts) -> tuple[Step, ...]:
    has = facts.feature_extractor
    steps = [Step("kaldi_fbank", {"bins": int(has["num_mel_bins"]), "frames": int(has["max_length"])})]
    if has.get("do_normalize"):
        steps.append(Step("scale", {"mean": float(has["mean"]), "std": 2 * float(has["std"])}))
    return tuple(steps)


def _of_speech(facts: ModelFacts) -> tuple[Step, ...]:
    has = facts.feature_extractor
    _without_chance(has)
    each = bool(has["do_ceptral_normalize"])
    evened = {"mean": each and bool(has["normalize_means"]), "deviation": each and bool(has["normalize_vars"])}
    return (Step("speech_fbank", {"bins": int(has["num_mel_bins"]), **evened}),)


def _without_chance(has: Mapping[str, Any]) -> None:
    if has.get("dither"):
        raise SupportError(
            f"Cannot carry the feature extractor {has['feature_extractor_type']}.",
            why="it adds noise by chance (dither), so that no two answers are the same",
            fix="set dither to 0.0 in preprocessor_config.json",
        )


def _of_clap(facts: ModelFacts) -> tuple[Step, ...]:
    has = facts.feature_extractor
    if has["truncation"] != "rand_trunc" or has["padding"] not in ("repeatpad", "pad"):
        raise SupportError(
            "Cannot carry the feature extractor ClapFeatureExtractor.",
            why=f"its truncation is {has['truncation']!r}, which joins pieces of a sound that are drawn by chance, "
            f"or its padding is {has['padding']!r}",
            fix="take a checkpoint without fusion, such as laion/clap-htsat-unfused or laion/larger_clap_general",
        )
    sizes = {"window": has["fft_window_size"], "hop": has["hop_length"], "bins": has["feature_size"]}
    longest = int(has["max_length_s"] * has["sampling_rate"])
    edges = {"low": float(has["frequency_min"]), "high": float(has["frequency_max"])}
    return (
        Step("fill_wave", {"samples": longest, "repeat": has["padding"] == "repeatpad"}),
        Step("decibel_mel", {**sizes, **edges, "frames": longest // has["hop_length"] + 1}),
    )


def _of_whisper(facts: ModelFacts) -> tuple[Step, ...]:
    has = facts.feature_extractor
    _without_chance(has)
    sizes = {
        "window": has["n_fft"],
        "hop": has["hop_length"],
        "bins": has["feature_size"],
        "rate": has["sampling_rate"],
    }
    filled = has["chunk_length"] * has["sampling_rate"]
    return (Step("log_mel", {**sizes, "filled": filled, "frames": filled // has["hop_length"]}),)


_STEPS_OF: Mapping[str, Callable[[ModelFacts], tuple[Step, ...]]] = {
    "Wav2Vec2FeatureExtractor": _of_waves,
    "ASTFeatureExtractor": _of_kaldi,
    "ClapFeatureExtractor": _of_clap,
    "Speech2TextFeatureExtractor": _of_speech,
    "WhisperFeatureExtractor": _of_whisper,
}


def frame_count(samples: int, kernels: Sequence[int], strides: Sequence[int]) -> int:
    """Frames that convolutions without padding make of so many samples."""
    for kernel, stride in zip(kernels, strides):
        samples = (samples - kernel) // stride + 1
    return samples


def receptive_field(frames: int, kernels: Sequence[int], strides: Sequence[int]) -> int:
    """The fewest samples that give so many frames."""
    for kernel, stride in zip(reversed(kernels), reversed(strides)):
        frames = (frames - 1) * stride + kernel
    return frames


class AudioTask(Task):
    """A task whose input is a sound: a path, the bytes of a file, an array, or `{"raw": array, "sampling_rate": 16000}`.

    An array alone is at the model's own sampling rate, as in the pipeline; any other rate is said and resampled, and several
    channels are averaged.
    """

    modality: ClassVar[str] = "audio"
    processors: ClassVar[tuple[str, ...]] = ("feature_extractor",)
    other_steps: ClassVar[tuple[str, ...]] = ()  # of another modality, for a task that has several

    def __init__(self, entry: TaskEntry, files: Files) -> None:
        self.entry_ = entry
        self._files = files
        unknown = [step.step for step in entry.preprocess if step.step not in (*_STEPS, *self.other_steps)]
        if unknown:
            raise IntegrityError(
                f"Cannot serve {entry.name} from {files.path}.",
                why=f"this runtime does not know the step {unknown[0]!r}",
                fix="update satchel-runtimes on this device",
            )
        has = {step.step: step.options for step in entry.preprocess}
        try:
            self.rate = int(has["resample"]["rate"])
            self._normalize = "normalize_wave" in has
            self._fbank, self._scale = has.get("kaldi_fbank"), has.get("scale")
            self._mel, self._filled = has.get("decibel_mel"), has.get("fill_wave")
            self._log, self._speech = has.get("log_mel"), has.get("speech_fbank")
            self._map = self._fbank or self._mel or self._log  # the size of a spectrogram, where the model sees one
            of_map = self._map is not None or self._speech is not None
            frames: Mapping[str, Any] = {"kernels": [], "strides": []} if of_map else has["frames"]
            self._kernels, self._strides = list(frames["kernels"]), list(frames["strides"])
            least = 400 if self._fbank or self._speech else 1
            self._least = least if of_map else receptive_field(frames["least"], self._kernels, self._strides)
        except (KeyError, TypeError, ValueError) as error:
            raise IntegrityError(
                f"Cannot serve {entry.name} from {files.path}.",
                why=f"its steps are not complete ({error!r})",
                fix="convert the model again",
            ) from None

    @classmethod
    def sample(cls, text: str, index: int, facts: ModelFacts) -> tuple[Input, dict[str, Any]]:
        return {"file": text}, {}

    @property
    def shape(self) -> str:
        return f"{self._map['frames']}x{self._map['bins']}" if self._map else "1 s"

    @property
    def size(self) -> int:
        return int(self._map["frames"]) if self._map else self.rate  # the first built-in sound has a second

    def is_single(self, inputs: Input) -> bool:
        return not isinstance(inputs, (list, tuple))

    def encode(self, item: Input, options: Mapping[str, Any]) -> list[Row]:
        return [self.row_of(self.sound(item))]

    def row_of(self, sound: Sound, start: int = 0, stop: int = 0, extra: Any = None) -> Row:
        """The row of a piece of a sound, from `start` to `stop` at the model's rate; 0: to its end.

        Raises:
            UsageError: too short for one frame, or too long for one row.
        """
        stop = stop or sound.length_at(self.rate)
        length = stop - start
        if length < self._least:
            raise UsageError(
                f"Cannot use the sound {sound.name}.",
                why=f"it has {length} samples at {self.rate} Hz, and the model's first answer takes {self._least}",
                fix="give a longer one, or add silence",
            )
        if self._fbank is not None:
            # What comes after the last frame is cut, so it is not read either.
            last = 400 + 160 * (int(self._fbank["frames"]) - 1)
            samples = sound.samples(self.rate, start, min(stop, start + last))
            return Row({"input_values": self._features(samples)}, 1, extra)
        if self._mel is not None and self._filled is not None:
            samples = sound.samples(self.rate, start, min(stop, start + self._filled["samples"]))
            whole = _filled(samples, **self._filled)
            return Row({"input_features": decibel_mel(whole, self.rate, self._mel)[None]}, 1, extra)
        if self._log is not None:
            filled = self._log["filled"]
            samples = sound.samples(self.rate, start, min(stop, start + filled))
            found = log_mel(lambda a, b: samples[a:b], len(samples), 0, self._log["frames"], self._log)
            return Row({"input_features": log_mel_range(found, float(found.max())).T}, 1, extra)
        if length > MAX_SECONDS * self.rate:
            raise UsageError(
                f"Cannot use the sound {sound.name} as a whole.",
                why=f"it has {length / self.rate:.0f} seconds, and one run of the model takes at most {MAX_SECONDS}",
                fix=self.too_long,
            )
        samples = sound.samples(self.rate, start, stop)
        if self._speech is not None:
            found = _evened(
                kaldi_fbank(samples * np.float32(2**15), self.rate, self._speech["bins"], povey=True), self._speech
            )
            mask: np.ndarray = np.ones(len(found), np.int64)
            return Row({"input_features": found, "attention_mask": mask}, len(found), extra)
        if self._normalize:
            samples = (samples - samples.mean()) / np.sqrt(samples.var() + 1e-7)
        tensors = {"input_values": samples, "attention_mask": np.ones(len(samples), np.int64)}
        return Row(tensors, length, extra, sizes={"frames": frame_count(length, self._kernels, self._strides)})

    too_long: ClassVar[str] = "cut it into pieces"

    def _features(self, samples: np.ndarray) -> np.ndarray:
        assert self._fbank is not None
        frames, bins = int(self._fbank["frames"]), int(self._fbank["bins"])
        found = kaldi_fbank(samples, self.rate, bins)[:frames]
        padded: np.ndarray = np.pad(found, ((0, frames - len(found)), (0, 0)))
        if self._scale is None:
            return padded
        scaled: np.ndarray = ((padded - self._scale["mean"]) / self._scale["std"]).astype(np.float32)
        return scaled

    def sound(self, item: Input) -> Sound:
        """What a user gave, as a sound.

        Raises:
            UsageError: it is none, or one that cannot be read.
        """
        if isinstance(item, np.ndarray):
            return sound_of(item, self.rate)
        if isinstance(item, Mapping):
            if set(item) == {"file"} and isinstance(item["file"], str):  # a sample that travels in the bundle
                return open_sound(self._files.read(item["file"]))
            array = item.get("raw", item.get("array"))
            if isinstance(array, np.ndarray) and "sampling_rate" in item:
                return sound_of(array, item["sampling_rate"])
        elif isinstance(item, (str, os.PathLike, bytes, bytearray, memoryview)):
            return open_sound(item)
        shown = f"a mapping of {', '.join(map(str, item))}" if isinstance(item, Mapping) else type(item).__name__
        raise UsageError(
            f"Cannot run {self.name} on {shown}.",
            why='it takes a path, bytes, an array, or {"raw": array, "sampling_rate": 16000}, or a list of them',
            fix="pass one of these",
        )


def _filled(wave: np.ndarray, samples: int, repeat: bool) -> np.ndarray:
    """Up to so many samples: as often as it goes in whole, then silence; or once."""
    whole = np.tile(wave, samples // len(wave)) if repeat else wave
    found: np.ndarray = np.pad(whole, (0, samples - len(whole)))
    return found


def _evened(found: np.ndarray, options: Mapping[str, Any]) -> np.ndarray:
    """Each bin with the mean and deviation that are wanted over the whole sound; one that never changes is 0, where transformers has
    NaN."""
    if options["mean"]:
        found = found - found.mean(axis=0)
    if options["deviation"]:
        deviation = found.std(axis=0)
        found = found / np.where(deviation > 0, deviation, 1)
    evened: np.ndarray = found.astype(np.float32)
    return evened


_STEPS = (
    "mono",
    "resample",
    "normalize_wave",
    "frames",
    "kaldi_fbank",
    "scale",
    "speech_fbank",
    "fill_wave",
    "decibel_mel",
    "log_mel",
)
