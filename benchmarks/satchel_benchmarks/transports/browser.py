"""A phone by its browser: the measuring page and the bundle on the local network, behind a link that one phone can open once.

All paths lie below a token that nobody can guess; what is served is a fixed list of files, so no path leads anywhere else:

    GET  ./               the page                      GET ./app/*       its files
    GET  ./bundle/*       the bundle's files            GET ./settings.json
    POST ./progress       {"stage": words, "done": 0 to 1}; {"stage": "closed"} when the page goes
    POST ./result         {"ok": true, …} as in browser_run.py, or {"ok": false, "error": {"kind", "what", "why", "fix"}}
"""

from __future__ import annotations

import queue
import secrets
import socket
import ssl
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from satchel_runtimes.bundle import open_bundle
from satchel_runtimes.errors import SatchelError, ToolchainError, UsageError
from satchel_runtimes.manifest import MANIFEST_NAME, Manifest

from .answers import error_of
from .browser_https import of_file, of_its_own
from .browser_run import run_of_page
from .browser_site import Server, Site
from .device import OWN, Json, Tell

__all__ = ["OWN", "Browser", "open_device", "page_files"]

_LEAVES = 5.0  # seconds in which a page that went may come again: a reload


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
    return Browser(target, host, port, https=options.get("https"))


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
    """`https` is a PEM file, or `OWN` for a certificate that is made; `comes_s` is how long a phone is waited for, `silent_s` how long
    it may say nothing once it is there."""

    def __init__(
        self,
        name: str = "browser",
        host: str | None = None,
        port: int = 0,
        *,
        https: str | None = None,
        comes_s: float = 600.0,
        silent_s: float = 180.0,
        show: Callable[[str], None] | None = None,
    ) -> None:
        self.name = name
        self._host, self._port, self._https = host, port, https
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
        scheme = "http" if self._https is None else "https"
        url = f"{scheme}://{_address(self._host)}:{port}/{token}/"
        self._show(_invitation(url, warns=self._https == OWN))
        return url

    def uninvite(self) -> None:
        """Take back what `invite` has done to the phone."""

    def measure(self, bundle: Path, options: Mapping[str, Any], tell: Tell) -> Json:
        opened = open_bundle(bundle, verify="once")
        if not bundle.is_dir():
            raise UsageError(f"Cannot serve {bundle}.", why="it is a zip", fix="unpack it, and name the folder")
        settings, https = _settings(opened.manifest, options), self._secure()
        files = {**page_files(), **_bundle_files(bundle, opened.manifest)}
        site = Site(secrets.token_urlsafe(16), files, settings)
        try:
            server = Server((self._host or "0.0.0.0", self._port), site, https)
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

    def _secure(self) -> ssl.SSLContext | None:
        """What the link is served with, where https is asked for."""
        if self._https is None:
            return None
        return of_its_own(_address(self._host)) if self._https == OWN else of_file(Path(self._https))


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


_ONE_THREAD = """A browser gives a page one thread over plain http; with --https, or plugged in with --on adb://, it has all.
"""
_WARNING = """The browser will warn of the certificate, which was made for this link and nobody has signed: choose Advanced, and go on.
"""


def _invitation(url: str, *, warns: bool) -> str:
    """The link, and a QR code of it where the package that draws one is there."""
    import importlib.util
    import io

    more = _WARNING if warns else _ONE_THREAD if url.startswith("http:") else ""
    words = f"Open this on the phone, in the same network:\n\n    {url}\n\n{more}"
    if importlib.util.find_spec("segno") is None:
        return f"{words}\n(for a QR code: pip install 'satchel[report]')\n"
    import segno

    drawn = io.StringIO()
    segno.make(url, error="l", micro=False).terminal(drawn, compact=True)
    return f"{words}\n{drawn.getvalue()}"


def _print(words: str) -> None:
    """On stderr even with --quiet: without the link nothing happens."""
    print(words, file=sys.stderr, flush=True)


def _wait(site: Site, url: str, comes: float, silent: float, tell: Tell) -> Json:
    tell(f"waiting for a phone to open {url}")
    stage, told, before = "", "", time.monotonic()
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
            part = f", {round(done * 10) * 10}%" if isinstance(done, (int, float)) and 0 <= done <= 1 else ""
            if f"{stage}{part}" != told:  # a page tells several times a second, and a build log keeps every line
                told = f"{stage}{part}"
                tell(told)


def _words(seconds: float) -> str:
    return f"{seconds / 60:.0f} minutes" if seconds >= 120 else f"{seconds:g} seconds"


def _checked(said: Json) -> Json:
    """Raises: SatchelError of the kind that the page met."""
    if said.get("ok") is True:
        return said
    error = said.get("error")
    if not isinstance(error, dict):
        error = {"why": "it did not say why", "fix": "look at the browser's console"}
    raise error_of({"what": "The page could not measure.", **error})
