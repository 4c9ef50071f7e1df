"""What distillation is asked for, in the words of an option."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

from satchel_runtimes.errors import UsageError, unknown_name

__all__ = ["Distill", "parse_distill"]

_FORM = "layers=3,ffn=0.5,temperature=2,lambda=0.5,epochs=3"
_DEFAULT_EPOCHS = 3.0


@dataclass(frozen=True)
class Distill:
    """How a student learns from its teacher, the model before it was pruned.

    Raises:
        UsageError: a number out of its range, or a student that is both named and derived.
    """

    student: str | None = None  # a folder or Hub id; None: derived from the teacher
    layers: int | None = None  # of a derived student; None: as many as its teacher
    ffn: float | None = None  # the width of its feed-forward part, as a share of the teacher's
    temperature: float = 2.0
    lambda_: float = 0.5  # the weight of the soft labels; the labels of the data have the rest
    hidden: float = 0.0  # the weight of the states between the layers
    embedding: float | None = None  # the weight of the pooled vector; None: 1 for sentence-embedding, else 0
    epochs: float | None = None  # None: 3, unless steps or minutes say how long
    steps: int | None = None
    minutes: float | None = None
    learning_rate: float | None = None  # None: 1e-4 for a derived student, 5e-4 for a convnet or an untrained one
    batch: int = 32
    seed: int | None = None  # None: that of the whole compression
    patience: int = 3

    def __post_init__(self) -> None:
        if self.student is not None and (self.layers is not None or self.ffn is not None):
            raise _refused(
                "a student that is named and derived",
                "layers and ffn shape a student made from the teacher",
                "leave layers and ffn out, or student",
            )
        above_zero = ("layers", "temperature", "epochs", "steps", "minutes", "learning_rate", "batch", "patience")
        for name in above_zero:
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise _refused(f"{name}={value:g}", "it is not above zero", "give a positive number")
        if self.ffn is not None and not 0 < self.ffn <= 1:
            raise _refused(f"ffn={self.ffn:g}", "it is the share of the teacher's width", "choose above 0, at most 1")
        if not 0 <= self.lambda_ <= 1:
            raise _refused(f"lambda={self.lambda_:g}", "it is a share", "choose 0 (labels only) to 1 (teacher only)")
        for name in ("hidden", "embedding"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < math.inf:
                raise _refused(f"{name}={value:g}", "a weight is 0 or more", f"{name}=1")

    @property
    def length(self) -> float | None:
        """The epochs of the run; None where something else says how long it is."""
        limited = self.steps is not None or self.minutes is not None
        return self.epochs if self.epochs is not None or limited else _DEFAULT_EPOCHS


def parse_distill(text: str) -> Distill:
    """Read an option such as `student=NAME_OR_FOLDER,temperature=5,lambda=0.5,epochs=3` or `layers=3,minutes=2`.

    Raises:
        UsageError: an unknown word, one that is named twice, or a value out of its range.
    """
    fields = {each.name.rstrip("_"): each for each in dataclasses.fields(Distill)}
    given: dict[str, str | int | float] = {}
    for part in filter(None, (each.strip() for each in text.split(","))):
        name, equals, value = (each.strip() for each in part.partition("="))
        if name not in fields:
            raise unknown_name("setting of distillation", name, fields)
        field = fields[name].name
        if field in given:
            raise _refused(text, f"{name} is named twice", f"name it once, for example {_FORM}")
        if not equals or not value:
            raise _refused(part, f"{name} needs a value", f"for example {_FORM}")
        kind = str(fields[name].type)  # a string, with annotations from the future
        given[field] = value if kind.startswith("str") else _number(name, value, whole=kind.startswith("int"))
    return Distill(**given)  # type: ignore[arg-type]  # each by its own field's type, just above


def _number(name: str, value: str, *, whole: bool) -> int | float:
    try:
        return int(value) if whole else float(value)
    except ValueError:
        kind = "a whole number" if whole else "a number"
        raise _refused(f"{name}={value}", f"{value!r} is not {kind}", f"for example {_FORM}") from None


def _refused(what: str, why: str, fix: str) -> UsageError:
    return UsageError(f"Cannot distil with {what}.", why=why, fix=fix)
