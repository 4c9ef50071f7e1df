"""Workers of conversions that begin with torch and transformers imported, as forks of a process that did that once.

The suite converts hundreds of tiny models, and importing these is a third of what each takes. Everything else is as it is for a
user: a process of its own, with its own output, that can be killed. Commands that tests start have workers that import for themselves.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections.abc import Mapping
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, BinaryIO

from satchel_converters import process

__all__ = ["COLD", "start"]

COLD = process._start  # a new interpreter, as a user has it
_PYTHON = sys.executable

_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(["tests.warm_imports"])


def start(python: str, folder: Path, environment: Mapping[str, str], complaints: Path) -> Any:  # Any: as a Popen
    if python != _PYTHON:  # a toolchain's own
        return COLD(python, folder, environment, complaints)
    return _Worker(folder, environment, complaints)


class _Worker:
    """What `run_process` asks of a process that it started."""

    def __init__(self, folder: Path, environment: Mapping[str, str], log: Path) -> None:
        said, says = _FORKS.Pipe(duplex=False)
        self._process = _FORKS.Process(target=_work, args=(folder, dict(environment), log, says))
        self._process.start()
        says.close()
        self.stdout: BinaryIO = os.fdopen(os.dup(said.fileno()), "rb")
        said.close()
        assert self._process.pid is not None  # it runs
        self.pid = self._process.pid

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self) -> int:
        self._process.join()
        self.stdout.close()
        assert self._process.exitcode is not None  # it has ended
        return self._process.exitcode

    def kill(self) -> None:
        self._process.kill()


def _work(folder: Path, environment: Mapping[str, str], log: Path, says: Connection) -> None:
    from satchel_converters import worker

    os.environ.clear()
    os.environ.update(environment)
    with log.open("ab") as complaints:
        os.dup2(complaints.fileno(), 2)
    os.dup2(says.fileno(), 1)
    says.close()
    code = worker.main(folder)
    if code:
        raise SystemExit(code)
