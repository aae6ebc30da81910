"""Floating-point numbers of 8 bits: what widens them, and weights of them with scales.

torch's own conversion goes number by number on CPUs: 9 ns each, where shifting bits into the places
that the wider format has for them takes 1 (bfloat16, one thread with AVX-512).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from tgi_backend_torch.quant.grouped import of_columns
from tgi_backend_torch.quant.linear import Room, by_slabs

FLOAT8 = {"fp8_e4m3fn": torch.float8_e4m3fn, "fp8_e5m2": torch.float8_e5m2}
"""By TGI's name."""

_MANTISSA = {
    torch.float8_e4m3fn: 3,
    torch.float8_e5m2: 2,
    torch.float16: 10,
    torch.bfloat16: 7,
    torch.float32: 23,
}
_EXPONENT_OF_ONE = {
    torch.float8_e4m3fn: 7,
    torch.float8_e5m2: 15,
    torch.float16: 15,
    torch.bfloat16: 127,
    torch.float32: 127,
}
_BITS = {torch.float16: torch.int16, torch.bfloat16: torch.int16, torch.float32: torch.int32}


def widen(narrow: Tensor, out: Tensor) -> Tensor:
    """Copies 8-bit numbers into `out`, of the same shape, exactly, but for NaN and infinity."""
    source, target = narrow.dtype, out.dtype
    integers = _BITS[target]
    shift = _MANTISSA[target] - _MANTISSA[source]
    # the integer's sign fills all that is above its 8 bits; the sign proper and 7 bits stay
    kept = torch.iinfo(integers).min | (0x7F << shift)
    bits = out.view(integers)
    bits.copy_(narrow.view(torch.int8)).bitwise_left_shift_(shift).bitwise_and_(kept)
    return out.mul_(2.0 ** (_EXPONENT_OF_ONE[target] - _EXPONENT_OF_ONE[source]))


def narrow(wide: Tensor, dtype: torch.dtype) -> Tensor:
    """Rounds to 8 bits; what is too large becomes the largest, where torch makes it NaN."""
    most = torch.finfo(dtype).max
    return wide.clamp(-most, most).to(dtype)


@dataclass(frozen=True, slots=True, kw_only=True)
class Float8Weight:
    """Satisfies `FewBits`: `number * scale`."""

    numbers: Tensor
    """float8 (outputs, inputs)."""
    scales: Tensor
    """(outputs, groups, 1), in the dtype that is computed in."""

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
        numbers, scales = self.numbers[begin:end], self.scales[begin:end]
        slab = widen(numbers, room[: numbers.numel()].view(numbers.shape))
        slab.view(end - begin, scales.shape[1], -1).mul_(scales)
        return slab

    def product(self, x: Tensor, room: Room) -> Tensor:
        """See `FewBits`."""
        return by_slabs(self, x, room)

    def outputs(self, rows: Tensor) -> Float8Weight:
        """See `Divisible`."""
        return Float8Weight(numbers=self.numbers[rows], scales=self.scales[rows])

    def inputs(self, begin: int, end: int) -> Float8Weight:
        """See `Divisible`."""
        return Float8Weight(
            numbers=self.numbers[:, begin:end].contiguous(),
            scales=of_columns(self.scales, self.shape[1], begin, end),
        )


def to_float8(weight: Tensor, dtype: torch.dtype) -> Float8Weight:
    """Rounds a weight, (outputs, inputs), with a scale for each output."""
    weight = weight.float()
    most = torch.finfo(torch.float8_e4m3fn).max
    scales = (weight.abs().amax(1, keepdim=True) / most).clamp_min(1e-20).to(dtype)
    numbers = narrow(weight / scales.float(), torch.float8_e4m3fn)
    return Float8Weight(numbers=numbers, scales=scales.unsqueeze(-1))
