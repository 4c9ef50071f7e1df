"""What a text must be: JSON of a schema, a regular expression or a grammar. llguidance says after each token which may follow.

Whatever the model would rather write, it writes that: https://github.com/guidance-ai/llguidance. A token that the form leaves no choice
about is guessed, so that one call of the graph reads it with the one before.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any, Optional

import numpy as np

from ..errors import SupportError, UsageError
from ..toolchain import need, require_version

__all__ = ["KINDS", "Form", "Held", "Tokens"]

KINDS = {"json_schema": "JSON schema", "regex": "regular expression", "grammar": "grammar"}

# One way to write each value, that of Python's `json`: a small model that may write blanks writes them without end.
_JSON = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
_VERSIONS = ">=1.7"  # before that a text had one end token
_KEPT = 256  # states of texts so far; one that is gone is made again from the start


class Form:
    """A form, compiled for the tokens of one tokenizer. Texts of any number may be held to it.

    Raises:
        UsageError: it is none, or llguidance has not all of it.
        SupportError: llguidance does not understand the tokenizer, or the form is too large for it.
        ToolchainError: llguidance is missing, or too old.
    """

    def __init__(self, tokens: Tokens, kind: str, value: Any) -> None:
        self._kind = kind
        matcher = tokens.package.LLMatcher
        grammar = _grammar(matcher, kind, value)
        refused, said = matcher.validate_grammar_with_warnings(grammar, tokens.opened)
        if refused or said:
            raise _refused(kind, said[0])
        self._first = matcher(tokens.opened, grammar, log_level=0)
        self._ends = frozenset(tokens.ends)
        if self._first.is_error():
            raise _refused(kind, self._first.get_error())

    def held(self, prompt: int) -> Held:
        """For one text, which begins with so many given tokens."""
        return Held(self._first, prompt)

    def check_whole(self, ids: Sequence[int], text: str) -> None:
        """Raises: UsageError where a text ended before it was what it must be."""
        state = self._first.deep_copy()
        tokens = [each for each in ids if each not in self._ends]
        if state.consume_tokens(tokens) and state.is_accepting():
            return
        shown = text if len(text) <= 80 else f"…{text[-80:]}"
        raise UsageError(
            f"Cannot give what was written: it is no whole text of the {KINDS[self._kind]}.",
            why=f"it was ended after {len(tokens)} tokens, with {shown!r}",
            fix="raise max_new_tokens, or bound what may be long (maxLength and maxItems of a schema, {0,20} for * in an expression); "
            "a stop string ends it as well",
        )


class Tokens:
    """A tokenizer as llguidance knows it; made once, in a third of a second for 50,000 tokens.

    Raises: SupportError, ToolchainError: as of `Form`.
    """

    def __init__(self, tokenizer: Any, ends: tuple[int, ...]) -> None:
        self.package = need("llguidance", extra="structured", to="hold a text to a form")
        require_version("llguidance", version("llguidance"), _VERSIONS, to="hold a text to a form")
        self.ends = ends
        try:
            self.opened = self.package.LLTokenizer(tokenizer.to_str(), eos_token=list(ends))
        except (ValueError, AttributeError) as error:
            raise SupportError(
                "Cannot hold the text of this model to a form.",
                why=f"llguidance does not understand its tokenizer: {_line(error)}",
                fix="take a model whose tokenizer.json works on bytes, as those of language models do",
            ) from None


class Held:
    """The rule of a form for one text, and what it says must follow; for any number of ways that the text may go on."""

    def __init__(self, first: Any, prompt: int) -> None:
        self._prompt = prompt
        self._states: dict[bytes, Any] = {b"": first}  # None: no text of the form begins so

    def __call__(self, ids: np.ndarray, scores: np.ndarray) -> np.ndarray:
        state = self._state(ids)
        result: np.ndarray = np.full(len(scores), -np.inf, dtype=np.float32)
        if state is None:  # of beams some only fill a place
            return result
        allowed = np.unpackbits(np.frombuffer(state.compute_bitmask(), dtype=np.uint8), bitorder="little")
        _check(state)
        count = min(len(allowed), len(scores))  # a graph may have scores for more tokens than there are
        np.copyto(result[:count], scores[:count], where=allowed[:count].view(bool))
        return result

    def guess(self, ids: np.ndarray, most: int) -> tuple[np.ndarray, Optional[np.ndarray]]:
        """As of a `Guesser`."""
        must: np.ndarray = np.array(self._state(ids).compute_ff_tokens()[: max(most, 0)], dtype=np.int64)
        return must, None

    def told(self, taken: int, guessed: int) -> None:
        pass

    def _state(self, ids: np.ndarray) -> Any:  # Any: of llguidance
        new = ids[self._prompt :]
        key = new.tobytes()
        if key not in self._states:
            if len(self._states) > _KEPT:
                self._states = {b"": self._states[b""], **dict(list(self._states.items())[_KEPT // 2 :])}
            before = new[:-1].tobytes()
            known = before in self._states
            self._states[key] = _after(self._states[before if known else b""], (new[-1:] if known else new).tolist())
        return self._states[key]


def _after(state: Any, tokens: list[int]) -> Any:  # Any: of llguidance
    """The state after some more tokens; None where they may not follow."""
    if state is None:
        return None
    found = state.deep_copy()  # one that is asked about a token that there is not is of no use any more
    if found.validate_tokens(tokens) < len(tokens):
        return None
    found.consume_tokens(tokens)
    _check(found)
    return found


def _check(state: Any) -> None:  # Any: as above
    """Raises: SupportError where llguidance gave up."""
    if state.is_error():
        raise SupportError(
            "Cannot hold the text to its form any longer.",
            why=f"llguidance says: {_line(state.get_error())}",
            fix="give a simpler form",
        )


def _grammar(matcher: Any, kind: str, value: Any) -> str:
    if kind == "json_schema":
        if isinstance(value, (str, bytes)):
            try:
                value = json.loads(value)
            except ValueError as error:
                raise UsageError(
                    "Cannot read the JSON schema.", why=f"it is no JSON: {error}", fix="give a dict, or its JSON"
                ) from None
        if not isinstance(value, (Mapping, bool)):
            raise UsageError(
                f"Cannot use the JSON schema {str(value)[:60]!r}.",
                why=f"it is a {type(value).__name__}",
                fix="give a dict, such as {'type': 'object'}",
            )
        try:
            text = json.dumps({"allOf": [value]} if isinstance(value, bool) else dict(value))
            return str(matcher.grammar_from_json_schema(text, overrides=_JSON))
        except (TypeError, ValueError) as error:
            raise _refused(kind, str(error)) from None
    if not isinstance(value, str):
        raise UsageError(
            f"Cannot use the {KINDS[kind]} {str(value)[:60]!r}.",
            why=f"it is a {type(value).__name__}",
            fix="give a string",
        )
    made = matcher.grammar_from_regex(value) if kind == "regex" else matcher.grammar_from_lark(value)
    return str(made)


def _refused(kind: str, said: str) -> UsageError:
    return UsageError(
        f"Cannot hold a text to this {KINDS[kind]}.",
        why=f"llguidance says: {_line(said)}",
        fix=f"mend the {KINDS[kind]}, or leave out what llguidance does not have",
    )


def _line(said: object) -> str:
    return " ".join(str(said).split())[:300]
