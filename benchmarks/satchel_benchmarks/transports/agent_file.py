"""The agent as one file that any Python from 3.9 on runs: all of `satchel_runtimes`, and a start that old ones can read."""

from __future__ import annotations

import functools
import hashlib
import io
import zipfile
from pathlib import Path

import satchel_runtimes

__all__ = ["agent_bytes", "agent_name"]

# Read by whatever `python3` is there, so in the syntax of Python 2 as well; the package itself needs numpy to import.
_START = """import json, sys

def refuse(why, fix):
    print(json.dumps({"error": {"kind": "ToolchainError", "what": "Cannot run bundles on the device.", "why": why, "fix": fix}}))
    sys.exit(15)

if sys.version_info < (3, 9):
    refuse("its Python is %d.%d; 3.9 is the oldest that runs bundles" % sys.version_info[:2], "name a newer one with --python")
import importlib.util
if importlib.util.find_spec("numpy") is None:
    refuse("the package 'numpy' is not installed", sys.executable + " -m pip install numpy")
from satchel_runtimes.agent import main
sys.exit(main())
"""
_WHEN = (1980, 1, 1, 0, 0, 0)  # the same bytes every time


@functools.cache
def agent_bytes() -> bytes:
    root = Path(satchel_runtimes.__file__).parent
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(zipfile.ZipInfo("__main__.py", _WHEN), _START)
        for file in sorted(root.rglob("*")):
            if file.suffix in (".py", ".json") and "__pycache__" not in file.parts:
                info = zipfile.ZipInfo(f"{root.name}/{file.relative_to(root).as_posix()}", _WHEN)
                info.compress_type = zipfile.ZIP_DEFLATED
                archive.writestr(info, file.read_bytes())
    return made.getvalue()


def agent_name() -> str:
    """By content, so that a newer satchel does not run an older one's agent."""
    return f"agent-{hashlib.sha256(agent_bytes()).hexdigest()[:16]}.pyz"
