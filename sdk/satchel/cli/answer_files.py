"""Where what no terminal can show goes: pictures and sounds of answers, in files."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

from satchel_runtimes.errors import UsageError

__all__ = ["AnswerFiles"]


class AnswerFiles:
    """The first goes into the file that was named, others beside it with a number. Sounds that have no name are speech.wav,
    speech-2.wav …, and none of these is written over."""

    def __init__(self, out: Path | None) -> None:
        self._out, self._names = out, _numbered(out or Path("speech.wav"))

    def written(self, answer: Any) -> Any:  # Any: of a task
        """The answer with the name of its file in place of each picture; of a sound, where it is and how long.

        Raises:
            UsageError: there is no file to write a picture to, or none that it can be written to.
        """
        if isinstance(answer, dict) and "audio" in answer and "sampling_rate" in answer:
            return self._sound(answer)
        if isinstance(answer, dict):
            return {name: self.written(value) for name, value in answer.items()}
        if isinstance(answer, (list, tuple)):
            return [self.written(each) for each in answer]
        if not (hasattr(answer, "save") and hasattr(answer, "getpixel")):
            return answer
        if self._out is None:
            raise UsageError(
                "Cannot show a picture here.", why="the answer holds one", fix="name a file for it: --out picture.png"
            )
        file = next(self._names)
        file = file if file.suffix else file.with_suffix(".png")
        try:
            answer.save(file)
        except (OSError, ValueError) as error:  # a folder that is not there, or an ending that is no picture's
            raise UsageError(f"Cannot write {file}.", why=str(error), fix="name a file that ends in .png") from None
        return str(file)

    def _sound(self, answer: dict[str, Any]) -> dict[str, Any]:
        from satchel_runtimes.sound import write_wav

        file = next(each for each in self._names if self._out is not None or not each.exists())
        try:
            write_wav(file, answer["audio"], answer["sampling_rate"])
        except OSError as error:
            why = str(error.strerror)
            raise UsageError(f"Cannot write {file}.", why=why, fix="name a file that can be written") from None
        seconds = len(answer["audio"]) / answer["sampling_rate"]
        return {"path": str(file), "seconds": round(seconds, 3), "sampling_rate": answer["sampling_rate"]}


def _numbered(first: Path) -> Iterator[Path]:
    yield first
    for number in count(2):
        yield first.with_name(f"{first.stem}-{number}{first.suffix}")
