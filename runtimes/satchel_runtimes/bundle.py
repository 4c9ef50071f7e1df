"""Open a bundle, a folder or an uncompressed zip, and check every byte before anything is loaded from it."""

from __future__ import annotations

import json
import os
import posixpath
import re
import stat
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Optional, Union

from .errors import IntegrityError, UsageError
from .manifest import KIT_NAME, MANIFEST_NAME, MAX_MANIFEST_BYTES, Manifest
from .onnx_file import external_data

if TYPE_CHECKING:
    import zipfile

__all__ = ["CODE_FORMATS", "VERIFY", "Bundle", "cache_folder", "open_bundle", "sha256_of"]

# hashlib and zipfile are imported where they are used: a fresh process that opens a folder whose hashes are remembered
# needs neither, and the two take 8 ms of its 200.
VERIFY = ("always", "once")
# Loading a file of these runs it: they are checked at every load, whatever was remembered.
CODE_FORMATS = ("torchscript", "neuron")
_CHUNK = 1 << 20


@dataclass(frozen=True)
class Bundle:
    """A bundle whose manifest was read and whose files were checked."""

    path: Path
    manifest: Manifest
    remembered: bool  # the files were checked in an earlier process and have not changed since

    def file(self, name: str) -> Optional[Path]:
        """The path of a listed file, or None in a zip, where only `read` reaches it."""
        self._listed(name)
        return self.path / name if self.path.is_dir() else None

    def read(self, name: str) -> bytes:
        self._listed(name)
        if self.path.is_dir():
            return (self.path / name).read_bytes()
        import zipfile

        with zipfile.ZipFile(self.path) as archive:
            return archive.read(name)

    def _listed(self, name: str) -> None:
        if name not in self.manifest.files:
            raise _broken(self.path, f"{name!r} is not one of its files")


def open_bundle(path: Union[str, Path], *, verify: str = "always", allow_failed: bool = False) -> Bundle:
    """Read `bundle.json` and check size and sha256 of every file that it lists.

    Args:
        path: a bundle folder, or the same as an uncompressed zip.
        verify: "always" reads every byte; "once" skips files whose size, times and inode are those of an earlier check.
        allow_failed: open a bundle that its gates refused (`convert --keep-failed`).

    Raises:
        UsageError: there is no bundle at `path`, or a compile kit.
        IntegrityError: a missing, added or altered byte, a symlink, a path that leaves the bundle, another schema.
    """
    if verify not in VERIFY:
        raise UsageError(f"Cannot verify {verify!r}.", why="no such mode", fix=f"use one of {', '.join(VERIFY)}")
    path = Path(path)
    if path.is_dir():
        bundle = _open_folder(path, verify)
    elif path.is_file():
        bundle = _open_zip(path)
    else:
        raise UsageError(
            f"Cannot open the bundle {path}.",
            why="there is nothing at that path",
            fix="name a folder or zip that satchel convert wrote",
        )
    if bundle.manifest.failed and not allow_failed:
        raise IntegrityError(
            f"Will not load the bundle {path}.",
            why="its gates refused it; it was kept with --keep-failed for a look",
            fix="convert again, or inspect it with satchel inspect",
        )
    return bundle


def _open_folder(root: Path, verify: str) -> Bundle:
    manifest_file = root / MANIFEST_NAME
    if not manifest_file.is_file() and (root / KIT_NAME).is_file():
        raise UsageError(
            f"Cannot open the bundle {root}.",
            why="it is a compile kit, not a bundle: its graphs are not compiled yet",
            fix=f"run python {root / 'finish.py'} on a machine with the compiler; {root / 'README.txt'} says which",
        )
    if not manifest_file.is_file():
        raise _broken(root, f"it holds no {MANIFEST_NAME}")
    _refuse_links(root, MANIFEST_NAME)
    with manifest_file.open("rb") as file:
        found = os.fstat(file.fileno())  # of what is read here, should another process exchange the bundle meanwhile
        if found.st_size > MAX_MANIFEST_BYTES:
            raise _broken(root, f"{MANIFEST_NAME} has {found.st_size:,} bytes; at most {MAX_MANIFEST_BYTES:,} are read")
        manifest = Manifest.parse(file.read(), str(root))
    stamps = {MANIFEST_NAME: _stamp(found)}
    for name, digest in manifest.files.items():
        try:
            _refuse_links(root, name)
            found = (root / name).lstat()
        except (FileNotFoundError, NotADirectoryError):
            raise _broken(root, f"the file {name!r} is missing") from None
        except OSError as error:
            raise _unreadable(root, name, error) from None
        if not stat.S_ISREG(found.st_mode):
            raise _broken(root, f"{name!r} is not a regular file")
        if found.st_size != digest.bytes:
            raise _broken(root, f"{name!r} has {found.st_size:,} bytes, the manifest says {digest.bytes:,}")
        stamps[name] = _stamp(found)
    remembers = verify == "once" and manifest.target.format not in CODE_FORMATS
    memory = _Memory(root) if remembers else None
    if memory is not None and memory.holds(stamps):
        return Bundle(root, manifest, remembered=True)
    for name, digest in manifest.files.items():
        try:
            with (root / name).open("rb") as file:
                _check_digest(root, name, file, digest.sha256)
        except OSError as error:
            raise _unreadable(root, name, error) from None
    bundle = Bundle(root, manifest, remembered=False)
    _check_external_data(bundle)  # before it is remembered: a later load does not look again
    if memory is not None:
        memory.keep(stamps)
    return bundle


def _check_external_data(bundle: Bundle) -> None:
    """An ONNX file may name other files as its weights, at any path, and the engine would read them."""
    if bundle.manifest.target.format != "onnx":
        return
    for graph in bundle.manifest.graphs:
        for location in external_data(bundle.read(graph.file), f"{graph.file} of {bundle.path}"):
            if posixpath.join(posixpath.dirname(graph.file), location) != graph.weights:
                raise IntegrityError(
                    f"Cannot load {graph.file} of the bundle {bundle.path}.",
                    why=f"its tensors lie in the file {location!r}, which the manifest does not name as its weights",
                    fix="do not use this bundle; convert the model again",
                )


def _stamp(found: os.stat_result) -> list[int]:
    return [found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino]


def _open_zip(path: Path) -> Bundle:
    import struct
    import zipfile

    try:
        with zipfile.ZipFile(path) as archive:
            manifest = _check_zip(path, archive)
        bundle = Bundle(path, manifest, remembered=False)
        _check_external_data(bundle)
    except (zipfile.BadZipFile, NotImplementedError, EOFError, ValueError, struct.error, OSError) as error:
        # zipfile has all of these for a damaged directory; where none is found the file is something else
        raise _broken(path, f"it is neither a folder nor a whole zip ({error})") from None
    return bundle


def _check_zip(path: Path, archive: zipfile.ZipFile) -> Manifest:
    members: dict[str, zipfile.ZipInfo] = {}
    for info in archive.infolist():
        if info.filename in members:
            raise _broken(path, f"the zip holds {info.filename!r} twice")
        members[info.filename] = info
    if MANIFEST_NAME not in members:
        raise _broken(path, f"it holds no {MANIFEST_NAME} at its top")
    size = members[MANIFEST_NAME].file_size
    if size > MAX_MANIFEST_BYTES:
        raise _broken(path, f"{MANIFEST_NAME} has {size:,} bytes; at most {MAX_MANIFEST_BYTES:,} are read")
    _check_stored(path, members[MANIFEST_NAME])
    manifest = Manifest.parse(archive.read(MANIFEST_NAME), str(path))
    for graph in manifest.graphs:
        if graph.weights:  # an engine reads them by path, and from a zip would look in the current folder
            raise _broken(path, f"{graph.file!r} keeps its weights in {graph.weights!r}; unpack this zip to a folder")
    for name, digest in manifest.files.items():
        if name not in members:
            raise _broken(path, f"the file {name!r} is missing")
        info = members[name]
        _check_stored(path, info)
        if info.file_size != digest.bytes:
            raise _broken(path, f"{name!r} has {info.file_size:,} bytes, the manifest says {digest.bytes:,}")
        with archive.open(info) as file:
            _check_digest(path, name, file, digest.sha256)
    return manifest


def _check_stored(path: Path, info: zipfile.ZipInfo) -> None:
    if info.compress_type != 0:  # ZIP_STORED
        raise _broken(path, f"{info.filename!r} is compressed; a bundle's zip is stored as it is (zip -0)")
    if info.flag_bits & 1:
        raise _broken(path, f"{info.filename!r} is encrypted")


class _Memory:
    """Which files of a bundle were checked, kept in the user's cache folder between processes."""

    def __init__(self, root: Path) -> None:
        self._path = str(root.resolve())
        tail = re.sub(r"[^A-Za-z0-9.-]", "_", self._path[-60:])
        crc = zlib.crc32(self._path.encode("utf-8", "surrogateescape"))
        self._file = cache_folder() / "verified" / f"{tail}-{crc:08x}.json"

    def holds(self, stamps: dict[str, list[int]]) -> bool:
        try:
            kept = json.loads(self._file.read_bytes())
        except (OSError, ValueError):
            return False
        return bool(kept == {"bundle": self._path, "files": stamps})

    def keep(self, stamps: dict[str, list[int]]) -> None:
        text = json.dumps({"bundle": self._path, "files": stamps})
        beside = self._file.with_suffix(f".{os.getpid()}")
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            beside.write_text(text)
            os.replace(beside, self._file)
        except OSError:
            pass  # a read-only home only costs the next load its shortcut


def cache_folder() -> Path:
    """`$SATCHEL_CACHE`, or `satchel` in the user's cache folder."""
    own = os.environ.get("SATCHEL_CACHE")
    if own:
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "satchel"


def sha256_of(file: IO[bytes]) -> str:
    import hashlib

    digest = hashlib.sha256()
    while True:
        chunk = file.read(_CHUNK)
        if not chunk:
            return digest.hexdigest()
        digest.update(chunk)


def _check_digest(where: Path, name: str, file: IO[bytes], expected: str) -> None:
    found = sha256_of(file)
    if found != expected:
        raise _broken(where, f"{name!r} was altered: its sha256 is {found[:12]}…, the manifest says {expected[:12]}…")


def _refuse_links(root: Path, name: str) -> None:
    here = root
    for part in name.split("/"):
        here = here / part
        if here.is_symlink():
            raise _broken(root, f"{name!r} goes through a symlink, which could leave the bundle")


def _unreadable(where: Path, name: str, error: OSError) -> IntegrityError:
    return _broken(where, f"the file {name!r} cannot be read ({error.strerror})")


def _broken(where: Path, why: str) -> IntegrityError:
    return IntegrityError(
        f"Cannot read the bundle {where}.", why=why, fix="copy the bundle again, or convert the model again"
    )
