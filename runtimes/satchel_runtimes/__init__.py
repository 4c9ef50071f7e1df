"""The thin runtime of satchel: load a bundle on a device and predict, with numpy and one engine."""

from __future__ import annotations

from .errors import SatchelError
from .predictor import Predictor, load

__all__ = ["Predictor", "SatchelError", "__version__", "load"]
__version__ = "0.1.0"
