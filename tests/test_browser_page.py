"""The link in a real browser, with a phone's screen: what it gives a page, and what the page that measures makes of it."""

from __future__ import annotations

import json
import queue
import re
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from tests.browsers import CHROMIUM, Page, open_page
from tests.conversions import change_answers
from tests.phones import MEASURED, Phone

from satchel_benchmarks.transports import browser
from satchel_benchmarks.transports.browser import Browser
from satchel_runtimes.errors import ParityError, SatchelError
from satchel_runtimes.run import Run

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium: apt-get install chromium")

ROOT = Path(__file__).parents[1]

# What a page that measures needs of its server: isolation, modules, workers, WebAssembly, fetches and beacons that count as its own.
PAGE = """<!doctype html><meta name="viewport" content="width=device-width"><title>page</title>
<script type="module" src="app/page.mjs"></script>"""
SCRIPT = """
const settings = await (await fetch("settings.json")).json();
const worker = new Worker(new URL("./worker.mjs", import.meta.url), { type: "module" });
const size = await new Promise((done) => { worker.onmessage = (event) => done(event.data); worker.postMessage(0); });
await WebAssembly.compile(new Uint8Array([0, 97, 115, 109, 1, 0, 0, 0]));
navigator.sendBeacon("progress", JSON.stringify({ stage: `isolated ${crossOriginIsolated}, ${size} bytes`, done: 1 }));
window.settings = settings;
"""
GOING = """addEventListener("pagehide", () => navigator.sendBeacon("progress", '{"stage": "closed"}'))"""
WORKER = """onmessage = async () => {
  new SharedArrayBuffer(8);
  postMessage((await (await fetch("../bundle/bundle.json")).arrayBuffer()).byteLength);
};"""


@pytest.fixture(scope="module")
def page() -> Iterator[Page]:
    with open_page() as opened:
        yield opened


@pytest.fixture
def serve(bundle: Path) -> Iterator[Callable[..., tuple[str, Future[Any], list[str]]]]:
    with ThreadPoolExecutor(1) as pool:

        def start(
            host: str | None = "127.0.0.1", https: str | None = None, **options: Any
        ) -> tuple[str, Future[Any], list[str]]:
            shown: queue.Queue[str] = queue.Queue()
            said: list[str] = []
            device = Browser(host=host, show=shown.put, https=https, comes_s=30.0, silent_s=120.0)
            given = {"lengths": [16], "max_seconds": 0.5, "max_runs": 20, "warmup": 1, "sustain_s": 0.0, **options}
            result = pool.submit(device.measure, bundle, given, said.append)
            (url,) = re.findall(r"https?://\S+", shown.get(timeout=20))
            return url, result, said

        yield start


def test_a_page_has_threads_modules_workers_and_a_link_of_its_own(
    page: Page, serve: Callable[..., Any], tmp_path: Path, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = {"": PAGE, "app/page.mjs": SCRIPT, "app/worker.mjs": WORKER}
    names = {"": "index.html", "app/page.mjs": "page.mjs", "app/worker.mjs": "worker.mjs"}
    for name, text in texts.items():
        (tmp_path / names[name]).write_text(text)
    monkeypatch.setattr(browser, "page_files", lambda: {name: tmp_path / file for name, file in names.items()})
    url, result, said = serve()
    page.as_phone()

    page.go(url)
    settings = page.wait_for("window.settings")
    page.evaluate(f"fetch('result', {{method: 'POST', body: JSON.stringify({json.dumps(MEASURED)})}}).then(() => 1)")

    assert result.result(20)["run"]
    assert settings["lengths"] == [16]
    assert f"isolated true, {(bundle / 'bundle.json').stat().st_size} bytes, 100%" in said


@pytest.mark.parametrize(("https", "isolated"), [(None, False), (browser.OWN, True)], ids=["http", "https"])
def test_over_the_network_a_page_has_threads_by_https_alone(
    page: Page,
    serve: Callable[..., Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    https: str | None,
    isolated: bool,
) -> None:
    """At this machine's address in its network, since a browser trusts 127.0.0.1 without https."""
    if https is not None and shutil.which("openssl") is None:
        pytest.skip("there is no openssl")
    (tmp_path / "index.html").write_text("<!doctype html><title>page</title>")
    monkeypatch.setattr(browser, "page_files", lambda: {"": tmp_path / "index.html"})
    url, result, _ = serve(host=None, https=https)
    if "//127.0.0.1" in url:
        pytest.skip("this machine is in no network")
    page.call("Security.setIgnoreCertificateErrors", ignore=True)  # as somebody who goes on behind the warning

    page.go(url)
    page.wait_for("document.title == 'page'")
    found = page.evaluate("[isSecureContext, crossOriginIsolated, typeof SharedArrayBuffer]")
    page.evaluate("fetch('settings.json').then(() => 1)")
    page.evaluate(f"fetch('result', {{method: 'POST', body: JSON.stringify({json.dumps(MEASURED)})}}).then(() => 1)")

    assert result.result(20)["run"]
    assert found == [isolated, isolated, "function" if isolated else "undefined"]


def test_a_page_that_goes_is_noticed(
    page: Page, serve: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "index.html").write_text("<!doctype html><title>page</title>")
    monkeypatch.setattr(browser, "page_files", lambda: {"": tmp_path / "index.html"})
    monkeypatch.setattr(browser, "_LEAVES", 0.5)
    url, result, _ = serve()

    page.go(url)
    page.wait_for("document.title == 'page'")
    page.evaluate("fetch('settings.json').then(() => 1)")
    page.evaluate(GOING)
    page.go("about:blank")

    with pytest.raises(SatchelError, match="closed before"):
        result.result(20)


@pytest.mark.skipif(
    not (ROOT / "runtimes/web/dist/bench/index.html").exists(), reason="the page was not built: make web"
)
class TestTheBuiltPage:
    """Headless Chromium with a phone's screen, as fast as this machine, and with a page four times as slow.

    DevTools slows the page's own thread and not its workers, where calls are timed: that shows that all goes well on a slow phone,
    not what its times would be.
    """

    @pytest.mark.parametrize("slower", [1.0, 4.0], ids=["as it is", "4 times slower"])
    def test_it_proves_and_measures_a_bundle(
        self, page: Page, serve: Callable[..., Any], slower: float, tmp_path: Path
    ) -> None:
        url, result, said = serve(sustain_s=0.6 if slower == 1.0 else 0.0)
        page.as_phone(slower)

        page.go(url)
        found = result.result(300)
        page.wait_for("document.body?.innerText.includes('Sent')")

        run = Run.from_plain(found["run"])
        assert found["replay"]["finding"] == "same"
        assert run.engine.startswith("onnxruntime-web") and run.latency[16].n >= 10
        assert found["device"]["browser"]["isolated"] is True
        assert run.cold is not None and run.cold.process_s > 0
        assert any("golden samples" in each for each in said) and any("latency at 16 tokens" in each for each in said)

    def test_another_bundle_than_was_built_is_refused(
        self, page: Page, bundle: Path, serve: Callable[..., Any]
    ) -> None:
        change_answers(bundle, "artifact")
        url, result, said = serve()
        page.as_phone()

        page.go(url)

        with pytest.raises(ParityError):
            result.result(120)
        assert not any("latency" in each for each in said)

    def test_a_page_that_is_closed_half_way(
        self, page: Page, serve: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(browser, "_LEAVES", 0.5)
        url, result, _ = serve(max_seconds=20.0, max_runs=100_000)
        page.as_phone()
        page.go(url)
        page.wait_for("document.body?.innerText.includes('latency')", 120)

        page.go("about:blank")

        with pytest.raises(SatchelError, match="closed before it was done") as refused:
            result.result(20)
        assert "latency" in refused.value.why

    def test_a_second_phone_reads_that_the_link_is_taken(self, page: Page, serve: Callable[..., Any]) -> None:
        url, result, _ = serve()
        phone = Phone(url)
        phone.open()
        page.as_phone()

        page.go(url)
        page.wait_for("document.body?.innerText.includes('This link is taken')")

        phone.post("result", MEASURED)
        assert result.result(20)["run"]
