"""Every candidate has its row, also a refused one; and what `compare` says would ship is what `convert` ships."""

from __future__ import annotations

import dataclasses
import json
import re
import tempfile
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.bundles import model_of
from tests.conversions import append_node, damage, one_layer, run, variant

import satchel
import satchel.attempt
from satchel.agreement import Agreement, agreement
from satchel.choice import choose
from satchel.compare_page import page_of
from satchel.compared import Compared
from satchel.conclusion import notes_on
from satchel.options import Options, prepare
from satchel.report import Outcome
from satchel_converters import onnx as onnx_format
from satchel_converters import tflite as tflite_format
from satchel_runtimes.bundle import open_bundle
from satchel_runtimes.errors import (
    Cancelled,
    IntegrityError,
    LatencyError,
    ParityError,
    SatchelError,
    SupportError,
    ToolchainError,
    UsageError,
)
from satchel_runtimes.parity import CLASSES, record
from satchel_runtimes.predictor import load
from satchel_runtimes.tasks.task import DISTRIBUTION, INDEPENDENT, NUMBER, VECTOR

# Latency is told, never judged, in these tests: a cut-down model may well be slower in int8 on a busy machine.
QUICK: dict[str, Any] = {"lengths": (16, 64), "seconds": 0.05, "cold_starts": 1, "prefer": "size"}


@pytest.fixture(scope="module")
def device(tmp_path_factory: pytest.TempPathFactory) -> str:
    """This kind of machine, with two schemes."""
    file = tmp_path_factory.mktemp("devices") / "board.toml"
    file.write_text(
        'extends = "generic-x86-64"\nname = "board"\ntitle = "A board"\ngeneric = true\n'
        'formats = ["onnx", "tflite"]\nschemes = ["int8-dynamic", "fp32"]\nsequence_buckets = [16, 64]\n'
    )
    return str(file)


@pytest.fixture(scope="module")
def found(tiny: Path, device: str) -> Compared:
    return satchel.compare(tiny, device=device, **QUICK)


class TestRows:
    def test_each_format_and_scheme_of_the_device_has_a_row_in_its_order(self, found: Compared) -> None:
        assert [row.label for row in found.rows] == [
            "onnx int8-dynamic",
            "onnx fp32",
            "tflite int8-dynamic",
            "tflite fp32",
        ]
        assert [row.status for row in found.rows] == ["ships", "passes", "passes", "passes"]
        assert found.exit_code == 0 and found.error is None

    def test_a_row_holds_what_one_chooses_by(self, found: Compared) -> None:
        for row in found.to_plain()["rows"]:
            assert row["size_bytes"] > 100_000
            assert row["cold_start"]["process_s"] > row["load_s"] > 0
            assert set(row["latency_ms"]) == {"16", "64"}
            assert all(each["low_ms"] <= each["p50_ms"] <= each["high_ms"] for each in row["latency_ms"].values())
            assert row["peak_rss_bytes"] > 20 * 2**20
            assert set(row["parity"]) == set(row["agreement"]) == {"sentence-embedding", "feature-extraction"}
            assert [each["gate"] for each in row["verdicts"] if each["status"] == "refused"] == []

    def test_speeds_are_against_float32_of_the_same_format_and_the_first_row(self, found: Compared) -> None:
        rows = {row.label: row for row in found.rows}

        assert [each.tokens for each in rows["tflite int8-dynamic"].against_fp32] == [16, 64]
        assert all(each.how == "in turn" for row in found.rows for each in (*row.against_fp32, *row.against_first))
        assert rows["onnx fp32"].against_fp32 == rows["tflite fp32"].against_fp32 == ()
        assert rows["onnx int8-dynamic"].against_first == ()
        base, other = rows["tflite fp32"].run, rows["tflite int8-dynamic"].run
        ratio = rows["tflite int8-dynamic"].against_fp32[1].ratio
        if ratio is not None and base is not None and other is not None:  # a spread that is too wide gives none
            assert ratio.value == float(np.median(base.samples[64] / other.samples[64]))

    def test_an_embedding_model_agrees_by_nearest_neighbour(self, found: Compared) -> None:
        rows = {row.label: row for row in found.rows}
        near, close = rows["onnx fp32"].agreement["sentence-embedding"]

        assert (near.what, near.same) == ("nearest neighbour", near.of)
        assert (close.what, close.same, close.of) == ("cosine at least 0.9999", near.of, near.of)
        assert rows["onnx int8-dynamic"].agreement["sentence-embedding"][0].same <= near.of

    def test_formats_agree_tightly_in_float32_and_loosely_in_int8(self, found: Compared) -> None:
        pairs = {(pair.one, pair.other): pair for pair in found.pairs}
        tight, loose = pairs["onnx fp32", "tflite fp32"], pairs["onnx int8-dynamic", "tflite int8-dynamic"]

        assert len(pairs) == 6
        for parity in tight.parity.values():
            assert parity.passed
            assert parity.figures["relative_error"] <= parity.limits["relative_error"] == 1e-4
        assert loose.numbers == "int8"
        assert 0.9 < loose.parity["sentence-embedding"].figures["cosine_mean"] < 1 - 1e-6

    def test_texts_that_one_format_cuts_are_not_held_against_it(self, found: Compared) -> None:
        left = {(pair.one.partition(" ")[0], pair.other.partition(" ")[0]): pair.left_out for pair in found.pairs}

        assert left["onnx", "onnx"] == left["tflite", "tflite"] == 0
        assert left["onnx", "tflite"] > 0
        assert [row.max_tokens for row in found.rows] == [256, 256, 64, 64]
        assert any("onnx at 256, tflite at 64 tokens" in note for note in found.notes)

    def test_a_classifier_agrees_by_its_labels(
        self, tmp_path: Path, device: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        classifier = variant(
            one_layer(model_of("text_classifier"), tmp_path / "one-layer"), tmp_path / "torn", weights=_between_two
        )
        lean = np.array([0, 0, 0, 0.01], np.float32)  # enough that some texts are of another topic
        damage(monkeypatch, lambda model: append_node(model, "Add", lean), schemes=["int8-dynamic"])

        found = satchel.compare(classifier, device=device, formats=["onnx"], out=tmp_path / "kept", **QUICK)

        int8, fp32 = found.rows
        (alike,) = fp32.agreement["text-classification"]
        assert (alike.what, alike.same) == ("top answer", alike.of)
        (rough,) = int8.agreement["text-classification"]
        assert 0 < rough.same < rough.of
        assert rough.of - rough.same == _labels_that_differ(str(int8.bundle), str(fp32.bundle))
        (pair,) = found.pairs  # float32 gives the model's labels, so int8 differs from it as often as from the model
        assert pair.agreement["text-classification"][0].same == rough.same


def _between_two(weights: dict[str, np.ndarray]) -> None:
    """One layer finds every golden text about technology, by 0.24 before travel; without that lead, half of them."""
    weights["classifier.bias"][2] -= 0.241


def _labels_that_differ(*bundles: str) -> int:
    """Counted by hand: golden samples that `predict` gives another label in one than in the other."""
    said = []
    for bundle in bundles:
        items = json.loads((Path(bundle) / "golden" / "inputs.json").read_text())
        with load(bundle, allow_failed=True) as model:
            said.append([model.predict(item["input"], **item["options"])[0]["label"] for item in items])
    return sum(one != other for one, other in zip(*said, strict=True))


class TestWhichShips:
    def test_it_is_what_convert_ships(self, found: Compared, tiny: Path, device: str, tmp_path: Path) -> None:
        bundle = satchel.convert(tiny, device=device, out=tmp_path / "m.satchel", prefer="size")

        target = open_bundle(bundle).manifest.target
        assert found.ships is not None
        assert (found.ships.format, found.ships.scheme) == (target.format, target.scheme)
        assert found.summary == "onnx int8-dynamic ships: the first in the order of board that passes every gate."

    def test_a_refused_candidate_is_shown_and_not_chosen(
        self, tiny: Path, device: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        turn = np.linspace(-1, 1, 32, dtype=np.float32)
        damage(monkeypatch, lambda model: append_node(model, "Mul", turn), schemes=["int8-dynamic"])

        found = satchel.compare(tiny, device=device, formats=["onnx"], out=tmp_path / "kept", **QUICK)

        bad, good = found.rows
        assert (bad.status, bad.gate, bad.exit_code) == ("refused", "parity", 10)
        assert (good.status, found.ships) == ("ships", good)
        assert found.reasons == (f"onnx int8-dynamic: refused by parity: {bad.why}",)
        plain = bad.to_plain()  # what was measured of it stays
        assert plain["latency_ms"] and plain["load_s"] and plain["peak_rss_bytes"]
        assert not plain["parity"]["sentence-embedding"]["passed"]
        assert not found.pairs[0].parity["sentence-embedding"].passed
        kept = {each.name for each in (tmp_path / "kept").iterdir()}
        assert kept == {"tiny-onnx-int8-dynamic.satchel", "tiny-onnx-fp32.satchel"}
        with pytest.raises(IntegrityError):
            load(str(bad.bundle))
        with load(str(good.bundle)) as model:
            assert model.predict("Where is my order?").shape == (32,)

    def test_where_all_are_refused_the_error_is_that_of_convert(
        self, tiny: Path, device: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        damage(monkeypatch, lambda model: append_node(model, "Mul", np.linspace(-1, 1, 32, dtype=np.float32)))

        found = satchel.compare(tiny, device=device, formats=["onnx"], **QUICK)
        with pytest.raises(ParityError) as caught:
            satchel.convert(tiny, device=device, format="onnx", out=tmp_path / "m.satchel", prefer="size")

        assert found.ships is None and found.exit_code == 10
        assert str(found.error) == str(caught.value)
        assert found.summary.startswith(
            "Nothing ships for board: tiny in onnx int8-dynamic for board: refused by parity."
        )

    def test_an_export_that_fails_is_tried_once_and_the_next_format_ships(
        self, tiny: Path, device: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        whole, tried = satchel.attempt.stage_for, []

        def stage_for(job: Any, *rest: Any, **options: Any) -> Any:  # Any: as the function it stands for
            tried.append(job.plan.format)
            if job.plan.format == "onnx":
                raise SupportError("Cannot export.", why="an operator is not known", fix="another format")
            return whole(job, *rest, **options)

        monkeypatch.setattr(satchel.attempt, "stage_for", stage_for)

        found = satchel.compare(tiny, device=device, **QUICK)
        bundle = satchel.convert(tiny, device=device, out=tmp_path / "m.satchel", prefer="size")

        assert [row.status for row in found.rows] == ["cannot be made"] * 2 + ["ships", "passes"]
        assert (found.rows[0].exit_code, found.rows[0].size_bytes) == (14, None)
        assert tried.count("onnx") == 2, "once by compare, once by convert"
        assert open_bundle(bundle).manifest.target.format == "tflite"

    def test_a_scheme_that_a_format_lacks_has_a_row_with_its_reason(self, tiny: Path, device: str) -> None:
        found = satchel.compare(tiny, device=device, formats=["onnx"], schemes=["fp32-export", "fp32"], **QUICK)

        fp32, export = found.rows  # what the device prefers comes first, whatever the order of the option
        assert (export.label, export.status, export.exit_code) == ("onnx fp32-export", "cannot be made", 14)
        assert "int8-dynamic" in export.why
        assert found.ships is fp32
        assert "of these, the first" in found.summary


class TestToolchains:
    @pytest.fixture
    def absent(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A machine without the packages of TFLite."""
        whole = tflite_format.FORMAT
        monkeypatch.setattr(tflite_format, "FORMAT", dataclasses.replace(whole, packages=("no_such_package",)))

    def test_a_missing_one_is_a_row_and_a_note(self, tiny: Path, device: str, absent: None) -> None:
        found = satchel.compare(tiny, device=device, schemes=["fp32"], **QUICK)

        onnx, tflite = found.rows
        assert (onnx.status, tflite.status) == ("ships", "toolchain missing")
        assert (
            "pip install 'satchel[convert-tflite]'" in tflite.fix and "satchel toolchain install tflite" in tflite.fix
        )
        assert any(note.startswith("tflite was not compared") and tflite.fix in note for note in found.notes)

    def test_it_is_an_error_before_the_long_work_where_the_format_was_named(
        self, tiny: Path, device: str, absent: None
    ) -> None:
        stages: list[str] = []

        with pytest.raises(ToolchainError) as caught:
            satchel.compare(
                tiny, device=device, formats=["onnx", "tflite"], progress=lambda news: stages.append(news.stage)
            )

        assert caught.value.exit_code == 15
        assert stages == ["source"]

    def test_nothing_ships_past_one_that_the_device_prefers(
        self, tiny: Path, device: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        whole = onnx_format.FORMAT
        monkeypatch.setattr(onnx_format, "FORMAT", dataclasses.replace(whole, packages=("no_such_package",)))

        found = satchel.compare(tiny, device=device, schemes=["fp32"], **QUICK)
        with pytest.raises(ToolchainError) as caught:
            satchel.convert(tiny, device=device, quantize="fp32", out=tmp_path / "m.satchel", prefer="size")

        assert [row.status for row in found.rows] == ["toolchain missing", "passes"]
        assert found.exit_code == 15 and str(found.error) == str(caught.value)
        assert "tflite fp32 passes every gate; --format tflite --quantize fp32 ships it." in found.notes


def test_what_passes_too_and_is_surely_faster_is_named_with_the_way_to_it(
    found: Compared, tiny: Path, device: str
) -> None:
    seconds = {"onnx int8-dynamic": 0.004, "onnx fp32": 0.0039, "tflite int8-dynamic": 0.002, "tflite fp32": 0.001}
    rows = [
        dataclasses.replace(row, run=dataclasses.replace(row.run, samples={64: np.full(20, seconds[row.label])}))
        for row in found.rows
        if row.run is not None
    ]
    sizes = [row.size_bytes or 0 for row in rows]
    larger = [f"{abs(each - sizes[0]) / 2**20:.1f} MiB {'larger' if each > sizes[0] else 'smaller'}" for each in sizes]

    notes = notes_on(prepare(Options(str(tiny), device, replace=True)), rows, (), rows[0], absolute=True)

    beside = "as fast as onnx int8-dynamic at 64 tokens and"
    assert notes[:2] == (
        f"tflite int8-dynamic is 2.0 × {beside} {larger[2]}; --format tflite ships it.",
        f"tflite fp32 is 4.0 × {beside} {larger[3]}; --format tflite --quantize fp32 ships it.",
    )
    assert not any("onnx fp32" in note for note in notes), "a fortieth faster is not worth a word"


@pytest.mark.parametrize(
    ("refusals", "code"),
    [
        ([ParityError, None, SupportError], 0),
        ([ParityError, LatencyError], 10),
        ([SupportError, ParityError], 14),
        ([ParityError, ToolchainError, None], 15),
        ([None, ToolchainError], 0),
        ([SatchelError, None], 1),
    ],
)
def test_the_rule_by_which_one_is_chosen(refusals: list[type[SatchelError] | None], code: int) -> None:
    asked: list[int] = []

    def outcomes() -> Iterator[Outcome]:
        for place, kind in enumerate(refusals):
            asked.append(place)
            yield Outcome("onnx", str(place), (), kind("no", why="so", fix="not") if kind else None)

    choice = choose(outcomes())

    assert (choice.error.exit_code if choice.error else 0) == code
    assert (choice.chosen is None) == bool(code)
    if choice.chosen is not None:
        assert asked == list(range(int(choice.chosen.scheme) + 1)), "nothing is made after what ships"


class TestAgreement:
    LIMITS = CLASSES["int8"]

    @pytest.mark.parametrize(
        ("kind", "theirs", "ours", "expected"),
        [
            (DISTRIBUTION, [[0.6, 0.4], [0.1, 0.9]], [[0.45, 0.55], [0.2, 0.8]], Agreement("top answer", 1, 2)),
            (INDEPENDENT, [[0.9, 0.4], [0.1, 0.9]], [[0.8, 0.6], [0.2, 0.8]], Agreement("labels", 1, 2)),
            (NUMBER, [[1.0], [5.0]], [[1.1], [3.0]], Agreement("number within its class", 1, 2)),
        ],
    )
    def test_by_the_kind_of_answer(
        self, kind: str, theirs: list[list[float]], ours: list[list[float]], expected: Agreement
    ) -> None:
        reference = [{"0/judged/x": record(kind, np.array(each))} for each in theirs]
        answers = [{"0/judged/x": np.array(each)} for each in ours]

        assert agreement(reference, answers, self.LIMITS) == (expected,)

    def test_embeddings_by_their_nearest_neighbour_and_not_by_rounding(self) -> None:
        vectors = np.array([[1.0, 0.0], [0.99, 0.1], [0.0, 1.0], [0.1, 0.99], [0.1, 0.99]])
        reference = [{"0/judged/x": record(VECTOR, each)} for each in vectors]
        moved = vectors.copy()
        moved[1] = [0.0, 1.0]  # now next to the third

        same = agreement(reference, [{"0/judged/x": each} for each in vectors], self.LIMITS)
        other = agreement(reference, [{"0/judged/x": each} for each in moved], self.LIMITS)

        assert same[0] == Agreement("nearest neighbour", 5, 5)
        assert other[0].same < 5 and other[1] == Agreement("cosine at least 0.975", 4, 5)

    def test_another_shape_is_another_answer(self) -> None:
        reference = [{"0/judged/x": record(DISTRIBUTION, np.array([0.6, 0.4]))}]

        assert agreement(reference, [{"0/judged/x": np.ones(3)}], self.LIMITS) == (Agreement("top answer", 0, 1),)


ROW_KEYS = (
    "format scheme status gate why fix exit_code bundle max_tokens size_bytes load_s cold_start shape latency_ms "
    "against_fp32 against_first throughput peak_rss_bytes parity parity_in_batches agreement engine threads versions verdicts"
)
KEYS = (
    "satchel_compare when model device tasks ships summary reasons notes exit_code error rows pairs least_like seconds "
    "machine"
)


def test_the_json_has_these_keys_and_only_numbers_that_json_knows(found: Compared) -> None:
    plain = json.loads(json.dumps(found.to_plain(), allow_nan=False))

    assert " ".join(plain) == KEYS
    assert plain["satchel_compare"] == 1
    assert plain["ships"] == {"format": "onnx", "scheme": "int8-dynamic"}
    assert {" ".join(row) for row in plain["rows"]} == {ROW_KEYS}
    assert set(plain["pairs"][0]) == {"one", "other", "numbers", "parity", "agreement", "left_out"}
    assert set(plain["least_like"]) == {f"{row['format']} {row['scheme']}" for row in plain["rows"]}
    assert set(plain["rows"][1]["against_first"]["16"]) == {"value", "low", "high", "why"}


class _Page(HTMLParser):
    """What a browser would make of it: elements with their attributes, and the text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


class TestPage:
    def test_it_shows_every_row_and_why(self, found: Compared) -> None:
        page = _Page(page_of(found.to_plain()))

        for row in found.rows:
            assert row.label in page.text
        assert found.summary in page.text
        assert all(note in page.text for note in found.notes)
        tags = [tag for tag, _ in page.elements]
        assert tags.count("svg") == 3
        assert tags.count("tr") == 1 + 4 + 1 + 4  # the rows and the matrix, each with a head

    def test_it_needs_nothing_from_elsewhere_and_runs_nothing(self, found: Compared) -> None:
        text = page_of(found.to_plain())
        page = _Page(text)

        assert re.findall(r"https?:|//[a-z]|url\((?!#)|@import", text) == []
        assert not {tag for tag, _ in page.elements} & {"script", "link", "img", "iframe", "object", "embed"}
        for _, attributes in page.elements:
            assert not [name for name in attributes if name.startswith("on") or name == "src"]
            assert str(attributes.get("xlink:href") or attributes.get("href") or "#").startswith("#")
        assert len(text) < 300_000

    def test_a_name_is_text_whatever_it_says(self, found: Compared) -> None:
        evil = "<script>alert(1)</script>\"'&"
        plain = json.loads(json.dumps(found.to_plain()).replace('"tiny"', json.dumps(evil)))
        plain["rows"][0].update(status="refused", gate="parity", why=evil, fix=evil)
        plain["summary"] = plain["device"] = plain["machine"]["processor"] = evil
        plain["notes"] = plain["reasons"] = [evil]

        page = _Page(page_of(plain))

        assert "script" not in {tag for tag, _ in page.elements}
        assert page.text.count(evil) >= 8

    def test_where_nothing_could_be_measured_there_is_still_a_page(self, found: Compared) -> None:
        bare = dataclasses.replace(
            found, rows=tuple(type(row)(row.format, row.scheme, "cannot be made") for row in found.rows), pairs=()
        )

        page = _Page(page_of(bare.to_plain()))

        assert "svg" not in {tag for tag, _ in page.elements}
        assert page.text.count("cannot be made") == 4


class TestCommand:
    def test_a_table_a_page_and_the_exit_code(self, tiny: Path, device: str, tmp_path: Path) -> None:
        page = tmp_path / "page.html"
        options = ["--device", device, "--formats", "onnx", "--schemes", "fp32", "--seconds", "0.05"]

        done = run("compare", tiny, *options, "--lengths", "16", "--cold-starts", "1", "--html", page, cwd=tmp_path)

        assert done.returncode == 0, done.stderr
        assert "onnx fp32 ships" in done.stdout and "ms at 16" in done.stdout
        assert "bench: latency at 16 tokens" in done.stderr
        assert page.read_text("utf-8").startswith("<!doctype html>")
        assert [each.name for each in tmp_path.iterdir()] == ["page.html"], "no bundle is left behind"

    @pytest.mark.parametrize(
        ("options", "kind", "words"),
        [
            ({"formats": ["onxn"]}, UsageError, "did you mean 'onnx'?"),
            ({"schemes": ["int8-dynamc"]}, UsageError, "did you mean 'int8-dynamic'?"),
            ({"device": "browser-mobile", "formats": ["tflite"]}, SupportError, "the device runs onnx"),
            ({"device": "raspberry"}, UsageError, "did you mean raspberry-pi"),
            ({"lengths": ()}, UsageError, "Cannot measure nothing"),
            ({"seconds": 0}, UsageError, "Cannot measure nothing"),
            ({"prefer": "beauty"}, UsageError, "latency, size"),
            ({"threads": 0}, UsageError, "not above zero"),
        ],
    )
    def test_what_cannot_be_asked_for(
        self, tiny: Path, device: str, options: dict[str, Any], kind: type[SatchelError], words: str
    ) -> None:
        with pytest.raises(kind) as caught:
            satchel.compare(tiny, **{"device": device, **options})

        assert words in str(caught.value)

    def test_a_bundle_that_lies_there_is_not_overwritten(self, tiny: Path, device: str, tmp_path: Path) -> None:
        (tmp_path / "tiny-onnx-fp32.satchel").mkdir()

        with pytest.raises(UsageError, match="it exists already"):
            satchel.compare(tiny, device=device, formats=["onnx"], schemes=["fp32"], out=tmp_path, **QUICK)

    @pytest.mark.parametrize("stage", ["verify", "bench"])
    def test_ctrl_c_leaves_nothing(
        self, tiny: Path, device: str, tmp_path: Path, stage: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        scratch, out = tmp_path / "scratch", tmp_path / "out"
        scratch.mkdir()
        monkeypatch.setattr(tempfile, "tempdir", str(scratch))

        def interrupt(news: satchel.Progress) -> None:
            if news.stage == stage:
                raise KeyboardInterrupt

        for kept in (None, out):
            with pytest.raises(Cancelled) as caught:
                satchel.compare(
                    tiny, device=device, formats=["onnx"], schemes=["fp32"], out=kept, progress=interrupt, **QUICK
                )
            assert caught.value.exit_code == 130

        assert list(scratch.iterdir()) == []
        assert list(out.iterdir()) == []

    def test_a_page_that_cannot_be_written_is_told_before_the_work(
        self, tiny: Path, device: str, tmp_path: Path
    ) -> None:
        done = run("compare", tiny, "--device", device, "--html", tmp_path / "no" / "page.html")

        assert done.returncode == 2
        assert "is not a folder" in done.stderr and "source:" not in done.stderr
