"""This machine, by the same agent in a process of its own: the figures of `--on local` and of a board are made alike."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from satchel_runtimes.errors import SatchelError, SizeError

from .agent_file import agent_bytes, agent_name
from .answers import is_out_of_memory, read_answer
from .device import Json, Tell

__all__ = ["Local", "open_device"]


def open_device(target: str, **options: str | None) -> Local:
    return Local(options.get("python") or sys.executable)


class Local:
    name = "local"

    def __init__(self, python: str) -> None:
        self._python = python
        self._folder = tempfile.TemporaryDirectory(prefix="satchel-agent-")
        self._agent = Path(self._folder.name, agent_name())
        self._agent.write_bytes(agent_bytes())

    def look(self) -> Json:
        found: Json = self._ask(["look"], lambda words: None)
        return found

    def push(self, bundle: Path, tell: Tell) -> str:
        return str(bundle)  # it is here

    def measure(self, bundle: Path, options: Mapping[str, Any], tell: Tell) -> Json:
        found: Json = self._ask(["measure", str(bundle), json.dumps(dict(options))], tell)
        return found

    def predict(self, bundle: Path, inputs: Sequence[Any], options: Mapping[str, Any], tell: Tell) -> list[Any]:
        asked = json.dumps({"inputs": list(inputs), "options": dict(options)})
        found: list[Any] = self._ask(["predict", str(bundle), asked], tell)
        return found

    def remove(self, bundle: Path | None) -> str:
        return ""  # nothing was sent

    def close(self) -> None:
        self._folder.cleanup()

    def _ask(self, arguments: Sequence[str], tell: Tell) -> Any:
        command = [self._python, str(self._agent), *arguments]
        with tempfile.TemporaryFile() as complaints:
            with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=complaints) as process:
                assert process.stdout is not None  # it is piped
                try:
                    found = read_answer(process.stdout, tell)
                except BaseException:
                    process.kill()
                    raise
            complaints.seek(0)
            said = complaints.read().decode("utf-8", "replace").strip()
        killed = process.returncode == -signal.SIGKILL
        if found is None and (killed or is_out_of_memory(said)):
            raise SizeError(
                "This machine ran out of memory.",
                why="the process was killed while it worked" if killed else said[-300:],
                fix="convert to a smaller scheme, or free memory",
            )
        if found is None:
            raise SatchelError(
                "The measurement ended without an answer.",
                why=said[-500:] or f"status {process.returncode}",
                fix="run `satchel verify` on the bundle",
            )
        return found
