"""Search by meaning: the nearest embeddings, exact and approximate, saved and opened, and labels by a few examples."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

import satchel
from satchel.index import Neighbour, build, open_index
from satchel_runtimes.errors import IntegrityError, ToolchainError, UsageError

CLOUD = np.random.default_rng(0).standard_normal((2_000, 32)).astype(np.float32)


def places(found: list[Neighbour]) -> list[int]:
    return [each.place for each in found]


@settings(max_examples=50, deadline=None)
@given(arrays(np.int8, st.tuples(st.integers(1, 40), st.integers(1, 6))), st.integers(1, 50))
def test_neighbours_are_those_of_a_full_comparison(vectors: np.ndarray, k: int) -> None:
    vectors = vectors[np.any(vectors != 0, axis=1)].astype(np.float64)
    if not len(vectors):
        return

    found = build(vectors).query(vectors[0], k=k)

    likes = vectors @ vectors[0] / np.linalg.norm(vectors, axis=1) / np.linalg.norm(vectors[0])
    assert len(found) == min(k, len(vectors))
    np.testing.assert_allclose([each.similarity for each in found], np.sort(likes)[::-1][:k], atol=1e-6)  # of float32
    np.testing.assert_allclose([likes[each.place] for each in found], np.sort(likes)[::-1][:k], atol=1e-6)


def test_equal_vectors_come_in_the_order_in_which_they_were_given() -> None:
    index = build(np.ones((9, 4)))

    assert [each.place for each in index.query(np.ones(4), k=4)] == [0, 1, 2, 3]


def test_several_queries_get_a_list_each_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("satchel_runtimes.index._VALUES", 3 * len(CLOUD))

    found = build(CLOUD).query(CLOUD[:10], k=2)

    assert [each[0].place for each in found] == list(range(10))
    assert places(found[3]) == places(build(CLOUD).query(CLOUD[3], k=2))  # sums of a block round in another order


def test_a_graph_finds_nearly_what_the_exact_search_finds() -> None:
    questions = np.random.default_rng(1).standard_normal((50, 32))

    exact = build(CLOUD).query(questions, k=10)
    found = build(CLOUD, approximate=True).query(questions, k=10)

    shared = [len({one.place for one in a} & {one.place for one in b}) for a, b in zip(exact, found, strict=True)]
    assert sum(shared) >= 0.95 * 500  # the usual recall of HNSW at 128 candidates


@pytest.mark.parametrize("approximate", [False, True])
def test_an_index_is_the_same_when_it_is_opened_again(approximate: bool, tmp_path: Path) -> None:
    index = build(CLOUD, [f"text {i}: 電車" for i in range(len(CLOUD))], approximate=approximate)

    index.save(tmp_path / "cloud.index")

    found, expected = open_index(tmp_path / "cloud.index").query(CLOUD[7]), index.query(CLOUD[7])
    assert [(each.place, each.item) for each in found] == [(each.place, each.item) for each in expected]
    for one, other in zip(found, expected, strict=True):  # sums round by where an array begins in memory
        assert one.similarity == pytest.approx(other.similarity, abs=1e-6)
    assert [file.name for file in tmp_path.iterdir()] == ["cloud.index"]


def test_texts_are_found_by_their_meaning(minilm_bundle: Path) -> None:
    texts = [
        "The parcel arrived broken.",
        "How do I bake bread?",
        "The train to Berlin is late.",
        "My invoice is wrong.",
    ]

    with satchel.load(minilm_bundle, task="sentence-embedding") as model:
        index = build(model.predict(texts), texts)
        found = index.query(model.predict("When does the railway leave?"), k=1)

    assert found[0].item == texts[2]


def test_a_few_examples_make_a_classifier(minilm_bundle: Path) -> None:
    examples = {
        "food": ["Slice the onions and fry them.", "The soup needs more salt.", "We baked a cake."],
        "travel": ["Our flight leaves at noon.", "The hotel is near the station.", "She booked a train to Rome."],
    }
    texts = [text for group in examples.values() for text in group]
    labels = [label for label, group in examples.items() for _ in group]

    with satchel.load(minilm_bundle, task="sentence-embedding") as model:
        index = build(model.predict(texts), labels)
        alone = index.classify(model.predict("Boil the potatoes in a pan."), k=3)
        both = index.classify(model.predict(["Boil the potatoes in a pan.", "The bus to the airport is full."]), k=3)

    assert [each[0]["label"] for each in both] == ["food", "travel"]
    assert both[0] == alone
    assert sum(each["score"] for each in alone) == pytest.approx(1)


@pytest.mark.parametrize(
    ("vectors", "why"),
    [
        (np.ones(4), "shape"),
        (np.ones((0, 4)), "shape"),
        (np.array([["a", "b"]]), "type"),
        (np.array([[1.0, np.nan]]), "finite"),
        (np.array([[1.0, 0.0], [0.0, 0.0]]), "vector 1 is all zeros"),
    ],
)
def test_what_has_no_direction_cannot_be_indexed(vectors: np.ndarray, why: str) -> None:
    with pytest.raises(UsageError, match=why):
        build(vectors)


@pytest.mark.parametrize(("asked", "k"), [(np.ones(31), 5), (np.ones(32), 0), (np.ones(32), True)])
def test_a_question_of_another_kind_is_refused(asked: Any, k: int) -> None:
    with pytest.raises(UsageError):
        build(CLOUD).query(asked, k=k)


def test_items_fit_the_vectors_and_json(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="3 vectors and 2 items"):
        build(np.eye(3), ["a", "b"])
    with pytest.raises(UsageError, match="JSON"):
        build(np.eye(1), [object()]).save(tmp_path / "one.index")
    assert not list(tmp_path.iterdir())


def test_a_file_that_is_damaged_or_not_there_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "small.index"
    build(np.eye(3)).save(file)
    whole = file.read_bytes()

    with pytest.raises(UsageError):
        open_index(tmp_path / "none.index")
    for content in (whole[:-1], b"", b"\0" * 200, whole[:40] + b"x" + whole[41:]):
        file.write_bytes(content)
        with pytest.raises(IntegrityError):
            open_index(file)


def test_a_graph_without_faiss_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "faiss", None)

    with pytest.raises(ToolchainError, match="index"):
        build(np.eye(3), approximate=True)
