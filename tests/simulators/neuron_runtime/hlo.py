"""XLA operations that optimum-neuron builds by hand, computed at once on tensors."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch


class _DType:
    """`dtype[shape]` is an operation of that type and shape."""

    def __init__(self, dtype: torch.dtype) -> None:
        self._dtype = dtype

    def __getitem__(self, shape: Any) -> _Operation:
        return _Operation(tuple(shape))

    def Constant(self, constant_value: float) -> torch.Tensor:
        return torch.tensor(constant_value, dtype=self._dtype)


class _Operation:
    def __init__(self, shape: tuple[int, ...]) -> None:
        self._shape = shape

    def DynamicUpdateSlice(self, target: _Handle, update: _Handle, *begins: Any) -> torch.Tensor:
        """XLA moves a slice that would reach over an edge; here that is an error."""
        assert tuple(target.tensor.shape) == self._shape
        out = target.tensor.clone()
        places = []
        for begin, size, room in zip(begins, update.tensor.shape, out.shape, strict=True):
            at = int(begin.tensor if isinstance(begin, _Handle) else begin)
            if not 0 <= at <= room - size:
                raise RuntimeError(f"a slice of {size} at {at} reaches over {room}")
            places.append(slice(at, at + size))
        out[tuple(places)] = update.tensor
        return out

    def Rng(self, low: torch.Tensor, high: torch.Tensor, distribution: int) -> torch.Tensor:
        return torch.rand(self._shape) * (high - low) + low


class _Handle:
    """A tensor as a builder of XLA graphs sees it."""

    def __init__(self, tensor: torch.Tensor) -> None:
        self.tensor = tensor
        self.sizes = tuple(tensor.shape)
        self.dtype = _DType(tensor.dtype)
        self.scribe = SimpleNamespace(u32=_DType(torch.int64))


def xla_hlo_call(build: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    def call(*arguments: Any) -> torch.Tensor:
        return build(*[_Handle(x) if isinstance(x, torch.Tensor) else x for x in arguments])

    return call
