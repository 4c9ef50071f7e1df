"""A headless Chromium as a phone: its screen, a slower processor, and what its page says, by the DevTools protocol over a pipe."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

__all__ = ["CHROMIUM", "Page", "open_page"]

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
_FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--hide-scrollbars",
]
_PHONE = {"width": 390, "height": 844, "deviceScaleFactor": 3, "mobile": True}


class Page:
    """One tab. `console` is what the page has said."""

    def __init__(self, into: int, out: int) -> None:
        self._into, self._out = os.fdopen(into, "wb", 0), os.fdopen(out, "rb", 0)
        self._numbers, self._rest = itertools.count(1), b""
        self.console: list[str] = []
        target = self._call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self._call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> Any:
        return self._call(method, session=self._session, **parameters)

    def as_phone(self, slower: float = 1.0) -> None:
        self.call("Emulation.setDeviceMetricsOverride", **_PHONE)
        self.call("Emulation.setTouchEmulationEnabled", enabled=True)
        self.call("Emulation.setCPUThrottlingRate", rate=slower)

    def go(self, url: str) -> None:
        self.call("Page.navigate", url=url)

    def evaluate(self, expression: str) -> Any:
        found = self.call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def wait_for(self, expression: str, seconds: float = 60.0) -> Any:
        end = time.monotonic() + seconds
        while not (found := self.evaluate(expression)):
            assert time.monotonic() < end, (expression, self.evaluate("document.body?.innerText"), self.console)
            time.sleep(0.1)
        return found

    def picture(self, file: Path) -> None:
        import base64

        file.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", captureBeyondViewport=True)["data"]))

    def _call(self, method: str, session: str | None = None, **parameters: Any) -> Any:
        number = next(self._numbers)
        asked = {"id": number, "method": method, "params": parameters, **({"sessionId": session} if session else {})}
        self._into.write(json.dumps(asked).encode() + b"\0")
        while True:
            said = self._read()
            if said.get("id") == number:
                assert "error" not in said, said
                return said["result"]
            if said.get("method") == "Runtime.consoleAPICalled":
                self.console.append(" ".join(str(each.get("value", "")) for each in said["params"]["args"]))
            elif said.get("method") == "Log.entryAdded":
                self.console.append(said["params"]["entry"]["text"])
            elif said.get("method") == "Runtime.exceptionThrown":
                self.console.append(json.dumps(said["params"]["exceptionDetails"])[:2000])

    def _read(self) -> Any:
        while b"\0" not in self._rest:
            part = self._out.read(1 << 16)
            assert part, "the browser has gone"
            self._rest += part
        one, _, self._rest = self._rest.partition(b"\0")
        return json.loads(one)


@contextmanager
def open_page() -> Iterator[Page]:
    """A browser of its own, which ends with the block."""
    assert CHROMIUM is not None  # who calls has looked
    asks, into = os.pipe()
    out, answers = os.pipe()
    with tempfile.TemporaryDirectory(prefix="satchel-chromium-", ignore_cleanup_errors=True) as folder:
        # It reads descriptor 3 and writes 4.
        script = f'exec "$@" 3<&{asks} 4>&{answers}'
        command = [CHROMIUM, *_FLAGS, f"--user-data-dir={folder}", "--remote-debugging-pipe", "about:blank"]
        process = subprocess.Popen(
            ["bash", "-c", script, "bash", *command], pass_fds=(asks, answers), stderr=subprocess.DEVNULL
        )
        os.close(asks)
        os.close(answers)
        try:
            yield Page(into, out)
        finally:
            process.terminate()
            try:
                process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
