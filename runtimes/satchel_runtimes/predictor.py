"""`load` a bundle and `predict` with it: the whole of what an application on a device sees."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Optional, Union

from .bundle import Bundle, open_bundle
from .errors import UsageError
from .manifest import Manifest, TaskEntry
from .sessions import Session, SessionOptions, open_session
from .tasks import Task, open_task, task_name

__all__ = ["Predictor", "load"]


def load(
    path: Union[str, Path],
    *,
    task: Optional[str] = None,
    threads: Optional[int] = None,
    verify: str = "always",
    trust: bool = False,
    delegate: Optional[str] = None,
    cores: Optional[str] = None,
    allow_failed: bool = False,
) -> Predictor:
    """Open a bundle for prediction; every file is checked before it is loaded.

    Args:
        path: a bundle folder, or the same as an uncompressed zip.
        task: which of the bundle's tasks `predict` serves; the first by default.
        threads: intra-op threads of the engine; None takes the device profile's preference from the bundle.
        verify: "always" hashes every file; "once" skips files that an earlier process hashed and that have not changed.
        trust: load a format whose files are code, as TorchScript is; only for bundles from a source that you trust.
        delegate: an accelerator of the engine, by name or by the path of its library; `Session.used` says what runs.
        cores: the NeuronCores of a Neuron bundle, as "4", "7-15" or "0,2-3"; rows of a batch are spread over several.
        allow_failed: open a bundle that its gates refused and `--keep-failed` kept.

    Raises:
        UsageError: no bundle at `path`, it does not serve `task`, or its engine has no such delegate.
        IntegrityError: the bundle is damaged, altered, of another schema, or code that `trust` does not allow.
        ToolchainError: a package that the bundle needs is missing or too old.
        SupportError: the engine here cannot run the bundle's graphs.
    """
    bundle = open_bundle(path, verify=verify, allow_failed=allow_failed)
    return Predictor(bundle, task=task, options=SessionOptions(threads, trust, delegate, cores))


class Predictor:
    """A loaded bundle. `predict` may be called from several threads; results belong to the caller."""

    def __init__(self, bundle: Bundle, *, task: Optional[str] = None, options: Optional[SessionOptions] = None) -> None:
        self.bundle = bundle
        self._lock = threading.Lock()
        self._tasks: dict[str, Task] = {}
        self._default = self._entry(task).name
        self._graphs: dict[str, Session] = {}
        opened = self.open_task(self._default)  # a missing tokenizer shows before the graph is loaded
        for component in dict.fromkeys(graph.component for graph in self.manifest.graphs):
            self._graphs[component] = open_session(
                bundle, self.manifest.graphs_of(component), options or SessionOptions()
            )
        self._task: Optional[Task] = opened

    @property
    def manifest(self) -> Manifest:
        return self.bundle.manifest

    @property
    def graphs(self) -> dict[str, Session]:
        """The loaded graphs by component name."""
        return self._graphs

    @property
    def tasks(self) -> tuple[str, ...]:
        return tuple(entry.name for entry in self.manifest.tasks)

    def predict(self, inputs: Any, *, task: Optional[str] = None, batch_size: int = 0, **options: Any) -> Any:
        """Answer one input, or a list of them with a list, as `transformers.pipeline` does for the task.

        Args:
            inputs: what the task takes: a string for most text tasks, a mapping for questions. A list is run in
                batches of similar length, so that padding is small, and answered in its own order.
            task: another of the bundle's tasks.
            batch_size: rows in one run of the graph; 0 takes the task's own.
            options: the task's options, named as in `transformers.pipeline`.

        Raises:
            UsageError: an input of the wrong type, or an option that the task does not know.
        """
        server = self._task if task is None else self.open_task(task)
        if server is None:
            raise UsageError("Cannot predict.", why="this predictor was closed", fix="load the bundle again")
        chosen = server.check_options(options)
        if server.is_single(inputs):
            return server.wrap_single(server.run(self._graphs, (inputs,), chosen)[0], chosen)
        if not isinstance(inputs, (list, tuple)):
            server.encode(inputs, chosen)  # says what the task takes
        return server.run(self._graphs, inputs, chosen, batch_size) if inputs else []

    __call__ = predict

    def stream(self, inputs: Any, *, task: Optional[str] = None, **options: Any) -> Iterator[Any]:
        """The answer to one input in pieces of text, as they are made; of a list of inputs, pairs of the number of an answer and a
        piece of it. Stop taking them to cancel.

        Raises:
            UsageError: as of `predict`, or the task does not write text.
        """
        server: Any = self._task if task is None else self.open_task(task)  # Any: of those tasks that stream
        if not hasattr(server, "stream"):
            raise UsageError("Cannot stream.", why=f"{task or self._default} does not write text", fix="use predict")
        chosen = server.check_options(options)
        if server.is_single(inputs):
            return (piece for _, piece in server.stream(self._graphs, (inputs,), chosen))
        if not isinstance(inputs, (list, tuple)):
            server.encode(inputs, chosen)  # says what the task takes
        pieces: Iterator[Any] = server.stream(self._graphs, inputs, chosen)
        return pieces

    def open_task(self, name: str) -> Task:
        entry = self._entry(name)
        with self._lock:
            if entry.name not in self._tasks:
                self._tasks[entry.name] = open_task(entry, self.bundle)
            return self._tasks[entry.name]

    def _entry(self, name: Optional[str]) -> TaskEntry:
        for entry in self.manifest.tasks:
            if name is None or entry.name == task_name(name):
                return entry
        raise UsageError(
            f"Cannot serve {name!r} from the bundle {self.bundle.path}.",
            why=f"it serves {', '.join(self.tasks)}",
            fix="name one of these, or convert again with --task",
        )

    def close(self) -> None:
        """Free the engine's memory. Calls after this are refused."""
        for session in self._graphs.values():
            session.close()
        self._graphs, self._tasks, self._task = {}, {}, None

    def __enter__(self) -> Predictor:  # noqa: PYI034  # typing.Self came with Python 3.11
        return self

    def __exit__(
        self, kind: Optional[type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        self.close()
