"""The main job on a real model: convert, look at the gates, predict, measure.

`make quickstart` runs it. A second run finds the bundle and re-uses it.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
from real_models import minilm

import satchel

DEVICE = "raspberry-pi-5"
SENTENCES = ("Where is my order?", "My parcel has not arrived yet.", "The cello is my favourite instrument.")


FORMATS = ("onnx", "tflite")


def main() -> None:
    root = Path(__file__).resolve().parents[1]
    model = minilm()
    bundles = [converted(model, root, name) for name in FORMATS]
    print("\nthree sentences, the cosine of each pair:", flush=True)
    for bundle in bundles:
        with satchel.load(bundle, verify="once") as predictor:
            vectors = np.stack(predictor.predict(list(SENTENCES)))
            print(f"  {predictor.manifest.target.format} {predictor.manifest.target.scheme}")
        for sentence, row in zip(SENTENCES, vectors @ vectors.T, strict=True):
            print(f"    {'  '.join(f'{value:5.2f}' for value in row)}   {sentence}")
    print("\nlatency and memory on this machine:", flush=True)
    satchel_command("bench", "-q", *(str(bundle) for bundle in bundles))


def converted(model: Path, root: Path, name: str) -> Path:
    """A bundle of the model in one format, made now or found from an earlier run."""
    bundle = root / ".cache" / "quickstart" / f"minilm-{name}.satchel"
    if bundle.is_dir():
        print(f"re-using {bundle.relative_to(root)}; remove it to convert again")
        show(json.loads(bundle.with_name(f"minilm-{name}.report.json").read_text()))
    else:
        print(f"converting {model.name} for {DEVICE}, {name}", flush=True)
        satchel_command("convert", str(model), "--device", DEVICE, "--format", name, "-o", str(bundle))
    print()
    return bundle


def show(report: dict[str, object]) -> None:
    from satchel.cli.convert import show as show_report

    show_report(report)


def satchel_command(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "satchel", *arguments], check=True)


if __name__ == "__main__":
    main()
