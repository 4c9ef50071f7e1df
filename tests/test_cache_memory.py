"""What a token costs in memory is its keys and values, and no step copies those of the others."""

from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from benchmarks.matrix.rows.generators import decoder

from satchel_converters.capture import capture, load_model
from satchel_converters.component import specs
from satchel_converters.onnx_export import export_component
from satchel_converters.source import find_source
from satchel_runtimes.generation import Texts
from satchel_runtimes.manifest import Graph
from satchel_runtimes.sessions import Session
from satchel_runtimes.sessions.onnx import session_of

ROOT = Path(__file__).parents[1]
LAYERS, HEADS, SIZE = 6, 8, 64
TOKEN = LAYERS * 2 * HEADS * SIZE * 4  # bytes of each: 24 KiB
MOST = 3072


# In a process of its own: the heap of one that ran other tests grows by what they left. Prints by how many bytes it grew.
GROWS = """import gc, pickle, sys
from pathlib import Path

import numpy as np
import onnxruntime

from satchel_runtimes.generation import Texts
from satchel_runtimes.sessions.onnx import session_of
from tests.memory import held

folder, most = Path(sys.argv[1]), int(sys.argv[2])
graph = pickle.loads((folder / "graph.pickle").read_bytes())
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = 1
engine = onnxruntime.InferenceSession(folder / graph.file, options, ["CPUExecutionProvider"])
texts = Texts(session_of(graph, engine, 1), 1, most)
texts.read([np.arange(64) + 5])
texts.step(np.array([7]))
gc.collect()
before = held()
for token in range(1, 1025):
    texts.step(np.array([token % 200 + 5]))
print(held() - before)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("memory")


@pytest.fixture(scope="module")
def session(folder: Path) -> Session:
    """Little to compute, and much to remember."""
    heads = {"num_attention_heads": HEADS, "num_key_value_heads": HEADS, "head_dim": SIZE}
    decoder("llama", folder / "model", num_hidden_layers=LAYERS, max_position_embeddings=MOST, **heads)
    (component,) = capture(load_model(find_source(folder / "model"), "text-generation"))
    file, weights = export_component(component, 20, 9, folder)
    given, answered = specs(component.inputs), specs(component.outputs)
    graph = Graph("model", file, given, answered, weights=weights, state=dict(component.state))
    (folder / "graph.pickle").write_bytes(pickle.dumps(graph))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return session_of(graph, onnxruntime.InferenceSession(folder / file, options, ["CPUExecutionProvider"]), 1)


def test_a_cache_is_as_large_as_its_tokens(session: Session) -> None:
    assert session.new_state(1, 1000).nbytes == 1000 * TOKEN
    assert session.new_state(3, 1000).nbytes == 3000 * TOKEN


def test_memory_grows_by_the_tokens_that_are_written_and_no_more(session: Session, folder: Path) -> None:
    command = [sys.executable, "-c", GROWS, str(folder), str(MOST)]

    grown = int(subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT).stdout)

    # 24 MiB of keys and values, in pages of 4 KiB of each head and layer; the engine's own arrays grow by a token's scores.
    assert 0.9 * 1024 * TOKEN < grown < 1.1 * 1024 * TOKEN + 2**20


def test_nothing_is_copied_to_add_a_token(session: Session) -> None:
    texts = Texts(session, 2, 512)
    texts.read([np.arange(40) + 5, np.arange(9) + 5])
    arrays = texts._cache.arrays
    before = {name: (id(each), each.ctypes.data) for name, each in arrays.items()}
    marked = next(iter(arrays))
    arrays[marked][:, :, 500:] = 7.0  # beyond the texts: a copy of the used part, put back, would not keep it

    bound = texts._cache._binding
    for token in range(100):
        texts.step(np.array([token + 5, token + 6]))

    assert {name: (id(each), each.ctypes.data) for name, each in arrays.items()} == before
    assert texts._cache._binding is bound
    assert (arrays[marked][:, :, 500:] == 7.0).all()
    assert np.abs(arrays[marked][0, :, 139]).max() > 0 and not arrays[marked][0, :, 140:500].any()
