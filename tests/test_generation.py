"""Text from a bundle: every strategy gives the tokens that transformers gives, streams give the same text in pieces."""

from __future__ import annotations

import dataclasses
import json
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
import torch
import transformers
from benchmarks.matrix.rows.generators import DECODERS, decoder
from click.testing import CliRunner
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import satchel
from satchel.cli import cli
from satchel_converters import neuron
from satchel_converters.capture import capture, load_model
from satchel_converters.onnx_export import export_component
from satchel_converters.source import find_source
from satchel_runtimes import Predictor, load
from satchel_runtimes.chat import Template
from satchel_runtimes.errors import IntegrityError, ParityError, SupportError, UsageError
from satchel_runtimes.generation import GenerationConfig, Prompt, generate
from satchel_runtimes.generation.assisted import _confirmed
from satchel_runtimes.generation.config import _ABSENT
from satchel_runtimes.generation.scores import apply, rules_of
from satchel_runtimes.manifest import TensorSpec
from satchel_runtimes.sessions.cache import Cache
from satchel_runtimes.tasks.generative import Pieces
from satchel_runtimes.tasks.text import SPACES_TO_CLEAN

QUICK = ("gemma3_text", "gpt2", "llama", "mistral", "opt")  # norms, windows, positions, groups of heads
PLAIN = ("bloom", "gpt_oss", "mpt")  # biases and sinks that the fused attention of older engines does not take
PROMPTS = ("Where is the order", "The small model answers quickly and keeps", "A")
CONVERSATION = [{"role": "system", "content": "Be short."}, {"role": "user", "content": "Where is my order?"}]


# Joined emoji, marks that stand on the letter before, letters of several bytes, ends of lines: whatever splits badly.
HOSTILE = st.lists(
    st.one_of(
        st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\ufffd"), max_size=6),
        st.sampled_from(["👩‍👩‍👧‍👦", "🏳️‍🌈", "電車は", "e\u0301\u0302", "\u202bعربى", "\n\n", " a", "the order "]),
    ),
    max_size=12,
).map("".join)


class Reader:
    """As much of a task as turns tokens into text."""

    def __init__(self, kind: str) -> None:
        self.cleans = kind == "wordpiece"
        if kind == "byte-fallback":  # as of Llama 2 and Gemma: what is no word is its bytes
            words = ["▁", "▁a", "▁the", "e", "r", *(f"<0x{byte:02X}>" for byte in range(256))]
            vocabulary = {word: number for number, word in enumerate(["<unk>", *words])}
            self.tokenizer = tokenizers.Tokenizer(
                tokenizers.models.BPE(vocabulary, [], byte_fallback=True, unk_token="<unk>", fuse_unk=True)
            )
            self.tokenizer.normalizer = tokenizers.normalizers.Replace(" ", "▁")
            parts = (tokenizers.decoders.Replace("▁", " "), tokenizers.decoders.ByteFallback())
            self.tokenizer.decoder = tokenizers.decoders.Sequence([*parts, tokenizers.decoders.Fuse()])
        elif kind == "byte-level":
            alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
            self.tokenizer = tokenizers.Tokenizer(
                tokenizers.models.BPE({each: number for number, each in enumerate(alphabet)}, [])
            )
            self.tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
            self.tokenizer.decoder = tokenizers.decoders.ByteLevel()
        else:
            words = ["I", "do", "n't", "say", "'", "yes", ",", "but", "it", "'s", "late", "."]
            self.tokenizer = tokenizers.Tokenizer(
                tokenizers.models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="I")
            )
            self.tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()

    def decoded(self, ids: Sequence[int], *, skip: bool) -> str:
        text = str(self.tokenizer.decode(list(ids), skip_special_tokens=skip))
        for each in SPACES_TO_CLEAN if self.cleans else ():
            text = text.replace(each, each.strip())
        return text


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("writers")
    torch.manual_seed(0)
    decoder("llama", made / "model", max_position_embeddings=192)
    decoder("llama", made / "assistant", seed=1, num_hidden_layers=1, max_position_embeddings=192)
    return made


def converted(model: Path, **options: Any) -> Path:
    out = model.with_suffix(".satchel")
    return satchel.convert(model, device="generic-x86-64", quantize="fp32", prefer="size", out=out, **options)


@pytest.fixture(scope="module")
def opened(folder: Path) -> Predictor:
    return load(converted(folder / "model"), threads=1)


@pytest.fixture(scope="module")
def assistant(folder: Path) -> Predictor:
    return load(converted(folder / "assistant"), threads=1)


@pytest.fixture(scope="module")
def model(folder: Path) -> Any:
    return transformers.AutoModelForCausalLM.from_pretrained(folder / "model").eval()


@pytest.fixture(scope="module")
def reader(folder: Path) -> Any:
    return transformers.AutoTokenizer.from_pretrained(folder / "model")


def expected(model: Any, reader: Any, prompt: str, **options: Any) -> list[str]:
    ids = reader(prompt, return_tensors="pt")
    with torch.inference_mode():
        found = model.generate(**ids, **options)
    return [reader.decode(each[ids["input_ids"].shape[1] :], skip_special_tokens=True) for each in found]


def written(opened: Predictor, prompt: Any, **options: Any) -> list[Any]:
    return [each["generated_text"] for each in opened.predict(prompt, return_full_text=False, **options)]


class TestStrategies:
    @pytest.mark.parametrize(
        "options",
        [
            {"max_new_tokens": 40},
            {"max_length": 24},
            {"max_new_tokens": 30, "repetition_penalty": 1.3, "no_repeat_ngram_size": 2},
            {"max_new_tokens": 12, "min_new_tokens": 10, "suppress_tokens": [5, 9], "forced_eos_token_id": 2},
            {"max_new_tokens": 12, "bad_words_ids": [[300], [301, 302]], "begin_suppress_tokens": [40, 41]},
            {"max_new_tokens": 12, "sequence_bias": [[[300], 5.0], [[301, 302], -2.0]]},
            {"max_new_tokens": 20, "exponential_decay_length_penalty": (5, 1.5)},
            {"max_new_tokens": 15, "num_beams": 3},
            {"max_new_tokens": 15, "num_beams": 4, "num_return_sequences": 3, "length_penalty": 0.4},
            {"max_new_tokens": 15, "num_beams": 4, "early_stopping": True, "no_repeat_ngram_size": 2},
            {"max_new_tokens": 15, "num_beams": 4, "early_stopping": "never", "length_penalty": 2.0},
            {"max_new_tokens": 20, "prompt_lookup_num_tokens": 3},
            {"max_new_tokens": 20, "guidance_scale": 1.6},
            {"max_new_tokens": 20, "guidance_scale": 0.5, "repetition_penalty": 1.2},
        ],
        ids=str,
    )
    def test_tokens_are_those_of_transformers(
        self, opened: Predictor, model: Any, reader: Any, options: Mapping[str, Any]
    ) -> None:
        for prompt in PROMPTS:
            found = written(opened, prompt, do_sample=False, **options)

            assert found == expected(model, reader, prompt, do_sample=False, **options)
            assert any(found)

    def test_guidance_leads_away_from_another_beginning(self, opened: Predictor, model: Any, reader: Any) -> None:
        other = "The small model"
        options = {"max_new_tokens": 20, "guidance_scale": 1.8}
        theirs = {"negative_prompt_ids": reader(other, return_tensors="pt")["input_ids"], "do_sample": False}

        found = written(opened, PROMPTS[0], negative_prompt=other, **options)

        assert found == expected(model, reader, PROMPTS[0], **options, **theirs)
        assert found != written(opened, PROMPTS[0], **options) != written(opened, PROMPTS[0], max_new_tokens=20)
        assert found == written(opened, PROMPTS[0], negative_prompt=other, prompt_lookup_num_tokens=3, **options)
        with pytest.raises(UsageError, match="shorten negative_prompt"):
            opened.predict("A", guidance_scale=2.0, negative_prompt="word " * 180, max_new_tokens=20)

    def test_tokens_are_forced_where_a_file_of_transformers_4_says_so(self, opened: Predictor, reader: Any) -> None:
        count = len(reader(PROMPTS[0])["input_ids"])

        (found,) = written(opened, PROMPTS[0], max_new_tokens=3, forced_decoder_ids=[[count, 72], [count + 1, 73]])

        assert found.startswith(reader.decode([72, 73]))

    def test_texts_of_different_lengths_are_written_side_by_side_as_alone(self, opened: Predictor) -> None:
        options = {"max_new_tokens": 30, "return_full_text": False}

        together = opened.predict(list(PROMPTS), **options)

        assert together == [opened.predict(prompt, **options) for prompt in PROMPTS]

    def test_an_assistant_changes_the_calls_and_not_the_text(
        self, opened: Predictor, assistant: Predictor, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for prompt in PROMPTS:
            alone = written(opened, prompt, max_new_tokens=30)

            assert written(opened, prompt, max_new_tokens=30, assistant_model=assistant) == alone

        calls = []
        session = opened.graphs["model"]
        run = session.run
        monkeypatch.setattr(session, "run", lambda *given: calls.append(1) or run(*given))
        written(opened, PROMPTS[0], max_new_tokens=31, assistant_model=opened)
        assert len(calls) < 31 * 2 - 20  # of the guesses, all of which it confirms, and of itself

    def test_sampling_repeats_with_its_seed_and_takes_what_the_rules_leave(self, opened: Predictor) -> None:
        options = {"max_new_tokens": 25, "do_sample": True, "temperature": 1.5}
        first, again, other = (written(opened, PROMPTS[0], seed=seed, **options) for seed in (3, 3, 4))

        assert first == again != other
        greedy = written(opened, PROMPTS[0], max_new_tokens=25)
        assert written(opened, PROMPTS[0], max_new_tokens=25, do_sample=True, top_k=1) == greedy
        assert len(set(written(opened, PROMPTS[0], num_return_sequences=4, seed=1, **options))) == 4

    def test_guesses_that_are_drawn_leave_the_chances_as_they_are(self) -> None:
        random = np.random.default_rng(0)
        own, theirs = np.array([0.5, 0.3, 0.15, 0.05]), np.array([0.1, 0.2, 0.3, 0.4])
        logits = np.log(np.stack([own, own])).astype(np.float32)
        counts = np.zeros(4)
        for _ in range(8000):
            guess = random.choice(4, 1, p=theirs)
            came, _ = _confirmed(np.array([0]), guess, theirs[None], logits, [], True, random)
            counts[came[0]] += 1

        # Three standard deviations of 8000 draws are 0.017 at most.
        np.testing.assert_allclose(counts / 8000, own, atol=0.017)

    def test_contrastive_search_follows_its_definition(self, opened: Predictor, model: Any, reader: Any) -> None:
        alpha, count, steps = 0.6, 4, 12
        ids = reader(PROMPTS[1])["input_ids"]
        start = len(ids)
        for _ in range(steps):
            with torch.inference_mode():
                chances = model(torch.tensor([ids])).logits[0, -1].softmax(-1)
                likely = chances.topk(count).indices.tolist()
                states = [
                    model(torch.tensor([[*ids, token]]), output_hidden_states=True).hidden_states[-1][0]
                    for token in likely
                ]
            cosines = [torch.cosine_similarity(each[:-1], each[-1:], dim=-1).max() for each in states]
            scores = [(1 - alpha) * chances[t] - alpha * c for t, c in zip(likely, cosines, strict=True)]
            ids.append(likely[int(torch.stack(scores).argmax())])

        (found,) = written(opened, PROMPTS[1], penalty_alpha=alpha, top_k=count, max_new_tokens=steps)

        assert found == reader.decode(ids[start:], skip_special_tokens=True)
        assert found != written(opened, PROMPTS[1], max_new_tokens=steps)[0]

    def test_a_string_that_stops_ends_the_text_with_it(self, opened: Predictor, model: Any, reader: Any) -> None:
        (whole,) = written(opened, PROMPTS[0], max_new_tokens=40)
        stop = whole[8:11]

        found = written(opened, PROMPTS[0], max_new_tokens=40, stop_strings=[stop])

        theirs = expected(model, reader, PROMPTS[0], max_new_tokens=40, stop_strings=[stop], tokenizer=reader)
        assert found == theirs
        assert stop in found[0] and len(found[0]) < len(whole)
        assert written(opened, PROMPTS[0], max_new_tokens=40, stop_strings=["never said"]) == [whole]


@settings(max_examples=150, deadline=None)  # scores so near that no chance is zero: those come in any order
@given(
    ids=st.lists(st.integers(0, 19), min_size=1, max_size=12),
    seed=st.integers(0, 2**32 - 1),
    scale=st.floats(0.1, 4),
    rules=st.fixed_dictionaries(
        {},
        optional={
            "temperature": st.floats(0.5, 3),
            "top_k": st.integers(0, 25),
            "top_p": st.floats(0.05, 1),
            "top_h": st.floats(0.05, 1),
            "min_p": st.floats(0, 1),
            "typical_p": st.floats(0.05, 1),
            "epsilon_cutoff": st.floats(0, 0.5),
            "eta_cutoff": st.floats(0, 0.5),
            "repetition_penalty": st.floats(0.5, 2),
            "no_repeat_ngram_size": st.integers(0, 3),
            "min_length": st.integers(0, 14),
            "min_new_tokens": st.integers(1, 5),
            "bad_words_ids": st.lists(st.lists(st.integers(0, 19), min_size=1, max_size=2), min_size=1, max_size=3),
            "suppress_tokens": st.lists(st.integers(0, 19), min_size=1, max_size=3),
            "begin_suppress_tokens": st.lists(st.integers(0, 19), min_size=1, max_size=3),
            "forced_eos_token_id": st.integers(0, 19),
            "exponential_decay_length_penalty": st.tuples(st.integers(0, 5), st.floats(1, 1.2)),
            "renormalize_logits": st.booleans(),
            "num_beams": st.integers(1, 2),
        },
    ),
    prompt=st.integers(1, 12),
)
def test_scores_are_changed_as_transformers_changes_them(
    ids: list[int], seed: int, scale: float, rules: dict[str, Any], prompt: int
) -> None:
    assume(rules.get("forced_eos_token_id") not in rules.get("suppress_tokens", []))  # refused there
    prompt = min(prompt, len(ids))
    logits = (np.random.default_rng(seed).normal(size=20) * scale).astype(np.float32)
    longest = prompt + 6
    plain = {"top_k": 0, "do_sample": True, "eos_token_id": 2}
    theirs = transformers.GenerationConfig(**{**plain, **rules}, max_length=longest, pad_token_id=0)
    theirs._eos_token_tensor = torch.tensor([2])
    config = transformers.LlamaConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1, vocab_size=20)
    generator = transformers.LlamaForCausalLM(config)
    chain = generator._get_logits_processor(
        theirs, prompt, torch.tensor([ids[:prompt]]), None, [], "cpu", {}, None, None
    )

    ours = GenerationConfig().changed({**plain, **rules})

    found = apply(rules_of(ours, prompt, longest), np.array(ids), logits)
    wanted = chain(torch.tensor([ids]), torch.tensor(logits)[None])[0].numpy()
    assume(not np.isnan(wanted).any())  # of a penalty on what cannot come, which is left as it is here
    np.testing.assert_array_equal(np.isinf(found), np.isinf(wanted))
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)  # float32 in another order


class TestStreams:
    def test_the_pieces_are_the_answer(self, opened: Predictor) -> None:
        pieces = list(opened.stream(PROMPTS[0], max_new_tokens=40))

        assert "".join(pieces) == written(opened, PROMPTS[0], max_new_tokens=40)[0]
        assert len(pieces) > 5

    @settings(max_examples=80, deadline=None)
    @given(text=HOSTILE, kind=st.sampled_from(["byte-level", "byte-fallback"]), begun=st.integers(0, 12))
    def test_no_character_is_split(self, text: str, kind: str, begun: int) -> None:
        task = Reader(kind)
        ids = task.tokenizer.encode(text).ids
        start = begun if "\ufffd" not in task.decoded(ids[:begun], skip=True) else 0
        pieces = Pieces(task, ids[:start])

        found = [pieces.add(token) for token in ids[start:]]

        whole = task.decoded(ids, skip=True)
        assert whole == text
        assert "".join(found) + pieces.rest() == whole[len(task.decoded(ids[:start], skip=True)) :]
        assert not any("\ufffd" in each for each in found)

    @settings(max_examples=50, deadline=None)
    @given(ids=st.lists(st.integers(0, 255), max_size=60))
    def test_bytes_that_are_no_text_come_as_the_whole_is_read(self, ids: list[int]) -> None:
        task = Reader("byte-level")
        pieces = Pieces(task, [])

        assert "".join(map(pieces.add, ids)) + pieces.rest() == task.decoded(ids, skip=True)

    def test_spaces_that_a_tokenizer_takes_away_are_not_given_first(self) -> None:
        task = Reader("wordpiece")
        ids = task.tokenizer.encode("I do n't say yes , but it 's late .").ids
        pieces = Pieces(task, [])

        found = [pieces.add(each) for each in ids]

        assert "".join(found) + pieces.rest() == task.decoded(ids, skip=True) == "I don't say yes, but it's late."
        assert sum(map(bool, found)) >= 3

    def test_pieces_come_to_a_callback_with_the_number_of_their_text(self, opened: Predictor) -> None:
        options = {"max_new_tokens": 12, "return_full_text": False}
        heard: dict[int, str] = {}

        def hear(piece: str, number: int) -> None:
            heard[number] = heard.get(number, "") + piece

        answers = opened.predict(list(PROMPTS), callback=hear, **options)
        assert heard == {i: found["generated_text"] for i, (found,) in enumerate(answers)}

        heard.clear()
        found = opened.predict("A", callback=hear, do_sample=True, seed=1, num_return_sequences=3, **options)
        assert heard == {i: each["generated_text"] for i, each in enumerate(found)}

        with pytest.raises(UsageError, match="best text may change"):
            opened.predict("A", callback=hear, num_beams=2, **options)

    def test_several_texts_stream_side_by_side(self, opened: Predictor) -> None:
        options = {"max_new_tokens": 12, "stop_strings": ["e"]}
        texts = dict.fromkeys(range(len(PROMPTS)), "")

        for number, piece in opened.stream(list(PROMPTS), **options):
            texts[number] += piece

        assert list(texts.values()) == [written(opened, prompt, **options)[0] for prompt in PROMPTS]
        assert len({len(text) for text in texts.values()}) > 1

    def test_what_a_callback_raises_comes_out(self, opened: Predictor) -> None:
        def fail(piece: str, number: int) -> None:
            raise LookupError(piece)

        with pytest.raises(LookupError):
            opened.predict("A", callback=fail, max_new_tokens=5)

    @pytest.mark.parametrize("options", [{}, {"num_beams": 3}, {"penalty_alpha": 0.6, "top_k": 3}], ids=str)
    def test_texts_end_when_they_are_cancelled_or_their_time_is_over(
        self, opened: Predictor, options: dict[str, Any]
    ) -> None:
        event = threading.Event()
        event.set()
        options = {"max_new_tokens": 150, "suppress_tokens": [2], **options}

        (whole,) = written(opened, PROMPTS[0], **options)
        for ended in ({"cancel": event}, {"max_time": 0.0}):
            (text,) = written(opened, PROMPTS[0], **options, **ended)
            assert len(text) < len(whole) / 10

    def test_a_stream_may_be_left_or_cancelled_at_any_token(self, opened: Predictor) -> None:
        stream = opened.stream(PROMPTS[0], max_new_tokens=100)
        first = next(stream)
        stream.close()  # type: ignore[attr-defined]  # a generator
        event = threading.Event()
        event.set()

        assert first and len(list(opened.stream(PROMPTS[0], max_new_tokens=100, cancel=event))) <= 1
        assert written(opened, PROMPTS[0], max_new_tokens=5)


class TestChat:
    def test_a_conversation_takes_the_form_of_the_template(self, opened: Predictor, model: Any, reader: Any) -> None:
        tools = [{"type": "function", "function": {"name": "träume", "parameters": {"a": "<b>"}}}]
        for asked in ({}, {"tools": tools}):
            given = reader.apply_chat_template(
                CONVERSATION, add_generation_prompt=True, return_tensors="pt", return_dict=True, **asked
            )["input_ids"]
            with torch.inference_mode():
                ids = model.generate(given, max_new_tokens=20, do_sample=False)[0, given.shape[1] :]

            (answer,) = opened.predict(CONVERSATION, max_new_tokens=20, **asked)

            said = {"role": "assistant", "content": reader.decode(ids, skip_special_tokens=True)}
            assert answer["generated_text"] == [*CONVERSATION, said]

    def test_the_assistants_own_last_message_goes_on(self, opened: Predictor) -> None:
        begun = [*CONVERSATION, {"role": "assistant", "content": "It is"}]

        (answer,) = opened.predict(begun, max_new_tokens=5)

        assert len(answer["generated_text"]) == 3
        assert answer["generated_text"][-1]["content"].startswith("It is")

    @pytest.mark.parametrize(
        ("template", "error", "words"),
        [
            ("{{ ''.__class__.__mro__ }}", IntegrityError, "reaches for more than the conversation"),
            ("{{ messages.__class__.__base__.__subclasses__() }}", IntegrityError, "reaches for more"),
            ("{{ cycler.__init__.__globals__.os.popen('id').read() }}", IntegrityError, "reaches for more"),
            ("{% set _ = messages.append(1) %}", IntegrityError, "reaches for more"),
            ("{% for i in range(10000000) %}{% endfor %}", UsageError, "its chat template says"),
            ("{{ raise_exception('only one question') }}", UsageError, "says: only one question"),
            ("{{ messages[7]['content'] }}", UsageError, "its chat template says"),
            ("{{ messages[0]['content'] + 1 }}", UsageError, "its chat template says"),
            ("{{ 1 / 0 }}", UsageError, "division by zero"),
            ("{% macro again() %}{{ again() }}{% endmacro %}{{ again() }}", UsageError, "recursion"),
            ("{% if %}", IntegrityError, "Cannot read the chat template"),
            ("{{ include('/etc/passwd') }}", UsageError, "undefined"),
            ("{% include '/etc/passwd' %}", UsageError, "its chat template says"),
        ],
    )
    def test_a_template_that_fails_or_reaches_out_is_an_error(
        self, template: str, error: type[Exception], words: str
    ) -> None:
        with pytest.raises(error, match=words):
            Template(template, {}).text([{"role": "user", "content": "Hi"}])

    def test_a_message_that_the_template_changes_does_not_go_on(
        self, opened: Predictor, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        task: Any = opened.open_task("text-generation")
        shouts = Template("{% for each in messages %}{{ each.content | upper }}{% endfor %}", {})
        monkeypatch.setattr(task, "_template", shouts)

        with pytest.raises(UsageError, match="does not give it as it is"):
            opened.predict([{"role": "assistant", "content": "It is"}])

    def test_the_terminal_holds_a_conversation(self, opened: Predictor) -> None:
        path = str(opened.bundle.path)
        lines = "Hello\n\nWhere is it?\n/reset\nHello\n/exit\n"

        found = CliRunner().invoke(cli, ["chat", path, "--max-new-tokens", "6", "--threads", "1"], input=lines)

        assert found.exit_code == 0, found.output
        first, second, third = found.stdout.split("\n")[:3]
        assert first == third != second

    def test_what_the_model_cannot_hold_any_more_is_forgotten_from_the_beginning(self, opened: Predictor) -> None:
        path = str(opened.bundle.path)
        lines = "The order that I placed on Monday has not arrived yet.\n" * 8

        found = CliRunner().invoke(cli, ["chat", path, "--max-new-tokens", "20", "--system", "Be short."], input=lines)
        refused = CliRunner().invoke(cli, ["chat", path, "--overflow", "refuse"], input=lines)

        assert found.exit_code == 0, found.output
        assert "are forgotten" in found.stderr
        assert isinstance(refused.exception, UsageError) or refused.exit_code == 2

    def test_functions_are_given_to_the_model(self, opened: Predictor, tmp_path: Path) -> None:
        path = str(opened.bundle.path)
        file = tmp_path / "tools.json"
        file.write_text(json.dumps([{"type": "function", "function": {"name": "order"}}]))
        asked = ["chat", path, "--max-new-tokens", "8"]

        plain = CliRunner().invoke(cli, asked, input="Where?\n")
        found = CliRunner().invoke(cli, [*asked, "--tools", str(file)], input="Where?\n")

        assert found.exit_code == 0 and found.stdout != plain.stdout
        file.write_text('{"name": "order"}')
        refused = CliRunner().invoke(cli, [*asked, "--tools", str(file)], input="A\n")
        assert refused.exit_code == 2 and "write a list" in refused.output

    def test_one_message_per_line_and_what_is_none(self, opened: Predictor) -> None:
        asked = ["chat", str(opened.bundle.path), "--json", "--max-new-tokens", "4"]

        found = CliRunner().invoke(cli, asked, input='{"role": "user", "content": "Hi"}\n')

        assert json.loads(found.stdout)["role"] == "assistant"
        for line, words in (("Hi", "it is no JSON"), ('{"text": "Hi"}', "no 'role' and 'content'")):
            refused = CliRunner().invoke(cli, asked, input=f"{line}\n")
            assert refused.exit_code == 2 and words in refused.output

    def test_an_error_ends_no_conversation_in_a_terminal(
        self, opened: Predictor, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        lines = iter(["Hello", "word " * 400, "Hello", EOFError()])

        def line(prompt: str) -> str:
            said = next(lines)
            if isinstance(said, Exception):
                raise said
            return said

        monkeypatch.setattr("builtins.input", line)
        monkeypatch.setattr("satchel.cli.chat._asks", lambda: True)

        found = CliRunner().invoke(cli, ["chat", str(opened.bundle.path), "--max-new-tokens", "5"])

        assert found.exit_code == 0, found.output
        assert "192 in all" in found.stderr and len([each for each in found.stdout.split("\n") if each]) == 2

    def test_ctrl_c_stops_an_answer_and_keeps_what_was_said(
        self, opened: Predictor, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from satchel.cli import chat

        def interrupted(messages: Any, **options: Any) -> Any:
            yield "It"
            raise KeyboardInterrupt

        monkeypatch.setattr(opened, "stream", interrupted)

        assert chat._answer(opened, [{"role": "user", "content": "Where?"}], {}, quiet=True) == "It"

    def test_one_token_is_left(self, opened: Predictor) -> None:
        task: Any = opened.open_task("text-generation")
        text = "A"
        while len(task.ids_of(text, {})) < 191:
            text += " order"[len(text) % 2 :]
        assert len(task.ids_of(text, {})) == 191

        (found,) = opened.predict(text, max_new_tokens=50, return_full_text=False)

        assert len(task.tokenizer.encode(found["generated_text"], add_special_tokens=False).ids) <= 1


class TestRefusals:
    @pytest.mark.parametrize(
        ("options", "words"),
        [
            ({"temperature": 0}, "do_sample=False"),
            ({"temperature": -1.0}, "do_sample=False"),
            ({"temperature": "hot"}, "do_sample=False"),
            ({"top_k": -1}, "from 0 up"),
            ({"top_k": 2.5}, "from 0 up"),
            ({"top_h": 0}, "above 0"),
            ({"max_new_tokens": 0}, "from 1 up"),
            ({"max_time": "soon"}, "it is a number"),
            ({"num_beams": 0}, "from 1 up"),
            ({"num_beams": 2, "num_return_sequences": 3}, "2 beams give as many"),
            ({"output_scores": True}, "transformers has it"),
            ({"watermarking_config": {"bias": 2.0}}, "transformers has it"),
            ({"top_p": 1.5}, "from 0 to 1"),
            ({"num_return_sequences": 2}, "1 beam gives as many"),
            ({"top_q": 1}, "no such setting"),
            ({"early_stopping": "soon"}, "True, False or 'never'"),
        ],
        ids=str,
    )
    def test_settings_that_mean_nothing(self, opened: Predictor, options: dict[str, Any], words: str) -> None:
        with pytest.raises(UsageError, match=words):
            opened.predict("A", **options)

    def test_a_prompt_of_nothing_starts_with_the_token_that_starts_texts(
        self, opened: Predictor, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        assert written(opened, "", max_new_tokens=5)  # this tokenizer marks the ends of nothing too
        assert written(opened, "<s><s></s>", max_new_tokens=5)

        task: Any = opened.open_task("text-generation")
        monkeypatch.setattr(task, "ids_of", lambda item, options: [])
        assert written(opened, "", max_new_tokens=5) == written(opened, "", max_new_tokens=5, bos_token_id=0)
        with pytest.raises(UsageError, match="no tokens at all"):
            opened.predict("", bos_token_id=None, max_new_tokens=5)

    def test_every_token_may_be_drawn_where_top_k_is_0(self, opened: Predictor) -> None:
        config = GenerationConfig().changed({"do_sample": True, "temperature": 100.0, "max_new_tokens": 150, "seed": 0})

        ((few,),), ((every,),) = (
            generate(opened.graphs["model"], [Prompt([0, 5], 192)], config.changed({"top_k": count}))
            for count in (50, 0)
        )

        # 150 draws from 400 tokens that are about as likely give 125 different ones.
        assert len(set(few)) < len(set(every)) and len(set(every)) > 100

    def test_a_prompt_longer_than_the_model_can_hold(self, opened: Predictor) -> None:
        long = "word " * 300

        with pytest.raises(UsageError, match="192 in all"):
            opened.predict(long)

        (answer,) = opened.predict(long, handle_long_generation="hole", max_new_tokens=10, return_full_text=False)
        assert answer["generated_text"]

    def test_text_ends_where_the_model_cannot_hold_more(self, opened: Predictor) -> None:
        endless = {"suppress_tokens": [2]}

        assert written(opened, "A", max_new_tokens=1000, **endless) == written(opened, "A", max_length=192, **endless)

    def test_a_model_without_a_template_holds_no_conversation(self, folder: Path, tmp_path: Path) -> None:
        model = transformers.AutoTokenizer.from_pretrained(folder / "model")
        decoder("llama", tmp_path / "mute")
        model.chat_template = None
        (tmp_path / "mute" / "chat_template.jinja").unlink()
        model.save_pretrained(tmp_path / "mute")

        with load(converted(tmp_path / "mute")) as opened, pytest.raises(UsageError, match="no chat template"):
            opened.predict(CONVERSATION)

    def test_messages_that_are_none(self, opened: Predictor) -> None:
        with pytest.raises(UsageError, match="the system speaks first"):
            opened.predict([CONVERSATION[1], CONVERSATION[0]])
        with pytest.raises(UsageError, match="reads text alone"):
            opened.predict([{"role": "user", "content": [{"type": "image", "url": "a.png"}]}])
        with pytest.raises(UsageError, match="no 'role' and 'content'"):
            opened.predict([{"role": "user", "text": "Hi"}])

    def test_an_assistant_with_another_vocabulary(self, opened: Predictor, tmp_path: Path) -> None:
        decoder("llama", tmp_path / "other")
        reader = transformers.AutoTokenizer.from_pretrained(tmp_path / "other")
        reader.add_tokens(["satchel"])
        reader.save_pretrained(tmp_path / "other")
        with load(converted(tmp_path / "other")) as other, pytest.raises(UsageError, match="another vocabulary"):
            opened.predict("A", assistant_model=other)

    def test_beams_do_not_stream(self, opened: Predictor) -> None:
        with pytest.raises(UsageError, match="best text may change"):
            list(opened.stream("A", num_beams=2))

    def test_a_task_that_writes_no_text_does_not_stream(self, minilm_bundle: Path) -> None:
        with load(minilm_bundle) as opened, pytest.raises(UsageError, match="does not write text"):
            opened.stream("A")

    def test_formats_without_a_cache_say_so_before_the_work(
        self, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(neuron, "FORMAT", dataclasses.replace(neuron.FORMAT, caches=False))

        with pytest.raises(SupportError, match="keep no cache"):
            satchel.convert(folder / "model", device="inf2", kit=True, out=tmp_path / "out.kit")

    def test_a_strategy_that_generation_config_asks_for_and_is_not_here(self) -> None:
        for name, value in (
            ("constraints", [1]),
            ("force_words_ids", [[5]]),
            ("dola_layers", "high"),
            ("watermarking_config", {"bias": 2.0}),
            ("token_healing", True),
            ("assistant_early_exit", 4),
            ("low_memory", True),
        ):
            with pytest.raises(SupportError, match=name):
                GenerationConfig.read({name: value})

    def test_every_setting_of_transformers_is_honoured_refused_or_known_to_say_nothing_of_the_tokens(self) -> None:
        ours = {field.name for field in dataclasses.fields(GenerationConfig)} | set(_ABSENT)
        theirs = {name for name in vars(transformers.GenerationConfig()) if not name.startswith("_")}

        # How fast or in what form, not which tokens.
        assert theirs - ours == {
            "assistant_confidence_threshold",
            "assistant_lookbehind",
            "cache_config",
            "cache_implementation",
            "compile_config",
            "continuous_batching_config",
            "disable_compile",
            "is_assistant",
            "max_cache_len",
            "num_assistant_tokens_schedule",
            "prefill_chunk_size",
            "return_dict_in_generate",
            "speculation_type",
            "target_lookbehind",
            "transformers_version",
            "use_cache",
            "use_mtp",
        }


class TestBundles:
    @pytest.mark.parametrize(
        "model_type",
        [pytest.param(each, marks=() if each in QUICK else pytest.mark.slow) for each in DECODERS],
    )
    def test_every_architecture_is_exact_with_its_cache_outside(self, model_type: str, tmp_path: Path) -> None:
        """`capture` compares with the model token by token, `export_component` at three other shapes, a step among them."""
        torch.manual_seed(0)
        decoder(model_type, tmp_path / "model")

        (component,) = capture(load_model(find_source(tmp_path / "model"), "text-generation"))
        file, _ = export_component(component, 20, 9, tmp_path)

        import onnx

        kinds = [node.op_type for node in onnx.load(tmp_path / file, load_external_data=False).graph.node]
        assert kinds.count("GroupQueryAttention") == (0 if model_type in PLAIN else 2)

    @pytest.mark.parametrize(
        "model_type",
        [pytest.param(each, marks=() if each == "llama" else pytest.mark.slow) for each in DECODERS],
    )
    def test_torchscript_writes_the_same_text(self, model_type: str, tmp_path: Path) -> None:
        torch.manual_seed(0)
        decoder(model_type, tmp_path / "model")
        model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "model").eval()
        reader = transformers.AutoTokenizer.from_pretrained(tmp_path / "model")

        with load(converted(tmp_path / "model", format="torchscript"), threads=1, trust=True) as opened:
            for prompt in PROMPTS:
                options = {"max_new_tokens": 20, "do_sample": False}
                assert written(opened, prompt, **options) == expected(model, reader, prompt, **options)

    def test_the_cache_takes_no_more_than_its_tokens(self, opened: Predictor) -> None:
        cache = opened.graphs["model"].new_state(3, 64)

        assert cache.nbytes == 2 * 2 * 3 * 2 * 64 * 8 * 4  # layers, keys and values, texts, heads, tokens, size, bytes
        before = {name: array.ctypes.data for name, array in cache.arrays.items()}
        opened.graphs["model"].run(
            {
                "input_ids": np.full((3, 5), 7),
                "position_ids": np.tile(np.arange(5), (3, 1)),
                "logits_positions": np.full((3, 1), 4),
            },
            cache,
        )
        assert {name: array.ctypes.data for name, array in cache.arrays.items()} == before
        assert all(array[:, :, :5].any() and not array[:, :, 5:].any() for array in cache.arrays.values())

    def test_a_call_beyond_the_cache_is_refused(self, opened: Predictor) -> None:
        session = opened.graphs["model"]
        given = {name: np.zeros((1, 1), np.int64) for name in ("input_ids", "logits_positions")}

        with pytest.raises(UsageError, match="holds 4 tokens of 1 text"):
            session.run({**given, "position_ids": np.array([[4]])}, session.new_state(1, 4))

    def test_the_gate_sees_a_cache_that_is_not_kept(
        self, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(Cache, "hold", lambda cache, tokens: [each.fill(0) for each in cache.arrays.values()])

        with pytest.raises(ParityError, match="next tokens changed|total variation|perplexity"):
            satchel.convert(
                folder / "model",
                device="generic-x86-64",
                format="onnx",
                quantize="fp32",
                prefer="size",
                out=tmp_path / "out.satchel",
            )

    def test_the_default_scheme_keeps_activations_in_float(self, folder: Path, tmp_path: Path) -> None:
        out = satchel.convert(folder / "model", device="generic-x86-64", prefer="size", out=tmp_path / "out.satchel")

        with load(out) as opened:
            assert opened.manifest.target.scheme == "int8-weights"
            assert opened.predict("A", max_new_tokens=3)


class TestCache:
    SPEC = TensorSpec("k", "float32", ("batch", 2, "capacity", 4))

    @settings(max_examples=50, deadline=None)
    @given(st.lists(st.integers(0, 2), min_size=1, max_size=5), st.integers(0, 6), st.integers(1, 40))
    def test_rows_and_room_change_and_what_was_written_stays(self, rows: list[int], used: int, room: int) -> None:
        cache = Cache([self.SPEC], 3, 6)
        cache.arrays["k"][:, :, :used] = np.random.default_rng(0).normal(size=(3, 2, used, 4))
        before = cache.arrays["k"].copy()

        cache.select(np.array(rows), used)
        cache.hold(room)

        found = cache.arrays["k"]
        assert cache.batch == len(rows) and cache.capacity >= max(6, room) and found.shape[2] == cache.capacity
        np.testing.assert_array_equal(found[:, :, :used], before[rows][:, :, :used])
