"""A fresh process from nothing to its first answer: what a device pays after a restart.

    python -m satchel_runtimes.cold BUNDLE [OPTIONS OF load AS JSON]

Prints a JSON object: seconds to import, to load and to the first answer, and the peak memory of the process.
"""

from __future__ import annotations

import time

_start = time.perf_counter()

import json  # the clock starts before the imports that it measures
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from satchel_runtimes.errors import SatchelError
from satchel_runtimes.golden import read_items
from satchel_runtimes.measure import peak_rss_bytes
from satchel_runtimes.predictor import load

__all__ = ["start_cold"]


def start_cold(bundle: Path, **options: Any) -> Cold:
    """Start a fresh process that loads the bundle, with options of `load`, and answers its first golden sample."""
    command = [sys.executable, "-m", "satchel_runtimes.cold", str(bundle), json.dumps(options)]
    paths = os.pathsep.join(each for each in sys.path if each)
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={**os.environ, "PYTHONPATH": paths}
    )
    return Cold(process)


class Cold:
    """A running cold start; `result` waits for its figures. As a context it ends with its block."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process
        self._figures: dict[str, Any] = {}

    def __enter__(self) -> Cold:  # noqa: PYI034  # typing.Self came with Python 3.11
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.poll() is None:
            self._process.kill()
            self._process.communicate()

    def result(self) -> dict[str, Any]:
        """Keys import_s, load_s, predict_s, total_s, peak_rss_bytes.

        Raises:
            SatchelError: the process failed, for instance for want of memory.
        """
        if self._figures:
            return self._figures
        out, complaints = self._process.communicate()
        if self._process.returncode:
            raise SatchelError(
                "The bundle does not start in a fresh process.",
                why=complaints.decode("utf-8", "replace").strip()[-500:] or f"status {self._process.returncode}",
                fix="run `satchel verify` on it",
            )
        self._figures = json.loads(out)
        return self._figures


def _main(path: str, options: dict[str, Any]) -> None:
    imported = time.perf_counter()
    predictor = load(path, **{"verify": "once", **options})
    loaded = time.perf_counter()
    item = read_items(predictor.bundle)[0]
    before = time.perf_counter()
    brief = predictor.open_task(item.task).brief
    predictor.predict(item.input, task=item.task, **{**item.options, **brief})
    done = time.perf_counter()
    figures = {
        "import_s": imported - _start,
        "load_s": loaded - imported,
        "predict_s": done - before,
        "total_s": done - before + loaded - _start,
        "peak_rss_bytes": peak_rss_bytes(),
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    try:
        _main(sys.argv[1], json.loads(sys.argv[2]) if len(sys.argv) > 2 else {})
    except SatchelError as error:
        print(error, file=sys.stderr)
        sys.exit(error.exit_code)
