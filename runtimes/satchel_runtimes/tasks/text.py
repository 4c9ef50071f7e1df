"""Text in: a `tokenizers` file from the bundle, the truncation that travels with it, and rows of token ids."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Optional, Union

import numpy as np

from ..errors import IntegrityError, SupportError, UsageError
from ..manifest import Step, TaskEntry
from ..toolchain import need
from .characters import CharacterTokenizer
from .letters import LetterTokenizer
from .piece_tokenizer import PIECES_FILE, PieceTokenizer
from .task import Files, Input, ModelFacts, Row, Task

if TYPE_CHECKING:
    import tokenizers

__all__ = [
    "SPACES_TO_CLEAN",
    "TextTask",
    "Tokens",
    "choice",
    "labels_of",
    "tokenize_step",
    "whole_number",
    "windows",
    "wrong_type",
]

POLICIES = ("longest_first", "only_first", "only_second", "do_not_truncate")
_STEPS = ("tokenize", "characters", "letters")  # those that turn text into ids; a bundle's task has one


def tokenize_step(facts: ModelFacts, *, max_length: Optional[int] = None, policy: str = "longest_first") -> Step:
    """The step that turns text into ids. Texts beyond `max_length` tokens are cut, as the policy says, on any device."""
    length = min(max_length or facts.max_length, facts.max_length)
    cut = {"max_length": length, "truncation": policy, "side": facts.truncation_side, "clean_up": facts.clean_up_spaces}
    if facts.characters:
        return Step("characters", {**facts.characters, **cut})
    if facts.letters:
        return Step("letters", {**facts.letters, **cut})
    return Step("tokenize", {"file": facts.tokenizer_file, **cut})


# What `clean_up_tokenization_spaces` takes out of a decoded text, in its order.
SPACES_TO_CLEAN = (" .", " ?", " !", " ,", " ' ", " n't", " 'm", " 's", " 've", " 're")


class TextTask(Task):
    """A task whose input is text, or a pair of texts."""

    entry_: TaskEntry
    text_kind: ClassVar[str] = "a string"

    def __init__(self, entry: TaskEntry, files: Files) -> None:
        self.entry_ = entry
        self._files = files
        step = next((each for each in entry.preprocess if each.step in _STEPS), None)
        if step is None:
            raise IntegrityError(
                f"Cannot serve {entry.name} from {files.path}.",
                why="the manifest has no step 'tokenize' for it",
                fix="convert the model again",
            )
        self.max_length: int = step.options["max_length"]
        self._step = step
        self._tokenizers: dict[bool, Any] = {}  # Any: of `tokenizers`, or one in Python
        self._lock = threading.Lock()
        self.tokenizer = self._open(truncate=step.options["truncation"] != "do_not_truncate")

    def _open(self, *, truncate: bool) -> Any:  # Any: as above
        """The bundle's tokenizer. Truncation is a setting of the object, so each setting has an object of its own and
        none is changed after a thread could have seen it."""
        if self._step.step == "characters":
            return CharacterTokenizer(self._step.options, truncate=truncate)
        if self._step.step == "letters":
            return LetterTokenizer(self._step.options)
        if self._step.options["file"] == PIECES_FILE:
            return self._open_pieces(truncate=truncate)
        package = need("tokenizers", extra="text", to=f"serve {self.entry_.name}")
        with self._lock:
            if truncate not in self._tokenizers:
                data = self._files.read(self._step.options["file"])
                try:
                    tokenizer = package.Tokenizer.from_buffer(data)
                except Exception as error:  # noqa: BLE001  # tokenizers raises nothing narrower
                    raise IntegrityError(
                        f"Cannot read the tokenizer of {self._files.path}.",
                        why=str(error),
                        fix="update tokenizers on this device, or convert the model again",
                    ) from None
                tokenizer.no_padding()
                tokenizer.no_truncation()
                if truncate:
                    tokenizer.enable_truncation(
                        self.max_length, strategy=self._step.options["truncation"], direction=self._step.options["side"]
                    )
                self._tokenizers[truncate] = tokenizer
        return self._tokenizers[truncate]

    def _open_pieces(self, *, truncate: bool) -> PieceTokenizer:
        with self._lock:
            if truncate not in self._tokenizers:
                spec = json.loads(self._files.read(PIECES_FILE))
                self._tokenizers[truncate] = PieceTokenizer(spec, self._step.options, truncate=truncate)
            opened: PieceTokenizer = self._tokenizers[truncate]
            return opened

    @property
    def cleans(self) -> bool:
        """Whether some spaces are taken out of decoded text; between the pieces of a BPE these are the text's own."""
        return bool(self._step.options.get("clean_up")) and type(self.tokenizer.model).__name__ != "BPE"

    def decoded(self, ids: Sequence[int], *, skip: bool) -> str:
        """The text of some tokens; without the special ones where `skip` says so."""
        text = str(self.tokenizer.decode(ids, skip_special_tokens=skip))
        if self.cleans:  # as transformers does
            for each in SPACES_TO_CLEAN:
                text = text.replace(each, each.strip())
        return text

    def is_single(self, inputs: Input) -> bool:
        return isinstance(inputs, (str, Mapping))

    @classmethod
    def sample(cls, text: str, index: int, facts: ModelFacts) -> tuple[Input, dict[str, Any]]:
        return text, {}

    def encode(self, item: Input, options: Mapping[str, Any]) -> list[Row]:
        if not isinstance(item, str):
            raise wrong_type(self, item)
        return [self.row(self.encoding(item))]

    def texts(self, item: Input, options: Mapping[str, Any]) -> Sequence[str]:
        return (item,) if isinstance(item, str) else ()

    def encoding(
        self,
        text: Union[str, Sequence[str]],
        pair: Union[str, Sequence[str], None] = None,
        *,
        special: bool = True,
        cut: bool = True,
    ) -> tokenizers.Encoding:
        """Token ids with offsets, of a text or of its words; cut at the bundle's length unless `cut` is false."""
        tokenizer = self.tokenizer if cut else self._open(truncate=False)
        words = not isinstance(text, str)
        try:
            found: tokenizers.Encoding = tokenizer.encode(text, pair, is_pretokenized=words, add_special_tokens=special)
            return found
        except (UnicodeEncodeError, TypeError):  # a lone surrogate: bytes that were no UTF-8 somewhere upstream
            raise UsageError(
                "Cannot read the text.",
                why="it holds a character that is not valid Unicode (a lone surrogate)",
                fix="decode the bytes as UTF-8 with errors='replace' first",
            ) from None
        except Exception as error:  # tokenizers raises nothing narrower
            if "too short" not in str(error):
                raise
            raise UsageError(
                "Cannot fit the two texts into the model.",
                why=f"it takes {self.max_length} tokens, and the text that may not be cut needs them all",
                fix="shorten that text",
            ) from None

    def row(self, encoding: tokenizers.Encoding, extra: Any = None) -> Row:
        ids, type_ids = np.array(encoding.ids, dtype=np.int64), np.array(encoding.type_ids, dtype=np.int64)
        return self.row_of_ids(ids, type_ids, extra if extra is not None else encoding)

    def row_of_ids(self, ids: np.ndarray, type_ids: np.ndarray, extra: Any) -> Row:
        if not len(ids):
            raise UsageError(
                "Cannot run the model on this text.",
                why="it gives no tokens at all",
                fix="give a text that is not empty",
            )
        return Row({"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": type_ids}, len(ids), extra)

    def labels(self) -> Sequence[str]:
        labels: Sequence[str] = self.entry_.option("labels", "labels", ())
        return labels


@dataclass(frozen=True)
class Tokens:
    """An encoding as arrays, so that a part of it is a slice."""

    ids: np.ndarray
    type_ids: np.ndarray
    offsets: np.ndarray  # [tokens, 2]: the characters in the token's text
    special: np.ndarray  # added by the tokenizer, not by the text
    words: np.ndarray  # the word of each token, -1 for none
    sequences: np.ndarray  # 0 for the first text, 1 for the second, -1 for special tokens

    @staticmethod
    def of(encoding: tokenizers.Encoding) -> Tokens:
        """Raises SupportError: the tokenizer does not say where in the text its tokens are."""
        if len(encoding.offsets) != len(encoding.ids):
            raise SupportError(
                "Cannot tell which words of the text the model means.",
                why="its tokenizer does not say where in the text its tokens are",
                fix="use a checkpoint with tokenizer.json for this task",
            )
        return Tokens(
            np.array(encoding.ids, dtype=np.int64),
            np.array(encoding.type_ids, dtype=np.int64),
            np.array(encoding.offsets, dtype=np.int64).reshape(-1, 2),
            np.array(encoding.special_tokens_mask, dtype=bool),
            np.array([-1 if word is None else word for word in encoding.word_ids], dtype=np.int64),
            np.array([-1 if sequence is None else sequence for sequence in encoding.sequence_ids], dtype=np.int64),
        )

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, places: np.ndarray) -> Tokens:
        return Tokens(
            self.ids[places],
            self.type_ids[places],
            self.offsets[places],
            self.special[places],
            self.words[places],
            self.sequences[places],
        )


def windows(tokens: Tokens, sequence: int, length: int, stride: int, side: str = "right") -> list[Tokens]:
    """Windows of at most `length` tokens over one text of an encoding; the other tokens stand in every window.

    The same windows as of `Encoding.truncate`: `stride` tokens overlap, and with side "left" they start at the end.

    Raises:
        UsageError: the text needs windows, and there is no room for one that moves on.
    """
    moving = np.flatnonzero(tokens.sequences == sequence)
    count, room = len(moving), length - (len(tokens) - len(moving))
    if count <= room:
        return [tokens]
    if stride >= room:
        raise UsageError(
            "Cannot cut the text into windows.",
            why=f"a window has {length} tokens; {length - room} of them are the same in each, and {stride} overlap",
            fix="choose a smaller stride, or shorten the question",
        )
    before, after = np.arange(moving[0]), np.arange(moving[-1] + 1, len(tokens))
    starts = range(0, count - stride, room - stride)
    parts = [moving[start : start + room] for start in starts]
    if side == "left":
        parts = [moving[max(0, count - start - room) : count - start] for start in starts]
    return [tokens.take(np.concatenate([before, part, after])) for part in parts]


def whole_number(options: Mapping[str, Any], name: str, *, least: int = 1) -> int:
    """An option that counts something.

    Raises:
        UsageError: not an integer, or below `least`.
    """
    value = options[name]
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise UsageError(
            f"Cannot use {name}={value!r}.", why=f"it is a whole number from {least} up", fix=f"pass {name}={least}"
        )
    return value


def choice(options: Mapping[str, Any], name: str, among: Sequence[str]) -> str:
    """An option that is one of some words, in either case.

    Raises:
        UsageError: none of them.
    """
    value = options[name].lower() if isinstance(options[name], str) else options[name]
    if value not in among:
        raise UsageError(
            f"Cannot use {name}={options[name]!r}.", why="there is no such choice", fix=f"use one of {', '.join(among)}"
        )
    return str(value)


def wrong_type(task: TextTask, item: Input) -> UsageError:
    return UsageError(
        f"Cannot run {task.name} on {type(item).__name__} {str(item)[:40]!r}.",
        why=f"it takes {task.text_kind}, or a list of them",
        fix=f"pass {task.text_kind}",
    )


def labels_of(facts: ModelFacts) -> list[str]:
    """Label names in the order of the classifier's outputs, from `id2label`."""
    names = facts.config.get("id2label") or {}
    count = len(names) or int(facts.config.get("num_labels", 2))
    return [str(names.get(str(i), names.get(i, f"LABEL_{i}"))) for i in range(count)]
