"""A phone by its browser: one link for one phone, nothing else reachable, and the same run file as any other device."""

from __future__ import annotations

import copy
import queue
import re
import shutil
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from click.testing import CliRunner
from tests.phones import MEASURED, Phone

from satchel.cli import cli
from satchel.device_page import markdown_of, page_of
from satchel.on_devices import bench_on, read_runs
from satchel_benchmarks.transports import browser, browser_https, open_device
from satchel_benchmarks.transports.browser import Browser
from satchel_runtimes.errors import IntegrityError, ParityError, SatchelError, SizeError, ToolchainError, UsageError
from satchel_runtimes.run import Run

ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A page of the test's own: what the built one does is tested in Chromium."""
    folder = tmp_path / "page"
    folder.mkdir()
    (folder / "index.html").write_text("<!doctype html><title>page</title>")
    (folder / "bench.mjs").write_text("export {}")
    (folder / "ort.wasm").write_bytes(b"\0asm")
    files = {"": "index.html", "app/bench.mjs": "bench.mjs", "app/ort.wasm": "ort.wasm"}
    monkeypatch.setattr(browser, "page_files", lambda: {name: folder / file for name, file in files.items()})


class Bench:
    """A measurement that waits for its phone, in a thread of its own."""

    def __init__(self, bundle: Path, **options: Any) -> None:
        self.said: list[str] = []
        shown: queue.Queue[str] = queue.Queue()
        device = Browser(host="127.0.0.1", show=shown.put, **options)
        asked = {"lengths": [16, 64], "max_seconds": 0.1, "sustain_s": 0.0, "threads": 2}
        self._pool = ThreadPoolExecutor(1)
        self.result: Future[Any] = self._pool.submit(device.measure, bundle, asked, self.said.append)
        words = shown.get(timeout=20)
        self.invitation = words
        (self.url,) = re.findall(r"https?://\S+", words)
        self.phone = Phone(self.url)

    def close(self) -> None:
        if not self.result.done():
            self.phone.open()
            self.phone.post("result", MEASURED)
        self._pool.shutdown(wait=True)


@pytest.fixture
def bench(bundle: Path) -> Iterator[Callable[..., Bench]]:
    made: list[Bench] = []

    def start(**options: Any) -> Bench:
        made.append(Bench(bundle, **{"comes_s": 20.0, "silent_s": 20.0, **options}))
        return made[-1]

    yield start
    for each in made:
        each.close()


class TestMeasuring:
    def test_what_the_page_measured_is_a_run_as_any_other(self, bench: Callable[..., Bench]) -> None:
        started = bench()
        Phone(started.url).measure()

        found = started.result.result(20)

        run = Run.from_plain(found["run"])
        assert run.latency[16].n == 20 and run.latency[16].p50_ms == pytest.approx(2.095)
        assert run.latency[16].low_ms < run.latency[16].p50_ms < run.latency[16].high_ms
        assert run.threads == 4 and run.engine.startswith("onnxruntime-web")
        assert run.cold is not None and run.cold.process_s == pytest.approx(0.82)
        assert found["sustained"]["first"]["p50_ms"] == 5.0 and found["sustained"]["last"]["p50_ms"] == 7.0
        assert found["device"]["browser"]["isolated"] is True
        assert any("golden samples, 50%" in each for each in started.said)
        assert "latency at 64 tokens, 100%" in started.said[-1]

    def test_memory_that_cannot_hold_the_bundle_is_not_known(self, bench: Callable[..., Bench]) -> None:
        started = bench()
        Phone(started.url).measure({**MEASURED, "measured": {**MEASURED["measured"], "memory_bytes": 1_000_000}})

        assert started.result.result(20)["run"]["cold"]["peak_rss_bytes"] is None

    def test_the_command_writes_it_and_the_report_reads_it(
        self, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        out = tmp_path / "runs.json"
        monkeypatch.setattr(browser, "_print", lambda words: start_phone(words))

        def start_phone(words: str) -> None:
            (url,) = re.findall(r"http://\S+", words)
            threading.Thread(target=Phone(url).measure).start()

        found = CliRunner().invoke(
            cli, ["bench", str(bundle), "--on", "browser://127.0.0.1", "--lengths", "16,64", "-o", str(out)]
        )

        assert found.exit_code == 0, found.output
        (result,) = read_runs(out)
        assert result["on"] == "browser://127.0.0.1" and "onnxruntime-web 1.30.0 wasm" in found.stdout
        assert "Sustained" in page_of([result]) and "onnxruntime-web" in markdown_of([result])

    def test_the_page_is_told_what_to_measure(self, bench: Callable[..., Bench]) -> None:
        settings = bench().phone.open()

        assert settings["lengths"] == [16, 64] and settings["threads"] == 2
        assert settings["engine"] == "onnxruntime" and settings["seconds"] == 0.1 and settings["sustain_minutes"] == 0

    def test_the_link_is_shown_as_a_code_for_the_camera(self, bench: Callable[..., Bench]) -> None:
        assert "█" in bench().invitation or "▄" in bench().invitation

    @pytest.mark.parametrize(
        ("error", "kind"),
        [
            ({"kind": "ParityError", "what": "Wrong.", "why": "x", "fix": "y"}, ParityError),
            ({"code": 13, "what": "Full.", "why": "x", "fix": "y"}, SizeError),
            ({"kind": "Exception", "what": "Odd.", "why": "x", "fix": "y"}, SatchelError),
            (None, SatchelError),
        ],
    )
    def test_what_the_page_could_not_do_is_an_error_of_its_kind(
        self, bench: Callable[..., Bench], error: object, kind: type[SatchelError]
    ) -> None:
        started = bench()
        Phone(started.url).measure({"ok": False, "error": error})

        with pytest.raises(kind) as refused:
            started.result.result(20)

        assert type(refused.value) is kind and refused.value.what

    @pytest.mark.parametrize("place", ["device", "golden", "measured"])
    def test_words_that_cannot_be_read_are_refused(self, bench: Callable[..., Bench], place: str) -> None:
        wrong = copy.deepcopy(MEASURED)
        wrong[place] = ["what", "is", "this"]
        started = bench()
        Phone(started.url).measure(wrong)

        with pytest.raises(IntegrityError, match="Cannot read what the page measured"):
            started.result.result(20)

    @pytest.mark.parametrize("times", [[], [float("nan")], [-1.0], "fast", {"p50_ms": "1"}])
    def test_times_that_are_none_are_refused(self, bench: Callable[..., Bench], times: object) -> None:
        wrong = copy.deepcopy(MEASURED)
        wrong["measured"]["latency"] = {"16": times}
        started = bench()
        Phone(started.url).measure(wrong)

        with pytest.raises(IntegrityError):
            started.result.result(20)

    def test_a_browser_that_computes_something_else_is_refused(self, bench: Callable[..., Bench]) -> None:
        started = bench()
        Phone(started.url).measure({**MEASURED, "golden": {"finding": "device", "why": "cosine 0.2"}})

        with pytest.raises(ParityError, match="cosine 0.2"):
            started.result.result(20)


class TestWhatIsReachable:
    def test_the_page_the_bundle_and_nothing_else(self, bench: Callable[..., Bench], bundle: Path) -> None:
        (bundle / "secret.txt").write_text("mine")
        started = bench()
        phone = started.phone
        phone.open()

        token = started.url.split("/")[3]
        beside = str(bundle.parent / "copy.satchel" / "secret.txt")
        names = [
            f"{phone.base}bundle/secret.txt",
            f"{phone.base}bundle/../secret.txt",
            f"{phone.base}../../../../etc/passwd",
            f"{phone.base}bundle/..%2f..%2f..%2fetc%2fpasswd",
            f"{phone.base}bundle/%2e%2e/%2e%2e/etc/passwd",
            f"{phone.base}bundle/{beside}",
            f"{phone.base}bundle//etc/passwd",
            f"{phone.base}bundle/",
            f"{phone.base}app/",
            f"{phone.base}result",
            f"/{token}",
            "/",
            "/etc/passwd",
            "/bundle/bundle.json",
            f"/{token[:-1]}/",
            f"/{token.swapcase()}/bundle/bundle.json",
            f"/{'x' * len(token)}/settings.json",
        ]
        found = {name: phone.ask("GET", name)[0] for name in names}

        assert set(found.values()) == {404}, found
        assert phone.ask("POST", f"/{'x' * len(token)}/result", b"{}")[0] == 404
        assert phone.ask("PUT", f"{phone.base}bundle/config.json", b"{}")[0] == 501
        assert phone.get("bundle/config.json")[0] == 200

    def test_every_answer_isolates_the_page(self, bench: Callable[..., Bench]) -> None:
        phone = bench().phone
        phone.open()

        for name in ("", "app/bench.mjs", "app/ort.wasm", "bundle/bundle.json", "settings.json", "nothing"):
            _, headers, _ = phone.ask("GET", phone.base + name)
            assert headers["cross-origin-opener-policy"] == "same-origin"
            assert headers["cross-origin-embedder-policy"] == "require-corp"
            assert headers["cross-origin-resource-policy"] == "same-origin"
            assert headers["cache-control"] == "no-store"
        assert phone.ask("GET", phone.base + "app/ort.wasm")[1]["content-type"] == "application/wasm"
        assert phone.ask("GET", phone.base + "app/bench.mjs")[1]["content-type"].startswith("text/javascript")

    @pytest.mark.parametrize("body", [b"", b"{", b"[]", b"{}", b"\xff\xfe", b"null"])
    def test_a_post_that_is_no_answer_changes_nothing(self, bench: Callable[..., Bench], body: bytes) -> None:
        started = bench()
        phone = started.phone
        phone.open()

        assert phone.ask("POST", phone.base + "result", body)[0] == 400
        assert phone.ask("POST", phone.base + "result", b"{}", **{"Content-Length": "99999999999"})[0] == 400
        assert not started.result.done()
        phone.post("result", MEASURED)
        assert started.result.result(20)["run"]

    def test_a_second_phone_is_told_that_the_link_is_taken(self, bench: Callable[..., Bench]) -> None:
        started = bench()
        first, second = Phone(started.url, "first"), Phone(started.url, "second")
        first.open()

        status, said = second.get()

        assert status == 409 and b"This link is taken" in said and b"<script" not in said
        for name in ("settings.json", "bundle/bundle.json", "app/bench.mjs"):
            assert second.get(name)[0] == 409
        assert second.post("result", {"ok": False}) == 409 and second.post("progress", {"stage": "closed"}) == 409
        first.post("result", MEASURED)
        assert started.result.result(20)["run"]

    def test_two_that_open_it_at_once_are_told_apart(self, bench: Callable[..., Bench]) -> None:
        started = bench()
        phones = [Phone(started.url, f"phone {number}") for number in range(8)]
        for phone in phones:
            phone.get()  # all have the page before any has its settings

        with ThreadPoolExecutor(8) as pool:
            found = [status for status, _ in pool.map(lambda phone: phone.get("settings.json"), phones)]

        assert sorted(found) == [200] + [409] * 7
        phones[found.index(200)].post("result", MEASURED)
        assert started.result.result(20)["run"]

    def test_a_preview_in_a_messenger_does_not_take_the_link(self, bench: Callable[..., Bench]) -> None:
        started = bench()
        assert Phone(started.url, "a messenger's preview").get()[0] == 200

        Phone(started.url).measure()

        assert started.result.result(20)["run"]


class TestTrouble:
    def test_a_page_that_is_closed_half_way(self, bench: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(browser, "_LEAVES", 0.5)
        started = bench()
        phone = started.phone
        phone.open()
        phone.post("progress", {"stage": "latency at 16 tokens", "done": 0.3})
        phone.post("progress", {"stage": "closed"})

        with pytest.raises(SatchelError, match="closed before it was done") as refused:
            started.result.result(20)

        assert "latency at 16 tokens" in refused.value.why and "screen on" in refused.value.fix

    def test_a_page_that_is_reloaded_goes_on(
        self, bench: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(browser, "_LEAVES", 1.0)
        started = bench()
        phone = started.phone
        phone.open()
        phone.post("progress", {"stage": "closed"})
        phone.measure()

        assert started.result.result(20)["run"]

    def test_a_phone_that_never_comes(self, bench: Callable[..., Bench]) -> None:
        started = bench(comes_s=0.5)

        with pytest.raises(SatchelError, match="No phone has opened") as refused:
            started.result.result(20)

        assert started.url in refused.value.why and "firewall" in refused.value.fix

    def test_a_phone_that_says_nothing_any_more(
        self, bench: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        started = bench(silent_s=0.0)  # and ten times the second tenth that a length takes
        Phone(started.url).open()

        with pytest.raises(SatchelError, match="does not answer any more") as refused:
            started.result.result(20)

        assert "memory" in refused.value.fix

    def test_nothing_listens_afterwards(self, bench: Callable[..., Bench]) -> None:
        started = bench()
        phone = started.phone
        phone.measure()
        started.result.result(20)

        with pytest.raises(OSError):
            phone.get()

    def test_a_page_that_was_not_built(self, bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.undo()
        if (ROOT / "runtimes/web/dist/bench/index.html").exists():
            pytest.skip("it was built")

        with pytest.raises(ToolchainError) as refused:
            browser.page_files()

        assert "make web" in refused.value.fix

    @pytest.mark.parametrize("command", ["push", "run"])
    def test_nothing_but_measuring_is_done_in_a_browser(self, bundle: Path, command: str) -> None:
        found = CliRunner().invoke(cli, [command, str(bundle), *(["x"] if command == "run" else []), "--on", "browser"])

        assert found.exit_code == 2 and "satchel bench BUNDLE --on browser" in found.stderr
        assert CliRunner().invoke(cli, ["doctor", "--on", "browser"]).exit_code == 2

    @pytest.mark.parametrize(
        "target", ["browser:", "browser://", "browser://host/folder", "browser:x", "browser://host:x"]
    )
    def test_a_target_that_cannot_be_read_is_refused(self, target: str) -> None:
        with pytest.raises(UsageError, match="Cannot measure on"):
            open_device(target)

    def test_an_address_of_another_machine_is_refused(self, bundle: Path) -> None:
        with pytest.raises(UsageError, match="Cannot serve on"):
            open_device("browser://192.0.2.1").measure(bundle, {}, lambda words: None)


@pytest.mark.skipif(shutil.which("openssl") is None, reason="there is no openssl: apt-get install openssl")
class TestHttps:
    """Without it a browser gives a page that comes over the network one thread: tests/test_browser_page.py shows both."""

    @pytest.fixture
    def pair(self, tmp_path: Path) -> Path:
        """A certificate for this machine's own address and its key, as mkcert leaves them."""
        both = tmp_path / "both.pem"
        subprocess.run(
            [
                *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"),
                *("-subj", "/CN=test", "-addext", "subjectAltName=IP:127.0.0.1", "-days", "1"),
                *("-keyout", str(tmp_path / "key.pem"), "-out", str(both)),
            ],
            check=True,
            capture_output=True,
        )
        both.write_text(both.read_text() + (tmp_path / "key.pem").read_text())
        return both

    def test_a_certificate_is_made_for_the_link_and_the_words_say_that_the_browser_will_warn(
        self, bench: Callable[..., Bench]
    ) -> None:
        started = bench(https=browser.OWN)
        Phone(started.url).measure()

        assert started.result.result(20)["device"]["browser"]["isolated"] is True
        assert started.url.startswith("https://127.0.0.1:") and "Advanced" in started.invitation

    def test_who_does_not_go_on_behind_the_warning_sees_nothing(self, bench: Callable[..., Bench], pair: Path) -> None:
        with pytest.raises(ssl.SSLCertVerificationError):
            Phone(bench(https=browser.OWN).url, trusts=pair.read_text()).get()

    def test_one_that_the_phone_trusts_needs_no_warning(self, bench: Callable[..., Bench], pair: Path) -> None:
        started = bench(https=str(pair))
        Phone(started.url, trusts=pair.read_text()).measure()

        assert started.result.result(20)["run"]
        assert "Advanced" not in started.invitation and "one thread" not in started.invitation

    def test_a_visitor_that_never_says_hello_holds_nobody_up(self, bench: Callable[..., Bench]) -> None:
        started = bench(https=browser.OWN)
        place = urlsplit(started.url)

        with socket.create_connection((str(place.hostname), int(place.port or 0))):
            Phone(started.url).measure()

            assert started.result.result(20)["run"]

    @pytest.mark.parametrize("kept", ["nothing", "the certificate alone", "words"])
    def test_a_file_that_is_no_pair_is_refused(self, bundle: Path, pair: Path, kept: str) -> None:
        if kept == "nothing":
            pair.unlink()
        else:
            pair.write_text(
                pair.read_text().partition("-----BEGIN PRIVATE")[0] if "alone" in kept else "no certificate"
            )

        found = CliRunner().invoke(cli, ["bench", str(bundle), "--on", "browser", "--certificate", str(pair)])

        assert found.exit_code == 2 and "cat cert.pem key.pem" in found.stderr

    def test_without_openssl_the_fix_is_a_file(self, bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(browser_https.shutil, "which", lambda name: None)

        found = CliRunner().invoke(cli, ["bench", str(bundle), "--on", "browser", "--https"])

        assert found.exit_code == 15 and "--certificate" in found.stderr

    def test_it_is_for_browsers(self, bundle: Path) -> None:
        found = CliRunner().invoke(cli, ["bench", str(bundle), "--on", "local", "--https"])

        assert found.exit_code == 2 and "--on browser" in found.stderr


class TestAdb:
    """By contract: a stand-in for adb, whose phone opens the page that it is sent to."""

    @pytest.fixture
    def adb(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
        def put(devices: str, *, start: str = "") -> Path:
            folder = tmp_path / "bin"
            folder.mkdir(exist_ok=True)
            log = tmp_path / "adb.log"
            opens = f'PYTHONPATH={ROOT} {sys.executable} -m tests.phones "$url" >/dev/null 2>&1 &'
            (folder / "adb").write_text(
                f'#!/bin/sh\necho "$*" >> {log}\n'
                "for each; do url=$each; done\n"
                f'case "$*" in\n  devices) printf "List of devices attached\\n{devices}\\n";;\n'
                f'  *"am start"*) echo "Starting: Intent"; {start or opens} ;;\nesac\n'
            )
            (folder / "adb").chmod(0o755)
            monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
            return log

        return put

    @pytest.mark.parametrize("target", ["adb://", "adb://emulator-5554"])
    def test_the_page_is_opened_on_the_phone(self, adb: Callable[..., Path], bundle: Path, target: str) -> None:
        log = adb("emulator-5554\\tdevice\\nother\\tunauthorized")

        (found,) = bench_on([target], [bundle], {"lengths": [16, 64]})

        assert found["on"] == target and found["run"]["latency"]["16"]["n"] == 20
        lines = log.read_text().splitlines()
        (port,) = re.findall(r"reverse tcp:(\d+) tcp:\1", lines[1])
        assert lines[2].startswith(
            "-s emulator-5554 shell am start -a android.intent.action.VIEW -d http://localhost:" + port
        )
        assert lines[3] == f"-s emulator-5554 reverse --remove tcp:{port}"

    @pytest.mark.parametrize(
        ("target", "devices", "kind", "why", "fix"),
        [
            ("adb://", "", SatchelError, "adb knows none", "USB debugging"),
            ("adb://abc", "def\\tdevice", SatchelError, "adb knows def", "USB debugging"),
            ("adb://abc", "abc\\tunauthorized", SatchelError, "does not trust", "allow USB debugging"),
            ("adb://", "abc\\tunauthorized", SatchelError, "does not trust", "allow USB debugging"),
            ("adb://", "abc\\toffline", SatchelError, "does not answer", "adb reconnect"),
            ("adb://", "abc\\tno permissions; see [x]", SatchelError, "USB port", "udev"),
            ("adb://", "abc\\tbootloader", SatchelError, "bootloader", "adb devices"),
            ("adb://", "abc\\tdevice\\ndef\\tdevice", UsageError, "abc, def", "--on adb://abc"),
        ],
    )
    def test_a_phone_that_is_not_there_or_not_ready(
        self,
        adb: Callable[..., Path],
        bundle: Path,
        target: str,
        devices: str,
        kind: type[SatchelError],
        why: str,
        fix: str,
    ) -> None:
        adb(devices)

        with pytest.raises(kind) as refused:
            open_device(target).measure(bundle, {}, lambda words: None)

        assert why in refused.value.why and fix in refused.value.fix

    def test_a_phone_without_a_browser(self, adb: Callable[..., Path], bundle: Path) -> None:
        log = adb("abc\\tdevice", start='echo "Error: Activity not started, unable to resolve Intent"')

        with pytest.raises(SatchelError, match="Activity not started"):
            open_device("adb://").measure(bundle, {}, lambda words: None)

        assert "reverse --remove" in log.read_text()

    def test_no_adb(self, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("PATH", str(tmp_path))

        with pytest.raises(ToolchainError, match="no 'adb'"):
            open_device("adb://").measure(bundle, {}, lambda words: None)

    @pytest.mark.parametrize("target", ["adb", "adb:abc", "adb://-s", "adb://a/b"])
    def test_a_target_that_cannot_be_read_is_refused(self, target: str) -> None:
        with pytest.raises(UsageError, match="Cannot measure on"):
            open_device(target)
