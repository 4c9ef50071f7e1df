"""What `tokenizers` makes of hostile texts, for the TypeScript runtime to be compared with.

    python -m tests.web_tokenizers FILE

writes one JSON file: a list of tokenizers, each with its tokenizer.json and, for every text, ids, places and words. The
texts are drawn with a fixed seed: emoji, CJK and its extensions, combining marks, right-to-left scripts, control
characters, final sigma, spaces of all kinds, and pieces of special tokens.
"""

from __future__ import annotations

import json
import random
import sys
import tempfile
import unicodedata
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from benchmarks.matrix.row import CORPUS, tokenizer
from tests.bundles import minilm
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

__all__ = ["hostile_texts", "vectors"]

_COUNT = 2400
_WORDS = (
    *("where is my order", "ΟΔΟΣ", "Σίσυφος ΣΑΣ", "Straße", "naïve café", "İstanbul", "ǅungla", "don't", "they'LL"),
    *(
        "東京都庁",
        "电车来了。",
        "\U00020000\U0002a6d6漢",
        "\U0002b740\U0002b820\U00030000",
        "한국어 텍스트",
        "각",
        "ガギグ",
        "ｶﾞｷﾞ",
    ),
    *("שָׁלוֹם עולם", "مرحبا بالعالم", "سَلَام", "ไทยแลนด์", "नमस्ते दुनिया", "க்ஷ", "ខ្មែរ", "བོད་", "ሰላም"),
    *(
        "👩‍👩‍👧‍👦",
        "🏳️‍🌈",
        "👍🏽",
        "🇩🇪🇫🇷",
        "☃️",
        "1️⃣",
        "e\u0301a\u0300\u0323",
        "a\u0323\u0300",
        "Å",
        "ﬁ ﬂ",
        "①②",
        "ℌ",
        "½",
        "x²",
    ),
    *(
        "[CLS]",
        "[MASK]",
        "[SEP] ",
        "<s>",
        "</s>",
        " <mask> ",
        "<unk>",
        "<|im_start|>",
        "<|endoftext|>",
        "##ing",
        "▁",
        "Ġ",
    ),
    *(
        "\t",
        "\n",
        "\r\n",
        "\x00",
        "\x07",
        "\x7f",
        "\x85",
        "\xa0",
        "\xad",
        "\u1680",
        "\u2003",
        "\u2028",
        "\u200b",
        "\u200d",
    ),
    *(
        "\u202e",
        "\ufeff",
        "\ufffd",
        "\u3000",
        "  ",
        "    ",
        "--",
        "...",
        "!?",
        "«»",
        "“”",
        "`^~",
        "$€₿",
        "π≈3.14159",
        "10,000",
    ),
    *(
        "https://example.com/a?b=c&d",
        "user@mail.org",
        "C++",
        "#tag",
        "snake_case",
        "CamelCase",
        "x" * 120,
        "\U0010ffff",
        "\ue000",
    ),
)


def hostile_texts(count: int = _COUNT) -> list[str]:
    drawn = random.Random(7)
    ranges = (
        (32, 127),
        (0, 0x2FF),
        (0x300, 0x1FFF),
        (0x2000, 0x2FFF),
        (0x3000, 0xD7FF),
        (0xE000, 0xFFFF),
        (0x10000, 0x3FFFF),
    )

    def characters() -> str:
        low, high = drawn.choice(ranges)
        found = [chr(drawn.randint(low, high)) for _ in range(drawn.randint(1, 12))]
        # What the next Unicode assigns is not yet the same in two libraries.
        return "".join(each for each in found if unicodedata.category(each) not in ("Cn", "Cs"))

    texts = ["", " ", *_WORDS, *CORPUS]
    while len(texts) < count:
        parts = [drawn.choice(_WORDS) if drawn.random() < 0.7 else characters() for _ in range(drawn.randint(1, 6))]
        texts.append(drawn.choice(("", " ", " ", "  ")).join(parts))
    return texts


def _cased() -> Tokenizer:
    made = tokenizer("wordpiece").backend_tokenizer
    made.normalizer = normalizers.BertNormalizer(lowercase=False, strip_accents=False)
    return made


def _roberta() -> Tokenizer:
    made = tokenizer("bpe").backend_tokenizer
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    ids = [(name, made.token_to_id(name)) for name in ("</s>", "<s>")]
    made.post_processor = processors.RobertaProcessing(*ids, trim_offsets=True, add_prefix_space=True)
    return made


def _lower_nfd() -> Tokenizer:
    made = tokenizer("unigram").backend_tokenizer
    made.normalizer = normalizers.Sequence(
        [normalizers.Replace("``", '"'), normalizers.NFKD(), normalizers.StripAccents(), normalizers.Lowercase()]
    )
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace(prepend_scheme="first")]
    )
    return made


def _byte_fallback() -> Tokenizer:
    """As Llama's: a BPE over characters whose spaces are marks, with bytes for what it does not know."""
    made = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    trainer: Any = trainers.BpeTrainer(
        vocab_size=500,
        special_tokens=["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))],
        show_progress=False,
    )
    made.train_from_iterator([line.replace(" ", "▁") for line in CORPUS], trainer)
    made.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    ids = [("<s>", made.token_to_id("<s>"))]
    made.post_processor = processors.TemplateProcessing(single="<s> $A", pair="<s> $A <s>:1 $B:1", special_tokens=ids)
    return made


def _digits_and_split() -> Tokenizer:
    """As newer models cut: by a pattern with cases that do not count, and digits by threes."""
    made = tokenizer("bpe").backend_tokenizer
    pattern = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    from tokenizers import Regex

    made.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pattern), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    made.normalizer = normalizers.NFC()
    return made


def _sentencepiece() -> Tokenizer:
    """Unigram with the character map that SentencePiece writes, as XLM-RoBERTa, ALBERT and T5 have it."""
    import sentencepiece
    from sentencepiece import sentencepiece_model_pb2

    with tempfile.TemporaryDirectory() as folder:
        lines = Path(folder) / "lines.txt"
        lines.write_text("\n".join(CORPUS), "utf-8")
        sentencepiece.SentencePieceTrainer.train(
            input=str(lines), model_prefix=f"{folder}/spm", vocab_size=180, hard_vocab_limit=False, minloglevel=2
        )
        proto: Any = sentencepiece_model_pb2.ModelProto()
        proto.ParseFromString((Path(folder) / "spm.model").read_bytes())
    pieces = [(each.piece, each.score) for each in proto.pieces]
    made = Tokenizer(models.Unigram(pieces, unk_id=0, byte_fallback=False))
    made.normalizer = normalizers.Sequence(
        [normalizers.Precompiled(proto.normalizer_spec.precompiled_charsmap), normalizers.Replace("  ", " ")]
    )
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    made.decoder = decoders.Metaspace()
    return made


def _real(folder: str) -> Tokenizer:
    file = minilm().parent / folder / "tokenizer.json"
    if not file.is_file():
        raise FileNotFoundError(file)
    return Tokenizer.from_file(str(file))


_MADE: Mapping[str, Callable[[], Tokenizer]] = {
    "MiniLM (WordPiece)": lambda: _real("all-MiniLM-L6-v2"),
    "wordpiece": lambda: tokenizer("wordpiece").backend_tokenizer,
    "wordpiece, cased": _cased,
    "bpe": lambda: tokenizer("bpe").backend_tokenizer,
    "bpe as RoBERTa": _roberta,
    "bpe by a pattern": _digits_and_split,
    "bpe with bytes as Llama": _byte_fallback,
    "unigram": lambda: tokenizer("unigram").backend_tokenizer,
    "unigram as ALBERT": _lower_nfd,
    "unigram of SentencePiece": _sentencepiece,
    "SmolLM2 (byte-level BPE)": lambda: _real("SmolLM2-135M-Instruct"),
}


def vectors(count: int = _COUNT) -> list[dict[str, Any]]:
    texts = hostile_texts(count)
    found = []
    for name, make in _MADE.items():
        try:
            made = make()
        except FileNotFoundError as error:  # a checkpoint that is not here: the others are compared
            print(f"{name} is left out: {error}", file=sys.stderr)
            continue
        made.no_padding()
        made.no_truncation()
        whole = [made.encode(text) for text in texts]
        pairs, cuts = [], []
        for i in range(0, len(texts) - 1, 7):
            pair = made.encode(texts[i], texts[i + 1])
            pairs.append([i, pair.ids, pair.type_ids, pair.special_tokens_mask, pair.sequence_ids])
        for i in range(3, len(texts) - 1, 11):
            for strategy in ("longest_first", "only_first", "only_second"):
                side = ("right", "left")[i % 2]
                length = 6 + i % 9
                made.enable_truncation(length, strategy=strategy, direction=side)
                try:
                    ids = made.encode(texts[i], texts[i + 1]).ids
                except Exception:  # noqa: BLE001  # tokenizers raises nothing narrower: there is too little to cut
                    ids = None
                cuts.append([i, strategy, side, length, ids])
        made.no_truncation()
        found.append(
            {
                "name": name,
                "tokenizer": json.loads(made.to_str()),
                "whole": [[each.ids, each.offsets, each.word_ids] for each in whole],
                "bare": [made.encode(text, add_special_tokens=False).ids for text in texts[:200]],
                "pairs": pairs,
                "cuts": cuts,
                "texts": [made.decode(each.ids, skip_special_tokens=True) for each in whole],
                "words": [
                    [each.ids, each.offsets, each.word_ids]
                    for each in (made.encode(text.split(), is_pretokenized=True) for text in texts[:300])
                ],
            }
        )
    return [{"texts": texts}, *found]


if __name__ == "__main__":
    out = Path(sys.argv[1])
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(vectors()), "utf-8")
