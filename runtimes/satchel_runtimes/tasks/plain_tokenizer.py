"""What tokenizers in plain Python share: special tokens around one or two texts, truncation, and an encoding's fields."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Optional, Union

__all__ = ["Part", "PlainEncoding", "PlainTokenizer"]


@dataclass(frozen=True)
class PlainEncoding:
    """What `tokenizers.Encoding` says of a text, under the same names; each list has one entry per token."""

    ids: list[int]
    type_ids: list[int]
    offsets: list[tuple[int, int]]  # of characters in the token's own text; none where nobody knows them
    special_tokens_mask: list[int]
    sequence_ids: list[Optional[int]]
    word_ids: list[Optional[int]]

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True)
class Part:
    """The tokens of one text."""

    ids: list[int]
    offsets: list[tuple[int, int]]
    words: list[Optional[int]]

    def cut(self, length: int, side: str) -> Part:
        part = slice(max(len(self.ids) - length, 0), None) if side == "left" else slice(length)
        return Part(self.ids[part], self.offsets[part], self.words[part])


class PlainTokenizer(ABC):
    """The part of `tokenizers.Tokenizer` that tasks use.

    Args:
        frames: ids around one text and around two; None where a text stands.
        max_length: to which texts are cut, by the policy `truncation` and from `side`; None: they are not.
    """

    model = None  # `tokenizers` has one here; there is none that anything could ask

    def __init__(
        self,
        frames: Sequence[Sequence[Optional[int]]],
        *,
        pair_type: int = 0,
        max_length: Optional[int],
        truncation: str,
        side: str,
    ) -> None:
        self._frames, self._pair_type = frames, pair_type
        self._max_length, self._truncation, self._side = max_length, truncation, side

    @abstractmethod
    def part(self, text: str) -> Part:
        """The tokens of a text.

        Raises:
            UnicodeEncodeError: a lone surrogate.
        """

    @abstractmethod
    def decode(self, ids: Sequence[int], skip_special_tokens: bool = True) -> str: ...

    @abstractmethod
    def token_to_id(self, token: str) -> Optional[int]: ...

    @abstractmethod
    def id_to_token(self, token: int) -> Optional[str]: ...

    @abstractmethod
    def get_vocab_size(self) -> int: ...

    def encode(
        self,
        text: Union[str, Sequence[str]],
        pair: Union[str, Sequence[str], None] = None,
        is_pretokenized: bool = False,
        add_special_tokens: bool = True,
    ) -> PlainEncoding:
        """As `tokenizers.Tokenizer.encode`.

        Raises:
            UnicodeEncodeError: a lone surrogate.
            ValueError: too short: the text that may not be cut leaves no room.
        """
        texts = [text] if pair is None else [text, pair]
        parts = [self._words(each) if is_pretokenized else self.part(str(each)) for each in texts]
        frame = [None] * len(parts) if not add_special_tokens else self._frames[len(parts) - 1]
        if self._max_length is not None:
            parts = self._cut(parts, self._max_length - sum(each is not None for each in frame))
        made = PlainEncoding([], [], [], [], [], [])
        number = 0
        for each in frame:
            if each is None:
                part, type_id = parts[number], self._pair_type if number else 0
                _extend(made, part, type_id, number, special=0)
                number += 1
            else:  # of the type of the text before it
                _extend(made, Part([each], [(0, 0)], [None]), self._pair_type if number > 1 else 0, None, special=1)
        return made

    def _words(self, words: Union[str, Sequence[str]]) -> Part:
        whole = Part([], [], [])
        for number, word in enumerate(words):
            part = self.part(word)
            whole.ids.extend(part.ids)
            whole.offsets.extend(part.offsets)
            whole.words.extend([number] * len(part.ids))
        return whole

    def _cut(self, parts: list[Part], room: int) -> list[Part]:
        lengths = [len(part.ids) for part in parts]
        over = sum(lengths) - room
        if over <= 0:
            return parts
        if len(parts) == 1 or self._truncation in ("only_first", "only_second"):
            cut = 1 if self._truncation == "only_second" and len(parts) > 1 else 0
            if lengths[cut] <= over:
                raise ValueError("the text that may be cut is too short")
            lengths[cut] -= over
        else:
            for _ in range(over):  # of two texts the longer gives, the second where they are alike
                lengths[0 if lengths[0] > lengths[1] else 1] -= 1
        return [part.cut(length, self._side) for part, length in zip(parts, lengths)]


def _extend(made: PlainEncoding, part: Part, type_id: int, sequence: Optional[int], *, special: int) -> None:
    count = len(part.ids)
    made.ids.extend(part.ids)
    made.offsets.extend(part.offsets)
    made.word_ids.extend(part.words)
    made.type_ids.extend([type_id] * count)
    made.special_tokens_mask.extend([special] * count)
    made.sequence_ids.extend([sequence] * count)
