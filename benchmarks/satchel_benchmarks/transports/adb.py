"""A phone on a cable, or one that adb reaches: its browser opens the measuring page by itself.

Verified by contract, against a stand-in for adb: not on a phone. The page is asked for at localhost, which adb forwards. A browser
trusts that as it trusts https, so the page has threads and WebGPU, which plain http over the network does not give it.
"""

from __future__ import annotations

import shutil
import subprocess
from urllib.parse import unquote

from satchel_runtimes.errors import SatchelError, ToolchainError, UsageError

from .browser import Browser
from .device import Tell

__all__ = ["Adb", "open_device"]

_SECONDS = 30  # for one command of adb, whose server may have to start first
_STATES = {
    "unauthorized": (
        "it does not trust this computer",
        "unlock the phone and allow USB debugging in the question that it shows",
    ),
    "offline": ("it does not answer", "unplug it and plug it in again, or `adb reconnect`"),
    "no permissions": (
        "this user may not open its USB port",
        "install the udev rules of Android: apt-get install android-sdk-platform-tools-common",
    ),
}


def open_device(target: str, **options: str | None) -> Adb:
    """Raises: UsageError for a target that is not `adb://[serial]`."""
    scheme, slashes, serial = target.partition("://")
    serial = unquote(serial.rstrip("/"))
    if scheme != "adb" or not slashes or serial.startswith("-") or not serial.isprintable() or "/" in serial:
        raise UsageError(
            f"Cannot measure on {target!r}.",
            why="it is not of the form adb://[serial]",
            fix="write adb:// for the only phone, or its serial from `adb devices` after that",
        )
    return Adb(target, serial)


class Adb(Browser):
    """`serial` may be empty: the only phone there is."""

    def __init__(self, name: str, serial: str, *, comes_s: float = 120.0, silent_s: float = 180.0) -> None:
        super().__init__(name, "127.0.0.1", comes_s=comes_s, silent_s=silent_s)
        self._wanted, self._serial = serial, ""
        self._forwarded = 0

    def invite(self, port: int, token: str, tell: Tell) -> str:
        """Raises: ToolchainError without adb; SatchelError where it finds no phone that lets it in."""
        self._serial = self._find()
        url = f"http://localhost:{port}/{token}/"
        self._adb("reverse", f"tcp:{port}", f"tcp:{port}")
        self._forwarded = port
        tell(f"opening the page on {self._serial}; unlock it, and keep its screen on")
        said = self._adb("shell", "am", "start", "-a", "android.intent.action.VIEW", "-d", url)
        if "Error" in said:  # with status 0
            raise SatchelError(
                f"Cannot open the page on {self._serial}.",
                why=next(line.strip() for line in said.splitlines() if "Error" in line),
                fix="install a browser on the phone, or use --on browser and its QR code",
            )
        return url

    def uninvite(self) -> None:
        if self._forwarded:
            port, self._forwarded = self._forwarded, 0
            command = [_program(), "-s", self._serial, "reverse", "--remove", f"tcp:{port}"]
            subprocess.run(
                command, capture_output=True, timeout=_SECONDS, check=False
            )  # an unplugged phone has forgotten it

    def _find(self) -> str:
        found = dict(_devices(self._run([_program(), "devices"])))
        ready = [serial for serial, state in found.items() if state == "device"]
        if self._wanted:
            if self._wanted not in found:
                raise SatchelError(
                    f"Cannot find the phone {self._wanted}.",
                    why=f"adb knows {', '.join(found) or 'none'}",
                    fix="plug it in and turn on USB debugging in its developer options; `adb devices` lists it then",
                )
            state = found[self._wanted]
            if state != "device":
                raise _not_ready(self._wanted, state)
            return self._wanted
        if len(ready) > 1:
            raise UsageError(
                "Cannot choose a phone.", why=f"adb knows {', '.join(ready)}", fix=f"name one: --on adb://{ready[0]}"
            )
        if ready:
            return ready[0]
        for serial, state in found.items():
            raise _not_ready(serial, state)
        raise SatchelError(
            "Cannot find a phone.",
            why="adb knows none",
            fix="plug one in and turn on USB debugging in its developer options; `adb devices` lists it then",
        )

    def _adb(self, *arguments: str) -> str:
        return self._run([_program(), "-s", self._serial, *arguments])

    def _run(self, command: list[str]) -> str:
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, check=False)
        except subprocess.TimeoutExpired:
            raise SatchelError(
                f"Cannot reach {self.name}.",
                why=f"`{' '.join(command[:5])}` has not answered for {_SECONDS} seconds",
                fix="adb kill-server, and run it again",
            ) from None
        if done.returncode:
            said = [line for line in (done.stderr + done.stdout).splitlines() if line.strip()]
            raise SatchelError(
                f"Cannot reach {self.name}.",
                why=said[-1].strip() if said else f"adb ended with status {done.returncode}",
                fix="see that `adb devices` lists the phone, and run it again",
            )
        return done.stdout + done.stderr


def _program() -> str:
    found = shutil.which("adb")
    if found is None:
        raise ToolchainError(
            "Cannot reach a phone by its cable.",
            why="there is no 'adb' on this machine",
            fix="install Android's platform tools, for instance apt-get install adb; or use --on browser",
        )
    return found


def _devices(said: str) -> list[tuple[str, str]]:
    """Serials and states, of lines as `emulator-5554<tab>device` behind a head; the server tells of its start before."""
    found = []
    for line in said.splitlines():
        serial, tab, state = line.partition("\t")
        if tab and serial and not serial.startswith("*"):
            found.append((serial, state.strip()))
    return found


def _not_ready(serial: str, state: str) -> SatchelError:
    known = next((about for name, about in _STATES.items() if state.startswith(name)), None)
    why, fix = known or (f"adb says that it is {state!r}", "unlock it, and see what `adb devices` says")
    return SatchelError(f"Cannot use the phone {serial}.", why=why, fix=fix)
