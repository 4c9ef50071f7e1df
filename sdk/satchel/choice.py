"""Which candidate is shipped: the one rule that `convert` follows and `compare` and `tune` tell."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from satchel_runtimes.errors import SatchelError, ToolchainError

from .gates import GATES, REFUSED
from .report import Outcome

__all__ = ["Best", "Choice", "choose"]

# After one of these the next candidate gets its turn. A missing toolchain, or a machine without memory, says nothing
# about the candidate, and what comes after it is not what the profile prefers: never skipped silently.
_REFUSALS = tuple({kind for _, kind in GATES.values()} - {ToolchainError})


@dataclass(frozen=True)
class Choice:
    """The candidate that is shipped, or the error of a conversion that ships none."""

    chosen: Outcome | None
    error: SatchelError | None
    why: str = "the first in the profile's order that passes every gate"


Best = Callable[[Sequence[Outcome]], tuple[Outcome, str]]  # one of several that pass, and why that one


def choose(outcomes: Iterable[Outcome], best: Best | None = None) -> Choice:
    """The first that passes every gate; those after it are not asked for. Of none, the first refusal is the error.

    With `best`, all are asked for, and it says which of those that pass.
    """
    first: SatchelError | None = None
    passed: list[Outcome] = []
    for outcome in outcomes:
        if outcome.refusal is None:
            passed.append(outcome)
            if best is None:
                return Choice(outcome, None)
        elif not isinstance(outcome.refusal, _REFUSALS) or _of_the_model(outcome):
            return Choice(None, outcome.refusal)
        else:
            first = first or outcome.refusal
    if best is not None and passed:
        chosen, why = best(passed)
        return Choice(chosen, None, why)
    return Choice(None, first)


def _of_the_model(outcome: Outcome) -> bool:
    """Whether the model itself was refused: every other candidate would be refused for the same."""
    return any(each.status == REFUSED and each.where == "reference" for each in outcome.verdicts)
