"""`docs/example-report.html`: one bundle on this machine, over ssh, on an emulated aarch64, and in a browser of a phone's size.

    make example-report                       # or: python -m tests.example_report

Each step is a command of docs/devices.md. The board is this machine behind an sshd of its own, the phone a headless Chromium.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from tests.boards import SSHD, start_board
from tests.browsers import CHROMIUM, open_page
from tests.emulated import make_emulated

_ROOT = Path(__file__).resolve().parents[1]
_BUNDLE = _ROOT / ".cache/quickstart/minilm-onnx.satchel"  # of make quickstart
_MADE = _ROOT / ".cache/example"
_OUT = _ROOT / "docs/example-report.html"


def satchel(*arguments: str | Path, env: Mapping[str, str] | None = None) -> None:
    command = [sys.executable, "-m", "satchel", *map(str, arguments)]
    print("$ satchel", *(Path(each).name if isinstance(each, Path) else each for each in arguments), flush=True)
    subprocess.run(command, env={**os.environ, **(env or {})}, check=True)


def on_boards() -> Path:
    out = _MADE / "boards.json"
    board = start_board(_MADE / "board")
    try:
        where = ["--on", "local", "--on", board.target]
        satchel(
            "bench", _BUNDLE, *where, "--threads", "1", "--sustain", "1", "--profile", "-o", out,
            env={"SATCHEL_SSH": board.client},
        )  # fmt: skip
    finally:
        board.stop()
    return out


def on_aarch64() -> Path:
    out, emulated = _MADE / "emulated.json", make_emulated()
    few = ["--lengths", "16", "--seconds", "1", "--runs", "10", "--warmup", "1", "--cold-starts", "1"]
    satchel(
        "bench", _BUNDLE, "--on", emulated.target, "--threads", "1", *few, "-o", out,
        env={"SATCHEL_SSH": emulated.client},
    )  # fmt: skip
    return out


def in_a_browser() -> Path:
    out = _MADE / "browser.json"
    command = ["bench", str(_BUNDLE), "--on", "browser://127.0.0.1", "--threads", "1", "--sustain", "1", "-o", str(out)]
    print("$ satchel", *command, flush=True)
    with open_page() as page:
        page.as_phone()
        process = subprocess.Popen([sys.executable, "-m", "satchel", *command], stderr=subprocess.PIPE, text=True)
        assert process.stderr is not None  # it is piped
        for line in process.stderr:
            print(line, end="")
            found = re.search(r"^ +(http://\S+/)$", line)
            if found:
                page.go(found[1])
        if process.wait():
            sys.exit(process.returncode)
    return out


def main() -> None:
    if SSHD is None or CHROMIUM is None:
        sys.exit("it needs an sshd and a Chromium: apt-get install openssh-server chromium")
    if not _BUNDLE.is_dir():
        sys.exit("it needs the bundle of make quickstart")
    subprocess.run(["rm", "-rf", str(_MADE / "board")], check=True)
    _MADE.mkdir(parents=True, exist_ok=True)
    kept = [_MADE / "emulated.json"] if (_MADE / "emulated.json").exists() else [on_aarch64()]  # a quarter of an hour
    satchel("report", on_boards(), *kept, in_a_browser(), "-o", _OUT)
    print(_OUT.relative_to(_ROOT), f"{_OUT.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
