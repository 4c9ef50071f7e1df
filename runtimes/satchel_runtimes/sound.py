"""Sound in: WAV with numpy alone, other files through soundfile, one channel at the model's sampling rate.

A piece of a sound is read at a time, so an hour of it never lies in memory. Resampling is the band-limited interpolation of
J. O. Smith (https://ccrma.stanford.edu/~jos/resample/) with the parameters that torchaudio's `resample` has by default: a sinc of six zero
crossings to each side under a Hann window, with its edge at 0.99 of the lower Nyquist frequency. `transformers.pipeline`
resamples arrays by that function, and files by ffmpeg, whose filter is another one.
"""

from __future__ import annotations

import io
import math
import os
import struct
import wave
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Callable, Union

import numpy as np

from .errors import UsageError
from .toolchain import need

__all__ = ["Sound", "open_sound", "sound_of", "write_wav"]

_CROSSINGS, _ROLLOFF = 6, 0.99
_MAX_KERNEL = 2**23  # values: rates without a common measure, as 44099 and 16000, would take gigabytes
_BLOCK = 2048  # frames of the filter in one product
_MAX_RATE = 768_000

# The codes of mmreg.h that hold samples as numbers.
_PCM, _FLOAT, _EXTENSIBLE = 1, 3, 0xFFFE


class Sound:
    """One channel of samples that is read in pieces, at any sampling rate."""

    def __init__(self, name: str, rate: int, length: int, read: Callable[[int, int], np.ndarray]) -> None:
        """
        Args:
            name: for messages.
            rate: of what `read` gives, in Hz.
            length: samples at that rate.
            read: the samples from one place to another, float32 [samples]; both lie within the sound.
        """
        self.name, self.rate, self.length, self._read = name, rate, length, read

    def length_at(self, rate: int) -> int:
        """Samples when it is resampled to `rate`."""
        return -(-self.length * rate // self.rate)

    def samples(self, rate: int, start: int, stop: int) -> np.ndarray:
        """Those from `start` to `stop`, counted at `rate`; float32.

        Raises:
            UsageError: NaN or infinity in them, a file that ends early, or a rate that has no common measure with `rate`.
        """
        stop = min(stop, self.length_at(rate))
        if rate == self.rate:
            return self._checked(start, stop)
        divisor = math.gcd(rate, self.rate)
        old, new = self.rate // divisor, rate // divisor
        width = math.ceil(_CROSSINGS * old / (min(old, new) * _ROLLOFF))
        if new * (2 * width + old) > _MAX_KERNEL:
            raise UsageError(
                f"Cannot resample {self.name} from {self.rate} to {rate} Hz.",
                why="the two rates have no common measure, and the filter would not fit in memory",
                fix="give the sound at a usual rate, for instance 8000, 16000, 44100 or 48000 Hz",
            )
        kernel = _kernel(old, new, width)
        made = [np.zeros(0, np.float32)]
        for first in range(start // new, -(-stop // new), _BLOCK):
            made.append(self._filtered(first, min(first + _BLOCK, -(-stop // new)), old, width, kernel))
        whole: np.ndarray = np.concatenate(made)[start % new :][: stop - start]
        return whole

    def _filtered(self, first: int, last: int, old: int, width: int, kernel: np.ndarray) -> np.ndarray:
        """Frames of the filter, each `old` samples of the sound that become `len(kernel)` of the new rate."""
        begin, end = first * old - width, (last - 1) * old + width + old
        inside = self._checked(max(begin, 0), min(end, self.length))
        padded = np.pad(inside, (max(-begin, 0), max(end - self.length, 0)))
        frames = np.lib.stride_tricks.sliding_window_view(padded, kernel.shape[1])[::old]
        made: np.ndarray = (frames @ kernel.T).ravel()
        return made

    def _checked(self, start: int, stop: int) -> np.ndarray:
        found = self._read(start, stop)
        if len(found) != stop - start:
            raise _unreadable(self.name, f"it ends after {start + len(found):,} of {self.length:,} samples")
        if not np.isfinite(found).all():
            place = start + int(np.argmin(np.isfinite(found)))
            raise UsageError(
                f"Cannot use the sound {self.name}.",
                why=f"sample {place:,} is NaN or infinite",
                fix="find what made it, or replace it with 0",
            )
        return found


def _kernel(old: int, new: int, width: int) -> np.ndarray:
    """One filter per phase of the new rate, float32 [new, 2 * width + old]."""
    lowest = min(old, new) * _ROLLOFF
    times = np.arange(-width, width + old) / old - np.arange(new)[:, None] / new
    times = np.clip(times * lowest, -_CROSSINGS, _CROSSINGS)
    window = np.cos(times * (np.pi / _CROSSINGS / 2)) ** 2
    made: np.ndarray = (np.sinc(times) * window * (lowest / old)).astype(np.float32)
    return made


def open_sound(given: Union[str, os.PathLike[str], bytes, bytearray, memoryview]) -> Sound:
    """A file, or the bytes of one. WAV needs numpy alone; all else (FLAC, Ogg, MP3 …) the package soundfile.

    Raises:
        UsageError: not a sound, an address, or one without samples.
        ToolchainError: a file other than WAV, and no soundfile.
    """
    if isinstance(given, (bytes, bytearray, memoryview)):
        name = f"of {len(given):,} bytes"
        data = np.frombuffer(given, np.uint8)
    else:
        name = _short(str(given))
        if name.startswith(("http://", "https://")):
            raise UsageError(
                f"Cannot read the sound {name}.", why="a device reads files", fix="download it and name the file"
            )
        try:
            # Mapped, not read: of an hour only the pieces that are asked for come into memory.
            empty = Path(given).stat().st_size == 0
            data = np.zeros(0, np.uint8) if empty else np.memmap(given, np.uint8, mode="r")
        except (OSError, ValueError) as error:
            raise UsageError(
                f"Cannot read the sound {name}.",
                why=str(getattr(error, "strerror", None) or error),
                fix="check the path",
            ) from None
    if not len(data):
        raise _unreadable(name, "it is empty")
    if bytes(data[:4]) == b"RIFF" and bytes(data[8:12]) == b"WAVE":
        sound = _wav(data, name)
    else:
        sound = _other(given, name)
    return _with_samples(sound)


def sound_of(array: np.ndarray, rate: int) -> Sound:
    """An array as a sound: floats of about -1 to 1, [samples], or [channels, samples] of at most two channels.

    Raises:
        UsageError: another dtype or shape, no samples, or a rate that cannot be one.
    """
    name = f"in an array of {array.dtype} {list(array.shape)}"
    if array.dtype.kind != "f":
        raise UsageError(
            f"Cannot use the sound {name}.",
            why="samples are floats of about -1 to 1",
            fix="divide by the largest value of its type, for int16 by 32768",
        )
    if array.ndim == 2 and array.shape[0] <= 2:
        array = array.mean(axis=0)
    if array.ndim != 1:
        raise UsageError(
            f"Cannot use the sound {name}.",
            why="it takes [samples], or [channels, samples] of one or two channels",
            fix="transpose an array of [samples, channels]; mix more than two channels yourself",
        )
    whole = array.astype(np.float32, copy=False)
    return _with_samples(Sound(name, _rate(rate, name), len(whole), lambda start, stop: whole[start:stop]))


def write_wav(path: Union[str, os.PathLike[str]], samples: np.ndarray, rate: int) -> None:
    """One channel of float samples from -1 to 1, as a WAV file of 16 bits; what is louder is cut."""
    whole = np.rint(np.clip(samples, -1.0, 1.0) * 32767).astype("<i2")
    with open(path, "wb") as file, wave.open(file, "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(2)
        out.setframerate(rate)
        out.writeframes(whole.tobytes())


def _with_samples(sound: Sound) -> Sound:
    if not sound.length:
        raise UsageError(f"Cannot use the sound {sound.name}.", why="it has no samples", fix="give one that has")
    return sound


def _rate(value: Any, name: str) -> int:  # Any: what a user or a file said
    whole = isinstance(value, (int, float, np.number)) and not isinstance(value, bool) and int(value) == value
    if not whole or not 0 < value <= _MAX_RATE:
        raise UsageError(
            f"Cannot use the sound {name}.",
            why=f"its sampling rate is {value!r}",
            fix=f"say it in Hz: a whole number from 1 to {_MAX_RATE}",
        )
    return int(value)


def _wav(data: np.ndarray, name: str) -> Sound:
    """The chunks of a RIFF file (https://www.mmsp.ece.mcgill.ca/Documents/AudioFormats/WAVE/WAVE.html); its channels are averaged."""
    chunks: dict[bytes, np.ndarray] = {}
    at = 12
    while at + 8 <= len(data) and b"data" not in chunks:
        kind, size = struct.unpack("<4sI", bytes(data[at : at + 8]))
        chunks.setdefault(kind, data[at + 8 : at + 8 + size])
        at += 8 + size + size % 2
    head = bytes(chunks.get(b"fmt ", data[:0]))
    if b"data" not in chunks or len(head) < 16:
        raise _unreadable(name, "its header is not complete")
    code, channels, rate, _, step, bits = struct.unpack("<HHIIHH", head[:16])
    if code == _EXTENSIBLE and len(head) >= 26:
        (code,) = struct.unpack("<H", head[24:26])
    decode = _DECODERS.get((code, bits))
    if decode is None or not channels or step != channels * bits // 8:
        raise _unreadable(name, f"its encoding is {code} with {bits} bits, not PCM of 8 to 32 bits or float")
    samples = chunks[b"data"]
    length = len(samples) // step  # a half sample at the end of a file that was cut is left out

    def read(start: int, stop: int) -> np.ndarray:
        values = decode(np.ascontiguousarray(samples[start * step : stop * step])).reshape(-1, channels)
        mixed: np.ndarray = values[:, 0] if channels == 1 else values.mean(axis=1, dtype=np.float32)
        return mixed

    return Sound(name, _rate(rate, name), length, read)


def _whole(dtype: str, zero: int, largest: float) -> Callable[[np.ndarray], np.ndarray]:
    def decode(raw: np.ndarray) -> np.ndarray:
        values: np.ndarray = (raw.view(dtype).astype(np.float64) - zero) / largest
        return values.astype(np.float32)

    return decode


def _three_bytes(raw: np.ndarray) -> np.ndarray:
    wide = np.zeros((len(raw) // 3, 4), np.uint8)
    wide[:, 1:] = raw.reshape(-1, 3)
    values: np.ndarray = (wide.view("<i4").ravel() / 2.0**31).astype(np.float32)
    return values


_DECODERS: Mapping[tuple[int, int], Callable[[np.ndarray], np.ndarray]] = {
    (_PCM, 8): _whole("u1", 128, 2.0**7),
    (_PCM, 16): _whole("<i2", 0, 2.0**15),
    (_PCM, 24): _three_bytes,
    (_PCM, 32): _whole("<i4", 0, 2.0**31),
    (_FLOAT, 32): lambda raw: raw.view("<f4").astype(np.float32),
    (_FLOAT, 64): lambda raw: raw.view("<f8").astype(np.float32),
}


def _other(given: Any, name: str) -> Sound:  # Any: a path or bytes
    soundfile = need("soundfile", extra="audio", to=f"read the sound {name}, which is not WAV")
    try:
        file = soundfile.SoundFile(
            given if isinstance(given, (str, os.PathLike)) else io.BytesIO(bytes(given)), mode="r"
        )
    except (OSError, RuntimeError, TypeError, ValueError) as error:
        raise _unreadable(name, str(error)) from None

    def read(start: int, stop: int) -> np.ndarray:
        try:
            file.seek(start)
            mixed: np.ndarray = file.read(stop - start, dtype="float32", always_2d=True).mean(axis=1)
        except (OSError, RuntimeError, ValueError) as error:
            raise _unreadable(name, str(error)) from None
        return mixed

    return Sound(name, _rate(file.samplerate, name), len(file), read)


def _unreadable(name: str, why: str) -> UsageError:
    return UsageError(
        f"Cannot read the sound {name}.", why=why, fix="give a whole sound file, for instance WAV or FLAC"
    )


def _short(name: str) -> str:
    return name if len(name) <= 80 else f"…{name[-79:]}"  # the end of a path is what tells it from others
