"""What a worker imports, imported once: `warm_workers` forks it."""

from __future__ import annotations

import litert_torch  # noqa: F401
import onnx_ir.passes.common  # noqa: F401
import onnxruntime  # noqa: F401
import onnxscript.optimizer  # noqa: F401
import torch.onnx  # noqa: F401

from satchel_converters import capture, reference, worker  # noqa: F401
from satchel_converters.lean import import_transformers

import_transformers(to="run the tests")
