"""Text from LiteRT, whose graphs have fixed sizes: what it writes is what transformers writes, and its cache grows by whole graphs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from benchmarks.matrix.rows.generators import DECODERS
from tests.language_models import WORDS, Checkpoint

import satchel
from satchel_runtimes import Predictor, load
from satchel_runtimes.errors import UsageError
from satchel_runtimes.generation import Texts

from .memory import held

# Shorter than a piece of a prompt, of just one, of one and a rest, and of several and a single token.
LENGTHS = (1, 9, 32, 40, 65, 150)


def converted(model: Path, **options: Any) -> Predictor:
    out = model.with_suffix(".satchel")
    satchel.convert(model, device="generic-x86-64", format="tflite", quantize="fp32", prefer="size", out=out, **options)
    return load(out, threads=1)


class Kept(Checkpoint):
    """A checkpoint and its bundle."""

    def __init__(self, model_type: str, folder: Path, **own: Any) -> None:
        super().__init__(model_type, folder, **own)
        self.opened = converted(folder)


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Kept:
    # Two sizes of the cache: 128 tokens, and all that it can hold.
    return Kept("llama", tmp_path_factory.mktemp("tflite") / "llama", max_position_embeddings=256)


def test_a_step_changes_the_places_of_two_sets_of_buffers_and_makes_none(kept: Kept) -> None:
    session: Any = kept.opened.graphs["model"]
    texts = Texts(session, 1, 100)
    texts.read([np.arange(40) % 100 + 5])
    texts.step(np.array([7]))
    row = texts._cache.rows[0]
    reads, writes = ({id(each) for each in part.values()} for part in (row.past, row.present))
    before = held()

    for token in range(41):
        texts.step(np.array([token + 5]))

    assert ({id(each) for each in row.past.values()}, {id(each) for each in row.present.values()}) == (writes, reads)
    # Twice 128 tokens, each of keys and values of 2 layers, 2 heads of 8 numbers.
    assert texts._cache.nbytes == 2 * 128 * 2 * 2 * 2 * 8 * 4
    assert held() - before < 2**19


class TestTexts:
    @pytest.mark.parametrize("tokens", LENGTHS)
    def test_of_prompts_in_pieces_are_those_of_transformers(self, kept: Kept, tokens: int) -> None:
        text = kept.text_of(tokens)

        (found,) = kept.opened.predict(text, max_new_tokens=12)

        assert found["generated_text"] == kept.expected(text, max_new_tokens=12)

    @pytest.mark.parametrize(
        "options",
        [
            {"num_beams": 3, "max_new_tokens": 15},  # caches go on from one another
            {"prompt_lookup_num_tokens": 3, "max_new_tokens": 15},  # guesses are forgotten
            {"repetition_penalty": 1.4, "no_repeat_ngram_size": 2, "max_new_tokens": 15},
        ],
        ids=str,
    )
    def test_of_every_strategy_are_those_of_transformers(self, kept: Kept, options: Mapping[str, Any]) -> None:
        (found,) = kept.opened.predict(WORDS, **options)

        assert found["generated_text"] == kept.expected(WORDS, **options)

    def test_side_by_side_are_those_alone(self, kept: Kept) -> None:
        texts = [kept.text_of(each) for each in LENGTHS]

        together = kept.opened.predict(texts, max_new_tokens=10)

        assert together == [kept.opened.predict(text, max_new_tokens=10) for text in texts]

    def test_come_in_pieces(self, kept: Kept) -> None:
        pieces = list(kept.opened.stream("A small", max_new_tokens=12))

        (found,) = kept.opened.predict("A small", max_new_tokens=12)
        assert "A small" + "".join(pieces) == found["generated_text"]

    def test_longer_than_the_largest_cache_are_refused(self, kept: Kept) -> None:
        with pytest.raises(UsageError, match="can hold 256 in all"):
            kept.opened.predict(WORDS * 40)


class TestCache:
    def test_takes_the_next_graph_when_the_first_is_full(self, kept: Kept) -> None:
        session = kept.opened.graphs["model"]
        ids: np.ndarray = np.array([kept.reader(WORDS * 8)["input_ids"][:150]])
        positions = np.arange(150)[None]
        given = {"input_ids": ids, "position_ids": positions, "logits_positions": np.array([[149]])}
        whole = session.run(given, session.new_state(1, 150))["logits"]

        state = session.new_state(1, 10)
        for first, end in ((0, 100), (100, 140), (140, 150)):  # 128 lie between
            state.hold(end)
            part = {"input_ids": ids[:, first:end], "position_ids": positions[:, first:end]}
            found = session.run({**part, "logits_positions": np.array([[end - first - 1]])}, state)["logits"]

        assert state.capacity == 256
        # Sums over a cache of another size: float32 rounding.
        np.testing.assert_allclose(found, whole, atol=1e-4 * np.abs(whole).max())

    def test_of_one_text_is_another_than_that_of_its_copy(self, kept: Kept) -> None:
        session = kept.opened.graphs["model"]
        state = session.new_state(2, 20)
        same = {"position_ids": np.zeros((2, 1), np.int64), "logits_positions": np.zeros((2, 1), np.int64)}
        session.run({"input_ids": np.array([[5], [7]]), **same}, state)

        state.select(np.array([1, 1, 0]), 1)
        after = {"position_ids": np.ones((3, 1), np.int64), "logits_positions": np.zeros((3, 1), np.int64)}
        found = session.run({"input_ids": np.array([[9], [9], [9]]), **after}, state)["logits"][:, 0]

        np.testing.assert_array_equal(found[0], found[1])
        assert np.abs(found[0] - found[2]).max() > 1e-3

    def test_holds_no_more_than_it_was_asked_to(self, kept: Kept) -> None:
        session = kept.opened.graphs["model"]
        given = {name: np.zeros((1, 1), np.int64) for name in ("input_ids", "logits_positions")}

        with pytest.raises(UsageError, match="holds 128 tokens of 1 text"):
            session.run({**given, "position_ids": np.array([[128]])}, session.new_state(1, 4))

    def test_cannot_lie_on_a_delegate(self, kept: Kept) -> None:
        with pytest.raises(UsageError, match="the engine's own buffers"):
            load(kept.folder.with_suffix(".satchel"), delegate="libsomething.so")


class TestEveryArchitecture:
    @pytest.mark.slow
    @pytest.mark.parametrize("model_type", DECODERS)
    def test_writes_the_same_text(self, model_type: str, tmp_path: Path) -> None:
        own = Kept(model_type, tmp_path / "model")

        for text in ("Where is the order", WORDS, "A"):
            (found,) = own.opened.predict(text, max_new_tokens=20, do_sample=False)
            assert found["generated_text"] == own.expected(text, max_new_tokens=20, do_sample=False)
