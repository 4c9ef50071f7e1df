"""The thin port to AWS Neuron's packages: trace, dynamic_batch, load, settle. Nothing else of satchel calls them.

Verified by contract, not on hardware: signatures and behaviour are those of the AWS Neuron documentation.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import threading
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, Optional

from .errors import SupportError, ToolchainError
from .toolchain import need, require_version, stub_error

__all__ = ["FAKE", "INSTALL", "NeuronPort", "open_port"]

# The engine of a profile or bundle -> what to import, and the distribution of its compiler.
_ENGINES = {"torch-neuronx": ("torch_neuronx", "neuronx-cc"), "torch-neuron": ("torch_neuron", "neuron-cc")}

FAKE = "fake"  # the compiler_type of what the fakes of satchel's own tests make

INSTALL = (
    "install {engine} and {compiler} from AWS Neuron's own pip repository (see the setup guide in the AWS Neuron "
    "documentation); what the public index has under these names are stubs"
)

# What torch and the vendor's packages raise for a graph that they cannot compile or load.
_ERRORS = (RuntimeError, ValueError, TypeError, AttributeError, KeyError, IndexError, AssertionError, OSError)

_loading = threading.Lock()  # the core of a load is set for the process, not for the thread


class NeuronPort:
    """One of the vendor's packages, opened."""

    def __init__(self, engine: str, module: ModuleType) -> None:
        name, self.compiler = _ENGINES[engine]
        self.engine, self._module = engine, module
        self.version = str(getattr(module, "__version__", None) or _version(name) or "unknown")
        self.compiler_version = _version(self.compiler) or "unknown"
        self.fake = bool(getattr(module, "SATCHEL_FAKE", False))

    @property
    def compiler_type(self) -> str:
        """As artifacts carry it."""
        return FAKE if self.fake else self.compiler

    def trace(
        self, module: Any, example: Sequence[Any], arguments: Sequence[str], workdir: Path, *, apart: bool = False
    ) -> Any:
        """Compile a module of positional tensors at the shapes of `example`; Any: torch's classes.

        Args:
            apart: keep the weights out of the compiled graph, where several graphs have the same.

        Raises:
            SupportError: with what the compiler said last.
        """
        given: dict[str, Any] = {"compiler_args": " ".join(arguments), "inline_weights_to_neff": not apart}
        if self.engine == "torch-neuron":
            given = {"compiler_args": list(arguments), "fallback": True}
        try:
            return self._module.trace(module, tuple(example), compiler_workdir=str(workdir), **given)
        except _ERRORS as error:
            raise SupportError(
                f"Cannot compile for {self.engine}.",
                why=f"{self.compiler} {self.compiler_version}: {_last_line(error)}",
                fix="choose another scheme or a smaller --sequence-length; an operator that the compiler lacks needs another "
                "format",
            ) from None

    def dynamic_batch(self, compiled: Any) -> Any:
        """The same graph for any number of rows; torch_neuron has this as an argument of its trace only."""
        wrap = getattr(self._module, "dynamic_batch", None)
        return wrap(compiled) if wrap is not None else compiled

    @property
    def batches(self) -> bool:
        """Whether `dynamic_batch` changes anything."""
        return hasattr(self._module, "dynamic_batch")

    def load(self, file: Any, core: Optional[int]) -> Any:
        """Load a compiled graph onto a core, counted among those of this process; None leaves that to the runtime.

        Raises:
            SupportError: the runtime or its driver refuses it.
        """
        torch = need("torch", to="load a compiled graph", install="it comes with the vendor's packages")
        with _loading, self._on(core):
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", DeprecationWarning)  # of TorchScript; the vendor has no other way
                    return torch.jit.load(file)
            except _ERRORS as error:
                raise SupportError(
                    "Cannot load a compiled graph.",
                    why=f"{self.engine} {self.version}: {_last_line(error)}",
                    fix="run it on an instance with Neuron devices and their driver, or convert again for this engine",
                ) from None

    def settle(self, loaded: Any, core: Optional[int]) -> str:
        """Move the weights that lie apart to a core, once; what torch calls that core as a place for tensors.

        A graph whose inputs all lie there leaves its outputs there too (AWS Neuron documentation, Direct HBM Tensor Allocation).

        Raises:
            SupportError: the runtime refuses.
        """
        number = core or 0
        try:
            self._module.move_trace_to_device(loaded, number)
        except _ERRORS as error:
            raise SupportError(
                f"Cannot place a compiled graph on core {number}.",
                why=f"{self.engine} {self.version}: {_last_line(error)}",
                fix="free device memory: each graph of a model that writes has its own copy of the weights there",
            ) from None
        return f"neuron:{number}"

    @contextlib.contextmanager
    def _on(self, core: Optional[int]) -> Iterator[None]:
        if core is None:
            yield
        else:
            with self._module.experimental.neuron_cores_context(start_nc=core, nc_count=1):
                yield


def open_port(engine: str, wanted: Optional[str], *, to: str, otherwise: str = "") -> NeuronPort:
    """Import the package of an engine.

    Args:
        wanted: the range of its version; None takes any.
        otherwise: what else there is to do where it is missing, after the vendor's address.

    Raises:
        ToolchainError: it is missing, a stub, or of another version.
        SupportError: there is no such engine.
    """
    if engine not in _ENGINES:
        raise SupportError(f"Cannot {to}.", why=f"no Neuron engine is called {engine!r}", fix="convert again")
    name, compiler = _ENGINES[engine]
    install = INSTALL.format(engine=engine, compiler=compiler) + otherwise
    try:
        module = need(name, to=to, install=install)
        need(f"{name}.experimental", to=to, install=install)
    except (ImportError, RuntimeError, OSError) as error:  # installed, but its own libraries are not
        raise ToolchainError(f"Cannot {to}.", why=f"{name} does not start: {_last_line(error)}", fix=install) from None
    if not callable(getattr(module, "trace", None)):
        raise stub_error(name, to, install)
    port = NeuronPort(engine, module)
    if wanted is not None:
        require_version(engine, port.version, wanted, to=to, install=install)
    return port


def _version(distribution: str) -> Optional[str]:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def _last_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1][:300] if lines else type(error).__name__
