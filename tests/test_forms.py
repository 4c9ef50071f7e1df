"""What a text must be: whatever the model, it validates, or an error says why there is none."""

from __future__ import annotations

import json
import re
import sys
import threading
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
import torch
from benchmarks.matrix.row import tokenizer
from benchmarks.matrix.rows.generators import decoder
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

import satchel
from satchel.cli import cli
from satchel_runtimes import Predictor, load
from satchel_runtimes.errors import Cancelled, SatchelError, SupportError, ToolchainError, UsageError
from satchel_runtimes.generation import Tokens

PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 12},
        "age": {"type": "integer", "minimum": 0, "maximum": 120},
        "tags": {"type": "array", "items": {"enum": ["new", "late"]}, "maxItems": 2},
    },
    "required": ["name", "age", "tags"],
    "additionalProperties": False,
}
STRATEGIES: tuple[dict[str, Any], ...] = (
    {},
    {"do_sample": True, "temperature": 1.5, "seed": 1},
    {"num_beams": 3},
    {"num_beams": 2, "do_sample": True, "seed": 2},
    {"num_beams": 4, "num_beam_groups": 2, "diversity_penalty": 1.0},
    {"penalty_alpha": 0.6, "top_k": 4},
    {"prompt_lookup_num_tokens": 3},
    {"repetition_penalty": 1.3, "guidance_scale": 1.5},
)
LONG = {"max_new_tokens": 420, "return_full_text": False}


def converted(model: Path) -> Path:
    options = {"device": "generic-x86-64", "format": "onnx", "quantize": "fp32", "prefer": "size"}
    return satchel.convert(model, out=model.with_suffix(".satchel"), **options)


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Predictor:
    folder = tmp_path_factory.mktemp("forms")
    torch.manual_seed(0)
    # More scores than the tokenizer has tokens, as models have whose vocabulary was filled up to a round number.
    decoder("llama", folder / "model", max_position_embeddings=512, vocab_size=416)
    return load(converted(folder / "model"), threads=1)


def written(opened: Predictor, prompt: Any = "Where is", **options: Any) -> list[str]:
    return [each["generated_text"] for each in opened.predict(prompt, **{**LONG, **options})]


@pytest.mark.parametrize("options", STRATEGIES, ids=str)
def test_every_strategy_writes_what_the_schema_says(opened: Predictor, options: dict[str, Any]) -> None:
    (text,) = written(opened, json_schema=PERSON, **options)

    jsonschema.validate(json.loads(text), PERSON)
    assert text != written(opened, max_new_tokens=20, **options)[0]


_LEAVES = st.one_of(
    st.just({"type": "boolean"}),
    st.just({"type": "null"}),
    st.tuples(st.integers(-300, 300), st.integers(0, 500)).map(
        lambda both: {"type": "integer", "minimum": both[0], "maximum": both[0] + both[1]}
    ),
    st.integers(0, 4).map(lambda most: {"type": "string", "maxLength": most}),
    st.sampled_from(["[a-c]{1,3}", "x|yz?", "[0-9]{2}-[0-9]{2}"]).map(
        lambda pattern: {"type": "string", "pattern": f"^({pattern})$"}
    ),
    st.lists(
        st.one_of(st.integers(-9, 9), st.text(max_size=4), st.booleans(), st.none()),
        min_size=1,
        max_size=3,
        unique_by=json.dumps,
    ).map(lambda values: {"enum": values}),
    st.text(alphabet='é"\\日👩\n a', max_size=3).map(lambda value: {"const": value}),
)


def _objects(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    names = st.text(alphabet='ab"é日 ', min_size=1, max_size=3)
    return st.dictionaries(names, inner, max_size=2).flatmap(
        lambda properties: st.sets(st.sampled_from(sorted(properties)) if properties else st.nothing()).map(
            lambda required: {
                "type": "object",
                "properties": properties,
                "required": sorted(required),
                "additionalProperties": False,
            }
        )
    )


SCHEMAS = st.recursive(
    _LEAVES,
    lambda inner: st.one_of(
        _objects(inner),
        inner.map(lambda each: {"type": "array", "items": each, "maxItems": 2}),
        st.lists(inner, min_size=1, max_size=2).map(lambda each: {"anyOf": each}),
    ),
    max_leaves=4,
)


@settings(max_examples=40, deadline=None)
@given(schema=SCHEMAS, strategy=st.sampled_from(STRATEGIES[:3]), seed=st.integers(0, 99))
def test_a_text_of_any_small_schema_validates(
    opened: Predictor, schema: dict[str, Any], strategy: dict[str, Any], seed: int
) -> None:
    try:
        texts = written(opened, json_schema=schema, **{**strategy, "seed": seed})
    except SatchelError as error:
        assert "Unsatisfiable" in error.why  # nothing else may be refused
        return

    for text in texts:
        jsonschema.validate(json.loads(text), schema)


def test_an_assistant_guesses_within_the_form(opened: Predictor) -> None:
    alone = written(opened, json_schema=PERSON)

    assert written(opened, json_schema=PERSON, assistant_model=opened) == alone


def test_an_expression_and_a_grammar_are_followed_to_their_end(opened: Predictor) -> None:
    (date,) = written(opened, regex=r"20[0-9]{2}-(0[1-9]|1[0-2])")
    (sum_,) = written(opened, grammar='start: NUMBER ("+" NUMBER){1,3} "="\nNUMBER: /[0-9]{1,2}/')

    assert re.fullmatch(r"20[0-9]{2}-(0[1-9]|1[0-2])", date)
    assert re.fullmatch(r"[0-9]{1,2}(\+[0-9]{1,2}){1,3}=", sum_)


def test_texts_side_by_side_are_each_held_by_themselves(opened: Predictor) -> None:
    prompts = ["A", "The small model answers quickly and keeps", "Where is the order"]

    together = opened.predict(prompts, json_schema=PERSON, **LONG)

    assert together == [opened.predict(each, json_schema=PERSON, **LONG) for each in prompts]
    assert len({each[0]["generated_text"] for each in together}) > 1


def test_beams_give_no_more_texts_than_there_are(opened: Predictor) -> None:
    for options in ({}, {"num_beam_groups": 2, "diversity_penalty": 1.0}):
        found = written(opened, regex="yes|no", num_beams=4, num_return_sequences=4, **options)

        assert set(found) == {"yes", "no"}, options


def test_samples_of_one_prompt_differ_and_all_validate(opened: Predictor) -> None:
    found = written(opened, json_schema=PERSON, do_sample=True, temperature=2.0, num_return_sequences=4, seed=3)

    assert len(set(found)) == 4
    for text in found:
        jsonschema.validate(json.loads(text), PERSON)


def test_what_must_follow_costs_no_call(opened: Predictor, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    session = opened.graphs["model"]
    run = session.run
    monkeypatch.setattr(session, "run", lambda *given: calls.append(1) or run(*given))

    (text,) = written(opened, regex="The answer to your question is: (a|b)")

    tokens = opened.open_task("text-generation").tokenizer.encode(text, add_special_tokens=False).ids  # type: ignore[attr-defined]  # a TextTask
    assert len(tokens) > 12 and len(calls) <= 5


def test_a_stream_gives_the_same_text_and_says_where_it_is_not_whole(opened: Predictor) -> None:
    (text,) = written(opened, json_schema=PERSON)
    pieces: list[str] = []

    assert "".join(opened.stream("Where is", json_schema=PERSON, max_new_tokens=420)) == text
    with pytest.raises(UsageError, match="no whole text of the JSON schema"):
        pieces.extend(opened.stream("Where is", json_schema=PERSON, max_new_tokens=6))
    assert pieces and text.startswith("".join(pieces))


@pytest.mark.parametrize(
    ("options", "kind", "words"),
    [
        ({"json_schema": {"type": "strin"}}, UsageError, "Invalid type: strin"),
        ({"json_schema": {"not": {"type": "string"}}}, UsageError, r"Unimplemented keys: \[\"not\"\]"),
        ({"json_schema": {"$ref": "#/nowhere"}}, UsageError, "does not exist"),
        ({"json_schema": {"allOf": [{"type": "string"}, {"type": "null"}]}}, UsageError, "Unsatisfiable"),
        ({"json_schema": '{"type": '}, UsageError, "it is no JSON"),
        ({"json_schema": 3}, UsageError, "it is a int"),
        ({"json_schema": {"const": {1, 2}}}, UsageError, "not JSON serializable"),
        ({"json_schema": False}, UsageError, "schema is false"),
        ({"regex": "[a-"}, UsageError, "unclosed character class"),
        ({"regex": "a(?=b)"}, UsageError, "look-around"),
        ({"regex": 5}, UsageError, "it is a int"),
        ({"grammar": "start: word"}, UsageError, 'unknown name: "word"'),
        ({"grammar": 'x: "a"'}, UsageError, "no start rule"),
        ({"json_schema": PERSON, "regex": "a"}, UsageError, "regex was given too"),
        ({"json_schema": PERSON, "max_new_tokens": 4}, UsageError, "ended after 4 tokens"),
        ({"json_schema": PERSON, "stop_strings": ['"age"']}, UsageError, "a stop string ends it as well"),
        ({"regex": "yes", "min_new_tokens": 30}, UsageError, "leave none"),
        ({"regex": "yes", "eos_token_id": []}, UsageError, "no token ends a text"),
        ({"regex": "(a|b){10,90}c", "num_beams": 2, "max_new_tokens": 5}, UsageError, "no whole text"),
    ],
    ids=str,
)
def test_what_cannot_be_held_to_says_why(
    opened: Predictor, options: dict[str, Any], kind: type[SatchelError], words: str
) -> None:
    with pytest.raises(kind, match=words) as found:
        written(opened, **options)

    assert found.value.fix


def test_a_cancelled_text_of_a_form_is_not_given_as_if_it_were_whole(opened: Predictor) -> None:
    event = threading.Event()
    pieces: list[str] = []

    def stop_after_three(piece: str, number: int) -> None:
        pieces.append(piece)
        if len(pieces) == 3:
            event.set()

    with pytest.raises(Cancelled, match="not whole"):
        written(opened, json_schema=PERSON, cancel=event, callback=stop_after_three)
    assert len(pieces) == 4  # the one that was being made


def test_the_missing_library_is_named_with_its_extra(opened: Predictor, monkeypatch: pytest.MonkeyPatch) -> None:
    task: Any = opened.open_task("text-generation")
    monkeypatch.setattr(task, "_readers", {})
    monkeypatch.setitem(sys.modules, "llguidance", None)

    with pytest.raises(ToolchainError, match=r"satchel-runtimes\[structured\]"):
        written(opened, regex="yes")


def test_a_library_that_is_too_old_says_which_is_wanted(opened: Predictor, monkeypatch: pytest.MonkeyPatch) -> None:
    task: Any = opened.open_task("text-generation")
    monkeypatch.setattr(task, "_readers", {})
    monkeypatch.setattr("satchel_runtimes.generation.form.version", lambda name: "1.6.1")

    with pytest.raises(ToolchainError, match=r"llguidance >=1\.7"):
        written(opened, regex="yes")


def test_a_tokenizer_that_is_not_understood_is_refused() -> None:
    with pytest.raises(SupportError, match="does not understand its tokenizer"):
        Tokens(tokenizer("unigram").backend_tokenizer, (2,))


def test_the_caller_may_say_which_tokens_may_come(opened: Predictor) -> None:
    asked: list[tuple[int, int]] = []

    def allowed(number: int, ids: np.ndarray) -> list[int]:
        asked.append((number, len(ids)))
        return [300 + number, 310 + number] if len(ids) % 2 else [320 + number]

    opened.predict(["A", "The small model"], prefix_allowed_tokens_fn=allowed, max_new_tokens=5)
    task: Any = opened.open_task("text-generation")
    (text,) = written(opened, prefix_allowed_tokens_fn=lambda number, ids: [72], max_new_tokens=3)

    assert {number for number, _ in asked} == {0, 1} and len(asked) == 10
    assert text == task.tokenizer.decode([72, 72, 72])


class TestCommands:
    def test_predict_and_chat_read_a_schema_from_a_file(self, opened: Predictor, tmp_path: Path) -> None:
        path = str(opened.bundle.path)
        schema = tmp_path / "person.json"
        schema.write_text(json.dumps(PERSON))
        long = ["--json-schema", str(schema)]

        asked = CliRunner().invoke(cli, ["predict", path, "Who?", *long, "--option", "max_new_tokens=400", "--json"])
        said = CliRunner().invoke(cli, ["chat", path, *long, "--max-new-tokens", "400"], input="Who?\n")

        assert asked.exit_code == said.exit_code == 0, asked.output + said.output
        jsonschema.validate(json.loads(json.loads(asked.stdout)[0]["generated_text"].removeprefix("Who?")), PERSON)
        jsonschema.validate(json.loads(said.stdout), PERSON)

    @pytest.mark.parametrize(
        ("text", "words"), [(None, "Cannot read"), ("{", "it is no JSON"), ('{"type": "strin"}', "Invalid type")]
    )
    def test_a_file_that_holds_no_schema_is_an_error(
        self, opened: Predictor, tmp_path: Path, text: str | None, words: str
    ) -> None:
        schema = tmp_path / "person.json"
        if text is not None:
            schema.write_text(text)

        for command in (["predict", str(opened.bundle.path), "Who?"], ["chat", str(opened.bundle.path)]):
            found = CliRunner().invoke(cli, [*command, "--json-schema", str(schema)], input="Who?\n")

            assert found.exit_code == 2 or isinstance(found.exception, UsageError)
            assert words in found.output + str(found.exception)
