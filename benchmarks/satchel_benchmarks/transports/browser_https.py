"""https for the measuring page: to one that comes over the network without it, a browser gives neither threads nor an exact clock."""

from __future__ import annotations

import ipaddress
import shutil
import ssl
import subprocess
import tempfile
from pathlib import Path

from satchel_runtimes.errors import ToolchainError, UsageError

__all__ = ["of_file", "of_its_own"]

_DAYS = "2"
_SECONDS = 30


def of_file(file: Path) -> ssl.SSLContext:
    """With a certificate that the phone trusts, and its key, in one PEM file.

    Raises:
        UsageError: it holds no such pair.
    """
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        made.load_cert_chain(file, password="")  # asked on the terminal otherwise
    except OSError as error:  # ssl's own are of this kind
        raise UsageError(
            f"Cannot serve https with {file}.",
            why=error.strerror or str(error),
            fix="name a PEM file that holds a certificate and its key without a password: cat cert.pem key.pem",
        ) from None
    return made


def of_its_own(address: str) -> ssl.SSLContext:
    """With a certificate that is made for this address and this run, by the system's own openssl.

    Raises:
        ToolchainError: there is no openssl that can.
    """
    program = shutil.which("openssl")
    if program is None:
        raise _cannot("there is no openssl on this machine")
    try:
        ipaddress.ip_address(address)
        name = f"IP:{address}"
    except ValueError:
        name = f"DNS:{address}"
    with tempfile.TemporaryDirectory(prefix="satchel-https-") as folder:
        both = Path(folder, "both.pem")
        command = [
            *(program, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"),
            *("-subj", "/CN=satchel bench", "-addext", f"subjectAltName={name}", "-days", _DAYS),
            *("-keyout", str(both), "-out", f"{folder}/certificate.pem"),
        ]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, check=False)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise _cannot(f"openssl did not make a certificate: {error}") from None
        if done.returncode:
            raise _cannot(f"openssl did not make a certificate: {(done.stderr.strip().splitlines() or ['?'])[-1]}")
        with both.open("a") as file:
            file.write(Path(folder, "certificate.pem").read_text())
        return of_file(both)


def _cannot(why: str) -> ToolchainError:
    return ToolchainError(
        "Cannot make a certificate for https.",
        why=why,
        fix="install openssl 1.1.1 or newer, or name a PEM file of your own with --certificate",
    )
