"""Distillation and its options: each loss lowers what it should, a compressed folder is whole, and bad input is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from satchel.cli import main
from satchel_converters.compress import Compression, Distill, FineTune, compress, fine_tune, parse_distill, parse_prune
from satchel_converters.compress.losses import Said, embedding_loss, hard_loss, hidden_loss, soft_loss
from satchel_converters.source import find_source, tasks_for
from satchel_runtimes.errors import UsageError
from satchel_runtimes.examples import Example

_TOPICS = (("shares", "market", "money"), ("goals", "match", "sport"))


def _rows(numbers: range) -> list[Example]:
    return [Example(f"{word} number {i} of the {place}", label) for i in numbers for word, place, label in _TOPICS]


_ROWS, _HELD_OUT = _rows(range(12)), _rows(range(20, 24))


def _tell(stage: str, message: str, step: int, total: int) -> None:
    pass


@pytest.fixture(scope="module")
def headed(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny classifier, trained with the project's own tools."""
    out = tmp_path_factory.mktemp("trained") / "topics"
    wanted = FineTune(head_only=True, learning_rate=0.02)
    return fine_tune(find_source(tiny), "text-classification", wanted, _ROWS, _HELD_OUT, out, _tell)


def _lowered(loss: str) -> tuple[float, float]:
    """The loss of a free answer before and after it followed its gradient."""
    torch.manual_seed(0)
    teacher = Said((torch.randn(6, 3) * 3,), torch.randn(6, 8), tuple(torch.randn(6, 8) for _ in range(5)))
    student = Said(
        (torch.zeros(6, 3, requires_grad=True),),
        torch.randn(6, 8, requires_grad=True),
        tuple(torch.randn(6, 8, requires_grad=True) for _ in range(3)),
    )
    target = torch.tensor([0, 1, 2, 0, -100, 1])
    ask = {
        "hard": lambda: hard_loss("single", student, [target]),
        "soft": lambda: soft_loss("single", student, teacher, 5.0),
        "embedding": lambda: embedding_loss(student, teacher),
        "hidden": lambda: hidden_loss(student, teacher),
    }[loss]
    optimizer = torch.optim.Adam([*student.decisions, student.embedding, *student.hidden], lr=0.1)  # type: ignore[list-item]  # there is one
    first = float(ask())  # type: ignore[arg-type]  # there are labels
    for _ in range(300):
        optimizer.zero_grad()
        ask().backward()  # type: ignore[union-attr,no-untyped-call]  # there are labels
        optimizer.step()
    return first, float(ask())  # type: ignore[arg-type]  # there are labels


@pytest.mark.parametrize("loss", ["hard", "soft", "embedding", "hidden"])
def test_each_loss_alone_ends_near_zero(loss: str) -> None:
    before, after = _lowered(loss)

    assert before > 0.3 and after < 0.05 * before


def test_the_soft_loss_is_zero_for_the_teachers_own_answers_at_every_temperature() -> None:
    said = Said((torch.randn(5, 4),))

    for kind in ("single", "multi", "number"):
        assert float(soft_loss(kind, said, said, 3.0)) == pytest.approx(0, abs=1e-5)  # type: ignore[arg-type]  # not None


def test_a_head_is_trained_on_a_body_that_stays_as_it_is(tiny: Path, headed: Path) -> None:
    from safetensors.torch import load_file

    before, after = load_file(tiny / "model.safetensors"), load_file(headed / "model.safetensors")
    about = json.loads((headed / "compression.json").read_text())
    config = json.loads((headed / "config.json").read_text())

    body = {name: each for name, each in before.items() if f"bert.{name}" in after and "pooler" not in name}
    assert all(torch.equal(after[f"bert.{name}"], each) for name, each in body.items())
    # The pooler is on the way to the head alone, and nothing has trained that of a sentence embedder.
    assert not torch.equal(after["bert.pooler.dense.weight"], before["pooler.dense.weight"])
    assert set(config["id2label"].values()) == {"money", "sport"}
    # The body was a sentence embedder by its modules.json; what was trained is no longer one.
    assert tasks_for(find_source(headed), None)[0] == "text-classification"
    points = about["training"]["points"]
    # The cut-down body says too little for a right answer, so it is the loss that shows that the head learned.
    assert about["training"]["best"]["held_out_loss"] < points[0]["held_out_loss"]
    assert points[-1]["training_loss"] < points[1]["training_loss"]


def test_trim_prune_and_distil_leave_a_folder_that_transformers_loads(headed: Path, tmp_path: Path) -> None:
    from transformers import pipeline

    wanted = Compression(parse_prune("vocabulary"), parse_distill("ffn=0.5,epochs=20,learning_rate=0.01"))
    made = compress(find_source(headed), "text-classification", wanted, _ROWS, _HELD_OUT, tmp_path / "small", _tell)
    about = json.loads((made / "compression.json").read_text())
    found = pipeline("text-classification", model=str(made))("goals number 3 of the match")

    assert found[0]["label"] == "sport"
    assert about["parameters"]["after"] < 0.2 * about["parameters"]["before"]
    assert about["training"]["best"]["metric"] >= about["training"]["points"][0]["metric"]
    assert json.loads((made / "config.json").read_text())["intermediate_size"] == 32
    assert [each.name for each in tmp_path.iterdir()] == ["small"]  # nothing half-written beside it


def test_convert_compresses_and_the_report_says_what_became_of_the_model(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    args = ["convert", str(tiny), "--device", "generic-x86-64", "--format", "onnx", "--quantize", "fp32"]
    args += [
        "--prune",
        "ffn=0.5,by=magnitude",
        "-o",
        str(tmp_path / "small.satchel"),
        "--report",
        str(tmp_path / "report"),
    ]
    with pytest.raises(SystemExit) as ended:
        main(args)
    about = json.loads((tmp_path / "report").read_text())["compression"]

    assert ended.value.code == 0
    counts = about["parameters"]
    gone = 32 * (32 + 1 + 32)  # half of 64 neurons, each with a row, a bias and a column
    assert counts["before"] - counts["after"] == gone and list(about["removed"]) == ["ffn"]
    assert f"compressed from {counts['before']:,} to {counts['after']:,} parameters" in capsys.readouterr().out


def test_a_student_with_another_tokenizer_is_refused_with_the_reason(headed: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(headed, other)
    raw = json.loads((other / "tokenizer.json").read_text())
    words = raw["model"]["vocab"]
    words["goals"], words["shares"] = words["shares"], words["goals"]
    (other / "tokenizer.json").write_text(json.dumps(raw))
    wanted = Compression(None, Distill(student=str(other)))

    with pytest.raises(UsageError, match="their tokenizers differ"):
        compress(find_source(headed), "text-classification", wanted, _ROWS, (), tmp_path / "out", _tell)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("layers=0", "not above zero"),
        ("lambda=1.5", "it is a share"),
        ("temprature=2", "temperature"),
        ("layers=3,layers=2", "named twice"),
        ("epochs=many", "not a number"),
        ("student=a,layers=2", "named and derived"),
        ("ffn=nan", "share"),
    ],
)
def test_bad_settings_are_refused_by_name(given: str, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        parse_distill(given)


def test_a_label_that_the_model_does_not_know_and_more_layers_than_the_teacher_has(
    headed: Path, tmp_path: Path
) -> None:
    source, rows = find_source(headed), [*_ROWS, Example("rain and wind", "weather")]

    with pytest.raises(UsageError, match="'weather'"):
        compress(source, "text-classification", Compression(None, Distill()), rows, (), tmp_path / "a", _tell)
    with pytest.raises(UsageError, match="its teacher has 1"):
        compress(source, "text-classification", Compression(None, Distill(layers=2)), _ROWS, (), tmp_path / "b", _tell)
    with pytest.raises(UsageError, match="at least 10 rows"):
        compress(source, "text-classification", Compression(None, Distill()), _ROWS[:3], (), tmp_path / "c", _tell)


def test_the_commands_exit_with_2_for_what_is_badly_asked(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for args in (["compress", str(tiny)], ["compress", str(tiny), "--distill", "layers=1"]):
        with pytest.raises(SystemExit) as ended:
            main([*args, "-o", str(tmp_path / "out")])
        assert ended.value.code == 2
    assert "without rows to train on" in capsys.readouterr().err
