"""A board over ssh: the system's own client, with its config, keys, known hosts and jump hosts.

There it needs a POSIX `sh`, `tar` and a Python from 3.9 on. Files lie below `~/.cache/satchel-device` of the user: the agent by its
content, and each bundle under its name; only files whose hashes differ are sent.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import subprocess
import tarfile
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

from satchel_runtimes.bundle import open_bundle
from satchel_runtimes.errors import IntegrityError, SatchelError, SizeError, ToolchainError, UsageError
from satchel_runtimes.manifest import MANIFEST_NAME, FileDigest, Manifest

from .agent_file import agent_bytes, agent_name
from .answers import is_out_of_memory, read_answer
from .device import Json, Tell
from .needs import check_needs

__all__ = ["Ssh", "open_device"]

_UNREACHED = 255  # what ssh itself ends with
_KILLED = 137  # of a process that the system's memory killer took, by way of a shell
_SECONDS = 15  # to reach a host, and of silence before it is asked whether it is still there
_SILENT = lambda words: None  # tells nobody

# Both create the folder; the agent is renamed into place, so that half of one never runs.
_HERE = 'root="${XDG_CACHE_HOME:-$HOME/.cache}/satchel-device"; '
_ROOT = _HERE + 'export SATCHEL_CACHE="$root"; umask 077; mkdir -p "$root/bundles" || exit 73; cd "$root" || exit 73; '
_SEND_AGENT = _ROOT + 'cat > "$1.part" && mv "$1.part" "$1" || { rm -f "$1.part"; exit 73; }'
_HAS_AGENT = _ROOT + '[ -f "$1" ] && echo there; command -v "$2" >/dev/null 2>&1 || exit 127; pwd'
# Not with exec: a process that the system kills for want of memory is then a status of this shell's.
_RUN = _ROOT + 'agent=$1; python=$2; shift 2; "$python" "$agent" "$@"'
# What arrives lies apart until all of it is there: a connection that breaks leaves the old bundle, and a rerun sweeps.
_RECEIVE = (
    _ROOT
    + 'half="bundles/.$1.incoming"; rm -rf "$half"; mkdir -p "$half" "bundles/$1" || exit 73; '
    + 'tar -x -f - -C "$half" || { rm -rf "$half"; exit 74; }; '
    + '(cd "$half" && find . -type f) | while IFS= read -r file; do '
    + 'mkdir -p "bundles/$1/$(dirname "$file")" && mv "$half/$file" "bundles/$1/$file" || exit 75; done; '
    + 'rm -rf "$half"'
)
_REMOVE = _HERE + 'rm -rf "$root/$1" && printf "%s\\n" "${root%/}${1:+/$1}"'


def open_device(target: str, **options: str | None) -> Ssh:
    """Raises: UsageError for a target that is no ssh://[user@]host[:port]."""
    try:
        parts = urlsplit(target)
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port = None, None
        parts = urlsplit("ssh:")
    user = parts.username
    # What begins with a dash would be an option of ssh.
    safe = all(re.fullmatch(r"[A-Za-z0-9_.][A-Za-z0-9_.:%-]*", each) for each in (host, user) if each)
    if not host or not safe or parts.path.strip("/") or parts.query or parts.password:
        raise UsageError(
            f"Cannot measure on {target!r}.",
            why="it is not of the form ssh://[user@]host[:port]",
            fix="name a host as `ssh` knows it; keys and passwords belong to ssh's own config",
        )
    return Ssh(target, f"{user}@{host}" if user else host, port, options.get("python") or "python3")


class Ssh:
    """One connection is shared by all that is asked, where the client can share one."""

    def __init__(self, name: str, host: str, port: int | None, python: str) -> None:
        self.name = name
        self._host, self._python = host, python
        self._folder = tempfile.TemporaryDirectory(prefix="satchel-ssh-")
        settings = {
            "BatchMode": "yes",  # nobody is there to type a password
            "ConnectTimeout": str(_SECONDS),
            "ServerAliveInterval": str(_SECONDS),
            "ServerAliveCountMax": "2",
            "ControlMaster": "auto",
            "ControlPath": f"{self._folder.name}/%C",
            "ControlPersist": "30",
        }
        own = shlex.split(os.environ.get("SATCHEL_SSH", "ssh"))  # as GIT_SSH_COMMAND
        self._client = [*own, *(f"-o{key}={value}" for key, value in settings.items())]
        self._client += ["-p", str(port)] if port else []
        self._prepared: str | None = None

    def look(self) -> Json:
        found: Json = self._ask(["look"], _SILENT)
        return found

    def push(self, bundle: Path, tell: Tell) -> str:
        """Send what the board lacks of a bundle, after a look whether the board can run it.

        Raises:
            IntegrityError: the bundle here is damaged; UsageError: it is a zip.
            ToolchainError, SupportError: the board lacks a package, or none is made for its processor.
            SizeError: there is no room.
        """
        manifest = open_bundle(bundle, verify="once").manifest
        if not bundle.is_dir():
            raise UsageError(f"Cannot send {bundle}.", why="it is a zip", fix="unpack it, and name the folder")
        seen = self.look()
        check_needs(manifest, seen, self._host, self._python)
        name = _name_of(manifest)
        wanted = _files(bundle, manifest)
        lacking = self._missing(name, wanted)
        if not lacking:
            tell(f"{bundle.name} is there already")
            return f"{self._root()}/bundles/{name}"
        count = sum(wanted[each]["bytes"] for each in lacking)
        if count > seen["disk_free_bytes"]:
            raise self._full(f"{count:,} bytes are to be sent, {seen['disk_free_bytes']:,} are free")
        tell(f"sending {len(lacking)} of {len(wanted)} files, {count / 2**20:.1f} MiB")
        self._run(_RECEIVE, [name], lambda stdin: _send(bundle, lacking, stdin))
        left = self._missing(name, wanted)
        if left:
            raise IntegrityError(
                f"Cannot send {bundle} to {self._host}.",
                why=f"{left[0]!r} arrived with other bytes",
                fix="send it again; look at the cable or the card if it happens twice",
            )
        return f"{self._root()}/bundles/{name}"

    def measure(self, bundle: Path, options: Mapping[str, Any], tell: Tell) -> Json:
        path = self.push(bundle, tell)
        found: Json = self._ask(["measure", path, json.dumps(dict(options))], tell)
        return found

    def predict(self, bundle: Path, inputs: Sequence[Any], options: Mapping[str, Any], tell: Tell) -> list[Any]:
        path = self.push(bundle, tell)
        asked = json.dumps({"inputs": list(inputs), "options": dict(options)})
        found: list[Any] = self._ask(["predict", path, asked], tell)
        return found

    def remove(self, bundle: Path | None) -> str:
        """Take back one bundle, or all that was ever sent. Returns its path there."""
        name = f"bundles/{_name_of(open_bundle(bundle, verify='once').manifest)}" if bundle else ""
        self._prepared = None
        return self._run(_REMOVE, [name]).decode("utf-8", "replace").splitlines()[-1]

    def close(self) -> None:
        # The shared connection would outlive this process by its half minute.
        subprocess.run([*self._client, "-Oexit", self._host], capture_output=True, check=False)
        self._folder.cleanup()

    def _root(self) -> str:
        """The folder there; the agent is in it afterwards."""
        if self._prepared is None:
            said = self._run(_HAS_AGENT, [agent_name(), self._python]).decode("utf-8", "replace").splitlines()
            if "there" not in said:
                self._run(_SEND_AGENT, [agent_name()], lambda stdin: stdin.write(agent_bytes()))
            self._prepared = said[-1]
        return self._prepared

    def _missing(self, name: str, wanted: Mapping[str, Mapping[str, Any]]) -> list[str]:
        text = json.dumps(wanted).encode()
        found: list[str] = self._ask(["missing", f"bundles/{name}"], _SILENT, lambda stdin: stdin.write(text))
        return found

    def _ask(self, arguments: Sequence[str], tell: Tell, send: Callable[[IO[bytes]], object] | None = None) -> Any:
        self._root()
        answer: list[Any] = []
        self._run(
            _RUN,
            [agent_name(), self._python, *arguments],
            send,
            read=lambda stdout: answer.append(read_answer(stdout, tell)),
        )
        if not answer or answer[0] is None:
            raise self._broken("its answer was cut off")
        return answer[0]

    def _run(
        self,
        script: str,
        arguments: Sequence[str],
        send: Callable[[IO[bytes]], object] | None = None,
        read: Callable[[IO[bytes]], object] | None = None,
    ) -> bytes:
        """A script of `sh` there, whatever shell the user has; what it printed, where nobody reads it as it comes."""
        words = ["exec", "sh", "-c", script, "sh", *arguments]
        command = [*self._client, "--", self._host, " ".join(shlex.quote(each) for each in words)]
        with tempfile.TemporaryFile() as complaints:
            try:
                process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=complaints)
            except FileNotFoundError:
                raise ToolchainError(
                    f"Cannot reach {self.name}.",
                    why=f"there is no {self._client[0]!r} on this machine",
                    fix="install OpenSSH's client, for instance apt-get install openssh-client",
                ) from None
            with process:
                assert process.stdin is not None and process.stdout is not None  # they are piped
                sender = threading.Thread(target=_fill, args=(process.stdin, send), daemon=True)
                sender.start()
                try:
                    said = b""
                    if read is None:
                        said = process.stdout.read()
                    else:
                        read(process.stdout)
                        process.stdout.read()
                except BaseException:
                    process.kill()
                    raise
                sender.join()
            complaints.seek(0)
            problem = complaints.read().decode("utf-8", "replace")
        if process.returncode:
            raise self._problem(process.returncode, problem)
        return said

    def _problem(self, status: int, said: str) -> SatchelError:
        lines = [line for line in said.splitlines() if line.strip()]
        last = lines[-1] if lines else f"status {status}"
        if "REMOTE HOST IDENTIFICATION HAS CHANGED" in said:
            return IntegrityError(
                f"Will not talk to {self.name}.",
                why="its host key is another than the one that ssh remembers: another machine may stand in its place",
                fix=f"if you installed it anew: ssh-keygen -R {self._host.rpartition('@')[2]}, then ssh there once by hand",
            )
        if status == _UNREACHED and "Permission denied" in said:
            return SatchelError(
                f"Cannot log in to {self.name}.",
                why=last,
                fix=f"ssh-copy-id {self._host}; nobody is asked for a password here",
            )
        if status == _UNREACHED:
            return self._broken(last)
        if status == 127:
            return ToolchainError(
                f"Cannot run Python on {self.name}.",
                why=f"there is no {self._python!r}",
                fix="install Python 3.9 or newer there, or name it with --python",
            )
        if status == _KILLED or is_out_of_memory(last):
            return SizeError(
                f"{self.name} ran out of memory.",
                why="the process was killed there while it worked" if status == _KILLED else last[-300:],
                fix="convert to a smaller scheme, or free memory there; `satchel push --remove` takes the bundle back",
            )
        if status in (73, 74, 75) and "No space left" in said:
            return self._full("No space left on device")
        if status == 74 and "EOF" in said:
            return self._broken("the files were cut off on their way")
        return SatchelError(f"Cannot work on {self.name}.", why=last, fix="try the same with ssh by hand")

    def _full(self, why: str) -> SizeError:
        return SizeError(
            f"Cannot send the bundle to {self.name}.",
            why=f"its disk is full: {why}",
            fix=f"free some space there; ssh {self._host} rm -r .cache/satchel-device removes all that satchel has put there",
        )

    def _broken(self, why: str) -> SatchelError:
        return SatchelError(
            f"Cannot reach {self.name}, or not any more.",
            why=why,
            fix=f"see that `ssh {self._host} true` works, then run it again: files that are there whole are not sent twice",
        )


def _fill(stdin: IO[bytes], send: Callable[[IO[bytes]], object] | None) -> None:
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # the other side says why it stopped reading
        if send is not None:
            send(stdin)
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        stdin.close()


def _send(bundle: Path, names: Sequence[str], stdin: IO[bytes]) -> None:
    with tarfile.open(fileobj=stdin, mode="w|", format=tarfile.USTAR_FORMAT) as archive:
        # The manifest last: without it a folder is no bundle.
        for name in sorted(names, key=lambda each: each == MANIFEST_NAME):
            archive.add(bundle / name, name, recursive=False, filter=_anonymous)


def _anonymous(info: tarfile.TarInfo) -> tarfile.TarInfo:
    info.uid = info.gid = 0
    info.uname = info.gname = ""
    return info


def _files(bundle: Path, manifest: Manifest) -> dict[str, dict[str, Any]]:
    import hashlib

    own = (bundle / MANIFEST_NAME).read_bytes()
    digests = {**manifest.files, MANIFEST_NAME: FileDigest(len(own), hashlib.sha256(own).hexdigest())}
    return {name: {"bytes": each.bytes, "sha256": each.sha256} for name, each in digests.items()}


def _name_of(manifest: Manifest) -> str:
    """A folder's name there: of the same model in another format or scheme a second bundle lies beside it."""
    target = manifest.target
    plain = re.sub(r"[^A-Za-z0-9._-]", "_", f"{manifest.name}-{target.format}-{target.scheme}").lstrip(".-")
    return f"{plain or 'bundle'}.satchel"
