"""An aarch64 Python on this machine, by emulation: Debian's own Python and C library, the engines' own wheels, and qemu.

    python -m tests.emulated            # makes it below .cache/emulated, once, and prints what SATCHEL_SSH stands for it

It computes what a 64-bit Raspberry Pi does, some three hundred times as slowly: its times are those of nothing. What is
downloaded, 90 MB of Debian packages and 60 MB of wheels, is kept; nothing outside of its folder is touched or installed.
"""

from __future__ import annotations

import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Emulated", "NotHereError", "make_emulated"]

_ROOT = Path(__file__).resolve().parents[1]
_MIRROR = "http://deb.debian.org/debian"
# 7.2, which bookworm itself has, crashes on both engines; 10.0 runs them.
_QEMU = "qemu-user/bookworm-backports"
_PYTHON = ("python3.11-minimal", "libpython3.11-minimal", "libpython3.11-stdlib")
_LIBRARIES = (
    "libc6",
    "libgcc-s1",
    "libstdc++6",
    "zlib1g",
    "libexpat1",
    "libffi8",
    "libbz2-1.0",
    "liblzma5",
    "libssl3",
    "libuuid1",
)
_WHEELS = ("numpy", "onnxruntime", "ai-edge-litert", "tokenizers")
_PLATFORMS = ("manylinux_2_28_aarch64", "manylinux_2_27_aarch64", "manylinux_2_17_aarch64", "manylinux2014_aarch64")


class NotHereError(Exception):
    """Why there can be none on this machine."""


@dataclass(frozen=True)
class Emulated:
    """`python` is the interpreter; `client` goes into SATCHEL_SSH, and then `target` is a board whose files lie in `home`."""

    python: Path
    client: str
    target: str
    home: Path

    def run(self, *arguments: str) -> str:
        done = subprocess.run([self.python, *arguments], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-2000:]
        return done.stdout


def make_emulated(folder: Path = _ROOT / ".cache" / "emulated") -> Emulated:
    """Download what is not there yet, unpack it, and see that it runs.

    Raises:
        NotHereError: this machine cannot, in words.
    """
    _can()
    folder.mkdir(parents=True, exist_ok=True)
    made = _emulated(folder)
    wanted = " ".join([_QEMU, *_PYTHON, *_LIBRARIES, *_pins()])
    done = folder / "made"
    if not done.exists() or done.read_text() != wanted:
        for each in ("root", "qemu", "debs"):
            shutil.rmtree(folder / each, ignore_errors=True)
        _unpack_packages(folder)
        _install_wheels(folder)
        done.write_text(wanted)
    _write_programs(folder, made)
    found = made.run("-c", "import platform; print(platform.machine())").strip()
    if found != "aarch64":
        raise NotHereError(f"the emulated Python says that it runs on {found!r}")
    return made


def _can() -> None:
    if platform.system() != "Linux" or platform.machine() != "x86_64":
        raise NotHereError(f"it is made for Linux on x86-64; this is {platform.system()} on {platform.machine()}")
    for name in ("apt-get", "dpkg-deb"):
        if shutil.which(name) is None:
            raise NotHereError(f"{name} is missing, which fetches and unpacks Debian's packages")


def _emulated(folder: Path) -> Emulated:
    client, home = folder / "ssh", folder / "home"
    return Emulated(folder / "bin" / "python3", shlex.quote(str(client)), "ssh://emulated-aarch64", home)


def _unpack_packages(folder: Path) -> None:
    """With lists and a state of their own: the system's sources and its installed packages are not looked at."""
    apt, debs = folder / "apt", folder / "debs"
    for each in (apt / "lists" / "partial", apt / "archives" / "partial", debs):
        each.mkdir(parents=True, exist_ok=True)
    (apt / "status").touch()
    keys = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
    if not keys.exists():
        raise NotHereError(
            f"{keys} is missing, by which Debian's packages are verified: apt-get install debian-archive-keyring"
        )
    (apt / "sources.list").write_text(
        f"deb [arch=arm64 signed-by={keys}] {_MIRROR} bookworm main\n"
        f"deb [arch=amd64 signed-by={keys}] {_MIRROR} bookworm-backports main\n"
    )
    settings = {
        "Dir::Etc::sourcelist": apt / "sources.list",
        "Dir::Etc::sourceparts": "/dev/null",
        "Dir::State": apt,
        "Dir::State::status": apt / "status",
        "Dir::Cache": apt,
        "APT::Sandbox::User": "root" if os.geteuid() == 0 else "",
    }
    options = [f"-o{name}={value}" for name, value in settings.items()]
    options += ["-oAPT::Architectures::=amd64", "-oAPT::Architectures::=arm64", "-oAPT::Update::Error-Mode=any", "-qq"]
    _fetch(["apt-get", *options, "update"], debs)
    _fetch(["apt-get", *options, "download", _QEMU, *(f"{name}:arm64" for name in (*_PYTHON, *_LIBRARIES))], debs)
    for deb in debs.glob("*.deb"):
        whole = folder / ("qemu" if deb.name.startswith("qemu-user") else "root")
        _fetch(["dpkg-deb", "-x", str(deb), str(whole)], debs)
    for other in (folder / "qemu" / "usr" / "bin").iterdir():  # 60 processors, 6 MB each
        if other.name != "qemu-aarch64":
            other.unlink()
    shutil.rmtree(debs)


def _install_wheels(folder: Path) -> None:
    site = folder / "root/usr/local/lib/python3.11/dist-packages"
    platforms = [word for each in _PLATFORMS for word in ("--platform", each)]
    kind = ["--only-binary=:all:", "--no-deps", "--python-version", "3.11", "--implementation", "cp"]
    pip = [sys.executable, "-m", "pip", "install", "-q", "--target", str(site)]
    _fetch([*pip, *kind, *platforms, *_pins()], folder)


def _pins() -> list[str]:
    """The versions that all other tests run with."""
    pins = dict(re.findall(r"^([\w.-]+)==(\S+)$", (_ROOT / "constraints.txt").read_text(), flags=re.MULTILINE))
    return [f"{name}=={pins[name]}" for name in _WHEELS]


def _write_programs(folder: Path, made: Emulated) -> None:
    """The interpreter under a name that can be executed, as a child of itself too; and what stands for ssh."""
    root, qemu = folder / "root", folder / "qemu/usr/bin/qemu-aarch64"
    made.python.parent.mkdir(exist_ok=True)
    made.home.mkdir(exist_ok=True)
    emulator = f'{shlex.quote(str(qemu))} -cpu neoverse-n1 -L {shlex.quote(str(root))} -0 "$0"'
    _program(
        made.python,
        f'PYTHONHOME={shlex.quote(str(root / "usr"))} exec {emulator} {shlex.quote(str(root / "usr/bin/python3.11"))} "$@"',
    )
    # The host is the word behind "--"; options of ssh come before it, the command after it. -O exit has no command.
    _program(
        folder / "ssh",
        'while [ $# -gt 0 ] && [ "$1" != -- ]; do shift; done; [ $# -ge 3 ] || exit 0; shift 2; '
        f'cd {shlex.quote(str(made.home))} && exec env -i HOME="$PWD" LANG=C.UTF-8 '
        f'PATH={shlex.quote(str(made.python.parent))}:/usr/bin:/bin sh -c "$*"',
    )


def _program(file: Path, script: str) -> None:
    file.write_text(f"#!/bin/sh\n{script}\n")
    file.chmod(0o755)


def _fetch(command: Sequence[str], folder: Path) -> None:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        said = (done.stderr.strip() or done.stdout.strip()).splitlines()
        raise NotHereError(f"{command[0]} failed: {said[-1] if said else done.returncode}")


if __name__ == "__main__":
    try:
        print(make_emulated().client)
    except NotHereError as refused:
        sys.exit(f"There is no emulated aarch64: {refused}")
