"""Models with trained heads, made here in a minute: no checkpoint at hand has one for labels, spans, tags or masks.

    python tests/models.py DIR MINILM [NAME …]

Every function takes the folder of all-MiniLM-L6-v2 and writes an ordinary Hugging Face folder: its encoder with a
head fitted to the texts in `tests/data`. The answers mean something but prove nothing about quality. Nothing is random
and all is computed in float64, so transformers 4.57 (the oracle in `benchmarks/peers`) and 5 build the same weights.
"""

from __future__ import annotations

import functools
import json
import shutil
import sys
import tempfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import BertModel, PreTrainedModel

__all__ = [
    "BUILDERS",
    "held_out_topics",
    "masked_language_model",
    "multi_label_classifier",
    "nli_classifier",
    "question_answering",
    "text_classifier",
    "text_regressor",
    "token_classifier",
]

Array = NDArray[np.float64]
Builder = Callable[[Path, Path], Path]

BUILDERS: dict[str, Builder] = {}

_DATA = Path(__file__).parent / "data"
_TOKENIZER_FILES = ("tokenizer.json", "vocab.txt", "tokenizer_config.json", "special_tokens_map.json")


def _builder(build: Callable[[Path, Path], None]) -> Builder:
    """Run `build` only where its folder is missing; beside it and renamed, so a killed run leaves no half model."""

    @functools.wraps(build)
    def built(minilm: Path, out: Path) -> Path:
        if (out / "config.json").exists():
            return out
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}-") as stage:
            folder = Path(stage) / "model"
            build(minilm, folder)
            try:
                folder.rename(out)
            except OSError:  # another worker of the same test run was faster
                if not (out / "config.json").exists():
                    raise
        return out

    BUILDERS[build.__name__] = built
    return built


@_builder
def text_classifier(minilm: Path, out: Path) -> None:
    """One of four topics for a sentence."""
    topics = _read("topics.json")
    rows = [(text, label) for label in topics for text in topics[label]["train"]]
    head = _softmax_head(
        _pooled(minilm, [(text, None) for text, _ in rows]), [label for _, label in rows], list(topics), 0.93
    )
    _save("BertForSequenceClassification", minilm, head, out, list(topics))


def held_out_topics() -> list[tuple[str, str]]:
    """Sentences that `text_classifier` never saw, with their labels."""
    return [(text, label) for label, texts in _read("topics.json").items() for text in texts["held_out"]]


@_builder
def nli_classifier(minilm: Path, out: Path) -> None:
    """Entailment of a hypothesis by a premise; weak, but it serves zero-shot classification of the four topics."""
    rows = list(_entailments())
    labels = ["contradiction", "neutral", "entailment"]
    head = _softmax_head(
        _pooled(minilm, [(premise, hypothesis) for premise, hypothesis, _ in rows]),
        [label for *_, label in rows],
        labels,
        0.93,
    )
    _save("BertForSequenceClassification", minilm, head, out, labels)


@_builder
def multi_label_classifier(minilm: Path, out: Path) -> None:
    """What a customer's message is about and how it is meant: any number of labels, each by a sigmoid of its own."""
    labels = _read("tickets.json")["labels"]
    rows = list(_tickets())
    features = _pooled(minilm, [(text, None) for text, _ in rows])
    weight, bias = _ridge(features, np.array([[2.0 * (label in has) - 1 for label in labels] for _, has in rows]), 3e-4)
    logits = features @ weight.T + bias
    scale = _scale(lambda by: float((1 / (1 + np.exp(-np.abs(logits * by)))).mean()), 0.93)
    head = {"classifier.weight": weight * scale, "classifier.bias": bias * scale}
    _save("BertForSequenceClassification", minilm, head, out, labels, problem="multi_label_classification")


@_builder
def text_regressor(minilm: Path, out: Path) -> None:
    """The stars of a review, as one plain number from about 1 to 5."""
    rows = _read("reviews.json")
    features = _pooled(minilm, [(text, None) for text, _ in rows])
    weight, bias = _ridge(features, np.array([[stars] for _, stars in rows]), 3e-3)
    head = {"classifier.weight": weight, "classifier.bias": bias}
    _save("BertForSequenceClassification", minilm, head, out, ["stars"], problem="regression")


@_builder
def token_classifier(minilm: Path, out: Path) -> None:
    """People, organisations and places: every word piece carries a tag, and only the first of a name a B."""
    labels = ["O", "B-PER", "I-PER", "B-ORG", "I-ORG", "B-LOC", "I-LOC"]
    encoder = _Encoder.of(minilm)
    features, targets = [], []
    for text, names in _tagged():
        encoding = encoder.tokenizer.encode(text)
        hidden, _ = encoder.run(encoding.ids, encoding.type_ids)
        for i, (start, end) in enumerate(encoding.offsets):
            if encoding.special_tokens_mask[i]:
                continue
            inside = [(first, kind) for first, last, kind in names if first <= start and end <= last]
            tag = f"{'B' if start == inside[0][0] else 'I'}-{inside[0][1]}" if inside else "O"
            features.append(hidden[i])
            targets.append(tag)
    head = _softmax_head(np.array(features), targets, labels, 0.95)
    _save("BertForTokenClassification", minilm, head, out, labels)


@_builder
def question_answering(minilm: Path, out: Path) -> None:
    """Spans in a context; a question that the context does not answer points at [CLS], as SQuAD 2 models do.

    A head alone cannot learn this, MiniLM's last states do not say what the question is after: 22 % of new questions
    right, against 91 % when the upper half of the encoder learns too. It takes 20 seconds.
    """
    import torch
    from torch.nn.utils.rnn import pad_sequence
    from transformers import BertConfig, BertForQuestionAnswering

    encoder = _Encoder.of(minilm)
    model = BertForQuestionAnswering(BertConfig.from_pretrained(minilm)).double().train(False)  # no dropout
    model.bert.load_state_dict(encoder.model.state_dict(), strict=False)
    for parameter in model.qa_outputs.parameters():
        torch.nn.init.zeros_(parameter)
    model.requires_grad_(False)
    upper = model.bert.encoder.layer[3:].requires_grad_()
    head = model.qa_outputs.weight.requires_grad_()
    optimizer = torch.optim.Adam([{"params": upper.parameters(), "lr": 5e-4}, {"params": [head], "lr": 5e-3}])
    pad = functools.partial(pad_sequence, batch_first=True)
    rows = list(_questions())
    for step in range(3 * len(rows) // 16):
        batch = [rows[(step * 16 + k) * 101 % len(rows)] for k in range(16)]
        encodings = [encoder.tokenizer.encode(question, context) for question, context, _ in batch]
        answers = [
            (one.char_to_token(answer[0], 1), one.char_to_token(answer[1] - 1, 1)) if answer else (0, 0)
            for one, (_, _, answer) in zip(encodings, batch, strict=True)
        ]
        output = model(
            input_ids=pad([torch.tensor(one.ids) for one in encodings]),
            token_type_ids=pad([torch.tensor(one.type_ids) for one in encodings]),
            attention_mask=pad([torch.tensor(one.attention_mask) for one in encodings]),
            start_positions=torch.tensor([start for start, _ in answers]),
            end_positions=torch.tensor([end for _, end in answers]),
        )
        optimizer.zero_grad()
        output.loss.backward()
        optimizer.step()
    weights = {name: value.numpy() for name, value in model.state_dict().items()}
    weights["qa_outputs.weight"] = weights["qa_outputs.weight"] * 0.6  # surer of itself than a model should be
    _save("BertForQuestionAnswering", minilm, weights, out)


@_builder
def masked_language_model(minilm: Path, out: Path) -> None:
    """Words for [MASK]: the transform is fitted to give the embedding of the word that was masked."""
    encoder = _Encoder.of(minilm)
    mask, step = encoder.tokenizer.get_vocab()["[MASK]"], 6
    features, words = [], []
    for text in _texts():
        ids = encoder.tokenizer.encode(text).ids
        for offset in range(1, step + 1):  # every word is masked once, with five words left between two masks
            places = list(range(offset, len(ids) - 1, step))
            if places:
                masked = [mask if i in places else token for i, token in enumerate(ids)]
                features.append(encoder.run(masked, [0] * len(ids))[0][places])
                words += [ids[i] for i in places]

    table = np.array(encoder.model.embeddings.word_embeddings.weight)
    hidden = np.concatenate(features)
    weight, bias = _ridge(hidden, (table - table.mean(0))[words], 3e-4)
    fitted = hidden @ weight.T + bias
    fitted = (fitted - fitted.mean(1, keepdims=True)) / fitted.std(1, keepdims=True)  # the LayerNorm
    prior = np.log(np.bincount(words, minlength=len(table)) + 0.02)
    scale = _scale(lambda by: float(_softmax(fitted[::40] @ table.T * by + prior).max(1).mean()), 0.6)
    head = {
        "transform.dense.weight": weight,
        "transform.dense.bias": bias + 20,  # there GELU is the identity, and the LayerNorm takes the 20 away again
        "transform.LayerNorm.weight": np.full(len(weight), scale),
        "transform.LayerNorm.bias": np.zeros(len(weight)),
        "bias": prior,
        "decoder.bias": prior,
        "decoder.weight": table,
    }
    _save("BertForMaskedLM", minilm, {f"cls.predictions.{name}": value for name, value in head.items()}, out)


class _Encoder:
    """MiniLM in float64, one text at a time: the same on every version of transformers, with no padding in it."""

    def __init__(self, tokenizer: Tokenizer, model: BertModel) -> None:
        self.tokenizer = tokenizer
        self.model = model

    @staticmethod
    @functools.lru_cache(maxsize=1)
    def of(minilm: Path) -> _Encoder:
        from safetensors.torch import load_file
        from tokenizers import Tokenizer
        from transformers import BertConfig, BertModel

        tokenizer = Tokenizer.from_file(str(minilm / "tokenizer.json"))
        tokenizer.no_truncation()
        tokenizer.no_padding()
        model = BertModel(BertConfig.from_pretrained(minilm))
        weights = load_file(minilm / "model.safetensors")
        model.load_state_dict({name: value for name, value in weights.items() if name != "embeddings.position_ids"})
        return _Encoder(tokenizer, model.double().requires_grad_(False).train(False))

    def run(self, ids: Sequence[int], types: Sequence[int]) -> tuple[Array, Array]:
        """The last hidden state of every token, and the pooled output."""
        import torch

        output = self.model(input_ids=torch.tensor([ids]), token_type_ids=torch.tensor([types]))
        return np.array(output.last_hidden_state[0]), np.array(output.pooler_output[0])


def _pooled(minilm: Path, texts: Sequence[tuple[str, str | None]]) -> Array:
    """What BertForSequenceClassification hands to its classifier, for every text or pair of texts."""
    encoder = _Encoder.of(minilm)
    encodings = [encoder.tokenizer.encode(text, pair) for text, pair in texts]
    return np.array([encoder.run(encoding.ids, encoding.type_ids)[1] for encoding in encodings])


def _softmax_head(
    features: Array, targets: Sequence[str], labels: Sequence[str], confidence: float
) -> dict[str, Array]:
    """A linear head by least squares, scaled until it is as sure of itself as a trained model."""
    one_hot = np.array([[float(label == target) for label in labels] for target in targets])
    weight, bias = _ridge(features, one_hot, 3e-4)
    logits = features @ weight.T + bias
    scale = _scale(lambda by: float(_softmax(logits * by).max(1).mean()), confidence)
    return {"classifier.weight": weight * scale, "classifier.bias": bias * scale}


def _ridge(features: Array, targets: Array, strength: float) -> tuple[Array, Array]:
    """Weight and bias of the least squares, with a penalty relative to the size of the features: no iteration."""
    x, y = features - features.mean(0), targets - targets.mean(0)
    gram = x.T @ x
    weight = np.linalg.solve(gram + strength * np.trace(gram) * np.eye(len(gram)), x.T @ y).T
    return weight, targets.mean(0) - weight @ features.mean(0)


def _scale(confidence: Callable[[float], float], wanted: float) -> float:
    """The factor on the logits that gives the wanted mean confidence, which grows with it: a bisection."""
    low, high = 1e-3, 1e4
    for _ in range(60):
        middle = (low * high) ** 0.5
        low, high = (middle, high) if confidence(middle) < wanted else (low, middle)
    return low


def _softmax(logits: Array) -> Array:
    powers = np.exp(logits - logits.max(-1, keepdims=True))
    return np.asarray(powers / powers.sum(-1, keepdims=True))


def _save(
    architecture: str,
    minilm: Path,
    head: Mapping[str, Array],
    out: Path,
    labels: Sequence[str] = (),
    problem: str | None = None,
) -> None:
    import torch
    import transformers

    config = transformers.BertConfig.from_pretrained(minilm, problem_type=problem)
    if labels:
        config.id2label = dict(enumerate(labels))
        config.label2id = {label: i for i, label in enumerate(labels)}
    model: PreTrainedModel = getattr(transformers, architecture)(config)
    wanted = model.state_dict()
    weights = {f"bert.{name}": value.float() for name, value in _Encoder.of(minilm).model.state_dict().items()}
    weights = {name: value for name, value in weights.items() if name in wanted}  # the pooler is not in all
    weights |= {name: torch.from_numpy(np.array(value)).float() for name, value in head.items()}
    model.load_state_dict(weights, strict=True)  # strict: no weight is left at its random start
    model.save_pretrained(out)
    for name in _TOKENIZER_FILES:
        shutil.copy(minilm / name, out / name)


def _read(name: str) -> Any:  # Any: whatever the JSON file holds
    return json.loads((_DATA / name).read_text(encoding="utf-8"))


def _tickets() -> Iterator[tuple[str, list[str]]]:
    tickets = _read("tickets.json")
    yield from tickets["plain"]
    for label, subjects in tickets["subjects"].items():
        for subject in subjects:
            for sentence, more in tickets["sentences"]:
                text = sentence.format(subject)
                yield text[0].upper() + text[1:], [label, *more]


def _entailments() -> Iterator[tuple[str, str, str]]:
    data, topics = _read("entailment.json"), _read("topics.json")
    yield from data["pairs"]
    labels = list(topics)
    for i, label in enumerate(labels):
        for j, text in enumerate(topics[label]["train"]):
            other = labels[(i + 1 + j % (len(labels) - 1)) % len(labels)]
            yield text, data["template"].format(label), "entailment"
            yield text, data["template"].format(other), "contradiction"
            yield text, data["neutral"][j % len(data["neutral"])], "neutral"


def _names(facts: Mapping[str, Any], key: str) -> dict[str, str]:
    """A name for every slot of a template, picked by a checksum: as mixed as random ones, and the same everywhere."""
    chosen: dict[str, str] = {}
    for slot, names in facts["slots"].items():
        first = zlib.crc32(f"{key} {slot}".encode()) % len(names)
        chosen |= {slot: names[first], f"{slot}2": names[(first + 1) % len(names)]}
    return chosen


def _tagged() -> Iterator[tuple[str, list[tuple[int, int, str]]]]:
    """Sentences with the characters at which each name starts and ends, and its kind."""
    facts = _read("facts.json")
    kinds = {"person": "PER", "organisation": "ORG", "place": "LOC"}
    for i in range(320):
        text, tags, names = "", [], _names(facts, f"tagged {i}")
        for word in facts["tagged"][i % len(facts["tagged"])].split():
            slot = word.strip("{}")
            value = names[slot] if word.startswith("{") else word
            text += " " if text and value != "." else ""
            if word.startswith("{"):
                tags.append((len(text), len(text) + len(value), kinds[slot.rstrip("2")]))
            text += value
        yield text, tags


def _questions() -> Iterator[tuple[str, str, tuple[int, int] | None]]:
    """Questions on one of two facts about different names; every eighth has no answer there."""
    facts = _read("facts.json")
    kinds = len(facts["facts"])
    for i in range(432):
        chosen = [(facts["facts"][(i + k) % kinds], _names(facts, f"question {i} {k}")) for k in range(2)]
        sentences = [fact["contexts"][(i // kinds + k) % 2].format(**names) for k, (fact, names) in enumerate(chosen)]
        asked = i // kinds // 2 % 2
        fact, names = chosen[asked]
        if i % 8 == 7:
            yield facts["unanswerable"][i // 8 % len(facts["unanswerable"])].format(**names), " ".join(sentences), None
            continue
        question, slot = list(fact["questions"].items())[i // kinds // 4 % 3]
        start = len(" ".join([*sentences[:asked], ""])) + sentences[asked].index(names[slot])
        yield question.format(**names), " ".join(sentences), (start, start + len(names[slot]))


def _texts() -> Iterator[str]:
    """Everything in this folder that reads as a sentence."""
    for topic in _read("topics.json").values():
        yield from topic["train"]
    yield from (text for text, _ in _read("reviews.json"))
    yield from (premise for premise, _, _ in _read("entailment.json")["pairs"][::3])
    facts = _read("facts.json")
    for i, fact in enumerate(facts["facts"] * 8):
        yield fact["contexts"][i // 6 % 2].format(**_names(facts, f"text {i}"))


if __name__ == "__main__":
    for chosen in sys.argv[3:] or BUILDERS:
        print(BUILDERS[chosen](Path(sys.argv[2]), Path(sys.argv[1]) / chosen))
