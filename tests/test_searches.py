"""Searches that left transformers: diverse beams and contrastive search write what 4.55 wrote (recorded), and what their papers say."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from tests.recorded_searches import RECORD, build

import satchel
from satchel_runtimes import Predictor, load
from satchel_runtimes.errors import ParityError, UsageError
from satchel_runtimes.generation import GenerationConfig, Prompt, generate
from satchel_runtimes.sessions import Session
from satchel_runtimes.tasks.task import log_softmax

CONTEXT = 192


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("searches") / "model"
    build(made)
    return made


@pytest.fixture(scope="module")
def opened(folder: Path) -> Predictor:
    options = {"device": "generic-x86-64", "format": "onnx", "quantize": "fp32", "prefer": "size"}
    return load(satchel.convert(folder, out=folder.with_suffix(".satchel"), **options), threads=1)


@pytest.fixture(scope="module")
def graph(opened: Predictor) -> Session:
    return opened.graphs["model"]


def written(graph: Session, prompt: list[int], options: Mapping[str, Any]) -> list[list[int]]:
    config = GenerationConfig().changed(options)
    (texts,) = generate(graph, [Prompt(prompt, CONTEXT)], config)
    return [list(itertools.takewhile(lambda token: token not in config.eos_token_id, each)) for each in texts]


def test_the_record_is_of_this_model(folder: Path) -> None:
    model = transformers.AutoModelForCausalLM.from_pretrained(folder)

    found = {name: model.get_parameter(name).double().norm().item() for name in RECORD["model"]["norms"]}
    with torch.inference_mode():
        logits = model(torch.tensor([RECORD["cases"][0]["prompt"]])).logits[0, -1].tolist()

    assert found == pytest.approx(RECORD["model"]["norms"], rel=1e-6)
    assert logits[: len(RECORD["model"]["logits"])] == pytest.approx(RECORD["model"]["logits"], abs=1e-4)


@pytest.mark.parametrize("search", ["num_beam_groups", "penalty_alpha"])
def test_texts_are_those_of_the_last_transformers_that_searched_so(graph: Session, search: str) -> None:
    cases = [case for case in RECORD["cases"] if search in case["options"]]

    for case in cases:
        options = {**case["options"], "pad_token_id": RECORD["model"]["pad_token_id"]}
        assert written(graph, case["prompt"], options) == case["texts"], case["options"]

    assert len(cases) >= 18
    # Texts that ended before their length: without such the search's end is not seen.
    short = [text for case in cases for text in case["texts"] if len(text) < case["options"]["max_new_tokens"]]
    assert len(short) >= 3


def test_each_group_pays_for_what_the_groups_before_it_said(graph: Session, folder: Path) -> None:
    """The definition (Vijayakumar et al. 2016, algorithm 1) with groups of one beam, each token from the model itself."""
    model = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
    prompt, groups, penalty, steps = RECORD["cases"][0]["prompt"], 3, 2.0, 8
    texts: list[list[int]] = [list(prompt) for _ in range(groups)]
    sums = np.zeros(groups)
    for _ in range(steps):
        said: list[int] = []
        for group, text in enumerate(texts):
            with torch.inference_mode():
                scores = log_softmax(model(torch.tensor([text])).logits[0, -1].numpy())
            scores = scores - penalty * np.bincount(said, minlength=len(scores))
            token = int(scores.argmax())
            sums[group] += scores[token]
            said.append(token)
            text.append(token)

    options = {"num_beams": groups, "num_beam_groups": groups, "num_return_sequences": groups, "max_new_tokens": steps}
    found = written(graph, prompt, {**options, "diversity_penalty": penalty})

    assert found == [texts[group][len(prompt) :] for group in np.argsort(-sums)]
    assert len({tuple(each) for each in found}) == groups
    assert {text[0] for text in found} == {text[len(prompt)] for text in texts}  # no first token twice
    assert len({text[0] for text in found}) == groups


def test_a_text_that_completes_a_stop_string_is_finished_as_it_stands(opened: Predictor) -> None:
    asked = {"num_beams": 4, "num_beam_groups": 2, "diversity_penalty": 1.0, "num_return_sequences": 4}
    options = {**asked, "max_new_tokens": 16, "return_full_text": False}
    stop = opened.predict("The small model", **options)[0]["generated_text"][6:8]

    found = [each["generated_text"] for each in opened.predict("The small model", stop_strings=[stop], **options)]

    ended = [each for each in found if stop in each]
    assert ended and len(found) == 4
    assert all(each.index(stop) >= len(each) - len(stop) - 8 for each in ended)  # no token came after it


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"num_beams": 4, "num_beam_groups": 3, "diversity_penalty": 1.0}, "shared out evenly"),
        ({"num_beams": 2, "num_beam_groups": 4, "diversity_penalty": 1.0}, "shared out evenly"),
        ({"num_beams": 4, "num_beam_groups": 2}, "above 0"),
        ({"num_beams": 4, "diversity_penalty": 1.0}, "several groups"),
        ({"num_beams": 4, "num_beam_groups": 2, "diversity_penalty": 1.0, "do_sample": True}, "not drawn"),
        ({"num_beams": 4, "num_beam_groups": 2, "diversity_penalty": -1}, "above 0"),
        (
            {"num_beams": 4, "num_beam_groups": 2, "diversity_penalty": 1.0, "num_return_sequences": 5},
            "4 beams give as many",
        ),
    ],
    ids=str,
)
def test_groups_that_mean_nothing(options: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        GenerationConfig().changed(options)


STRATEGIES = (
    {},
    {"do_sample": True, "seed": 0},
    {"num_beams": 2},
    {"num_beams": 2, "do_sample": True, "seed": 0},
    {"num_beams": 2, "num_beam_groups": 2, "diversity_penalty": 1.0},
    {"penalty_alpha": 0.6, "top_k": 3},
    {"prompt_lookup_num_tokens": 2},
)


@pytest.mark.parametrize("options", STRATEGIES, ids=str)
def test_a_graph_that_answers_no_numbers_is_an_error_in_every_strategy(
    graph: Session, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any]
) -> None:
    run = graph.run

    def broken(tensors: Any, state: Any = None) -> Any:
        found = run(tensors, state)
        if int(tensors["position_ids"].max()) > 5:
            found["logits"][..., 7] = np.nan
        return found

    monkeypatch.setattr(graph, "run", broken)

    with pytest.raises(ParityError, match="nan, which is no score"):
        written(graph, [0, 17, 230, 45], {"max_new_tokens": 12, **options})
    if not options:
        assert len(written(graph, [0, 17, 230, 45], {"max_new_tokens": 12, "remove_invalid_values": True})[0]) == 12


@pytest.mark.parametrize("options", STRATEGIES, ids=str)
def test_rules_that_leave_no_token_are_an_error_in_every_strategy(graph: Session, options: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="leave none"):
        written(graph, [0, 17], {"max_new_tokens": 4, "suppress_tokens": list(range(400)), **options})
