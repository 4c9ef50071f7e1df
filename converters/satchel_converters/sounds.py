"""The built-in sounds: those that every conversion is judged on, and others that a static scheme is calibrated on.

They are made by code, alike on every machine: tones, sweeps, noise, clicks, and voices of a buzz through formants, at 8 and
16 kHz, in one channel or two. A bundle carries the judged ones as WAV files of 16 bits, so a device replays them without
this code.
"""

from __future__ import annotations

import wave
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from satchel_runtimes.tasks import task_class

__all__ = ["CALIBRATION_SOUNDS", "SOUNDS", "draw_sound", "write_sounds"]

SOUNDS = tuple(f"golden/sounds/{number:02}.wav" for number in range(64))
# None of these is judged, as with texts.
CALIBRATION_SOUNDS = tuple(f"calibration/{number:02}.wav" for number in range(32))
_CALIBRATION_SEED = 1000
# As long as what people say. With sounds of half a second whisper's encoder sees little but the silence behind them: in int8 the
# word error rate of whisper-tiny.en over 108 prompts rose by 0.6 points, with these it does not.
_CALIBRATION_SECONDS = 4.0

# First and second formant of vowels, in Hz.
_VOWELS = ((730, 1090), (530, 1840), (270, 2290), (570, 840), (300, 870), (660, 1720))


def write_sounds(tasks: Sequence[str], folder: Path) -> list[str]:
    """Make what tasks on sound need below `folder`; the names of those that a bundle carries."""
    if not any("audio" in task_class(name).modality.split("+") for name in tasks):
        return []
    for first, names, seconds in ((0, SOUNDS, 0.0), (_CALIBRATION_SEED, CALIBRATION_SOUNDS, _CALIBRATION_SECONDS)):
        for number, name in enumerate(names):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            samples, rate = draw_sound(first + number, seconds)
            with wave.open(str(folder / name), "wb") as file:
                file.setnchannels(samples.shape[1])
                file.setsampwidth(2)
                file.setframerate(rate)
                file.writeframes(samples.astype("<i2").tobytes())
    return list(SOUNDS)


def draw_sound(number: int, seconds: float = 0.0) -> tuple[np.ndarray, int]:
    """One sound of the endless row: int16 [samples, channels] and its rate in Hz.

    Args:
        seconds: how long; 0: the first of all has one second, the others a tenth to six tenths.
    """
    chance = np.random.RandomState(number)  # its stream is frozen, unlike that of newer generators
    rate, channels = ((16000, 1), (16000, 1), (8000, 1), (16000, 2))[number // len(_KINDS) % 4]
    length = int(rate * (seconds or (0.1 + 0.5 * chance.rand() if number else 1.0)))
    kind = _KINDS[number % len(_KINDS)]
    sides = [kind(np.arange(length) / rate, chance) for _ in range(channels)]
    loud = 0.05 + 0.85 * chance.rand()
    made = np.stack([side / max(float(np.abs(side).max()), 1e-9) for side in sides], axis=1) * loud
    return np.rint(made * 32767).astype(np.int16), rate


def _tones(times: np.ndarray, chance: np.random.RandomState) -> np.ndarray:
    """A chord that fades."""
    pitches = 110 * 2 ** (chance.randint(0, 48, 3) / 12)
    chord: np.ndarray = sum(np.sin(2 * np.pi * pitch * times) for pitch in pitches) * np.exp(-3 * times)
    return chord


def _sweep(times: np.ndarray, chance: np.random.RandomState) -> np.ndarray:
    """From one pitch to another."""
    first, last = chance.randint(80, 3500, 2)
    swept: np.ndarray = np.sin(2 * np.pi * (first * times + (last - first) / 2 * times**2 / times[-1]))
    return swept


def _noise(times: np.ndarray, chance: np.random.RandomState) -> np.ndarray:
    """Hiss, smoothed more or less, that comes and goes."""
    width = chance.randint(1, 12)
    hiss = np.convolve(chance.randn(len(times)), np.ones(width), "same")
    swelling: np.ndarray = hiss * (1 + np.sin(2 * np.pi * chance.randint(1, 12) * times))
    return swelling


def _voice(times: np.ndarray, chance: np.random.RandomState) -> np.ndarray:
    """Vowels one after another: harmonics of a pitch, the nearer to a formant the louder."""
    pitch = chance.randint(90, 260)
    wavering = times + 0.002 * np.sin(2 * np.pi * 5 * times)
    spoken = np.zeros(len(times))
    for place, part in enumerate(np.array_split(np.arange(len(times)), chance.randint(1, 5))):
        formants = _VOWELS[chance.randint(len(_VOWELS))]
        for harmonic in range(1, 3400 // pitch):
            near = sum(1 / (1 + ((harmonic * pitch - formant) / 90) ** 2) for formant in formants)
            spoken[part] += near * np.sin(2 * np.pi * harmonic * pitch * wavering[part] + place)
    return spoken + 0.01 * chance.randn(len(times))


def _clicks(times: np.ndarray, chance: np.random.RandomState) -> np.ndarray:
    """Knocks in a quiet room."""
    knocks: np.ndarray = 0.005 * chance.randn(len(times))
    for start in times[chance.randint(0, len(times), 4)]:
        after = np.maximum(times - start, 0)
        knocks += (after > 0) * np.exp(-80 * after) * np.sin(2 * np.pi * chance.randint(300, 2000) * after)
    return knocks


_KINDS = (_voice, _tones, _sweep, _noise, _clicks)
