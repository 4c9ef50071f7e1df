"""A phone by its browser: the measuring page and the bundle on the local network, behind a link that one phone can open once.

All paths lie below a token that nobody can guess; what is served is a fixed list of files, so no path leads anywhere else:

    GET  ./               the page                      GET ./app/*       its files
    GET  ./bundle/*       the bundle's files            GET ./settings.json
    POST ./progress       {"stage": words, "done": 0 to 1}; {"stage": "closed"} when the page goes
    POST ./result         {"ok": true, …} as in browser_run.py, or {"ok": false, "error": {"kind", "what", "why", "fix"}}

The first page that asks for its settings has the link: a preview in a messenger asks for the page alone.
"""

from __future__ import annotations

import hmac
import json
import mimetypes
import queue
import secrets
import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from http.cookies import CookieError, SimpleCookie
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import resources
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import unquote, urlsplit

from satchel_runtimes import errors
from satchel_runtimes.bundle import open_bundle
from satchel_runtimes.errors import SatchelError, ToolchainError, UsageError
from satchel_runtimes.manifest import MANIFEST_NAME, Manifest

from .browser_run import run_of_page
from .device import Json, Tell

__all__ = ["Browser", "open_device", "page_files"]

_COOKIE = "satchel"
_MOST = 8 * 2**20  # bytes of a result; one is some 20 kB
_LEAVES = 5.0  # seconds in which a page that went may come again: a reload
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


def open_device(target: str, **options: str | None) -> Browser:
    """Raises: UsageError for a target that is neither `browser` nor `browser://[address][:port]`."""
    host, port = None, 0
    if target != "browser":
        try:
            parts = urlsplit(target)
            host, port = parts.hostname, parts.port or 0
        except ValueError:
            parts = urlsplit("")
        if parts.scheme != "browser" or not (host or port) or parts.path.strip("/") or parts.query or parts.username:
            raise UsageError(
                f"Cannot measure on {target!r}.",
                why="it is neither browser nor browser://[address][:port]",
                fix="write browser; an address of this machine after it where it has several",
            )
    return Browser(target, host, port)


def page_files() -> dict[str, Path]:
    """The built page by its paths below the token, "" for the page itself: of this checkout, or of the installed package.

    Raises:
        ToolchainError: it was not built.
    """
    here = Path(__file__).resolve()
    built = here.parents[3] / "runtimes" / "web" / "dist" / "bench"
    packed = Path(str(resources.files("satchel_benchmarks"))) / "page"
    for root in (built, packed):
        if (root / "index.html").is_file():
            files = {file.relative_to(root).as_posix(): file for file in root.rglob("*") if file.is_file()}
            page = files.pop("index.html")
            return {
                "": page,
                **{name if name.startswith("app/") else f"app/{name}": each for name, each in files.items()},
            }
    raise ToolchainError(
        "Cannot measure in a browser.",
        why="the page that measures was not built",
        fix="in a checkout: make web; an installed satchel brings it along, so pip install --force-reinstall satchel",
    )


class Browser:
    """`comes_s` is how long a phone is waited for, `silent_s` how long it may say nothing once it is there."""

    def __init__(
        self,
        name: str = "browser",
        host: str | None = None,
        port: int = 0,
        *,
        comes_s: float = 600.0,
        silent_s: float = 180.0,
        show: Callable[[str], None] | None = None,
    ) -> None:
        self.name = name
        self._host, self._port = host, port
        self._comes, self._silent = comes_s, silent_s
        self._show = show or _print

    def look(self) -> None:
        return None  # a browser tells of itself once it has opened the page

    def push(self, bundle: Path, tell: Tell) -> str:
        raise _only_bench("sent to", self.name)

    def predict(self, bundle: Path, inputs: Sequence[Any], options: Mapping[str, Any], tell: Tell) -> list[Any]:
        raise _only_bench("run in", self.name)

    def remove(self, bundle: Path | None) -> str:
        raise _only_bench("taken back from", self.name)

    def close(self) -> None:
        """Nothing is kept: the page and the bundle are gone with its tab."""

    def invite(self, port: int, token: str, tell: Tell) -> str:
        """Bring the link to the phone, and return it."""
        url = f"http://{_address(self._host)}:{port}/{token}/"
        self._show(_invitation(url))
        return url

    def uninvite(self) -> None:
        """Take back what `invite` has done to the phone."""

    def measure(self, bundle: Path, options: Mapping[str, Any], tell: Tell) -> Json:
        opened = open_bundle(bundle, verify="once")
        if not bundle.is_dir():
            raise UsageError(f"Cannot serve {bundle}.", why="it is a zip", fix="unpack it, and name the folder")
        settings = _settings(opened.manifest, options)
        files = {**page_files(), **_bundle_files(bundle, opened.manifest)}
        site = _Site(secrets.token_urlsafe(16), files, settings)
        try:
            server = _Server((self._host or "0.0.0.0", self._port), site)
        except OSError as error:
            raise UsageError(
                f"Cannot serve on {self._host or 'any address'}, port {self._port}.",
                why=error.strerror or str(error),
                fix="name an address of this machine and a free port: browser://ADDRESS:PORT",
            ) from None
        thread = threading.Thread(target=server.serve_forever, args=(0.1,), daemon=True)
        thread.start()
        try:
            url = self.invite(server.server_address[1], site.token, tell)
            patience = self._silent + 60.0 * float(settings["sustain_minutes"]) + 10.0 * float(settings["seconds"])
            result = _wait(site, url, self._comes, patience, tell)
        finally:
            server.shutdown()
            server.server_close()
            self.uninvite()
        if options.get("profile"):
            tell("time by operator is not measured: engines in a browser have no profiler that a page can read")
        return run_of_page(result, opened.manifest, bundle, settings)


def _only_bench(what: str, name: str) -> UsageError:
    return UsageError(
        f"Nothing can be {what} {name}.",
        why="a browser keeps no bundles and takes no commands; it opens a page that measures",
        fix="satchel bench BUNDLE --on browser",
    )


def _settings(manifest: Manifest, options: Mapping[str, Any]) -> dict[str, Any]:
    """What the page is told; the names are those that it reads."""
    return {
        "engine": manifest.target.engine.name,
        "threads": options.get("threads"),  # None: as many as the page may have
        "seconds": options.get("max_seconds", 2.0),
        "runs": options.get("max_runs", 500),
        "warmup": options.get("warmup", 5),
        "lengths": list(options.get("lengths", (16, 64, 128))),
        "sustain_minutes": options.get("sustain_s", 0.0) / 60,
    }


def _bundle_files(bundle: Path, manifest: Manifest) -> dict[str, Path]:
    """Those that the manifest names, whose paths were checked when it was read."""
    return {f"bundle/{name}": bundle / name for name in (MANIFEST_NAME, *manifest.files)}


def _address(host: str | None) -> str:
    """Of this machine in its network; a name or an address that was given stays."""
    if host and host not in ("0.0.0.0", "::"):
        return host
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # of nobody, by RFC 5737; no packet is sent
            return str(probe.getsockname()[0])
        except OSError:
            return "127.0.0.1"


def _invitation(url: str) -> str:
    """The link, and a QR code of it where the package that draws one is there."""
    import importlib.util
    import io

    words = (
        f"Open this on the phone, in the same network:\n\n    {url}\n\n"
        "A browser gives a page one thread over plain http; plugged in, with --on adb://, it has all.\n"
    )
    if importlib.util.find_spec("segno") is None:
        return f"{words}\n(for a QR code: pip install 'satchel[report]')\n"
    import segno

    drawn = io.StringIO()
    segno.make(url, error="l", micro=False).terminal(drawn, compact=True)
    return f"{words}\n{drawn.getvalue()}"


def _print(words: str) -> None:
    """On stderr even with --quiet: without the link nothing happens."""
    print(words, file=sys.stderr, flush=True)


def _wait(site: _Site, url: str, comes: float, silent: float, tell: Tell) -> Json:
    tell(f"waiting for a phone to open {url}")
    stage, before = "", time.monotonic()
    while True:
        try:
            kind, said = site.news.get(timeout=0.2)
        except queue.Empty:
            now = time.monotonic()
            if site.owner is None and now - before > comes:
                raise SatchelError(
                    "No phone has opened the page.",
                    why=f"nobody asked for {url} within {_words(comes)}",
                    fix="open the link in a browser of the same network; see that no firewall keeps its port closed, or "
                    "plug the phone in: --on adb://",
                ) from None
            if site.owner is not None and site.closed and now - site.closed > _LEAVES:
                raise SatchelError(
                    "The page was closed before it was done.",
                    why=f"its last words were {stage!r}" if stage else "it had just been opened",
                    fix="run it again, and keep the page in front and the screen on until it says that it is done",
                ) from None
            if site.owner is not None and now - site.heard > silent:
                raise SatchelError(
                    "The phone does not answer any more.",
                    why=f"it has said nothing for {_words(silent)}; its last words were {stage or 'hello'!r}",
                    fix="run it again with the screen on; a page that the phone ends for want of memory goes without a word, "
                    "so try a smaller scheme too",
                ) from None
            continue
        if kind == "result":
            return _checked(said)
        if kind == "owner":
            tell(f"opened by {said}")
        elif said.get("stage") != "closed":
            stage = str(said.get("stage", ""))[:200]
            done = said.get("done")
            part = f", {done:.0%}" if isinstance(done, (int, float)) and 0 <= done <= 1 else ""
            tell(f"{stage}{part}")


def _words(seconds: float) -> str:
    return f"{seconds / 60:.0f} minutes" if seconds >= 120 else f"{seconds:g} seconds"


def _checked(said: Json) -> Json:
    """Raises: SatchelError of the kind that the page met."""
    if said.get("ok") is True:
        return said
    error = said.get("error")
    if not isinstance(error, dict):
        error = {
            "what": "The page could not measure.",
            "why": "it did not say why",
            "fix": "look at the browser's console",
        }
    kinds = {
        each.exit_code: each
        for each in vars(errors).values()
        if isinstance(each, type) and issubclass(each, SatchelError)
    }
    kind = getattr(errors, str(error.get("kind", "")), None) or kinds.get(error.get("code"), SatchelError)
    if not (isinstance(kind, type) and issubclass(kind, SatchelError)):
        kind = SatchelError
    made: SatchelError = kind(
        str(error.get("what", "The page could not measure.")),
        why=str(error.get("why", "")),
        fix=str(error.get("fix", "")),
    )
    raise made


@dataclass
class _Site:
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


class _Server(ThreadingHTTPServer):
    daemon_threads = True  # a phone that keeps its connection open does not keep this process
    allow_reuse_address = True

    def __init__(self, address: tuple[str, int], site: _Site) -> None:
        self.site = site
        super().__init__(address, _Handler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A phone that goes in the middle of a file is no news for the terminal."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "satchel", ""
    timeout: ClassVar[float] = 60.0  # type: ignore[misc]  # of a silent connection; the base class says None
    server: _Server

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
