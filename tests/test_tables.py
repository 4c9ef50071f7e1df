"""Questions about tables: what the model is given, the answers, and what is refused."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest
import torch
import transformers
from benchmarks.matrix.cell import OK, measure, model_of
from benchmarks.matrix.row import lively
from benchmarks.matrix.rows.tables import ROWS
from hypothesis import example, given, settings
from hypothesis import strategies as st

import satchel
from satchel_converters.capture import tapas
from satchel_converters.capture.rewrite import rewritten
from satchel_converters.source import find_source, tasks_for
from satchel_runtimes import Predictor, load
from satchel_runtimes.errors import SupportError, UsageError
from satchel_runtimes.tasks.table_numbers import values_in
from satchel_runtimes.tasks.table_question_answering import TableQuestionAnswering

CHOOSES, AGGREGATES = ROWS
TABLE, QUERY = AGGREGATES.inputs[0]["table"], AGGREGATES.inputs[0]["query"]

# The words of numbers and dates, those of the vocabulary, and what says nothing.
_WORDS = (
    *(
        "5",
        "12",
        "1st",
        "22nd",
        "third",
        "zero",
        "-5",
        "+3.5",
        ".5",
        "1,234",
        "1,23",
        "12,345.67",
        "1e5",
        "inf",
        "nan",
        "²",
        "٣",
    ),
    *("1990", "1990s", "2020", "1600", "March", "may", "feb 29", "Monday, Jan 5", "5.6.1999", "1999-05-06", "5-6-1999"),
    *("house", "Tree", "ärger", "電車", "n/a", "?", "", "-", "_", "$3", "10%", "##ing", "a_1", "of the book"),
)
_CELLS = st.lists(st.sampled_from(_WORDS), min_size=1, max_size=4).map(" ".join)


@st.composite
def _tables(draw: st.DrawFn) -> dict[str, list[str]]:
    height = draw(st.integers(1, 6))
    names = draw(st.lists(_CELLS, min_size=1, max_size=4, unique=True))
    of_one_kind = st.sampled_from(_WORDS[:17]), st.sampled_from(_WORDS[17:28]), _CELLS
    kinds = [draw(st.sampled_from(of_one_kind)) for _ in names]
    return {
        name: draw(st.lists(kind, min_size=height, max_size=height)) for name, kind in zip(names, kinds, strict=True)
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tables")


@pytest.fixture(scope="module")
def opened(folder: Path) -> Predictor:
    model = model_of(AGGREGATES, folder)
    out = satchel.convert(model, device="generic-x86-64", quantize="fp32", prefer="size", out=folder / "tables.satchel")
    return load(out, threads=1)


@pytest.fixture(scope="module")
def reader(folder: Path) -> Any:
    return transformers.TapasTokenizer.from_pretrained(model_of(AGGREGATES, folder))


@pytest.fixture(scope="module")
def pipeline(folder: Path) -> Any:
    return transformers.pipeline("table-question-answering", model=str(model_of(AGGREGATES, folder)))


def _task(opened: Predictor) -> TableQuestionAnswering:
    task = opened.open_task("table-question-answering")
    assert isinstance(task, TableQuestionAnswering)
    return task


@pytest.mark.slow
@pytest.mark.parametrize("format", ["onnx", "torchscript", "tflite"])
@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.architecture)
def test_answers_are_those_of_the_pipeline(row: Any, format: str, folder: Path) -> None:
    cell = measure(row, format, folder)

    assert cell.status == OK, cell.why


def test_the_task_is_told_by_the_architecture(folder: Path) -> None:
    assert tasks_for(find_source(model_of(CHOOSES, folder)), None) == ("table-question-answering",)


class TestWhatTheModelIsGiven:
    @settings(max_examples=60, deadline=None)
    @given(table=_tables(), query=_CELLS.filter(bool))
    @example(table={"Year": ["1990", "2000", "x"]}, query="before 1995")
    @example(
        table={"Word": [f"word {number} of the book" for number in range(60)]}, query="which?"
    )  # rows are left out
    @example(table={"Word": ["the small model answers quickly " * 30, "b"]}, query="which?")  # a cell is shortened
    def test_is_what_the_tokenizer_of_transformers_gives(
        self, table: dict[str, list[str]], query: str, opened: Predictor, reader: Any
    ) -> None:
        expected = reader(table=pandas.DataFrame(table), queries=[query], truncation="drop_rows_to_fit")

        (row,) = _task(opened).encode({"table": table, "query": query}, {})

        for name, value in row.tensors.items():
            np.testing.assert_array_equal(value, expected[name][0], name)

    @pytest.mark.parametrize(
        ("text", "values"),
        [
            ("The 3rd of 12 came second", [3.0, 12.0, 2.0]),
            ("in 1990", [1990.0, (1990, None, None)]),
            ("December 24, 2005", [(2005, 12, 24)]),
            ("on 24 December, for 1,250.50 EUR", [(None, 12, 24), 1250.5]),
            ("February 29", [(None, 2, None), 29.0]),  # no day without the year
            ("2020 or 1699", [2020.0, 1699.0]),  # years are from 1700 to 2016
            ("nan, inf and nothing", []),
        ],
    )
    def test_numbers_and_dates_are_read_as_tapas_reads_them(self, text: str, values: list[Any]) -> None:
        assert values_in(text) == values


@pytest.mark.parametrize(
    "own",
    [
        {"reset_position_index_per_cell": False},
        {"allow_empty_column_selection": True},
        {"temperature": 0.7, "max_num_rows": 6, "max_num_columns": 4},  # cells beyond these count as one
        {"num_aggregation_labels": 4},
    ],
    ids=str,
)
def test_the_rewrite_is_the_model_that_it_stands_for(own: dict[str, Any]) -> None:
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
    config = transformers.TapasConfig(vocab_size=100, max_position_embeddings=128, **sizes, **own)
    model = lively(transformers.TapasForQuestionAnswering(config))
    numbers = torch.Generator().manual_seed(0)
    errors, largest = [], 0.0

    for length in (3, 8, 40, 90):
        ids = torch.randint(5, 100, (2, length), generator=numbers)
        mask = (torch.arange(length) < torch.tensor([[length], [length * 2 // 3]])).long()
        types = torch.zeros(2, length, 7, dtype=torch.int64)
        places = torch.arange(length - 3)
        types[:, 3:, :3] = torch.stack([torch.ones_like(places), places % 5 + 1, places // 7], dim=-1)
        given = {"input_ids": ids, "attention_mask": mask, "token_type_ids": types * mask[..., None]}
        with torch.no_grad():
            expected, found = model(**given), rewritten(model, {"TapasForQuestionAnswering": tapas._forward})(**given)
        chosen = expected.logits > -5000  # the others have -10000 added, beside which float32 has no room for theirs
        assert torch.equal(found["logits"] > -5000, chosen)
        pairs = [(expected.logits[chosen], found["logits"][chosen])]
        if "num_aggregation_labels" in own:
            pairs.append((expected.logits_aggregation, found["logits_aggregation"]))
        errors += [float((one - other).abs().max()) for one, other in pairs if one.numel()]
        largest = max([largest, *(float(one.abs().max()) for one, _ in pairs if one.numel())])

    assert max(errors) < 1e-6
    assert largest > 0.1


class TestAnswers:
    def test_a_query_gets_one_answer_and_a_list_gets_a_list(self, opened: Predictor, pipeline: Any) -> None:
        queries = [QUERY, "How many repositories came before 2019?"]

        alone, together = (opened.predict({"table": TABLE, "query": query}) for query in (QUERY, queries))

        assert alone == pipeline(table=dict(TABLE), query=QUERY)
        assert together == pipeline(table=dict(TABLE), query=queries)

    def test_an_answer_may_depend_on_the_one_before(self, opened: Predictor, pipeline: Any) -> None:
        queries = ["Which have more than 4000 stars?", "And of these, which came in 2020?", "When did the others come?"]
        asked = {"table": TABLE, "query": queries}

        found = opened.predict(asked, sequential=True)

        assert found == pipeline(copy.deepcopy(asked), sequential=True)

    def test_tables_come_in_three_forms(self, opened: Predictor) -> None:
        frame = pandas.DataFrame(TABLE)
        forms = (TABLE, frame, frame.to_dict("records"))

        first, *others = [opened.predict({"table": form, "query": QUERY}) for form in forms]

        assert first["cells"]
        assert others == [first, first]

    def test_numbers_are_cells_like_their_text(self, opened: Predictor) -> None:
        numbers: dict[str, list[Any]] = {
            "Name": ["Ann", "Bo"],
            "Age": [51, np.float64(4.5)],
            "Tall": [None, float("nan")],
        }
        texts = {"Name": ["Ann", "Bo"], "Age": ["51", "4.5"], "Tall": ["", ""]}

        assert opened.predict({"table": numbers, "query": "Who?"}) == opened.predict({"table": texts, "query": "Who?"})


@pytest.mark.parametrize(
    ("item", "said"),
    [
        ("How many?", "takes {'table', 'query'}"),
        ({"table": TABLE}, "takes {'table', 'query'}"),
        ({"table": TABLE, "query": ""}, "a query is missing or empty"),
        ({"table": TABLE, "query": []}, "a query is missing or empty"),
        ({"table": "a,b\n1,2", "query": "?"}, "a mapping of columns"),
        ({"table": {"a": []}, "query": "?"}, "it has no cells"),
        ({"table": {}, "query": "?"}, "it has no cells"),
        ({"table": {"a": ["1"], "b": ["1", "2"]}, "query": "?"}, "1 and 2 cells"),
        ({"table": {"a": [["1"]]}, "query": "?"}, "cell of type list"),
        ({"table": {str(name): ["1"] for name in range(300)}, "query": "?"}, "300 columns"),
        ({"table": {"a": [str(cell) for cell in range(300)]}, "query": "?"}, "300 different numbers"),
        ({"table": {"a": ["1"]}, "query": "many words " * 200}, "shorten the question"),
        ({"table": {"a": ["1\ud800"]}, "query": "?"}, "lone surrogate"),
    ],
)
def test_what_is_no_table_is_refused_in_words(item: Any, said: str, opened: Predictor) -> None:
    with pytest.raises(UsageError) as refused:
        opened.predict(item)

    assert said in str(refused.value)


def test_another_task_of_the_architecture_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(SupportError, match="table-question-answering"):
        satchel.convert(
            model_of(CHOOSES, folder), device="generic-x86-64", task="feature-extraction", out=tmp_path / "x"
        )
