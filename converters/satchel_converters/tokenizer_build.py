"""Tokenizers that transformers has in Python alone, as data: what `satchel_runtimes.tasks.piece_tokenizer` reads."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

import numpy as np

from satchel_runtimes.errors import SupportError
from satchel_runtimes.tasks.sentence_pieces import SPACE

from . import moses

__all__ = ["pieces_of"]

# Any below: classes of transformers, most of them without types, and messages of protobuf.
# By class: where it keeps its SentencePiece model (none: Moses finds words), and how it writes a text of pieces. `spelt`: the model
# joins them, or a plain join does; `after`: what follows a special token; `spaces`: whether the marks of spaces that are left become
# spaces; `named`: whether the model names ids that the vocabulary lacks.
_CLASSES: Mapping[str, Mapping[str, Any]] = {
    "MarianTokenizer": {
        "model": "spm_source",
        "spelt": True,
        "after": " ",
        "spaces": True,
        "named": True,
        "code": (">>", "<<"),
    },
    "M2M100Tokenizer": {"model": "sp_model", "spelt": True, "after": "", "spaces": False, "named": False},
    "Speech2TextTokenizer": {"model": "sp_model", "spelt": True, "after": " ", "spaces": False, "named": False},
    "XLMTokenizer": {"model": "", "spelt": False, "after": "", "spaces": True, "named": False},
    "FlaubertTokenizer": {"model": "", "spelt": False, "after": "", "spaces": True, "named": False},
    "SpeechT5Tokenizer": {"model": "sp_model", "spelt": False, "after": "", "spaces": True, "named": True},
}
_MODELS = {1: "unigram", 2: "bpe", 4: "char"}  # trainer_spec.model_type
_NORMAL, _UNKNOWN, _CONTROL, _KEPT, _UNUSED = 1, 2, 3, 4, 5  # piece.type; bytes have another


def pieces_of(tokenizer: Any) -> dict[str, Any] | None:
    """What pieces.json says of a tokenizer of transformers; None: it is of no class that this can carry.

    Raises:
        SupportError: one of its settings cannot be carried.
    """
    kind = type(tokenizer).__name__  # and no class that is made of one: it may cut texts otherwise
    if kind not in _CLASSES:
        return None
    own = _CLASSES[kind]
    why = _cannot(tokenizer)
    if why:
        raise SupportError(
            f"Cannot carry a {kind}.", why=why, fix="change that in tokenizer_config.json, or use another checkpoint"
        )
    separate = bool(getattr(tokenizer, "separate_vocabs", False))
    reader = getattr(tokenizer, own["model"]) if own["model"] else None
    names = _names(tokenizer, (tokenizer.spm_target if separate else reader) if own["named"] else None)
    return {
        "speller": moses.spelling(tokenizer) if reader is None else _speller(reader),
        "vocabulary": _vocabulary(tokenizer),
        "unknown": tokenizer.convert_tokens_to_ids(tokenizer.unk_token),
        "tokens": {str(number): name for number, name in names.items()},
        "added": {
            str(token.content): {"id": number, "lstrip": bool(token.lstrip), "rstrip": bool(token.rstrip)}
            for number, token in tokenizer.added_tokens_decoder.items()
        },
        "specials": list(tokenizer.all_special_ids),
        "code": list(own["code"]) if "code" in own else None,
        "single": _frame(tokenizer.build_inputs_with_special_tokens([-1])),
        "pair": _frame(tokenizer.build_inputs_with_special_tokens([-1], [-1])),
        "written": {
            "spelt": own["spelt"],
            "after": own["after"],
            "spaces": own["spaces"],
            "space": "</w>" if reader is None else SPACE,
            "upper": bool(getattr(tokenizer, "do_upper_case", False)),
            "unknown": str(tokenizer.unk_token),
            "specials": [str(each) for each in tokenizer.all_special_tokens],
            **({"speller": _speller(tokenizer.spm_target)} if separate else {}),
        },
    }


def _cannot(tokenizer: Any) -> str:
    """Why a tokenizer cannot be carried exactly; empty: it can."""
    if getattr(tokenizer, "sp_model_kwargs", None):
        return f"sp_model_kwargs={tokenizer.sp_model_kwargs} draws pieces by chance, or cuts otherwise"
    if getattr(tokenizer, "normalize", False) is True:
        return "normalize=true writes numbers out in words"
    if getattr(tokenizer, "legacy", True) is False:
        return "legacy=false is not SentencePiece's own way with spaces"
    if tokenizer.split_special_tokens:
        return "split_special_tokens=true cuts special tokens too"
    single = [str(each) for each in tokenizer.added_tokens_decoder.values() if each.single_word]
    return f"the tokens {', '.join(single)} are words of their own only (single_word)" if single else ""


def _vocabulary(tokenizer: Any) -> dict[str, int]:
    """The ids of pieces, as they are looked up: those of vocab.json, or the model's own."""
    if hasattr(tokenizer, "encoder"):
        own = getattr(tokenizer, "lang_token_to_id", {})
        return {**tokenizer.encoder, **own}
    return {tokenizer.sp_model.id_to_piece(number): number for number in range(tokenizer.sp_model.get_piece_size())}


def _names(tokenizer: Any, writer: Any) -> dict[int, str]:
    """What each id is when it is written.

    Args:
        writer: the model that names an id which the vocabulary lacks.
    """
    known = {*getattr(tokenizer, "decoder", ()), *getattr(tokenizer, "id_to_lang_token", ())}
    found = sorted({*known, *tokenizer.added_tokens_decoder})
    names = {number: writer.id_to_piece(number) for number in range(writer.get_piece_size())} if writer else {}
    return {**names, **dict(zip(found, map(str, tokenizer.convert_ids_to_tokens(found)), strict=True))}


def _frame(ids: list[int]) -> list[int | None]:
    return [None if each == -1 else int(each) for each in ids]


def _speller(model: Any) -> dict[str, Any]:
    """A SentencePiece model as data.

    Raises:
        SupportError: it is of a kind that no device could run.
    """
    from sentencepiece import sentencepiece_model_pb2

    proto: Any = sentencepiece_model_pb2.ModelProto()  # type: ignore[attr-defined]  # protobuf makes it at import
    proto.ParseFromString(model.serialized_model_proto())
    trained, normal = proto.trainer_spec, proto.normalizer_spec
    if trained.model_type not in _MODELS or proto.denormalizer_spec.precompiled_charsmap:
        why = (
            f"its model_type is {trained.model_type}" if trained.model_type not in _MODELS else "it denormalizes texts"
        )
        raise SupportError("Cannot carry a SentencePiece model.", why=why, fix="use a unigram, BPE or character model")
    by_type: dict[int, list[Any]] = {}
    for each in proto.pieces:
        by_type.setdefault(each.type, []).append(each)
    names = {type_: [each.piece for each in found] for type_, found in by_type.items()}
    scores = {type_: [_short(each.score) for each in found] for type_, found in by_type.items()}
    suffix = trained.treat_whitespace_as_suffix
    return {
        "model": _MODELS[trained.model_type],
        "pieces": names.get(_NORMAL, []),
        "scores": scores.get(_NORMAL, []),
        "unused": names.get(_UNUSED, []),
        "unused_scores": scores.get(_UNUSED, []),
        "kept": names.get(_KEPT, []),
        "controls": names.get(_CONTROL, []),
        "unknown": names[_UNKNOWN][0],
        "unknown_surface": trained.unk_surface,
        "bytes": bool(trained.byte_fallback),
        "table": base64.b64encode(normal.precompiled_charsmap).decode(),
        "prefix": bool(normal.add_dummy_prefix and not suffix),
        "suffix": bool(normal.add_dummy_prefix and suffix),
        "shorten": bool(normal.remove_extra_whitespaces),
        "mark": bool(normal.escape_whitespaces),
    }


def _short(score: float) -> float:
    """The shortest number that is the same float32."""
    return float(str(np.float32(score)))
