"""Layers with a sliding window keep what they see and no more, and the text is the one that transformers writes, however long."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from benchmarks.matrix.rows.generators import decoder

import satchel
from satchel_runtimes import Predictor, load
from satchel_runtimes.errors import UsageError
from satchel_runtimes.generation import Texts
from satchel_runtimes.manifest import Manifest, TensorSpec
from satchel_runtimes.sessions.cache import Cache

WINDOW = 8
LONG = (
    "Where is the order of the small model that answers quickly and keeps what it sees? " * 5
)  # past all places at once


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every other layer sees 8 tokens, and the others all."""
    made = tmp_path_factory.mktemp("window") / "gemma3_text"
    kinds = ["sliding_attention", "full_attention"]
    decoder("gemma3_text", made, max_position_embeddings=768, layer_types=kinds)
    return made


@pytest.fixture(scope="module", params=["onnx", "torchscript"])
def opened(folder: Path, request: pytest.FixtureRequest) -> Predictor:
    out = folder.with_suffix(f".{request.param}.satchel")
    options = {"quantize": "fp32", "prefer": "size", "format": request.param}
    return load(satchel.convert(folder, device="generic-x86-64", out=out, **options), threads=1, trust=True)


@pytest.fixture(scope="module")
def reader(folder: Path) -> Any:
    return transformers.AutoTokenizer.from_pretrained(folder)


@pytest.fixture(scope="module")
def model(folder: Path) -> Any:
    return transformers.AutoModelForCausalLM.from_pretrained(folder).eval()


def expected(model: Any, reader: Any, prompt: str, **options: Any) -> str:
    ids = reader(prompt, return_tensors="pt")
    with torch.inference_mode():
        found = model.generate(**ids, do_sample=False, **options)
    text: str = reader.decode(found[0][ids["input_ids"].shape[1] :], skip_special_tokens=True)
    return text


def written(opened: Predictor, prompt: Any, **options: Any) -> Any:
    return opened.predict(prompt, return_full_text=False, do_sample=False, **options)


class TestTokens:
    @pytest.mark.parametrize(
        "options",
        [
            {"max_new_tokens": 300, "suppress_tokens": [1, 2]},
            {"max_new_tokens": 150, "num_beams": 3, "suppress_tokens": [1, 2]},
            {"max_new_tokens": 150, "prompt_lookup_num_tokens": 5, "suppress_tokens": [1, 2]},
        ],
        ids=str,
    )
    @pytest.mark.parametrize("prompt", ["A", LONG], ids=["short", "long"])
    def test_far_beyond_the_window_tokens_are_those_of_transformers(
        self, opened: Predictor, model: Any, reader: Any, prompt: str, options: dict[str, Any]
    ) -> None:
        found = written(opened, prompt, **options)

        assert found[0]["generated_text"] == expected(model, reader, prompt, **options)
        assert len(reader(prompt + found[0]["generated_text"])["input_ids"]) > 10 * WINDOW

    def test_texts_of_very_different_lengths_are_written_side_by_side_as_alone(self, opened: Predictor) -> None:
        options = {"max_new_tokens": 130, "suppress_tokens": [1, 2]}
        prompts = ["A", LONG, "Where is the order", LONG[7:]]

        assert written(opened, prompts, **options) == [written(opened, each, **options) for each in prompts]

    def test_an_assistant_may_guess_more_than_a_window_takes_back(self, opened: Predictor) -> None:
        options = {"max_new_tokens": 200, "suppress_tokens": [1, 2]}

        found = written(opened, "A", assistant_model=opened, num_assistant_tokens=60, **options)

        assert found == written(opened, "A", **options)


class TestMemory:
    def test_windowed_layers_hold_no_more_for_a_longer_text(self, opened: Predictor) -> None:
        graph = opened.manifest.graphs[0]
        session = opened.graphs["model"]
        each = 2 * 2 * 8 * 4  # bytes of a token in a layer: keys and values, 2 heads of 8 numbers

        small, large = session.new_state(1, 200), session.new_state(1, 700)

        assert graph.window == WINDOW
        assert large.nbytes - small.nbytes == 500 * each
        assert large.nbytes == (700 + large.room) * each
        assert large.room == 112

    def test_a_window_moves_in_the_memory_that_it_has(self, opened: Predictor) -> None:
        texts = Texts(opened.graphs["model"], 1, 500)
        texts.read([np.arange(5, 20)])
        before = {name: each.ctypes.data for name, each in texts._cache.arrays.items()}

        for token in range(400):
            texts.step(np.array([token % 100 + 5]))

        assert texts._cache.left[0] > 0
        assert {name: each.ctypes.data for name, each in texts._cache.arrays.items()} == before

    def test_what_a_window_has_left_behind_cannot_be_gone_back_to(self, opened: Predictor) -> None:
        texts = Texts(opened.graphs["model"], 1, 500)
        texts.read([np.arange(300) % 100 + 5])
        texts.keep(np.array([300 - texts.back]))
        texts.step(np.array([9]))
        texts.keep(np.array([150]))

        with pytest.raises(UsageError, match="Cannot go back"):
            texts.step(np.array([9]))

    def test_a_text_may_be_begun_anew(self, opened: Predictor) -> None:
        texts, ids = Texts(opened.graphs["model"], 1, 500), np.arange(300) % 100 + 5
        first = texts.read([ids])
        texts.keep(np.array([0]))

        assert np.array_equal(texts.read([ids]), first)


class TestOlder:
    def test_a_manifest_from_before_windows_had_places_of_their_own_is_read(self, opened: Predictor) -> None:
        raw = json.loads(opened.manifest.to_json())
        for graph in raw["graphs"]:
            del graph["window"]

        read = Manifest.parse(json.dumps(raw).encode(), "here")

        assert [graph.window for graph in read.graphs] == [None]

    def test_without_a_window_a_cache_has_a_place_for_each_token(self) -> None:
        cache = Cache([TensorSpec("past", "float32", ("batch", "capacity"))], 1, 300)

        assert cache.nbytes == 300 * 4
        assert cache.back == cache.most == 300
