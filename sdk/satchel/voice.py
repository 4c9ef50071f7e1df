"""What goes with a model that speaks: the vocoder that makes sound of its spectrograms, and the voice that it speaks with."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from satchel_converters.source import VOCODER, SourceModel, find_source
from satchel_runtimes.errors import UsageError
from satchel_runtimes.tasks import Task
from satchel_runtimes.tasks.spoken_frames import voice_of

__all__ = ["with_voice"]


def with_voice(source: SourceModel, task: type[Task], vocoder: str | None, speaker: Path | None) -> SourceModel:
    """The model with these, or with the vocoder that lies in its own folder.

    Raises:
        UsageError: the task needs none, or a voice that the model does not take.
        SatchelError: as of `find_source`, for the vocoder.
    """
    if not task.takes_voice:
        for flag, given in (("vocoder", vocoder), ("speaker", speaker)):
            if given is not None:
                raise UsageError(
                    f"Cannot use --{flag} {given}.",
                    why=f"{source.architecture or source.id} takes none",
                    fix="leave it out; it is for models that write spectrograms, such as SpeechT5",
                )
        return source
    own = source.folder / VOCODER
    named = vocoder if vocoder is not None else str(own) if (own / "config.json").is_file() else None
    found = find_source(named) if named is not None else None
    if speaker is not None:
        voice_of(str(speaker), int(source.config.get("speaker_embedding_dim", 512)))
    return dataclasses.replace(source, vocoder=found, voice=speaker)
