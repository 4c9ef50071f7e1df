"""The vendor's device in torch, as far as its guide to tensors in device memory goes: tensors can be moved there and back.

AWS Neuron documentation, Direct HBM Tensor Allocation with Neuron. Anything else that is done with a tensor on it is an error here;
a compiled graph takes them.
"""

from __future__ import annotations

from typing import Any, Self

import torch
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

_aten = torch.ops.aten


class OnDevice(torch.Tensor):
    """A tensor whose values no operator of the host can reach."""

    values: torch.Tensor

    @staticmethod
    def __new__(cls, values: torch.Tensor, device: torch.device) -> Self:
        made: Any = torch.Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]  # torch's own way, without types
            cls, values.shape, strides=values.stride(), dtype=values.dtype, device=device
        )
        made.values = values
        result: Self = made
        return result

    def __repr__(self, *_: Any, **__: Any) -> str:
        return f"OnDevice({list(self.shape)}, {self.device})"

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = kwargs or {}
        same = given.get("dtype") in (None, getattr(args[0], "dtype", None))
        if func is _aten._to_copy.default and str(given.get("device")) == "cpu" and same:
            return args[0].values.clone()
        if func is _aten.detach.default:
            return cls(args[0].values, args[0].device)
        if func is _aten.copy_.default and not isinstance(args[1], cls):
            args[0].values.copy_(args[1])
            return args[0]
        raise RuntimeError(f"{func} has no lowering for neuron")


def _empty(size: Any, stride: Any, dtype: Any = None, layout: Any = None, device: Any = None, **_: Any) -> OnDevice:
    return OnDevice(torch.empty_strided(size, stride, dtype=dtype), device)


# Once for the process: torch cannot forget a device.
_setup_privateuseone_for_python_backend("neuron")
_library = torch.library.Library("aten", "IMPL")
_library.impl("empty_strided", _empty, "PrivateUse1")
