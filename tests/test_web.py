"""The part of the TypeScript runtime's tests that needs no browser; `make test-web` runs all of them."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

_WEB = Path(__file__).resolve().parents[1] / "runtimes" / "web"
_VITEST = _WEB / "node_modules" / ".bin" / "vitest"


@pytest.mark.skipif(shutil.which("node") is None, reason="Node.js is not installed")
@pytest.mark.skipif(not _VITEST.exists(), reason="its packages are not installed: make web")
@pytest.mark.parametrize("name", ["tokenizers", "numbers", "bundle", "engines", "size"])
def test_the_typescript_runtime(name: str) -> None:
    environment = {**os.environ, "NO_COLOR": "1", "CI": "1"}
    command = [str(_VITEST), "run", f"tests/{name}.test.ts"]

    found = subprocess.run(command, cwd=_WEB, env=environment, capture_output=True, text=True, timeout=600, check=False)

    assert found.returncode == 0, found.stdout[-5000:] + found.stderr[-5000:]
