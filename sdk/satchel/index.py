"""Nearest-neighbour search over embeddings: `satchel_runtimes.index`, by the name that users of the whole SDK look for."""

from __future__ import annotations

from satchel_runtimes.index import Index, Neighbour, build, open_index

__all__ = ["Index", "Neighbour", "build", "open_index"]
