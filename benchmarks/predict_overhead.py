"""What `predict` adds to the bare calls: tokenizers, the engine and numpy, as a competent user writes them by hand.

Both answer one short sentence, call by call in turn, on the same loaded engine: two sessions of one file with the same options
differ by up to 7 % here, by where their weights come to lie, which is more than what is measured.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers

from satchel_runtimes import Predictor, load
from satchel_runtimes.measure import interleave, ratio
from setting import SENTENCE, arguments, bundle, figure_of, tell

BUNDLES = (
    ("onnx", "int8-dynamic"),
    ("onnx", "fp32"),
    ("tflite", "int8-dynamic"),
    ("tflite", "fp32"),
    ("torchscript", "fp32"),
)
Encoded = tuple[list[int], list[int], list[int]]  # ids, attention mask, token types


def onnx(predictor: Predictor) -> Callable[[Encoded], np.ndarray]:
    session = predictor.graphs["model"]._engine  # type: ignore[attr-defined]  # see the top

    def run(encoded: Encoded) -> np.ndarray:
        ids, mask, types = (np.array([each], dtype=np.int64) for each in encoded)
        (states,) = session.run(None, {"input_ids": ids, "attention_mask": mask, "token_type_ids": types})
        return states

    return run


def tflite(predictor: Predictor) -> Callable[[Encoded], np.ndarray]:
    """The signature for 16 tokens, which the sentence needs; a user who has one length pads to it."""
    bucket = predictor.graphs["model"]._buckets[0]  # type: ignore[attr-defined]  # see the top
    runner = _cell(bucket.call, "runner")
    length = bucket.axes["sequence"]

    def run(encoded: Encoded) -> np.ndarray:
        padded = []
        for each in encoded:
            whole = np.zeros((1, length), dtype=np.int32)
            whole[0, : len(each)] = each
            padded.append(whole)
        ids, mask, types = padded
        states = runner(input_ids=ids, attention_mask=mask, token_type_ids=types)["last_hidden_state"]
        return states[:, : len(encoded[0])]

    return run


def torchscript(predictor: Predictor) -> Callable[[Encoded], np.ndarray]:
    import torch

    module = _cell(predictor.graphs["model"]._buckets[0].call, "module")  # type: ignore[attr-defined]  # see the top

    def run(encoded: Encoded) -> np.ndarray:
        with torch.inference_mode():
            (states,) = module(*(torch.tensor([each]) for each in encoded))
        return states.numpy()

    return run


def _cell(function: Any, name: str) -> Any:  # Any: what a closure holds
    return function.__closure__[function.__code__.co_freevars.index(name)].cell_contents


BARE = {"onnx": onnx, "tflite": tflite, "torchscript": torchscript}


def bare(folder: Path, predictor: Predictor, format: str) -> Callable[[str], np.ndarray]:
    """Mean-pooled, normalized embeddings by hand."""
    tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(128)
    run = BARE[format](predictor)

    def embed(text: str) -> np.ndarray:
        encoding = tokenizer.encode(text)
        states = run((encoding.ids, encoding.attention_mask, encoding.type_ids))
        weights = np.array([encoding.attention_mask])[:, :, None].astype(np.float32)
        pooled = (states * weights).sum(axis=1) / weights.sum(axis=1)
        vector: np.ndarray = pooled[0] / np.linalg.norm(pooled[0])
        return vector

    return embed


def main() -> None:
    asked = arguments(__doc__ or "", seconds=10.0)
    before, figures = os.getloadavg(), []
    for format, scheme in BUNDLES:
        folder = bundle(scheme, format)
        predictor = load(folder, threads=1, trust=True)
        embed = bare(folder, predictor, format)
        if not np.allclose(embed(SENTENCE), predictor.predict(SENTENCE), atol=1e-5):
            raise SystemExit("the two do not give the same vector")
        calls = {"bare": lambda: embed(SENTENCE), "predict": lambda: predictor.predict(SENTENCE)}  # noqa: B023  # run in this turn
        times = interleave(calls, warmup=100, max_runs=20_000, max_seconds=asked.seconds)
        found = ratio(times["predict"], times["bare"])
        figures.append(figure_of(f"{format} {scheme}: predict / bare", found, target=1.05))
        figures.append(figure_of(f"{format} {scheme}: bare", times["bare"] * 1e3, "ms"))
        figures.append(figure_of(f"{format} {scheme}: predict", times["predict"] * 1e3, "ms"))
    tell("`predict` against bare calls, one short sentence", figures, before, asked.json, "1 thread")


if __name__ == "__main__":
    main()
