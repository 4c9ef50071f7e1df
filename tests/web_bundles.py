"""Bundles for the TypeScript runtime, and what the Python runtime answers with them.

    python -m tests.web_bundles FOLDER [NAME …]

writes for each a folder `NAME/bundle`, the files that its inputs name, and `NAME/cases.json`: inputs and options as JSON
holds them, and the answers. What is there and was made by this very file is kept.
"""

from __future__ import annotations

import hashlib
import json
import runpy
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from benchmarks.matrix.cell import model_of
from benchmarks.matrix.rows import ROWS
from PIL import Image
from tests.bundles import minilm

import satchel
from satchel_runtimes import load
from satchel_runtimes.sound import write_wav

__all__ = ["BUNDLES", "make"]

_ROOT = Path(__file__).resolve().parents[1]
_ASKS = Mapping[str, Any]
_VERSION = 1  # of what `make` writes; another one makes everything anew


@dataclass(frozen=True)
class _Made:
    """One bundle: the row of the matrix whose model it has, or a checkpoint; and what is asked beside the row's own."""

    architecture: str
    task: str
    asks: Sequence[tuple[Any, _ASKS]] = ()
    format: str = "onnx"
    scheme: str = "fp32"


_LONG = "Where is the order that I placed on Monday? " * 40
_TEXTS = (
    *("Σίσυφος and the ΟΔΟΣ", "naïve café 東京 \U00020000", "👩‍👩‍👧 e\u0301 שָׁלוֹם", "don't stop [MASK] </s>"),
    *("a", "  spaces  and\ttabs\n", _LONG, "#$%& ½ ﬁ"),
)
_LABELS = {"candidate_labels": "a train, cooking, the house"}
_CONTEXT = " ".join(
    f"The order number {i} was placed on Monday by Straße {i}, and it has not arrived." for i in range(12)
)
_QUESTION = {"question": "Where is my order?", "context": _CONTEXT}

BUNDLES: Mapping[str, _Made] = {
    "minilm": _Made("all-MiniLM-L6-v2", "sentence-embedding", [(text, {}) for text in _TEXTS]),
    "classes": _Made(
        "bert",
        "text-classification",
        [
            *((text, {}) for text in _TEXTS),
            ({"text": "One.", "text_pair": "Another one."}, {"top_k": 2}),
            ("all of them", {"function_to_apply": "sigmoid", "top_k": None}),
            (["a list", "of texts", "a list"], {"top_k": 1}),
        ],
    ),
    "classes-bpe": _Made("roberta", "text-classification", [(text, {"top_k": None}) for text in _TEXTS]),
    "classes-unigram": _Made("albert", "text-classification", [(text, {"top_k": None}) for text in _TEXTS]),
    "vectors": _Made("bert", "sentence-embedding", [(text, {}) for text in _TEXTS]),
    "features": _Made("mpnet", "feature-extraction", [(text, {}) for text in _TEXTS[:4]]),
    "names": _Made(
        "roformer",
        "token-classification",
        [
            *((text, {}) for text in _TEXTS),
            *(
                (_TEXTS[i], {"aggregation_strategy": each})
                for i in (0, 1, 3)
                for each in ("simple", "first", "average", "max")
            ),
            (_LONG, {"aggregation_strategy": "first", "stride": 8}),
            ([["two", "words"], ["naïve", "café", "東京"]], {"is_split_into_words": True, "ignore_labels": []}),
        ],
    ),
    "names-unigram": _Made(
        "xlm-roberta",
        "token-classification",
        [(text, {"aggregation_strategy": each}) for text in _TEXTS[:4] for each in ("none", "simple", "max")],
    ),
    "answers": _Made(
        "bert",
        "question-answering",
        [
            (_QUESTION, {}),
            (_QUESTION, {"top_k": 3, "align_to_words": False, "max_seq_len": 64, "doc_stride": 16}),
            (_QUESTION, {"handle_impossible_answer": True, "max_question_len": 2, "top_k": 2}),
            ({"question": "Σίσυφος?", "context": "naïve café 東京 \U00020000 Straße"}, {"max_answer_len": 3}),
        ],
    ),
    "masks": _Made(
        "ernie",
        "fill-mask",
        [
            ("The [MASK] is in the [MASK].", {"top_k": 2}),
            ("The [MASK] answers.", {"targets": ["model", "phone", "cat"]}),
        ],
    ),
    "masks-bpe": _Made("modernbert", "fill-mask", [("A <mask> model", {"top_k": 3})]),
    "zero": _Made(
        "roberta",
        "zero-shot-classification",
        [
            ("Where is my order?", _LABELS),
            ("Where is my order?", {**_LABELS, "multi_label": True, "hypothesis_template": "It is about {}."}),
            (_LONG, {"candidate_labels": ["one"]}),
        ],
    ),
    "pictures": _Made("vit", "image-classification", [(0, {"top_k": 2, "function_to_apply": "sigmoid"})]),
    "pictures-cropped": _Made(
        "dinov2",
        "image-classification",
        [(("photograph", name), {}) for name in ("cheetah.jpg", "tower.jpg", "avatar.png", "hf-logo_transpng.png")],
    ),
    "pictures-convnext": _Made("convnext", "image-classification"),
    "labelled": _Made("clip", "zero-shot-image-classification", [(0, {**_LABELS, "hypothesis_template": "{}!"})]),
    "labelled-alone": _Made("siglip", "zero-shot-image-classification"),
    "objects": _Made("detr", "object-detection", [(0, {"threshold": 0.1})]),
    "objects-any": _Made("yolos, any size", "object-detection", [(1, {"threshold": 0.2})]),
    "objects-alone": _Made("rt_detr", "object-detection", [(0, {"threshold": 0.4})]),
    "depths": _Made("depth_anything", "depth-estimation"),
    "depths-any": _Made("glpn, any size", "depth-estimation"),
    "speech": _Made(
        "wav2vec2",
        "automatic-speech-recognition",
        [
            (0, {"return_timestamps": "char"}),
            (0, {"chunk_length_s": 0.5, "return_timestamps": "word"}),
            (("rate", 0, 8000), {}),
            (("rate", 1, 44100), {}),
        ],
    ),
    "writer": _Made(
        "llama",
        "text-generation",
        [
            ("The small model", {"max_new_tokens": 12}),
            ("A", {"max_new_tokens": 5}),
            ("She reads", {"max_new_tokens": 20, "do_sample": True, "seed": 7}),
            (
                "A cat",
                {
                    "max_new_tokens": 16,
                    "do_sample": True,
                    "seed": 2**40 + 1,
                    "top_p": 0.8,
                    "top_k": 0,
                    "temperature": 1.5,
                },
            ),
            ("A cat", {"max_new_tokens": 16, "do_sample": True, "seed": 3, "min_p": 0.2, "num_return_sequences": 2}),
            (
                "Where is",
                {"max_new_tokens": 20, "repetition_penalty": 1.5, "no_repeat_ngram_size": 2, "min_new_tokens": 15},
            ),
            (
                "Where is",
                {"max_length": 12, "suppress_tokens": [20, 30], "bad_words_ids": [[40], [50, 60]], "stop_strings": "e"},
            ),
        ],
    ),
    "writer-gpt2": _Made(
        "gpt2", "text-generation", [("The small model", {"max_new_tokens": 8, "return_full_text": False})]
    ),
    "tflite": _Made("bert", "text-classification", [(text, {"top_k": None}) for text in _TEXTS], "tflite"),
    "pictures-tflite": _Made("vit", "image-classification", (), "tflite"),
    "int8": _Made("bert", "text-classification", [(text, {"top_k": None}) for text in _TEXTS], "onnx", "int8-dynamic"),
}


def make(name: str, folder: Path, models: Path) -> None:
    """One of the bundles, with its cases."""
    made, out = BUNDLES[name], folder / name
    stamp = hashlib.sha256(f"{made} {_VERSION}".encode()).hexdigest()
    if (out / "stamp").is_file() and (out / "stamp").read_text() == stamp:
        return
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    given, options = _given(made, models)
    satchel.convert(
        given.model,
        device="generic-x86-64",
        format=made.format,
        quantize=made.scheme,
        task=made.task,
        out=out / "bundle",
        report=out / "report.json",
        prefer="size",  # a toy model's speed says nothing
    )
    inputs = [given.inputs[place] if isinstance(place, int) else place for place, _ in made.asks]
    asked = [*((each, options) for each in given.inputs), *zip(inputs, (each for _, each in made.asks), strict=True)]
    cases = []
    with load(out / "bundle", threads=1, trust=True) as model:
        for number, (each, own) in enumerate(asked):
            ours, plain = _input(each, out, number, given.inputs)
            cases.append({"input": plain, "options": own, "answer": _plain(model.predict(ours, **own))})
        if given.inputs:
            pairs = [_input(each, out, number, given.inputs) for number, each in enumerate(given.inputs)]
            answer = _plain(model.predict([ours for ours, _ in pairs], **options))
            cases.append({"input": [plain for _, plain in pairs], "options": options, "answer": answer})
    (out / "cases.json").write_text(json.dumps({"task": made.task, "cases": cases}), "utf-8")
    (out / "stamp").write_text(stamp)


@dataclass(frozen=True)
class _Given:
    model: Path
    inputs: Sequence[Any]


def _given(made: _Made, models: Path) -> tuple[_Given, _ASKS]:
    if made.architecture == "all-MiniLM-L6-v2":
        return _Given(minilm(), ()), {}
    row = next(row for row in ROWS if (row.architecture, row.task) == (made.architecture, made.task))
    return _Given(model_of(row, models), row.inputs), row.options


def _input(each: Any, out: Path, number: int, own: Sequence[Any]) -> tuple[Any, Any]:
    """An input for Python, and the same as JSON: a file is `{"$file": name}`, an array of sound `{"$wave": name}`."""
    if isinstance(each, tuple) and each[0] == "rate":
        name = f"{number}.wav"
        write_wav(out / name, own[each[1]], each[2])
        return (out / name).read_bytes(), {"$file": name}
    if isinstance(each, tuple):
        photographs: Any = runpy.run_path(str(_ROOT / "examples" / "real_models.py"))["photographs"]
        shutil.copy(photographs()[0].parent / each[1], out / each[1])
        return out / each[1], {"$file": each[1]}
    if isinstance(each, Image.Image):
        name = f"{number}.png"
        each.save(out / name)
        return out / name, {"$file": name}
    if isinstance(each, np.ndarray):
        name = f"{number}.f32"
        each.astype("<f4").tofile(out / name)
        return each, {"$wave": name}
    return each, each


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return {"shape": list(value.shape), "data": value.astype(float).ravel().tolist()}
    if isinstance(value, Image.Image):
        return {"shape": [value.height, value.width], "data": np.asarray(value).ravel().tolist()}
    if isinstance(value, Mapping):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    return value.item() if isinstance(value, np.generic) else value


if __name__ == "__main__":
    root = Path(sys.argv[1])
    failed = False
    for each in sys.argv[2:] or BUNDLES:
        try:
            make(each, root, root.parent / "models")
            print(f"{each} is there", file=sys.stderr, flush=True)
        except Exception as error:  # noqa: BLE001  # the others are wanted all the same
            failed = True
            print(f"{each} failed: {error!r}", file=sys.stderr, flush=True)
    sys.exit(failed)
