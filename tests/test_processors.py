"""Folders whose processors are not whole: what is missing is said, before anything is exported."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from benchmarks.matrix.cell import model_of
from benchmarks.matrix.rows import ROWS

from satchel_converters.capture import load_model
from satchel_converters.source import find_source
from satchel_runtimes.errors import IntegrityError, SupportError

TEXT, PICTURE, SOUND = (
    "bert text-classification",
    "levit image-classification",
    "wav2vec2 automatic-speech-recognition",
)
BY_NAME = {row.name: row for row in ROWS}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("processors")


def without(files: str, name: str, folder: Path, out: Path) -> Path:
    """The row's model without the files that a pattern names."""
    shutil.copytree(model_of(BY_NAME[name], folder), out)
    gone = list(out.glob(files))
    assert gone
    for each in gone:
        each.unlink()
    return out


@pytest.mark.parametrize(
    ("name", "files", "said"),
    [
        # transformers makes a tokenizer of the special tokens alone, to which all texts are alike
        (TEXT, "tokenizer*", "Cannot load the tokenizer"),
        (PICTURE, "preprocessor_config.json", "Cannot load the image processor"),
        (SOUND, "preprocessor_config.json", "Cannot load the feature extractor"),
        (SOUND, "vocab.json", "Cannot load the tokenizer"),
    ],
)
def test_a_missing_file_is_named(name: str, files: str, said: str, folder: Path, tmp_path: Path) -> None:
    source = find_source(without(files, name, folder, tmp_path / "model"))

    with pytest.raises(IntegrityError) as refused:
        load_model(source, BY_NAME[name].task)

    assert said in refused.value.what
    assert "copy all files" in refused.value.fix


def test_an_architecture_that_transformers_does_not_know_has_a_way_out(folder: Path, tmp_path: Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(model_of(BY_NAME[TEXT], folder), model)
    config = json.loads((model / "config.json").read_text("utf-8"))
    (model / "config.json").write_text(json.dumps({**config, "model_type": "of_next_month"}), "utf-8")

    with pytest.raises(SupportError) as refused:
        load_model(find_source(model), "text-classification")

    assert "of_next_month" in refused.value.why
    assert "update transformers" in refused.value.fix
