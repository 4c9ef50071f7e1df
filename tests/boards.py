"""A real sshd on this machine that stands for a board: its keys, its config, and a home of its own for what is sent there."""

from __future__ import annotations

import os
import shlex
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

__all__ = ["SSHD", "Board", "start_board"]

SSHD = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin")


@dataclass
class Board:
    """`client` goes into SATCHEL_SSH; `home` is where the board keeps its files; `path` is searched first there."""

    target: str
    client: str
    home: Path
    path: Path
    folder: Path
    server: subprocess.Popen[bytes]

    def put(self, name: str, script: str) -> None:
        """A program of the board's own, in place of the one that this machine has."""
        file = self.path / name
        file.write_text(f"#!/bin/sh\n{script}\n")
        file.chmod(0o755)

    def sent(self) -> set[str]:
        root = self.home / ".cache" / "satchel-device"
        return {str(file.relative_to(root)) for file in root.rglob("*") if file.is_file()} if root.is_dir() else set()

    def stop(self) -> None:
        self.server.terminate()
        self.server.wait()


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def _key(file: Path) -> Path:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(file)], check=True)
    return file


def start_board(folder: Path, *, options: Sequence[str] = ()) -> Board:
    """Listen on a free port of the loopback, for the user of this process, by a key of the test's own."""
    assert SSHD is not None  # who calls has looked
    home, path, port = folder / "home", folder / "bin", _free_port()
    home.mkdir(parents=True)
    path.mkdir()
    host, own = _key(folder / "host"), _key(folder / "own")
    authorized = folder / "authorized"
    authorized.write_bytes(own.with_suffix(".pub").read_bytes())
    os.makedirs("/run/sshd", exist_ok=True) if os.geteuid() == 0 else None
    # The home of the account is this machine's; what is run there gets another, and the interpreter of the tests.
    wrapper = folder / "login"
    names = {"HOME": str(home), "PATH": f"{path}:/usr/bin:/bin", "LANG": "C.UTF-8"}
    settings = " ".join(f"{key}={shlex.quote(value)}" for key, value in names.items())
    wrapper.write_text(
        f'#!/bin/sh\ncd {shlex.quote(str(home))} && exec env -i {settings} sh -c "$SSH_ORIGINAL_COMMAND"\n'
    )
    wrapper.chmod(0o755)
    config = folder / "sshd_config"
    config.write_text(
        "\n".join(
            [
                f"Port {port}",
                "ListenAddress 127.0.0.1",
                f"HostKey {host}",
                f"AuthorizedKeysFile {authorized}",
                "StrictModes no",
                "UsePAM no",
                "PasswordAuthentication no",
                "PermitRootLogin yes",
                f"PidFile {folder / 'pid'}",
                f"ForceCommand {wrapper}",
                *options,
            ]
        )
        + "\n"
    )
    server = subprocess.Popen([SSHD, "-D", "-e", "-f", str(config)], stderr=subprocess.DEVNULL)
    known = folder / "known_hosts"
    known.write_text(f"[127.0.0.1]:{port} {host.with_suffix('.pub').read_text()}")
    client = folder / "ssh_config"
    client.write_text(
        f"Host *\n  IdentityFile {own}\n  IdentitiesOnly yes\n  UserKnownHostsFile {known}\n  StrictHostKeyChecking yes\n"
    )
    for _ in range(100):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                break
        time.sleep(0.05)
    board = Board(f"ssh://127.0.0.1:{port}", f"ssh -F {client}", home, path, folder, server)
    board.put("python3", f'exec {shlex.quote(sys.executable)} "$@"')
    return board
