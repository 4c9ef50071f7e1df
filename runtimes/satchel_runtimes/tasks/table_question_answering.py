"""table-question-answering: the cells of a table that answer a question, and what is to be done with them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import UsageError
from ..manifest import Step, TaskEntry
from ..sessions import Session, Tensors
from .table_numbers import column_values, comparable, has_word, values_in
from .task import DISTRIBUTION, INDEPENDENT, Answer, Files, Input, ModelFacts, Row, forward, sigmoid, softmax
from .text import TextTask, tokenize_step, wrong_type

__all__ = ["TASK"]

_KINDS = (
    7  # of a token's type: segment, column, row, previous answer, rank, rank from the end, relation to the question
)
_SEGMENT, _COLUMN, _ROW, _PREVIOUS, _RANKS, _RELATION = 0, 1, 2, 3, slice(4, 6), 6
_EQUAL, _LESS, _GREATER = 1, 2, 4  # bits of the relation of a question's number to a cell's
_LIKELY = 0.5

_SAMPLE_QUERIES = (
    "Which name has the highest price?",
    "How many names came before 2005?",
    "What is the sum of the prices above {}?",
    "When did the first one come?",
    "What costs {}?",
)


@dataclass(frozen=True)
class _Table:
    cells: list[list[str]]  # by row, without the header
    ids: np.ndarray  # of all tokens, the header's first, row by row
    columns: np.ndarray  # of each token, from 1
    rows: np.ndarray  # of each token, from 1; 0 is the header
    starts: np.ndarray  # where in its cell the token's word starts
    values: list[dict[int, Any]]  # of each column: the number or date of each row that has one
    ranks: (
        np.ndarray
    )  # [rows, columns, 2]: of each cell among its column's values, from the smallest and from the largest


class TableQuestionAnswering(TextTask):
    """`predict({"table": {"Name": ["Ann", "Bo"], "Age": ["51", "47"]}, "query": "How old is Bo?"})` is `{"answer",
    "coordinates": [(row, column)], "cells"}` and, if the model has them, `"aggregator"`: SUM, AVERAGE, COUNT or NONE. Several
    queries in a list give a list.

    A table is a mapping of columns, a list of mappings, one for each row, or a data frame of pandas. Cells are texts or
    numbers. Rows that the model has no room for are left out from the end. With `sequential` each query of a list may refer
    to the answer before it.
    """

    name = "table-question-answering"
    text_kind = "{'table', 'query'}"
    judged = {"cells": INDEPENDENT}
    options = {"sequential": False}
    auto_model = "AutoModelForTableQuestionAnswering"
    architectures = ("TapasForQuestionAnswering",)
    outputs = ("logits",)
    rows_are_inputs = True

    def __init__(self, entry: TaskEntry, files: Files) -> None:
        super().__init__(entry, files)
        self._first, self._last = self.encoding("").ids
        self._limits: Mapping[str, Any] = next(step.options for step in entry.preprocess if step.step == "table")
        self._aggregators: Sequence[str] = entry.option("aggregation", "labels", ())
        if self._aggregators:
            self.judged = {**self.judged, "aggregation": DISTRIBUTION}

    @classmethod
    def head(cls, config: Mapping[str, Any]) -> tuple[str, tuple[str, ...]]:
        return cls.auto_model, (*cls.outputs, *(("logits_aggregation",) if _aggregators(config) else ()))

    @classmethod
    def entry(cls, facts: ModelFacts) -> TaskEntry:
        sizes: Sequence[int] = facts.config.get("type_vocab_sizes") or (3, 256, 256, 2, 256, 256, 10)
        limits = {
            "columns": min(facts.table["columns"], sizes[_COLUMN]) - 1,
            "rows": min(facts.table["rows"], sizes[_ROW]) - 1,
            "ranks": min(sizes[_RANKS]) - 1,
            "cell_length": facts.table["cell_length"],
            "headers": facts.table["headers"],
            "empty": facts.table["empty"],
        }
        labels = _aggregators(facts.config)
        after = (Step("aggregation", {"labels": labels, "none": facts.config.get("no_aggregation_label_index")}),)
        steps = (tokenize_step(facts, policy="do_not_truncate"), Step("table", limits))
        return TaskEntry(cls.name, steps, (Step("cells"), *(after if labels else ())))

    @classmethod
    def sample(cls, text: Any, index: int, facts: ModelFacts) -> tuple[Input, dict[str, Any]]:
        """A table with a column of texts, one of numbers and one of dates."""
        words = text.split()[:5] or ["nothing"]
        prices = [(index * 131 + place * 71) % 900 / (10 if place % 2 else 1) for place in range(len(words) + 1)]
        years = [1990 + (index * 7 + place * 3) % 25 for place in range(len(words) + 1)]
        table = {
            "Name": [*words, text],
            "Price": [f"{price:,}" for price in prices],
            "Since": [f"March {place + 1}, {year}" if index % 2 else str(year) for place, year in enumerate(years)],
        }
        return {"table": table, "query": _SAMPLE_QUERIES[index % len(_SAMPLE_QUERIES)].format(prices[0])}, {}

    def texts(self, item: Input, options: Mapping[str, Any]) -> Sequence[str]:
        return ()

    def run(
        self, graphs: Mapping[str, Session], inputs: Sequence[Input], options: Mapping[str, Any], batch_size: int = 0
    ) -> list[Answer]:
        if not options["sequential"]:
            return super().run(graphs, inputs, options, batch_size)
        return [self._run_in_turn(graphs, item, options) for item in inputs]

    def _run_in_turn(self, graphs: Mapping[str, Session], item: Input, options: Mapping[str, Any]) -> Answer:
        rows, scores = self.encode(item, options), list[Tensors]()
        for row in rows:
            if scores:
                chosen = self._chosen(rows[len(scores) - 1], scores[-1])
                types = row.tensors["token_type_ids"]
                types[:, _PREVIOUS] = [
                    (line - 1, column - 1) in chosen for column, line in types[:, [_COLUMN, _ROW]].tolist()
                ]
            ((_, outputs),) = forward(graphs, [row], 1)
            scores.append(self.score(outputs, row))
        return self.answer(item, rows, scores, options)

    def encode(self, item: Input, options: Mapping[str, Any]) -> list[Row]:
        if not isinstance(item, Mapping) or set(item) != {"table", "query"}:
            raise wrong_type(self, item)
        queries = item["query"] if isinstance(item["query"], (list, tuple)) else [item["query"]]
        if not queries or not all(isinstance(query, str) and query for query in queries):
            raise UsageError(
                "Cannot answer.",
                why="a query is missing or empty",
                fix='give a question, or a list of them, as "query"',
            )
        table = self._read(item["table"])
        return [self._row(table, query) for query in queries]

    def _read(self, given: Any) -> _Table:
        headers, cells = _cells(given)
        if len(headers) > self._limits["columns"]:
            raise UsageError(
                f"Cannot read a table of {len(headers)} columns.",
                why=f"the model tells {self._limits['columns']} apart",
                fix="give the columns that matter",
            )
        known: dict[str, tuple[list[int], list[int]]] = {"": ([], [])}
        ids, places, starts = [], [], []
        for line, texts in enumerate([headers if self._limits["headers"] else [""] * len(headers), *cells]):
            for column, text in enumerate(texts):
                if text not in known:
                    known[text] = self._tokens(text)
                ids += known[text][0]
                starts += known[text][1]
                places += [(column + 1, line)] * len(known[text][0])
        values = [column_values([texts[column] for texts in cells]) for column in range(len(headers))]
        columns, rows = np.array(places, dtype=np.int64).reshape(-1, 2).T
        return _Table(
            cells,
            np.array(ids, dtype=np.int64),
            columns,
            rows,
            np.array(starts, dtype=np.int64),
            values,
            self._ranks(values, len(cells)),
        )

    def _tokens(self, text: str) -> tuple[list[int], list[int]]:
        """Ids of a text, and where the word of each starts; of one that says nothing the id of its sign for that."""
        if text.strip().lower() in ("n/a", "nan") or not has_word(text):
            return [self.tokenizer.token_to_id(self._limits["empty"])], [0]
        encoding = self.encoding(text, special=False, cut=False)
        start, starts = 0, []
        for place, token in enumerate(encoding.tokens):
            start = start if token.startswith("##") else place
            starts.append(start)
        return encoding.ids, starts

    def _ranks(self, values: Sequence[Mapping[int, Any]], height: int) -> np.ndarray:
        ranks: np.ndarray = np.zeros((height, len(values), 2), np.int64)
        for column, found in enumerate(values):
            keys = comparable(found) or {}
            order = {key: place for place, key in enumerate(sorted(set(keys.values())))}
            if len(order) > self._limits["ranks"]:
                raise UsageError(
                    f"Cannot read a column of {len(order)} different numbers.",
                    why=f"the model ranks {self._limits['ranks']}",
                    fix="give fewer rows",
                )
            for line, key in keys.items():
                ranks[line, column] = order[key] + 1, len(order) - order[key]
        return ranks

    def _row(self, table: _Table, query: str) -> Row:
        asked = self._tokens(query)[0]
        rows, width = self._room(table, self.max_length - len(asked) - 2)
        kept = (table.rows <= rows) & (table.starts < width)
        ids = np.concatenate([[self._first, *asked, self._last], table.ids[kept]]).astype(np.int64)
        if len(ids) > self.max_length:
            raise UsageError(
                "Cannot fit the question and the names of the columns into the model.",
                why=f"they are {len(ids)} tokens, and it takes {self.max_length}",
                fix="shorten the question, or give fewer columns",
            )
        types: np.ndarray = np.zeros((len(ids), _KINDS), np.int64)
        inside = types[len(asked) + 2 :]
        column, line = table.columns[kept], table.rows[kept]
        inside[:, _SEGMENT], inside[:, _COLUMN], inside[:, _ROW] = 1, column, line
        body = line > 0
        inside[body, _RANKS] = table.ranks[line[body] - 1, column[body] - 1]
        inside[body, _RELATION] = self._relations(table, query)[line[body] - 1, column[body] - 1]
        tensors = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": types}
        return Row(tensors, len(ids), table.cells)

    def _room(self, table: _Table, room: int) -> tuple[int, int]:
        """Rows that fit, and words at the start of each cell: cells are shortened before a row is left out."""
        rows = min(len(table.cells), self._limits["rows"])
        longest = int(
            np.unique(table.columns * (len(table.cells) + 1) + table.rows, return_counts=True)[1].max(initial=0)
        )
        trim = self._limits["cell_length"]
        most = min(longest, trim) if trim >= 0 else longest
        counts: np.ndarray = np.zeros((len(table.cells) + 1, max(longest, 1)), np.int64)
        np.add.at(counts, (table.rows, table.starts), 1)
        costs = counts.cumsum(axis=0).cumsum(axis=1)[:, :most]  # of so many rows, and words up to that place
        for kept in range(rows, 0, -1):
            width = int((costs[kept] <= room).sum())
            if width == most or (width and trim < 0):
                return kept, max(width, 1)
        return 0, 1

    def _relations(self, table: _Table, query: str) -> np.ndarray:
        """Of each cell's number to those of the question: int64 [rows, columns], bits for each relation that there is."""
        relations: np.ndarray = np.zeros(table.ranks.shape[:2], np.int64)
        for value in values_in(query):
            for column, found in enumerate(table.values):
                keys = comparable({**found, -1: value}) if found else None
                if keys is None:
                    continue
                asked = keys.pop(-1)
                for line, key in keys.items():
                    relations[line, column] |= _EQUAL if asked == key else _LESS if asked < key else _GREATER
        return relations

    def score(self, outputs: Tensors, row: Row) -> Tensors:
        """The probability of each cell, row by row, and of each aggregation."""
        places, numbers = _places(row)
        cell = numbers >= 0
        tokens = sigmoid(outputs["logits"])[cell].astype(np.float64)
        sums = np.bincount(numbers[cell], tokens, len(places)), np.bincount(numbers[cell], minlength=len(places))
        found = {"cells": (sums[0] / sums[1]).astype(np.float32)}
        if self._aggregators:
            found["aggregation"] = softmax(outputs["logits_aggregation"])
        return found

    def _chosen(self, row: Row, score: Tensors) -> list[tuple[int, int]]:
        return [place for place, value in zip(_places(row)[0], score["cells"].tolist()) if value > _LIKELY]

    def answer(self, item: Input, rows: Sequence[Row], scores: Sequence[Tensors], options: Mapping[str, Any]) -> Answer:
        answers = []
        for row, score in zip(rows, scores):
            chosen = self._chosen(row, score)
            cells = [row.extra[line][column] for line, column in chosen]
            answer: dict[str, Any] = {"answer": ", ".join(cells), "coordinates": chosen, "cells": cells}
            if self._aggregators:
                likeliest = int(score["aggregation"].argmax())
                answer["aggregator"] = self._aggregators[likeliest]
                if likeliest != self.entry_.option("aggregation", "none"):
                    answer["answer"] = f"{answer['aggregator']} > {answer['answer']}"
            answers.append(answer)
        return answers if len(answers) > 1 else answers[0]


def _aggregators(config: Mapping[str, Any]) -> list[str]:
    """By the number of their output; none for a model that only chooses cells."""
    labels = config.get("aggregation_labels") or {}
    count = int(config.get("num_aggregation_labels") or 0)
    return [str(labels.get(str(i), labels.get(i))) for i in range(count)] if labels else []


def _places(row: Row) -> tuple[list[tuple[int, int]], np.ndarray]:
    """Row and column of each cell that has tokens, from 0 and in their order, and the number of each token's; -1 for none."""
    types: np.ndarray = row.tensors["token_type_ids"].astype(np.int64)
    body = (types[:, _SEGMENT] == 1) & (types[:, _ROW] > 0)
    width = int(types[:, _COLUMN].max(initial=0)) + 1
    cells, numbers = np.unique(types[body, _ROW] * width + types[body, _COLUMN], return_inverse=True)
    of_tokens: np.ndarray = np.full(len(types), -1)
    of_tokens[body] = numbers
    return [(int(cell) // width - 1, int(cell) % width - 1) for cell in cells], of_tokens


def _cells(given: Any) -> tuple[list[str], list[list[str]]]:
    """Names of the columns, and the cells row by row, as texts."""
    if hasattr(given, "to_dict"):  # a data frame
        given = given.to_dict("list")
    if isinstance(given, (list, tuple)) and given and all(isinstance(each, Mapping) for each in given):
        names = list(dict.fromkeys(name for each in given for name in each))
        given = {name: [each.get(name, "") for each in given] for name in names}
    if not isinstance(given, Mapping) or not all(isinstance(each, (list, tuple)) for each in given.values()):
        raise UsageError(
            f"Cannot read {type(given).__name__} {str(given)[:40]!r} as a table.",
            why="a table is a mapping of columns to lists of cells, or a list of mappings, one for each row",
            fix='pass {"Name": ["Ann", "Bo"], "Age": ["51", "47"]}',
        )
    heights = sorted({len(column) for column in given.values()})
    if len(heights) != 1 or not heights[0]:
        raise UsageError(
            "Cannot read the table.",
            why=f"its columns have {' and '.join(map(str, heights))} cells" if heights[1:] else "it has no cells",
            fix="give every column a cell for each row",
        )
    return [str(name) for name in given], [[_text(cell) for cell in line] for line in zip(*given.values())]


def _text(cell: Any) -> str:
    if isinstance(cell, str):
        return cell
    if cell is None or (isinstance(cell, float) and math.isnan(cell)):  # pandas has NaN for nothing
        return ""
    if isinstance(cell, bool) or not isinstance(cell, (int, float, np.number)):
        raise UsageError(
            f"Cannot read a cell of type {type(cell).__name__}.", why="cells are texts or numbers", fix="pass its text"
        )
    return str(cell.item() if isinstance(cell, np.number) else cell)


TASK = TableQuestionAnswering
