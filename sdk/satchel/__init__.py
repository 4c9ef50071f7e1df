"""satchel packs a Hugging Face model for a device, proves that it still is the model, and carries it there.

import satchel
bundle = satchel.convert("sentence-transformers/all-MiniLM-L6-v2", device="raspberry-pi-5")
satchel.load(bundle).predict("Where is my order?")
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from satchel_runtimes import Predictor as Predictor
    from satchel_runtimes import load as load
    from satchel_runtimes.errors import SatchelError as SatchelError

    from .compare import compare as compare
    from .convert import convert as convert
    from .evaluate import evaluate as evaluate
    from .progress import Progress as Progress
    from .tune import tune as tune

__all__ = ["Predictor", "Progress", "SatchelError", "__version__", "compare", "convert", "evaluate", "load", "tune"]
__version__ = "0.1.0"

_WHERE = {
    "Predictor": "satchel_runtimes",
    "Progress": "satchel.progress",
    "SatchelError": "satchel_runtimes.errors",
    "compare": "satchel.compare",
    "convert": "satchel.convert",
    "evaluate": "satchel.evaluate",
    "load": "satchel_runtimes",
    "tune": "satchel.tune",
}


class _Face(ModuleType):
    """`satchel.convert` is the function, also after somebody has imported the module of that name."""

    def __setattr__(self, name: str, value: object) -> None:
        if not (name in _WHERE and isinstance(value, ModuleType)):  # the import system binds a submodule to its name
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Face


def __getattr__(name: str) -> Any:  # Any: whatever the name stands for
    """Import a public name when it is first used, so that `satchel --help` costs no numpy."""
    if name not in _WHERE:
        raise AttributeError(f"module 'satchel' has no attribute {name!r}")
    import importlib

    value = globals()[name] = getattr(importlib.import_module(_WHERE[name]), name)
    return value
