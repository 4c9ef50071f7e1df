"""A user's data: every form that is read, what becomes of a row, and the splits that never share an input."""

from __future__ import annotations

import csv
import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.conversions import run

from satchel.data import Data, Labels, parse_columns, read_data, sample
from satchel_runtimes.errors import UsageError
from satchel_runtimes.examples import Example
from satchel_runtimes.tasks import Task, task_class

TOPICS = Labels(("earn", "acq", "ship"), {"earnings": 0})


class Speech(Task):
    """A task whose rows are sounds: none is served yet, and its columns are all that reading needs."""

    name = "automatic-speech-recognition"
    columns = {"audio": ("audio",), "text": ("text", "transcript")}
    target = "text"
    metrics = ("wer",)


class Pictures(Speech):
    name = "image-classification"
    columns = {"image": ("image",), "label": ("label",)}
    target = "label"


def lines(file: Path, *rows: Any) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")
    return file


def everything(data: Data) -> list[Example]:
    return [*data.train, *data.calibration, *data.evaluation]


def read(path: Path, task: str = "text-classification", labels: Labels | None = None, **options: Any) -> Data:
    return read_data(path, task_class(task), labels, **options)


def refusal(path: Path, task: str | type[Task] = "text-classification", *labels: Labels, **options: Any) -> UsageError:
    with pytest.raises(UsageError) as caught:
        read_data(path, task_class(task) if isinstance(task, str) else task, *labels, **options)
    assert caught.value.exit_code == 2
    assert caught.value.fix
    return caught.value


@pytest.mark.parametrize(
    ("task", "row", "expected"),
    [
        ("text-classification", {"text": "a", "label": "earn"}, Example("a", "earn")),
        ("text-classification", {"sentence": "a", "label": 1}, Example("a", "acq")),
        ("text-classification", {"sentence": "a", "label": "earnings"}, Example("a", "earn")),
        ("text-classification", {"text": "a"}, Example("a")),
        (
            "text-classification",
            {"sentence1": "a", "sentence2": "b", "label": 2},
            Example({"text": "a", "text_pair": "b"}, "ship"),
        ),
        (
            "text-classification",
            {"question": "a", "sentence": "b", "label": "acq"},
            Example({"text": "a", "text_pair": "b"}, "acq"),
        ),
        ("zero-shot-classification", {"text": "a", "label": "earn"}, Example("a", "earn")),
        (
            "token-classification",
            {"tokens": ["a", "b"], "ner_tags": [0, 2]},
            Example(["a", "b"], {"tokens": ["a", "b"], "labels": ["earn", "ship"]}),
        ),
        (
            "question-answering",
            {"question": "a", "context": "b", "answers": {"text": ["b", "b"], "answer_start": [0, 3]}, "id": 7},
            Example({"question": "a", "context": "b"}, [{"text": "b", "start": 0}, {"text": "b", "start": 3}]),
        ),
        ("question-answering", {"question": "a", "context": "b", "answers": {"text": [], "answer_start": []}}, []),
        ("sentence-embedding", {"sentence1": "a", "sentence2": "b", "score": 4}, Example(["a", "b"], 4.0)),
        ("sentence-embedding", {"text": "a"}, Example("a")),
        ("fill-mask", {"text": "a"}, Example("a")),
    ],
)
def test_columns_by_their_usual_names_become_what_the_task_takes(
    task: str, row: Mapping[str, Any], expected: Example | list[Any], tmp_path: Path
) -> None:
    found = everything(read(lines(tmp_path / "rows.jsonl", row), task, TOPICS))

    assert found == [expected] if isinstance(expected, Example) else found[0].target == expected


def test_the_same_rows_as_csv_are_the_same_examples(tmp_path: Path) -> None:
    rows = [{"text": f'row {i}, "quoted"\nand more', "label": i % 3} for i in range(40)]
    with (tmp_path / "rows.csv").open("w", newline="", encoding="utf-8-sig") as file:  # as spreadsheets write it
        writer = csv.DictWriter(file, ("text", "label"))
        writer.writeheader()
        writer.writerows(rows)

    found = read(tmp_path / "rows.csv", labels=TOPICS)

    same = read(lines(tmp_path / "rows.jsonl", *rows), labels=TOPICS)
    assert (found.train, found.calibration, found.evaluation) == (same.train, same.calibration, same.evaluation)


def test_other_columns_are_named(tmp_path: Path) -> None:
    file = lines(tmp_path / "rows.jsonl", {"body": "a", "text": "not this", "kind": "ship"})

    found = read(file, labels=TOPICS, columns=parse_columns("text=body, label=kind"))

    assert everything(found) == [Example("a", "ship")]
    assert found.columns == {"text": "body", "label": "kind"}


def test_a_regression_reads_numbers_and_several_labels_are_a_list(tmp_path: Path) -> None:
    stars = lines(tmp_path / "stars.jsonl", {"review": "a", "stars": 4})
    tickets = lines(tmp_path / "tickets.jsonl", {"text": "a", "labels": ["ship", 0]})

    assert everything(read(stars, labels=Labels(("stars",), {}, "number"))) == [Example("a", 4.0)]
    assert everything(read(tickets, labels=Labels(TOPICS.names, {}, "many"))) == [Example("a", ["ship", "earn"])]


def test_a_folder_per_label_holds_pictures(tmp_path: Path) -> None:
    for split, label, content in (("train", "cat", b"1"), ("train", "dog", b"2"), ("test", "cat", b"3")):
        file = tmp_path / split / label / f"{content.decode()}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)

    found = read_data(tmp_path, Pictures)

    assert found.evaluation == (Example(str(tmp_path / "test/cat/3.png"), "cat"),)
    assert sorted(each.target for each in (*found.train, *found.calibration)) == ["cat", "dog"]


def test_sounds_have_transcripts_beside_them_or_in_a_manifest(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / f"{name}.wav").write_bytes(name.encode())
        (tmp_path / f"{name}.txt").write_text(f"hello {name}\n")

    beside = everything(read_data(tmp_path, Speech))
    rows = ({"file_name": f"{name}.wav", "transcript": f"hello {name}"} for name in "ab")
    listed = everything(read_data(lines(tmp_path / "metadata.jsonl", *rows), Speech))

    for found in (beside, listed):
        assert sorted(found, key=repr) == [Example(str(tmp_path / f"{name}.wav"), f"hello {name}") for name in "ab"]


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.text(max_size=6), st.sampled_from(["earn", "acq", 2])), min_size=1, max_size=40))
def test_splits_hold_every_row_once_do_not_share_an_input_and_never_change(rows: list[tuple[str, Any]]) -> None:
    rows = [(text, str(label)) for text, label in rows]  # one type for all
    with tempfile.TemporaryDirectory() as folder:
        file = lines(Path(folder) / "rows.jsonl", *({"text": text, "label": label} for text, label in rows))
        found = read(file, labels=TOPICS)
        backwards = lines(file, *({"text": text, "label": label} for text, label in reversed(rows)))
        again = read(backwards, labels=TOPICS)

    inputs = [
        {" ".join(each.input.split()) for each in split} for split in (found.train, found.calibration, found.evaluation)
    ]
    assert sorted(each.input for each in everything(found)) == sorted(text for text, _ in rows)
    assert not inputs[0] & inputs[1] and not inputs[0] & inputs[2] and not inputs[1] & inputs[2]
    for one, other in zip((found.train, found.evaluation), (again.train, again.evaluation), strict=True):
        assert sorted(map(repr, one)) == sorted(map(repr, other))


def test_many_rows_are_split_about_seven_to_one_to_two(tmp_path: Path) -> None:
    found = read(lines(tmp_path / "rows.jsonl", *({"text": str(i), "label": "earn"} for i in range(2000))))

    counts = [len(found.train), len(found.calibration), len(found.evaluation)]
    assert np.allclose(counts, [1400, 200, 400], atol=90)  # four standard deviations of a binomial draw


def test_files_named_for_splits_are_these_and_calibration_comes_out_of_training(tmp_path: Path) -> None:
    lines(tmp_path / "train.jsonl", *({"text": f"t{i}", "label": "earn"} for i in range(300)))
    lines(tmp_path / "test.jsonl", *({"text": f"e{i}", "label": "acq"} for i in range(20)))

    found = read(tmp_path)

    assert [each.input for each in found.evaluation] == [f"e{i}" for i in range(20)]
    assert 15 <= len(found.calibration) <= 50 and len(found.train) + len(found.calibration) == 300
    assert len(read(tmp_path / "test.jsonl").evaluation) == 20


def test_validation_without_a_test_split_is_judged_on(tmp_path: Path) -> None:
    lines(tmp_path / "train.jsonl", *({"text": f"t{i}"} for i in range(100)))
    lines(tmp_path / "validation.jsonl", {"text": "v"})

    assert [each.input for each in read(tmp_path).evaluation] == ["v"]


def test_an_input_in_two_splits_is_an_error_that_names_the_row_or_is_left_out_of_training(tmp_path: Path) -> None:
    lines(tmp_path / "train.jsonl", {"text": "one"}, {"text": "caf\u00e9  twice "}, {"text": "three"})
    lines(tmp_path / "test.jsonl", {"text": "four"}, {"text": "cafe\u0301 twice"})  # other blanks, another é

    error = refusal(tmp_path)

    assert "row 2 of train.jsonl" in error.what
    assert "row 2 of test.jsonl" in error.why
    dropped = read(tmp_path, drop_overlaps=True)
    assert dropped.dropped == 1
    assert len(dropped.evaluation) == 2
    assert "caf" not in str(dropped.train + dropped.calibration)


def test_pictures_overlap_by_their_bytes(tmp_path: Path) -> None:
    for name in ("train/cat/a.png", "test/dog/b.png"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_bytes(b"the same picture")

    assert "test/dog/b.png" in refusal(tmp_path, Pictures).why


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("rows.jsonl", b'{"text": "a"}\n{"text": ', "row 2 of rows.jsonl"),
        ("rows.jsonl", b'{"text": "a"}\n["a"]\n', "it is a list"),
        ("rows.jsonl", b'{"text": "a"}\n\n{"text": "\xff"}\n', "row 3 of rows.jsonl"),
        ("rows.jsonl", b'{"text": "a"}\n{"text": 7}\n', "'text' is a number here and a text in row 1"),
        ("rows.jsonl", b'{"text": ["a"]}\n', "a list, not a text"),
        ("rows.jsonl", b'{"text": "a"}\n{"label": 1}\n', "row 2 of rows.jsonl"),
        ("rows.jsonl", b'{"body": "a"}\n', "it has no column text or"),
        ("rows.jsonl", b"\n\n", "it holds no rows"),
        (
            "rows.jsonl",
            b'{"text": "a", "label": 1}\n{"text": "b", "label": "earn"}\n',
            "a text here and a number in row 1",
        ),
        ("rows.jsonl", b'{"text": "a", "label": "sports"}\n', "no label 'sports'; it has earn, acq, ship"),
        ("rows.jsonl", b'{"text": "a", "label": 3}\n', "no label 3"),
        ("rows.jsonl", b'{"text": "a", "label": -1}\n', "no label -1"),
        ("rows.jsonl", b'{"text": "a", "label": ["earn"]}\n', "the model gives one label"),
        ("rows.csv", b"text,label\na,earn,more\n", "it has 3 cells, and 2 columns"),
        ("rows.csv", b"text,text\na,b\n", "its columns are 'text', 'text'"),
        ("rows.csv", b'text,label\n"a,earn\n', "unexpected end of data"),
        ("rows.csv", b"text,label\na,earn\n\xff,earn\n", "line 3 of rows.csv"),
        ("rows.parquet", b"PAR1", "files that end in .parquet are not read"),
        ("rows", b"", "files that end in nothing are not read"),
    ],
)
def test_what_cannot_be_read_is_named(name: str, content: bytes, said: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)

    assert said in str(refusal(tmp_path / name, "text-classification", TOPICS))


def test_words_and_their_labels_are_as_many(tmp_path: Path) -> None:
    file = lines(tmp_path / "rows.jsonl", {"tokens": ["a", "b"], "ner_tags": ["earn"]})

    assert "2 words and 1 labels" in refusal(file, "token-classification").why


def test_a_score_is_a_number_and_answers_are_texts(tmp_path: Path) -> None:
    pair = lines(tmp_path / "pairs.jsonl", {"sentence1": "a", "sentence2": "b", "score": float("nan")})
    question = lines(tmp_path / "questions.jsonl", {"question": "a", "context": "b", "answers": 7})

    assert "nan is not a number" in refusal(pair, "sentence-embedding").why
    assert "these are no answers" in refusal(question, "question-answering").why


def test_a_missing_file_an_odd_folder_and_a_lost_picture_are_named(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    lost = lines(tmp_path / "metadata.jsonl", {"file_name": "gone.png", "label": "cat"})

    assert "No such file" in refusal(tmp_path / "none.jsonl").why
    assert "no file or folder named for a split" in refusal(tmp_path / "empty").why
    assert "gone.png" in refusal(lost, Pictures).why


def test_an_empty_split_is_refused(tmp_path: Path) -> None:
    lines(tmp_path / "train.jsonl", {"text": "a"})
    (tmp_path / "test.jsonl").write_text("")

    assert "the split 'evaluation' is empty" in refusal(tmp_path).why


def test_too_few_rows_say_how_many_there_are() -> None:
    data = Data(Path("rows.jsonl"), train=(Example("a"),) * 5, calibration=(Example("b"),) * 3)

    with pytest.raises(UsageError, match="3 rows, and at least 8 are needed"):
        data.rows("calibration", least=8)
    with pytest.raises(UsageError, match="its evaluation split is empty"):
        data.rows("evaluation")
    with pytest.raises(UsageError, match="choose one of train"):
        data.rows("testing")


def test_a_sample_is_drawn_from_all_of_the_rows_and_stays_the_same() -> None:
    rows = tuple(Example(str(i)) for i in range(1000))

    drawn = sample(rows, 50)

    assert drawn == sample(rows, 50)
    assert int(drawn[0].input) < 100 and int(drawn[-1].input) > 900


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--columns", "text"), "not a list of part=column"),
        (("--columns", "words=text"), "reads text, text_pair, label"),
        (("--columns", "text=review"), "it has no column review"),
        (("--max-drop", "-1"), "below zero"),
        (("--data", "none.jsonl"), "No such file"),
    ],
)
def test_bad_data_is_exit_2_before_anything_is_converted(
    options: tuple[str, ...], said: str, tiny: Path, tmp_path: Path
) -> None:
    lines(tmp_path / "rows.jsonl", *({"text": str(i), "label": i % 2} for i in range(30)))
    task = ("--task", "text-classification")

    done = run(
        *("convert", tiny, "--device", "raspberry-pi-5", *task, "--data", "rows.jsonl", *options, "-q"), cwd=tmp_path
    )

    assert done.returncode == 2
    assert said in done.stderr


def test_a_budget_for_accuracy_wants_data(tiny: Path, tmp_path: Path) -> None:
    done = run("convert", tiny, "--device", "raspberry-pi-5", "--max-drop", "1", "-q", cwd=tmp_path)

    assert done.returncode == 2
    assert "there is no data" in done.stderr
