"""The examples of docs/tasks.md and docs/generation.md, run as they stand.

    python -m tests.task_examples [TASK …]        writes what they answer below each of them, or of those tasks

A block opens one bundle by the name of its task, or of a real model, and asks it; every expression is followed by its value in
comments.
"""

from __future__ import annotations

import ast
import os
import re
import runpy
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from benchmarks.matrix.cell import model_of
from benchmarks.matrix.rows import ROWS
from benchmarks.matrix.rows.generators import decoder
from benchmarks.matrix.rows.speakers import VOICE
from benchmarks.matrix.rows.writers import translator
from tests import bundles

import satchel
from satchel_converters.pictures import draw
from satchel_converters.sounds import SOUNDS, write_sounds

__all__ = ["GENERATION", "PAGE", "Example", "answers", "examples", "workplace"]

_ROOT = Path(__file__).resolve().parents[1]
_REAL = runpy.run_path(str(_ROOT / "examples" / "real_models.py"))
PAGE = _ROOT / "docs" / "tasks.md"
GENERATION = _ROOT / "docs" / "generation.md"

_FITTED = {  # models of tests/models.py
    "text-classification": "text_classifier",
    "token-classification": "token_classifier",
    "question-answering": "question_answering",
    "fill-mask": "masked_language_model",
    "zero-shot-classification": "nli_classifier",
}
_OF_MINILM = ("feature-extraction", "sentence-embedding", "sentence-similarity")
_ROWS = {  # where the first row of a task is not the one
    "table-question-answering": "tapas-aggregation",
    "image-text-to-text": "llava",
    "image-to-image": "swin2sr, any size",
    "speecht5": "speecht5",
    "summarization": "pegasus",
    "text2text-generation": "t5",
}
_TASKS = {  # of bundles that have another name
    "smollm2": "text-generation",
    "whisper": "automatic-speech-recognition",
    "speecht5": "text-to-speech",
}
_SHOWN = 2  # entries of a list
_WIDTH = 118
_WORDS = 40  # characters of a string; what a real model wrote is shown whole


@dataclass(frozen=True)
class Example:
    task: str
    code: str
    start: int  # where the code stands in the page
    end: int


def examples(page: str) -> Iterator[Example]:
    """The Python blocks that open a bundle."""
    for found in re.finditer(r"```python\n(.*?)```", page, re.DOTALL):
        task = re.match(r'model = satchel\.load\("([a-z0-9-]+)\.satchel"\)', found.group(1))
        if task:
            yield Example(task.group(1), found.group(1), found.start(1), found.end(1))


def workplace(folder: Path, tasks: Sequence[str]) -> None:
    """The files that the examples name, and a bundle for each of the tasks."""
    shutil.copyfile(_REAL["photographs"]()[0], folder / "picture.jpg")
    draw(3006).convert("RGB").save(folder / "page.png")
    write_sounds(["audio-classification"], folder)
    (folder / SOUNDS[0]).rename(folder / "clip.wav")
    _film(folder / "clip.mp4")
    np.save(folder / "voice.npy", np.array(VOICE, np.float32))
    if "whisper" in tasks:
        by_name = {file.stem: file for file, _ in _REAL["spoken"]()}
        shutil.copyfile(by_name["agent-alreadyon"], folder / "prompt.wav")
    for task in tasks:
        satchel.convert(
            _model(task, folder),
            device="generic-x86-64",
            quantize="fp32",
            task=_TASKS.get(task, task),
            prefer="size",
            out=folder / f"{task}.satchel",
        )


def answers(example: Example) -> list[tuple[ast.Expr, str]]:
    """The expressions of a block that have a value, and the value in words. Runs in the current folder."""
    known: dict[str, Any] = {"satchel": satchel, "np": np}
    found = []
    for node in ast.parse(example.code).body:
        if not isinstance(node, ast.Expr):
            exec(compile(ast.Module([node], []), example.task, "exec"), known)  # noqa: S102  # our own page
            continue
        value = eval(compile(ast.Expression(node.value), example.task, "eval"), known)
        if value is not None:
            found.append((node, shown(value, 1000 if example.task in _TASKS else _WORDS)))
    known["model"].close()
    return found


def shown(value: Any, longest: int = _WORDS) -> str:
    """A value as a reader wants it: few digits, long lists cut, arrays and pictures by their size."""
    if isinstance(value, np.ndarray):
        return f"{value.dtype} {list(value.shape)}, the first {shown(value.ravel()[0])}"
    if isinstance(value, (float, np.floating)):
        return f"{value:.3f}"
    if hasattr(value, "getpixel"):
        return f"a picture of {value.width}x{value.height}, mode {value.mode}"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{name!r}: {shown(each, longest)}" for name, each in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        parts = [shown(each, longest) for each in value[:_SHOWN]] + (["…"] if len(value) > _SHOWN else [])
        scalars = all(isinstance(each, (int, float, str)) for each in value)
        whole = [shown(each, longest) for each in value] if scalars else parts
        return f"[{', '.join(whole)}]" if isinstance(value, list) else f"({', '.join(whole)})"
    return repr(f"{value[:longest]}…" if isinstance(value, str) and len(value) > longest + 1 else value)


def _model(task: str, folder: Path) -> Path:
    if task in _FITTED:
        return bundles.model_of(_FITTED[task])
    if task in _OF_MINILM:
        return bundles.minilm()
    real = {"image-classification": "efficientnet", "smollm2": "smollm2", "whisper": "whisper"}.get(task)
    if real is not None:
        found: Path = _REAL[real]()
        return found
    if task == "text-generation":
        decoder("llama", folder / "llama")
        return folder / "llama"
    if task == "translation":
        translator(folder / "nllb")
        return folder / "nllb"
    named, task = _ROWS.get(task), _TASKS.get(task, task)
    return model_of(next(row for row in ROWS if row.task == task and named in (None, row.architecture)), folder)


def _film(path: Path) -> None:
    import av

    with av.open(str(path), "w") as made:
        stream = made.add_stream("mpeg4", rate=8)
        stream.width = stream.height = 64
        for number in range(24):
            frame = av.VideoFrame.from_image(draw(4000 + number).convert("RGB").resize((64, 64)))
            made.mux(stream.encode(frame))
        made.mux(stream.encode())


def _written(example: Example) -> str:
    """The block with its answers: what was there before is replaced."""
    lines = example.code.splitlines()
    for node, answer in reversed(answers(example)):
        end = node.end_lineno or 0
        while end < len(lines) and lines[end].startswith("#"):
            del lines[end]
        words, wrapped = answer.split(" "), ["#"]
        for word in words:
            if len(wrapped[-1]) + len(word) + 1 > _WIDTH:
                wrapped.append("#")
            wrapped[-1] += f" {word}"
        lines[end:end] = wrapped
    return "\n".join(lines) + "\n"


def main() -> None:
    before = Path.cwd()
    for page in (PAGE, GENERATION):
        text = page.read_text("utf-8")
        named = {example.task for example in examples(text)}
        tasks = [each for each in sys.argv[1:] or sorted(named) if each in named]
        with tempfile.TemporaryDirectory() as folder:
            workplace(Path(folder), tasks)
            os.chdir(folder)
            try:
                for example in reversed([each for each in examples(text) if each.task in tasks]):
                    print(example.task, file=sys.stderr)
                    text = text[: example.start] + _written(example) + text[example.end :]
            finally:
                os.chdir(before)
        page.write_text(text, "utf-8")


if __name__ == "__main__":
    main()
