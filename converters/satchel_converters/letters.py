"""VitsTokenizer as data that a device can follow: it reads letters, and transformers has it in Python alone."""

from __future__ import annotations

from typing import Any

from satchel_runtimes.errors import SupportError

__all__ = ["alphabet_of", "letters_of"]

_LETTERS = {"ron": [["ț", "ţ"]]}  # by language: what VitsTokenizer writes in another way
_FLAGS = ("lstrip", "rstrip", "single_word")


def letters_of(tokenizer: Any) -> dict[str, Any]:  # Any: classes of transformers, most of them without types
    """Options of the step "letters"; none for another tokenizer.

    Raises:
        SupportError: it needs a program that writes texts in sounds, or has words that take spaces with them.
    """
    if type(tokenizer).__name__ != "VitsTokenizer":
        return {}
    if tokenizer.phonemize:
        raise _refused(
            "its tokenizer writes texts in sounds with phonemizer and espeak, which devices do not have",
            "take a checkpoint that reads letters, as those of MMS-TTS do",
        )
    added = tokenizer.added_tokens_decoder
    odd = [str(each) for each in added.values() if any(getattr(each, flag) for flag in _FLAGS)]
    if odd:
        raise _refused(f"its tokenizer has a token {odd[0]!r} that takes spaces with it", "take another checkpoint")
    blank = tokenizer.decoder.get(0)
    if tokenizer.add_blank and blank is None:
        raise _refused("its tokenizer puts token 0 between letters, and has none", "take all files of the checkpoint")
    if not alphabet_of(tokenizer):
        raise _refused("its vocabulary has no single letters", "take a checkpoint that reads letters")
    code = tokenizer.convert_tokens_to_ids
    return {
        "vocabulary": dict(tokenizer.encoder),
        "added": {str(each): number for number, each in added.items()},
        "blank": code(blank) if tokenizer.add_blank else None,
        "unknown": tokenizer.unk_token_id,
        "normalize": bool(tokenizer.normalize),
        "replace": _LETTERS.get(tokenizer.language or "", []),
        "roman": bool(tokenizer.is_uroman),
    }


def alphabet_of(tokenizer: Any) -> str:  # Any: as above
    """The letters that one of these knows, without capitals; none of another tokenizer."""
    if type(tokenizer).__name__ not in ("VitsTokenizer", "SpeechT5Tokenizer"):
        return ""
    known = [each for each in tokenizer.get_vocab() if each is not None and len(each) == 1 and each.isalpha()]
    return "".join(sorted(each for each in known if each == each.lower()))


def _refused(why: str, fix: str) -> SupportError:
    return SupportError("Cannot carry the tokenizer of this model.", why=why, fix=fix)
