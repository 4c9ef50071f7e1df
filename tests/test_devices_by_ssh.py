"""A board over ssh: a real sshd on this machine, with a home of its own, stands for it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from tests.boards import SSHD, Board, start_board
from tests.conversions import change_answers

from satchel.cli import cli
from satchel.on_devices import bench_on, read_runs
from satchel_benchmarks.transports import open_device
from satchel_benchmarks.transports.agent_file import agent_bytes, agent_name
from satchel_benchmarks.transports.ssh import Ssh
from satchel_runtimes.errors import (
    IntegrityError,
    ParityError,
    SatchelError,
    SizeError,
    SupportError,
    ToolchainError,
    UsageError,
)

needs_sshd = pytest.mark.skipif(SSHD is None, reason="there is no sshd: apt-get install openssh-server")
QUICKLY: dict[str, Any] = {"threads": 1, "lengths": [16], "max_seconds": 0.1, "max_runs": 10, "cold_starts": 1}


def silent(words: str) -> None:
    """Nobody listens."""


@pytest.fixture
def board(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Board]:
    made = start_board(tmp_path / "board")
    monkeypatch.setenv("SATCHEL_SSH", made.client)
    yield made
    made.stop()


@pytest.fixture
def device(board: Board) -> Iterator[Ssh]:
    opened = open_device(board.target)
    assert isinstance(opened, Ssh)
    yield opened
    opened.close()


@needs_sshd
class TestBoards:
    def test_a_bundle_is_proved_there_and_then_measured(
        self, board: Board, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        out = tmp_path / "runs.json"
        options = ["--lengths", "16", "--seconds", "0.1", "--runs", "10", "--cold-starts", "1", "--sustain", "0.02"]

        found = CliRunner().invoke(cli, ["bench", str(bundle), "--on", board.target, *options, "-o", str(out)])

        assert found.exit_code == 0, found.output
        assert board.target in found.stdout and "same" in found.stdout and "16 tokens, ms" in found.stdout
        (result,) = read_runs(out)
        assert result["replay"]["finding"] == "same"
        assert result["run"]["latency"]["16"]["n"] == 10
        assert result["sustained"]["windows"]
        steps = [each for each in found.stderr.splitlines() if "golden samples" in each or "latency" in each]
        assert "golden" in steps[0] and "latency" in steps[-1]

    def test_only_what_changed_is_sent_again(self, board: Board, device: Ssh, bundle: Path) -> None:
        said: list[str] = []
        device.push(bundle, said.append)
        name = "bundles/all-MiniLM-L6-v2-onnx-int8-dynamic.satchel"
        assert f"{name}/bundle.json" in board.sent()

        device.push(bundle, said.append)
        (board.home / ".cache" / "satchel-device" / name / "config.json").write_text("{}")
        device.push(bundle, said.append)

        whole, again, one = said
        assert whole.startswith("sending 8 of 8 files")
        assert again.endswith("is there already")
        assert one.startswith("sending 1 of 8 files")

    def test_what_was_sent_can_be_taken_back(self, board: Board, bundle: Path) -> None:
        run = CliRunner().invoke
        pushed = run(cli, ["push", str(bundle), "--on", board.target, "-q"])
        assert Path(pushed.stdout.strip(), "bundle.json").is_file()

        removed = run(cli, ["push", "--remove", "--on", board.target])

        assert removed.exit_code == 0 and str(board.home) in removed.stdout
        assert not board.sent()

    def test_inputs_are_answered_there(self, board: Board, bundle: Path) -> None:
        command = ["run", str(bundle), "Where is my order?", "--on", board.target, "--json"]

        found = CliRunner().invoke(cli, command)
        here = CliRunner().invoke(cli, ["predict", str(bundle), "Where is my order?", "--json"])

        assert found.exit_code == 0, found.output
        # The same engine on the same machine.
        assert json.loads(found.stdout) == pytest.approx(json.loads(here.stdout), abs=1e-6)

    def test_a_look_says_what_is_there_and_how_to_get_what_is_not(self, board: Board) -> None:
        board.put("vcgencmd", "echo throttled=0x50005")

        found = CliRunner().invoke(cli, ["doctor", "--on", board.target])

        assert found.exit_code == 0, found.output
        assert "under-voltage now" in found.stdout and "throttled since boot" in found.stdout
        assert "pip install tflite-runtime" in found.stdout

    def test_a_shell_that_greets_everybody_is_no_trouble(self, board: Board, device: Ssh) -> None:
        login = board.folder / "login"
        login.write_text(login.read_text().replace("cd ", 'echo "Welcome to the board"; cd ', 1))

        assert device.look()["machine"]["cores"] >= 1


@needs_sshd
class TestTrouble:
    def test_a_board_that_computes_something_else_is_not_measured(self, device: Ssh, bundle: Path) -> None:
        change_answers(bundle, "artifact")
        said: list[str] = []

        with pytest.raises(ParityError, match="computes something else"):
            device.measure(bundle, QUICKLY, said.append)

        assert "golden samples" in said and not any("latency" in each for each in said)

    def test_a_package_that_is_missing_is_named_with_its_command(
        self, board: Board, device: Ssh, bundle: Path, tmp_path: Path
    ) -> None:
        board.put("python3", f'exec {sys.executable} -S -c "{_WITHOUT}" "$@"')

        with pytest.raises(ToolchainError, match="numpy") as refused:
            device.push(bundle, silent)

        assert "-m pip install numpy" in refused.value.fix
        assert not any(each.startswith("bundles/") for each in board.sent())

    @pytest.mark.parametrize(
        ("script", "kind", "said"),
        [
            ("exec {python} -c '{old}' \"$@\"", ToolchainError, "3.9 is the oldest"),
            ("exit 127", ToolchainError, "python"),
            ("kill -9 $$", SizeError, "ran out of memory"),
        ],
        ids=["old", "none", "killed"],
    )
    def test_a_python_that_does_not_do(
        self, board: Board, device: Ssh, bundle: Path, script: str, kind: type[SatchelError], said: str
    ) -> None:
        old = "import sys; sys.argv = sys.argv[1:]; sys.version_info = (3, 7, 3); import runpy; runpy.run_path(sys.argv[0])"
        board.put("python3", script.format(python=sys.executable, old=old))

        with pytest.raises(kind, match=said):
            device.look()

    def test_a_processor_that_no_engine_is_made_for(
        self, device: Ssh, bundle: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        seen = device.look()
        packages = {**seen["packages"], "onnxruntime": None}
        monkeypatch.setattr(
            device, "look", lambda: {**seen, "packages": packages, "machine": {**seen["machine"], "machine": "armv6l"}}
        )

        with pytest.raises(SupportError, match="armv6l"):
            device.push(bundle, silent)

    def test_a_full_disk_leaves_nothing_half_written(self, board: Board, device: Ssh, bundle: Path) -> None:
        board.put("tar", "echo 'tar: model.onnx: Cannot write: No space left on device' >&2; cat > /dev/null; exit 2")

        with pytest.raises(SizeError, match="No space left") as refused:
            device.push(bundle, silent)

        assert "rm -r" in refused.value.fix
        assert not any(each.startswith("bundles/") for each in board.sent())

    def test_a_connection_that_breaks_is_taken_up_again(self, board: Board, device: Ssh, bundle: Path) -> None:
        # The server's processes of this connection go while the files are on their way.
        board.put("tar", f"head -c 100000 > /dev/null; pkill -9 -P {board.server.pid}; sleep 5")

        with pytest.raises(SatchelError, match="run it again"):
            device.push(bundle, silent)

        (board.path / "tar").unlink()
        said: list[str] = []
        with_again = open_device(board.target)
        with_again.push(bundle, said.append)
        with_again.close()
        assert said[0].startswith("sending 8 of 8 files")
        assert not any(".incoming" in each for each in board.sent())

    def test_a_board_that_runs_out_of_memory_in_the_middle(self, board: Board, device: Ssh, bundle: Path) -> None:
        """As the system's memory killer ends a process: after the golden samples, and without a word."""
        board.put(
            "python3",
            f'case "$2" in measure) ;; *) exec {sys.executable} "$@";; esac\n'
            f'said={board.folder}/said; {sys.executable} "$@" > "$said" & pid=$!\n'
            'until grep -q "cold start" "$said"; do sleep 0.1; done; cat "$said"; kill -9 $pid; wait $pid',
        )
        said: list[str] = []

        with pytest.raises(SizeError, match="ran out of memory") as refused:
            device.measure(bundle, QUICKLY, said.append)

        assert "golden samples" in said and "satchel push --remove" in refused.value.fix
        board.put("python3", f'exec {sys.executable} "$@"')
        assert device.measure(bundle, QUICKLY, silent)["replay"]["finding"] == "same"  # and goes on when there is some

    def test_a_board_with_too_little_memory_for_the_model(self, board: Board, device: Ssh, bundle: Path) -> None:
        device.push(bundle, silent)
        least = 280_000  # KiB of address space: Python, numpy and the engine come up, and the model does not
        board.put("python3", f'ulimit -v {least}; exec {sys.executable} "$@"')

        with pytest.raises(SizeError, match="ran out of memory"):
            device.measure(bundle, QUICKLY, silent)

    def test_a_slow_link_that_cuts_a_bundle_off(
        self, board: Board, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A client through which half a megabyte passes in small pieces, and then no more."""
        slow = tmp_path / "slow"
        slow.write_text(f'#!/bin/sh\n{sys.executable} -c "{_SLOW}" | {board.client} "$@"\n')
        slow.chmod(0o755)
        monkeypatch.setenv("SATCHEL_SSH", str(slow))
        cut = open_device(board.target)

        with pytest.raises(SatchelError, match="cut off on their way") as refused:
            cut.push(bundle, silent)
        cut.close()

        assert "run it again" in refused.value.fix
        assert not any(each.startswith("bundles/") for each in board.sent())
        monkeypatch.setenv("SATCHEL_SSH", board.client)
        again = open_device(board.target)
        assert Path(again.push(bundle, silent), "bundle.json").is_file()
        again.close()

    def test_a_bundle_that_is_truncated_here_is_not_sent(self, board: Board, device: Ssh, bundle: Path) -> None:
        model = bundle / "model.onnx"
        model.write_bytes(model.read_bytes()[:100_000])

        with pytest.raises(IntegrityError, match=r"model\.onnx"):
            device.push(bundle, silent)

        assert not board.sent()

    def test_a_bundle_that_arrives_truncated_is_not_loaded(self, board: Board, device: Ssh, bundle: Path) -> None:
        board.put("tar", '/bin/tar "$@" && truncate -s 1000 "$5/model.onnx"')

        with pytest.raises(IntegrityError, match=r"'model\.onnx' arrived with other bytes"):
            device.measure(bundle, QUICKLY, silent)

    def test_an_engine_that_was_made_for_another_processor(self, board: Board, device: Ssh, bundle: Path) -> None:
        """A wheel of aarch64 on this machine, as a card that was moved to another board has."""
        package = board.folder / "site" / "onnxruntime"
        package.mkdir(parents=True)
        (package / "__init__.py").write_text("from . import native\n")
        foreign = bytearray(Path(sys.executable).resolve().read_bytes()[:4096])
        foreign[18:20] = (0xB7).to_bytes(2, "little")  # e_machine: EM_AARCH64
        (package / "native.so").write_bytes(foreign)
        (board.folder / "site" / "onnxruntime-1.32.0.dist-info").mkdir()
        (board.folder / "site" / "onnxruntime-1.32.0.dist-info" / "METADATA").write_text(
            "Metadata-Version: 2.1\nName: onnxruntime\nVersion: 1.32.0\n"
        )
        board.put("python3", f'PYTHONPATH={board.folder / "site"} exec {sys.executable} "$@"')

        with pytest.raises(ToolchainError, match="Cannot load onnxruntime") as refused:
            device.measure(bundle, QUICKLY, silent)

        assert "--force-reinstall onnxruntime" in refused.value.fix

    def test_a_host_key_that_changed_is_not_talked_to(self, board: Board, device: Ssh) -> None:
        known = board.folder / "known_hosts"
        other = (board.folder / "own.pub").read_text()
        known.write_text(f"{known.read_text().partition(' ')[0]} {other}")

        with pytest.raises(IntegrityError, match="another machine") as refused:
            device.look()

        assert "ssh-keygen -R" in refused.value.fix

    def test_nobody_is_asked_for_a_password(self, board: Board, device: Ssh) -> None:
        (board.folder / "authorized").write_text("")

        with pytest.raises(SatchelError, match="Permission denied"):
            device.look()

    def test_an_interrupted_measurement_ends_there_too(self, board: Board, bundle: Path) -> None:
        command = [sys.executable, "-m", "satchel", "bench", str(bundle), "--on", board.target, "--sustain", "5"]
        process = subprocess.Popen(
            command,
            stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            text=True,
            env=dict(os.environ),
            # A process that a shell starts behind its back ignores interrupts, and its children would.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # noqa: PLW1509  # no threads yet
        )
        assert process.stderr is not None  # it is piped
        for line in process.stderr:
            if "golden samples" in line:
                break
        process.send_signal(signal.SIGINT)

        assert process.wait(timeout=60) == 130
        for _ in range(100):
            running = subprocess.run(["pgrep", "-f", agent_name()], capture_output=True, check=False).stdout
            if not running:
                break
            time.sleep(0.1)
        assert not running


# Passes its input on, at most 400 kB of it and 4 MB a second.
_SLOW = (
    "import os, time; left = 400_000\n"
    "while left > 0:\n"
    "    part = os.read(0, min(left, 40_000)); left -= len(part)\n"
    "    if not part: break\n"
    "    os.write(1, part); time.sleep(0.01)"
)

# A Python without packages, numpy among them, that runs the file it is given.
_WITHOUT = "import sys, runpy; sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0])"


@pytest.mark.parametrize(
    "target",
    ["ssh://", "ssh://-oProxyCommand=x", "ssh://pi:word@host", "ssh://host/folder", "ssh://host:x", "ftp://host"],
)
def test_a_target_that_cannot_be_read_is_refused(target: str) -> None:
    with pytest.raises(UsageError, match="Cannot measure on"):
        open_device(target)


def test_a_host_that_does_not_answer_is_said_so(monkeypatch: pytest.MonkeyPatch) -> None:
    if shutil.which("ssh") is None:
        pytest.skip("there is no ssh")
    with pytest.raises(SatchelError, match="Cannot reach") as refused:
        bench_on(["ssh://127.0.0.1:9"], [], {})

    assert "refused" in refused.value.why and "ssh 127.0.0.1 true" in refused.value.fix


def test_the_agent_is_one_small_file_and_the_same_every_time() -> None:
    # The bound is 1 MB; the wheel's own tests look at what it holds.
    assert len(agent_bytes()) < 400_000
    agent_bytes.cache_clear()
    assert agent_name() == agent_name()
