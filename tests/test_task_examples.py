"""docs/tasks.md: every task has an example there, and the examples answer what the page says."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import numpy as np
import pytest
from tests.task_examples import GENERATION, PAGE, answers, examples, workplace

from satchel_runtimes.tasks import list_tasks

_NUMBER = re.compile(r"-?\d+(?:\.\d+)?")


def test_every_task_has_an_example_with_its_answer() -> None:
    found = {example.task: example.code for example in examples(PAGE.read_text("utf-8"))}

    assert set(found) == set(list_tasks())
    assert all("\n# " in code for code in found.values())
    assert all("\n# " in example.code for example in examples(GENERATION.read_text("utf-8")))


@pytest.mark.slow
@pytest.mark.parametrize("page", [PAGE, GENERATION], ids=lambda page: page.stem)
def test_the_examples_answer_what_the_page_says(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = list(examples(page.read_text("utf-8")))
    workplace(tmp_path, sorted({example.task for example in found}))
    monkeypatch.chdir(tmp_path)

    for example in found:
        lines = example.code.splitlines()
        for node, answer in answers(example):
            below = itertools.takewhile(lambda line: line.startswith("# "), lines[node.end_lineno :])
            said = " ".join(line[2:] for line in below)
            assert _NUMBER.sub("", said) == _NUMBER.sub("", answer), example.task
            numbers = [float(each) for each in _NUMBER.findall(answer)]
            theirs = [float(each) for each in _NUMBER.findall(said)]
            np.testing.assert_allclose(theirs, numbers, rtol=0.02, atol=0.02, err_msg=example.task)
