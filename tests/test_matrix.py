"""The support matrix on the few rows that every run of the tests can afford; `make matrix` measures all of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from benchmarks.matrix.agree import difference
from benchmarks.matrix.cell import FAILED, OK, PINNED, Cell, measure
from benchmarks.matrix.rows import ROWS
from benchmarks.matrix.support import write_support

FAST = [row for row in ROWS if row.fast]


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("matrix")


@pytest.mark.parametrize("row", FAST, ids=lambda row: row.name)
def test_a_row_answers_as_its_pipeline_in_onnx(row: object, folder: Path) -> None:
    cell = measure(row, "onnx", folder)  # type: ignore[arg-type]  # pytest's parameters have no types

    assert cell.status in (OK, PINNED), cell.why


@pytest.mark.parametrize("format", ["torchscript", "tflite"])
def test_the_first_row_does_so_in_the_other_formats(format: str, folder: Path) -> None:
    cell = measure(FAST[0], format, folder)

    assert cell.status == OK, cell.why


def test_no_row_is_there_twice() -> None:
    names = [row.name for row in ROWS]

    assert len(set(names)) == len(names)


@pytest.mark.parametrize(
    ("ours", "theirs", "said"),
    [
        ({"label": "a", "score": 0.5}, {"label": "b", "score": 0.5}, "answer.label: 'a', not 'b'"),
        ({"label": "a", "score": 0.5}, {"label": "a", "score": 0.51}, "answer.score"),
        ([1.0, 2.0], [1.0], "list of 2, not list of 1"),
        ({"label": "a"}, {"label": "a", "score": 1.0}, "keys"),
        (np.zeros((2, 3)), np.zeros((3, 2)), "shape"),
        (np.array([1.0, 2.0]), np.array([1.0, 2.1]), "wrong by"),
        (np.array([[0, 1], [1, 1]]), np.array([[0, 0], [1, 1]]), "75.0% of the values"),
        (float("nan"), 1.0, "nan"),
    ],
)
def test_answers_that_differ_are_told_apart(ours: object, theirs: object, said: str) -> None:
    assert said in difference(ours, theirs)


def test_labels_within_a_tie_may_change_places() -> None:
    ours = [{"label": "a", "score": 0.5001}, {"label": "b", "score": 0.4999}]

    assert not difference(ours, [{"label": "b", "score": 0.5}, {"label": "a", "score": 0.5}])


def test_the_page_counts_what_is_right_and_numbers_the_reasons(tmp_path: Path) -> None:
    cells = [
        Cell("bert", "text-classification", "onnx", OK),
        Cell("bert", "text-classification", "tflite", PINNED),
        Cell("gpt", "text-classification", "onnx", FAILED, "exit 10: wrong"),
    ]

    write_support(cells, ("onnx", "tflite"), tmp_path / "support.md")

    page = (tmp_path / "support.md").read_text()
    assert "- onnx: 1 of 2 rows" in page
    assert "| bert | text-classification | ok | ok, one shape |" in page
    assert "| gpt | text-classification | no (1) | not run |" in page
    assert "1. exit 10: wrong" in page
