"""Weights of up to 8 bits, in groups of inputs that share a scale and a zero point.

What GPTQ, AWQ and compressed-tensors keep, whatever their files look like.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from tgi_backend_torch.quant.linear import Room, by_slabs


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupedWeight:
    """Satisfies `FewBits`: `(number - zero) * scale`."""

    numbers: Tensor
    """uint8 (outputs, inputs), or (outputs, inputs / 2) with two of 4 bits in each: column j in the
    low half, column j + inputs / 2 in the high one, so that each half is unpacked in one go."""
    scales: Tensor
    """(outputs, groups, 1), in the dtype that is computed in."""
    zeros: Tensor | None
    """(outputs, groups, 1), likewise; None: `middle` is the zero of all."""
    middle: int
    halves: bool
    """Whether there are two in each byte."""

    @property
    def shape(self) -> tuple[int, int]:
        """See `FewBits`."""
        outputs, columns = self.numbers.shape
        return outputs, columns * 2 if self.halves else columns

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """See `FewBits`."""
        zeros = () if self.zeros is None else (self.zeros,)
        return (self.numbers, self.scales, *zeros)

    @property
    def grain(self) -> int:
        """See `InSlabs`."""
        return 1

    def rows(self, begin: int, end: int, room: Tensor) -> Tensor:
        """See `InSlabs`."""
        slab, scales = self.unpacked(begin, end, room), self.scales[begin:end]
        groups = slab.view(end - begin, scales.shape[1], -1)
        # small integers are exact in any dtype, so there is one rounding
        groups.sub_(self.middle if self.zeros is None else self.zeros[begin:end]).mul_(scales)
        return slab

    def unpacked(self, begin: int, end: int, room: Tensor) -> Tensor:
        """As `rows`, before zeros and scales."""
        inputs = self.shape[1]
        numbers = self.numbers[begin:end]
        slab = room[: (end - begin) * inputs].view(end - begin, inputs)
        if self.halves:
            slab[:, : inputs // 2] = numbers & 15
            slab[:, inputs // 2 :] = numbers >> 4
        else:
            slab.copy_(numbers)
        return slab

    def product(self, x: Tensor, room: Room) -> Tensor:
        """See `FewBits`; `kernels.py` has the CPU's kernel for few rows."""
        return by_slabs(self, x, room)

    def outputs(self, rows: Tensor) -> GroupedWeight:
        """See `Divisible`."""
        return replace(
            self,
            numbers=self.numbers[rows],
            scales=self.scales[rows],
            zeros=None if self.zeros is None else self.zeros[rows],
        )

    def inputs(self, begin: int, end: int) -> GroupedWeight:
        """See `Divisible`."""
        inputs = self.shape[1]
        return replace(
            self.choose(slice(begin, end)),
            scales=of_columns(self.scales, inputs, begin, end),
            zeros=None if self.zeros is None else of_columns(self.zeros, inputs, begin, end),
        )

    @property
    def single(self) -> Tensor:
        """The numbers, one in each byte: uint8 (outputs, inputs)."""
        if not self.halves:
            return self.numbers
        return torch.cat((self.numbers & 15, self.numbers >> 4), 1)

    def choose(self, columns: slice | Tensor) -> GroupedWeight:
        """Some columns' numbers, with the groups of all."""
        numbers = self.single[:, columns]
        halves = self.halves and numbers.shape[1] % 2 == 0
        return replace(self, numbers=_kept(numbers, halves), halves=halves)


def grouped(
    numbers: Tensor,
    scales: Tensor,
    zeros: Tensor | None,
    bits: int,
    dtype: torch.dtype,
) -> GroupedWeight:
    """Keeps a weight.

    Args:
        numbers: uint8 (outputs, inputs), each below 2 ** bits; equally many columns a group.
        scales: (outputs, groups).
        zeros: (outputs, groups), or None if the middle of the range is the zero of all.
        bits: of a number.
        dtype: what is computed in.
    """
    halves = bits <= 4 and numbers.shape[1] % 2 == 0
    return GroupedWeight(
        numbers=_kept(numbers, halves),
        scales=scales.to(dtype).unsqueeze(-1).contiguous(),
        zeros=None if zeros is None else zeros.to(dtype).unsqueeze(-1).contiguous(),
        middle=1 << (bits - 1),
        halves=halves,
    )


def even(values: Tensor, size: int, inputs: int) -> Tensor:
    """Values of groups of `size` inputs, the last of which may be shorter, as those of finer groups
    that are all alike: (outputs, groups) -> (outputs, finer groups).
    """
    finer = math.gcd(size, inputs)
    return values.repeat_interleave(size // finer, 1)[:, : inputs // finer]


def finer(values: Tensor, inputs: int, sizes: Collection[int]) -> Tensor | None:
    """(outputs, groups) -> (outputs, finer groups), of the first of these sizes that halving leads
    to; None if it leads to none.
    """
    size = inputs // values.shape[1]
    while size > max(sizes) and size % 2 == 0:
        size //= 2
    if size not in sizes:
        return None
    return values.repeat_interleave(inputs // size // values.shape[1], 1)


def of_columns(values: Tensor, inputs: int, begin: int, end: int) -> Tensor:
    """What some columns share: (outputs, groups, 1) of all `inputs` -> the same of those from
    `begin` to `end`. Where a group is cut there are more and smaller ones, with the same values.
    """
    size = inputs // values.shape[1]
    finer = math.gcd(size, begin, end)
    return values.repeat_interleave(size // finer, 1)[:, begin // finer : end // finer].clone()


def _kept(numbers: Tensor, halves: bool) -> Tensor:
    """See `GroupedWeight.numbers`."""
    if not halves:
        return numbers.contiguous()
    half = numbers.shape[1] // 2
    return numbers[:, :half] | (numbers[:, half:] << 4)
