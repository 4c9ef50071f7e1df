"""A phone that opens the measuring page's link, as a browser would: cookies, the page's requests, and what it posts."""

from __future__ import annotations

import contextlib
import json
import ssl
import sys
import time
from http.client import HTTPConnection, HTTPSConnection
from typing import Any
from urllib.parse import urlsplit

__all__ = ["MEASURED", "Phone"]

Json = Any  # what a server answers

# As browser_run.py describes it.
MEASURED: dict[str, Any] = {
    "ok": True,
    "device": {
        "user_agent": "Mozilla/5.0 (Linux; Android 16; Phone) Chrome/150",
        "cores": 8,
        "memory_bytes": 4 * 2**30,
        "isolated": True,
    },
    "golden": {"finding": "same", "seconds": 1.5},
    "measured": {
        "engine": "onnxruntime-web 1.30.0 wasm",
        "threads": 4,
        "latency": {"16": [2.0 + 0.01 * i for i in range(20)], "64": [5.0 + 0.02 * i for i in range(20)]},
        "cold": {"import_ms": 300.0, "load_ms": 500.0, "predict_ms": 20.0},
        "memory_bytes": 120_000_000,
        "sustained": {
            "seconds": 120.0,
            "tokens": 64,
            "windows": [{"seconds": 10.0 * i, "latency": [5.0 if i <= 6 else 7.0] * 5} for i in range(1, 13)],
        },
    },
}


class Phone:
    """`trusts` are certificates; None: it goes on whatever the warning says."""

    def __init__(self, url: str, agent: str = "a phone", trusts: str | None = None) -> None:
        parts = urlsplit(url)
        self._secure = parts.scheme == "https"
        self._trust = ssl.create_default_context(cadata=trusts) if trusts else ssl._create_unverified_context()
        self._host, self._port = parts.hostname or "", parts.port
        self.base, self._agent = parts.path, agent
        self.cookie = ""

    def ask(
        self, method: str, path: str, body: bytes | None = None, **headers: str
    ) -> tuple[int, dict[str, str], bytes]:
        """The path as it is written, so that what a browser would tidy up is asked for too."""
        if self._secure:
            connection: HTTPConnection = HTTPSConnection(self._host, self._port or 443, timeout=20, context=self._trust)
        else:
            connection = HTTPConnection(self._host, self._port or 80, timeout=20)
        connection.request(
            method,
            path,
            body,
            {"User-Agent": self._agent, **({"Cookie": self.cookie} if self.cookie else {}), **headers},
        )
        answer = connection.getresponse()
        said = answer.read()
        if answer.getheader("Set-Cookie"):
            self.cookie = str(answer.getheader("Set-Cookie")).partition(";")[0]
        connection.close()
        return answer.status, {name.lower(): value for name, value in answer.getheaders()}, said

    def get(self, name: str = "") -> tuple[int, bytes]:
        status, _, said = self.ask("GET", self.base + name)
        return status, said

    def post(self, name: str, said: object) -> int:
        return self.ask("POST", self.base + name, json.dumps(said).encode())[0]

    def open(self) -> Json:
        """The page and its settings; from then on the link is this phone's."""
        assert self.get()[0] == 200
        status, said = self.get("settings.json")
        assert status == 200, said
        return json.loads(said)

    def measure(self, result: object = MEASURED) -> None:
        settings = self.open()
        manifest = json.loads(self.get("bundle/bundle.json")[1])
        for name, digest in manifest["files"].items():
            status, said = self.get(f"bundle/{name}")
            assert status == 200 and len(said) == digest["bytes"]
        self.post("progress", {"stage": "golden samples", "done": 0.5})
        for length in settings["lengths"]:
            self.post("progress", {"stage": f"latency at {length} tokens", "done": 1})
        assert self.post("result", result) == 200
        with contextlib.suppress(OSError):  # a beacon, of which a page does not learn whether it arrived
            self.post("progress", {"stage": "closed"})


if __name__ == "__main__":  # what a stand-in for adb starts
    time.sleep(0.2)
    Phone(sys.argv[1]).measure()
