"""whisper-tiny.en on recorded prompts: word errors, speed and memory of satchel's bundles beside transformers, in one run.

    python benchmarks/whisper_speed.py [--threads 1] [--rounds 5] [--json]

Both are given the same samples at 16 kHz and take the likeliest token each time. The prompts come from Debian's packages.
"""

from __future__ import annotations

import os
import runpy
import sys
import wave
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import satchel
from satchel_benchmarks.accuracy import measure
from satchel_runtimes import load
from satchel_runtimes.measure import interleave, ratio
from satchel_runtimes.sound import open_sound
from setting import MADE, ROOT, Figure, arguments, figure_of, run, tell

RATE = 16000
SCHEMES = ("fp32", "int8-weights", "int8-mixed")
TIMED = 12  # prompts of a round
MINUTES = (2, 10)  # of the long sounds
PEAK = """import sys
from satchel_runtimes import load
from satchel_runtimes.measure import peak_rss_bytes
load(sys.argv[1], threads=1).predict(sys.argv[2])
print(peak_rss_bytes())"""  # of itself: a large parent's own peak goes on to a child in what the system counts


def bundle(scheme: str, source: Path) -> Path:
    out = MADE / f"whisper-{scheme}.satchel"
    return satchel.convert(
        source, device="generic-x86-64", format="onnx", quantize=scheme, prefer="size", out=out, replace=True
    )


def theirs(source: Path, threads: int) -> Callable[[np.ndarray], str]:
    import torch
    import transformers

    torch.set_num_threads(threads)
    pipe: Any = transformers.pipeline("automatic-speech-recognition", model=str(source), dtype=torch.float32)

    def hear(samples: np.ndarray) -> str:
        torch.set_num_threads(threads)
        found = pipe({"raw": samples, "sampling_rate": RATE}, generate_kwargs={"num_beams": 1})
        return str(found["text"])

    return hear


def all_of(hear: Callable[[np.ndarray], str], sounds: Sequence[np.ndarray]) -> Callable[[], object]:
    return lambda: [hear(each) for each in sounds]


def long_sound(sounds: Sequence[np.ndarray], minutes: int) -> Path:
    """So many minutes of prompts, one after the other."""
    out = MADE / f"prompts-{minutes}.wav"
    whole = np.concatenate(list(sounds))
    samples = np.resize(whole, minutes * 60 * RATE)
    with wave.open(str(out), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE)
        file.writeframes((samples * 32767).astype("<i2").tobytes())
    return out


def main() -> None:
    asked = arguments(__doc__ or "", threads=1, rounds=5)
    before = os.getloadavg()
    models = runpy.run_path(str(ROOT / "examples" / "real_models.py"))
    source, prompts = models["whisper"](), models["spoken"]()
    # Of longer ones the pipeline wants timestamps.
    prompts = [(file, said) for file, said in prompts if open_sound(file).length_at(RATE) <= 30 * RATE]
    sounds = [each.samples(RATE, 0, each.length_at(RATE)) for each in (open_sound(file) for file, _ in prompts)]
    right = [said for _, said in prompts]
    hears = {"transformers": theirs(source, asked.threads)}
    paths = {scheme: bundle(scheme, source) for scheme in SCHEMES}
    for scheme, path in paths.items():
        predictor = load(path, threads=asked.threads)
        hears[scheme] = lambda samples, predictor=predictor: predictor.predict(samples)["text"]
    said = {name: [hear(each) for each in sounds] for name, hear in hears.items()}
    figures = []
    for name in hears:
        (found,) = measure(("wer",), right, said[name])
        note = (
            "" if name == "transformers" else f"{sum(a != b for a, b in zip(said[name], said['transformers']))} others"
        )
        worst = None if name == "transformers" else 0.005 if "int8" in name else 0.0
        (theirs_,) = measure(("wer",), right, said["transformers"])
        figures.append(
            Figure(
                f"word error rate, {name}", found.value, found.value_low, found.value_high, len(right), "", note=note
            )
        )
        if worst is not None:
            more = found.value - theirs_.value
            figures.append(
                Figure(f"errors per word above transformers', {name}", more, more, more, len(right), "", worst)
            )
    timed = sounds[:: max(len(sounds) // TIMED, 1)][:TIMED]
    seconds = sum(map(len, timed)) / RATE
    calls = {name: all_of(hear, timed) for name, hear in hears.items()}
    times = interleave(calls, warmup=1, min_runs=asked.rounds, max_runs=asked.rounds, settle=1)
    for name in hears:
        figures.append(figure_of(f"real-time factor, {name}", times[name] / seconds, ""))
    for scheme in SCHEMES:
        found = ratio(times["transformers"], times[scheme])
        figures.append(figure_of(f"{scheme}: times the pipeline", found, target=2.0, worse="below"))
    for minutes in MINUTES:
        file = long_sound(sounds, minutes)
        cost = run([sys.executable, "-c", PEAK, str(paths["fp32"]), str(file)])
        peak = int(cost.out) / 1e6
        figures.append(Figure(f"peak memory of a process, {minutes} minutes, fp32", peak, peak, peak, 1, "MB"))
        speed = cost.wall_s / minutes / 60
        figures.append(Figure(f"real-time factor of it, {minutes} minutes", speed, speed, speed, 1, ""))
    tell(f"whisper-tiny.en, {len(right)} prompts", figures, before, asked.json, f"{asked.threads} threads")


if __name__ == "__main__":
    main()
