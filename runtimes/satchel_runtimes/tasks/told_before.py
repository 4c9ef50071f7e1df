"""What the next window of a long sound is shown of what was said."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Optional

__all__ = ["CONDITIONS", "Told"]

CONDITIONS = ("first-segment", "all-segments")  # which windows see a prompt too


class Told:
    """A prompt, and the last tokens of the windows before."""

    def __init__(self, mark: Optional[int], first: int, most: int, options: Mapping[str, Any]) -> None:
        """
        Args:
            mark: the token that stands before it.
            first: the timestamp of 0.0 seconds.
            most: tokens.
        """
        self._mark, self._first, self._most = mark, first, most
        self._prompt: list[int] = options["prompt_ids"]
        self._always = options["prompt_condition_type"] == CONDITIONS[1]
        self.shown = bool(options["condition_on_prev_tokens"])
        self._said: Optional[list[int]] = None
        if self._prompt and not self._always:
            self.add(self._prompt[1:] if self._prompt[0] == mark else self._prompt)

    def add(self, ids: Sequence[int]) -> None:
        twice = len(ids) > 2 and ids[-2] >= self._first  # of two timestamps at the end one is enough
        self._said = [*(self._said or []), *(ids[:-1] if twice else ids)][-self._most :]

    def before(self) -> list[int]:
        if not self.shown or self._said is None:
            return self._prompt
        marks = self._prompt if self._always and self._prompt else [self._mark] if self._mark is not None else []
        return [*marks, *self._said]
