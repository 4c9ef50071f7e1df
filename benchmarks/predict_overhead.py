"""What `predict` adds to the bare calls: tokenizers, onnxruntime and numpy, as a competent user writes them by hand.

Both answer one short sentence, call by call in turn, on the same onnxruntime session: two sessions of one file with the
same options differ by up to 7 % here, by where their weights come to lie, which is more than what is measured.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import tokenizers

from satchel_runtimes import Predictor, load
from satchel_runtimes.measure import interleave, ratio
from setting import SENTENCE, arguments, bundle, figure_of, tell


def bare(folder: Path, predictor: Predictor) -> Callable[[str], np.ndarray]:
    """Mean-pooled, normalized embeddings by hand."""
    tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(256)
    session = predictor.graphs["model"]._engine  # type: ignore[attr-defined]  # see the top

    def embed(text: str) -> np.ndarray:
        encoding = tokenizer.encode(text)
        mask = np.array([encoding.attention_mask], dtype=np.int64)
        inputs = {
            "input_ids": np.array([encoding.ids], dtype=np.int64),
            "attention_mask": mask,
            "token_type_ids": np.array([encoding.type_ids], dtype=np.int64),
        }
        (states,) = session.run(None, inputs)
        weights = mask[:, :, None].astype(np.float32)
        pooled = (states * weights).sum(axis=1) / weights.sum(axis=1)
        vector: np.ndarray = pooled[0] / np.linalg.norm(pooled[0])
        return vector

    return embed


def main() -> None:
    asked = arguments(__doc__ or "", seconds=10.0)
    folders = {scheme: bundle(scheme) for scheme in ("int8-dynamic", "fp32")}
    before, figures = os.getloadavg(), []
    for scheme, folder in folders.items():
        predictor = load(folder, threads=1)
        embed = bare(folder, predictor)
        if not np.allclose(embed(SENTENCE), predictor.predict(SENTENCE), atol=1e-5):
            raise SystemExit("the two do not give the same vector")
        calls = {"bare": lambda: embed(SENTENCE), "predict": lambda: predictor.predict(SENTENCE)}  # noqa: B023  # run in this turn
        times = interleave(calls, warmup=100, max_runs=20_000, max_seconds=asked.seconds)
        found = ratio(times["predict"], times["bare"])
        figures.append(figure_of(f"{scheme}: predict / bare", found, target=1.05))
        figures.append(figure_of(f"{scheme}: bare", times["bare"] * 1e3, "ms"))
        figures.append(figure_of(f"{scheme}: predict", times["predict"] * 1e3, "ms"))
    tell("`predict` against bare calls, one short sentence", figures, before, asked.json, "1 thread")


if __name__ == "__main__":
    main()
