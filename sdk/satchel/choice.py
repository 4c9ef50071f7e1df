"""Which candidate is shipped: the one rule that `convert` follows and `compare` tells."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from satchel_runtimes.errors import SatchelError, ToolchainError

from .gates import GATES
from .report import Outcome

__all__ = ["Choice", "choose"]

# After one of these the next candidate gets its turn. A missing toolchain, or a machine without memory, says nothing
# about the candidate, and what comes after it is not what the profile prefers: never skipped silently.
_REFUSALS = tuple({kind for _, kind in GATES.values()} - {ToolchainError})


@dataclass(frozen=True)
class Choice:
    """The candidate that is shipped, or the error of a conversion that ships none."""

    chosen: Outcome | None
    error: SatchelError | None


def choose(outcomes: Iterable[Outcome]) -> Choice:
    """The first that passes every gate; those after it are not asked for. Of none, the first refusal is the error."""
    first: SatchelError | None = None
    for outcome in outcomes:
        if outcome.refusal is None:
            return Choice(outcome, None)
        if not isinstance(outcome.refusal, _REFUSALS):
            return Choice(None, outcome.refusal)
        first = first or outcome.refusal
    return Choice(None, first)
