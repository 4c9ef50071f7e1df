"""What is behind the link of a measuring page: a fixed list of files, two places to post to, and one phone that has it.

The first page that asks for its settings has the link: a preview in a messenger asks for the page alone.
"""

from __future__ import annotations

import hmac
import json
import mimetypes
import queue
import secrets
import ssl
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.cookies import CookieError, SimpleCookie
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import unquote, urlsplit

__all__ = ["Server", "Site"]

_COOKIE = "satchel"
_MOST = 8 * 2**20  # bytes of a result; one is some 20 kB
_TYPES = {".mjs": "text/javascript", ".js": "text/javascript", ".wasm": "application/wasm", ".json": "application/json"}
_HEADERS = {
    # Without these three a browser gives a page neither threads nor an exact clock.
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Embedder-Policy": "require-corp",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Content-Security-Policy": "default-src 'self' blob:; script-src 'self' blob: 'wasm-unsafe-eval'; "
    "style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",  # the token is in the address
    "Cache-Control": "no-store",
}
_TAKEN = (
    '<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
    "<title>This link is taken</title><style>body{font:1.1rem/1.5 system-ui;margin:3rem auto;max-width:30rem;padding:0 1rem}"
    "</style><h1>This link is taken</h1><p>Another browser measures with it. A link is for one phone: run "
    "<code>satchel bench --on browser</code> again for a link of this phone's own.</p></html>"
)


@dataclass
class Site:
    """What is served, and who has the link; the lock is held where two phones may come at once."""

    token: str
    files: Mapping[str, Path]
    settings: Mapping[str, Any]
    owner: str | None = None
    closed: float = 0.0  # when its page went, or 0
    heard: float = 0.0
    news: queue.Queue[tuple[str, Any]] = field(default_factory=queue.Queue)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def own(self, visitor: str, agent: str) -> bool:
        """Whether the link is this visitor's; it becomes that of the first who asks."""
        with self.lock:
            if self.owner is None:
                self.owner = visitor
                self.news.put(("owner", agent))
            mine = self.owner == visitor
        if mine:
            self.hear()
        return mine

    def hear(self) -> None:
        self.heard, self.closed = time.monotonic(), 0.0


class Server(ThreadingHTTPServer):
    daemon_threads = True  # a phone that keeps its connection open does not keep this process
    allow_reuse_address = True

    def __init__(self, address: tuple[str, int], site: Site, https: ssl.SSLContext | None = None) -> None:
        self.site, self._https = site, https
        super().__init__(address, _Handler)

    def finish_request(self, request: Any, client_address: Any) -> None:
        """In the thread of the connection: one that never says hello holds nobody up."""
        if self._https is None:
            return super().finish_request(request, client_address)
        request.settimeout(_Handler.timeout)
        with self._https.wrap_socket(request, server_side=True) as secure:
            super().finish_request(secure, client_address)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A phone that goes in the middle of a file is no news for the terminal."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "satchel", ""
    timeout: ClassVar[float] = 60.0  # of a silent connection
    server: Server

    def log_message(self, format: str, *arguments: Any) -> None:
        """Silent: addresses hold the token."""

    def do_GET(self) -> None:
        site, name = self.server.site, self._name()
        if name is None:
            return self._nothing()
        visitor, cookie = self._visitor()
        taken = site.owner is not None and site.owner != visitor
        if name == "settings.json":
            if visitor and site.own(visitor, self.headers.get("User-Agent", "")):
                return self._answer(200, json.dumps(site.settings).encode(), "application/json")
            return self._refuse_taken()
        file = site.files.get(name)
        if file is None:
            return self._nothing()
        if taken:
            return (
                self._answer(409, _TAKEN.encode(), "text/html; charset=utf-8") if name == "" else self._refuse_taken()
            )
        if site.owner is not None:
            site.hear()
        self._send_file(file, cookie if name == "" else None)

    def do_POST(self) -> None:
        site, name = self.server.site, self._name()
        if name not in ("progress", "result"):
            return self._nothing()
        visitor, _ = self._visitor()
        if site.owner is None or visitor != site.owner:
            return self._refuse_taken()
        try:
            length = int(self.headers["Content-Length"])
            if not 0 <= length <= _MOST:
                raise ValueError(length)
            said = json.loads(self.rfile.read(length))
            said["stage" if name == "progress" else "ok"]
        except (KeyError, TypeError, ValueError):
            return self._answer(
                400, b'{"error": "not the JSON object that belongs here"}', "application/json", close=True
            )
        site.hear()
        if name == "progress" and said.get("stage") == "closed":
            site.closed = time.monotonic()
        self._answer(200, b"{}", "application/json")
        self.wfile.flush()
        site.news.put((name, said))

    def _name(self) -> str | None:
        """What is asked for below the token; None without the token."""
        token, slash, name = unquote(urlsplit(self.path).path).lstrip("/").partition("/")
        right = hmac.compare_digest(token.encode(), self.server.site.token.encode())
        return name if right and slash else None

    def _visitor(self) -> tuple[str | None, str]:
        """Who asks, by a cookie; and the cookie that a new one is given."""
        try:
            found = SimpleCookie(self.headers.get("Cookie", "")).get(_COOKIE)
        except CookieError:
            found = None
        visitor = found.value if found else None
        made = visitor or secrets.token_urlsafe(16)
        return visitor, f"{_COOKIE}={made}; Path=/{self.server.site.token}/; HttpOnly; SameSite=Lax"

    def _nothing(self) -> None:
        self._answer(404, b"There is nothing here.\n", "text/plain; charset=utf-8", close=self.command == "POST")

    def _refuse_taken(self) -> None:
        error = {
            "kind": "UsageError",
            "what": "This link is taken.",
            "why": "another browser measures with it, or this one takes no cookies",
            "fix": "run satchel bench --on browser again, and open its link on one phone",
        }
        self._answer(409, json.dumps({"error": error}).encode(), "application/json", close=self.command == "POST")

    def _answer(self, status: int, body: bytes, kind: str, *, close: bool = False) -> None:
        self._head(status, len(body), kind, None, close=close)
        self.wfile.write(body)

    def _head(self, status: int, length: int, kind: str, cookie: str | None, *, close: bool = False) -> None:
        self.send_response(status)
        for name, value in {**_HEADERS, "Content-Type": kind, "Content-Length": str(length)}.items():
            self.send_header(name, value)
        if cookie:
            self.send_header("Set-Cookie", cookie)
        if close:  # what was not read of a body would be taken for the next request
            self.send_header("Connection", "close")
        self.end_headers()

    def _send_file(self, file: Path, cookie: str | None) -> None:
        kind = _TYPES.get(file.suffix) or mimetypes.guess_type(file.name)[0] or "application/octet-stream"
        with file.open("rb") as opened:
            length = file.stat().st_size
            self._head(200, length, f"{kind}; charset=utf-8" if kind.startswith("text/") else kind, cookie)
            while chunk := opened.read(1 << 18):
                self.wfile.write(chunk)
                if self.server.site.owner is not None:
                    self.server.site.heard = time.monotonic()  # a slow link is not silence
