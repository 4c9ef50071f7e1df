"""transformers without what it would import beside itself and a conversion never uses."""

from __future__ import annotations

import sys
from types import ModuleType

from satchel_runtimes.toolchain import need

__all__ = ["import_transformers"]

# Assisted generation and quantizers import these where they are installed; with tensors that are spread over machines they
# are a good part of the CPU time that importing transformers takes, in every worker. scipy stays: MaskFormer asks for it.
_UNUSED = ("sklearn", "torchao")


def import_transformers(to: str) -> ModuleType:
    """The module, with its base of models imported. What it looked for then, it remembers as absent.

    Raises:
        ToolchainError: torch or transformers is missing; `to` says what for.
    """
    torch = need("torch", extra="convert", to=to, of="satchel")
    if "transformers" in sys.modules:
        return sys.modules["transformers"]
    blocked = [name for name in _UNUSED if name not in sys.modules]
    available = torch.distributed.is_available
    try:
        torch.distributed.is_available = lambda: False  # as in builds of torch without it
        sys.modules.update(dict.fromkeys(blocked))  # type: ignore[arg-type]  # None: as if it were not installed
        transformers = need("transformers", extra="convert", to=to, of="satchel")
        need("transformers.modeling_utils", extra="convert", to=to, of="satchel")
    finally:
        torch.distributed.is_available = available
        for name in blocked:
            del sys.modules[name]
    return transformers
