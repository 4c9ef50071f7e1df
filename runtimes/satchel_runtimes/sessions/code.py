"""Formats whose files are code: loading one runs what its author wrote, so somebody has to trust it."""

from __future__ import annotations

from ..bundle import Bundle
from ..errors import IntegrityError
from . import SessionOptions

__all__ = ["require_trust"]


def require_trust(bundle: Bundle, options: SessionOptions) -> None:
    """Refuse a bundle of code that the caller did not say to trust.

    Raises:
        IntegrityError: `options.trust` is not set.
    """
    if not options.trust:
        raise IntegrityError(
            f"Will not load the bundle {bundle.path}.",
            why=f"a {bundle.manifest.target.format} file is code, and loading it runs that code; that its hashes hold says "
            "that nobody altered it since it was made, not who made it",
            fix="if you trust its source, load(..., trust=True) or --trust; otherwise convert the model yourself, e.g. to onnx",
        )
