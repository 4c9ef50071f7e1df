"""Log-mel spectrograms as the numpy feature extractors of transformers compute them, whole arrays at a time.

Every step has their precision (frames and transforms in float64, the spectrum rounded to complex64 in between), so
features agree within 1e-5.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Callable

import numpy as np

__all__ = ["decibel_mel", "kaldi_fbank", "log_mel", "log_mel_range", "mel_filters", "power_frames"]

_FLOOR = 1.192092955078125e-07  # float32's epsilon, as Kaldi has it


@lru_cache(maxsize=8)
def mel_filters(bins: int, count: int, low: float, high: float, rate: int, scale: str) -> np.ndarray:
    """Triangles over the bins of a spectrum, float64 [bins, count].

    Args:
        scale: "kaldi" (triangles in mels), "htk" (in Hz) or "slaney" (in Hz, of equal area).
    """
    edges = np.linspace(_mels(np.array([low]), scale)[0], _mels(np.array([high]), scale)[0], count + 2)
    if scale == "kaldi":
        places = _mels(np.arange(bins) * (rate / ((bins - 1) * 2)), scale)
    else:
        edges, places = _hertz(edges, scale), np.linspace(0, rate // 2, bins)
    widths = np.diff(edges)
    slopes = edges[None, :] - places[:, None]
    made: np.ndarray = np.maximum(0, np.minimum(-slopes[:, :-2] / widths[:-1], slopes[:, 2:] / widths[1:]))
    return made * (2.0 / (edges[2:] - edges[:-2])) if scale == "slaney" else made


def _mels(hertz: np.ndarray, scale: str) -> np.ndarray:
    if scale == "htk":
        found: np.ndarray = 2595.0 * np.log10(1.0 + hertz / 700.0)
    elif scale == "kaldi":
        found = 1127.0 * np.log(1.0 + hertz / 700.0)
    else:  # linear up to 1000 Hz, then 27 steps to 6400 Hz
        found = np.where(hertz < 1000, 3 * hertz / 200, 15 + np.log(np.maximum(hertz, 1) / 1000) * (27 / np.log(6.4)))
    return found


def _hertz(mels: np.ndarray, scale: str) -> np.ndarray:
    if scale == "htk":
        found: np.ndarray = 700.0 * (10 ** (mels / 2595.0) - 1.0)
    else:
        found = np.where(mels < 15, 200 * mels / 3, 1000 * np.exp(np.log(6.4) / 27 * (mels - 15)))
    return found


def power_frames(frames: np.ndarray, window: np.ndarray, size: int) -> np.ndarray:
    """The power spectrum of each frame, float64 [frames, size // 2 + 1]."""
    spectrum = np.fft.rfft(frames * window, size).astype(np.complex64)
    power: np.ndarray = np.abs(spectrum).astype(np.float64) ** 2
    return power


def kaldi_fbank(samples: np.ndarray, rate: int, bins: int, *, povey: bool = False) -> np.ndarray:
    """Kaldi's filter bank energies: 25 ms frames every 10 ms, pre-emphasis 0.97; float32 [frames, bins].

    Frames are of 400 and 160 samples whatever the rate, as transformers has them for 16 kHz.

    Args:
        povey: Kaldi's own window; otherwise Hann's.
    """
    frames = np.lib.stride_tricks.sliding_window_view(samples.astype(np.float64), 400)[::160]
    frames = frames - frames.mean(axis=1, keepdims=True)
    emphasised = frames.copy()
    emphasised[:, 1:] -= 0.97 * frames[:, :-1]
    emphasised[:, 0] *= 1 - 0.97
    power = power_frames(emphasised, np.hanning(400) ** (0.85 if povey else 1), 512)
    filters = mel_filters(257, bins, 20, rate // 2, rate, "kaldi")
    made: np.ndarray = np.log(np.maximum(_FLOOR, power @ filters)).astype(np.float32)
    return made


def decibel_mel(samples: np.ndarray, rate: int, options: Mapping[str, Any]) -> np.ndarray:
    """Decibels of a mel spectrogram, whose frames are centred: mirrored at both ends; float32 [frames, bins].

    Args:
        options: `window` and `hop` in samples, `bins`, `low` and `high` in Hz.
    """
    window, hop = options["window"], options["hop"]
    mirrored = np.pad(samples.astype(np.float64), window // 2, mode="reflect")
    frames = np.lib.stride_tricks.sliding_window_view(mirrored, window)[::hop]
    power = power_frames(frames, np.hanning(window + 1)[:-1], window)
    filters = mel_filters(window // 2 + 1, options["bins"], options["low"], options["high"], rate, "slaney")
    made: np.ndarray = (10 * np.log10(np.maximum(1e-10, power @ filters))).astype(np.float32)
    return made


Read = Callable[[int, int], np.ndarray]  # samples from one place to another

_SILENCE = -10.0  # the logarithm of the least power
_RANGE = 8.0  # what is kept below the loudest


def log_mel(read: Read, length: int, first: int, count: int, options: Mapping[str, Any]) -> np.ndarray:
    """Whisper's log-mel features before they are brought into a range: logarithms to base 10, float32 [frames, bins].

    Frames are centred, and mirrored at both ends of the sound. Those that lie wholly behind it are silence, and not computed.

    Args:
        read: gives samples of the sound.
        length: samples that it has.
        first, count: the frames that are wanted, one for each `hop`.
        options: `window` and `hop` in samples, `bins`, `rate` and `filled`: samples up to which silence fills a shorter sound.
    """
    window, hop, half = options["window"], options["hop"], options["window"] // 2
    end = max(length, options.get("filled", 0))
    made: np.ndarray = np.full((count, options["bins"]), _SILENCE, np.float32)
    sounding = min(count, -(-(length + half - first * hop) // hop)) if end > length else count
    if sounding <= 0:
        return made
    low, high = first * hop - half, (first + sounding - 1) * hop + half
    core: np.ndarray = read(max(low, 0), min(high, length)).astype(np.float64)
    core = np.pad(core, (0, max(min(high, end) - max(length, low), 0)))  # silence
    core = np.pad(core, (max(-low, 0), max(high - end, 0)), mode="reflect")
    frames = np.lib.stride_tricks.sliding_window_view(core, window)[::hop][:sounding]
    power = power_frames(frames, np.hanning(window + 1)[:-1], window)
    filters = mel_filters(window // 2 + 1, options["bins"], 0.0, 8000.0, options["rate"], "slaney")
    made[:sounding] = np.log10(np.maximum(1e-10, power @ filters))
    return made


def log_mel_range(features: np.ndarray, loudest: float) -> np.ndarray:
    """About -1 to 1, with nothing that is 80 dB below the loudest of the whole sound."""
    made: np.ndarray = ((np.maximum(features, np.float32(loudest - _RANGE)) + 4.0) / 4.0).astype(np.float32)
    return made
