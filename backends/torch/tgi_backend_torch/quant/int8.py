"""Weights of 8 bits with one scale for each output: EETQ's and bitsandbytes', and made here."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from tgi_backend_torch.quant.linear import Room, by_slabs

_LARGEST = 127


@dataclass(frozen=True, slots=True, kw_only=True)
class Int8Weight:
    """Satisfies `FewBits`: `number * scale`."""

    numbers: Tensor
    """int8 (outputs, inputs)."""
    scales: Tensor
    """(outputs, 1), in the dtype that is computed in."""

    @property
    def shape(self) -> tuple[int, int]:
        """See `FewBits`."""
        outputs, inputs = self.numbers.shape
        return outputs, inputs

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """See `FewBits`."""
        return self.numbers, self.scales

    @property
    def grain(self) -> int:
        """See `InSlabs`."""
        return 1

    def rows(self, begin: int, end: int, room: Tensor) -> Tensor:
        """See `InSlabs`."""
        numbers = self.numbers[begin:end]
        slab = room[: numbers.numel()].view(numbers.shape)
        return slab.copy_(numbers).mul_(self.scales[begin:end])

    def product(self, x: Tensor, room: Room) -> Tensor:
        """See `FewBits`; `kernels.py` has the CPU's kernel for few rows."""
        return by_slabs(self, x, room)

    def outputs(self, rows: Tensor) -> Int8Weight:
        """See `Divisible`."""
        return Int8Weight(numbers=self.numbers[rows], scales=self.scales[rows])

    def inputs(self, begin: int, end: int) -> Int8Weight:
        """See `Divisible`."""
        return Int8Weight(numbers=self.numbers[:, begin:end].contiguous(), scales=self.scales)


def to_int8(weight: Tensor, dtype: torch.dtype) -> Int8Weight:
    """Rounds a weight, (outputs, inputs), so that the largest of each output becomes 127."""
    weight = weight.float()
    scales = (weight.abs().amax(1, keepdim=True) / _LARGEST).clamp_min(1e-20)
    # rounded first, so that numbers are those that go with the scales that are kept
    scales = scales.to(dtype)
    numbers = (weight / scales.float()).round_().clamp_(-_LARGEST, _LARGEST).to(torch.int8)
    return Int8Weight(numbers=numbers, scales=scales)
