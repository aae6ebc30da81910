"""Weights of 4 and 8 bits, by kernels of ours: what no library takes, or none is there to take.

A few tokens are multiplied with the numbers as they lie. For more, the whole layer is unpacked in
one launch and multiplied by torch: `by_slabs` launches several times as much.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
import triton
from tgi_backend_torch.quant.float8 import Float8Weight
from tgi_backend_torch.quant.grouped import GroupedWeight
from tgi_backend_torch.quant.int8 import Int8Weight
from tgi_backend_torch.quant.linear import FewBits, Room
from torch import Tensor
from torch.nn import functional

from tgi_backend_cuda.kernels.groups import multiply_groups, multiply_groups_by_some, unpack_groups
from tgi_backend_cuda.tiles import Architecture

_MOST_TOKENS = 16
"""Matrix instructions multiply no fewer."""
_NUMBERS = 1 << 14
"""Of a weight, that a program multiplies with one token."""
_WARPS = 4
_LEAST_PIECE = 16
_MOST_PIECE = 128
_PROGRAMS = 4
"""Of more outputs, so many on each multiprocessor, a program has more."""
_MOST_BLOCK = 4096
"""Bytes that a program unpacks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupsWeight:
    """Satisfies `FewBits`: `(number - zero) * scale`."""

    numbers: Tensor
    """As in `GroupedWeight`, in any type of a byte; e4m3 in uint8."""
    scales: Tensor
    """(outputs, groups, 1), contiguous."""
    zeros: Tensor | None = None
    """Likewise; None: `middle` is the zero of all."""
    middle: float = 0.0
    halves: bool = False
    float8: bool = False
    arch: Architecture

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

    def product(self, x: Tensor, room: Room) -> Tensor:
        """See `FewBits`."""
        if len(x) > _MOST_TOKENS or self._piece < _LEAST_PIECE:
            return self.unpacked_product(x, room)
        x = x.contiguous()
        return self._of_one(x) if len(x) == 1 else self._of_some(x)

    def unpacked_product(self, x: Tensor, room: Room) -> Tensor:
        """The product with all of it, unpacked."""
        outputs, inputs = self.shape
        dense = room.of(outputs * inputs, x)[: outputs * inputs].view(outputs, inputs)
        columns = self.numbers.shape[1]
        block = min(_MOST_BLOCK, triton.next_power_of_2(columns))
        unpack_groups[(outputs, triton.cdiv(columns, block))](
            dense, *self._given(), **self._sizes(), BLOCK=block, num_warps=_WARPS
        )
        return functional.linear(x, dense)

    @property
    def _group(self) -> int:
        """Inputs of one."""
        return self.shape[1] // self.scales.shape[1]

    @property
    def _piece(self) -> int:
        """Bytes of a row whose numbers lie in one group, low halves as high ones."""
        return math.gcd(self.numbers.shape[1], self._group, _MOST_PIECE)

    def _of_one(self, x: Tensor) -> Tensor:
        outputs, piece = self.shape[0], self._piece
        pieces = triton.next_power_of_2(self.numbers.shape[1] // piece)
        rows = max(1, _NUMBERS // (pieces * piece * (2 if self.halves else 1)))
        out = x.new_empty(1, outputs)
        multiply_groups[(triton.cdiv(outputs, rows),)](
            out,
            x,
            *self._given(),
            outputs,
            **self._sizes(),
            PIECE=piece,
            PIECES_PAD=pieces,
            ROWS=rows,
            EARLY=self.arch.early,
            num_warps=_WARPS,
            **self.arch.launch,
        )
        return out

    def _of_some(self, x: Tensor) -> Tensor:
        outputs = self.shape[0]
        wide = outputs > 16 * _PROGRAMS * self.arch.multiprocessors
        rows = 32 if wide else 16
        out = x.new_empty(len(x), outputs)
        multiply_groups_by_some[(triton.cdiv(outputs, rows),)](
            out,
            x,
            *self._given(),
            outputs,
            len(x),
            **self._sizes(),
            PIECE=self._piece,
            TOKENS=_MOST_TOKENS,
            ROWS=rows,
            EARLY=self.arch.early,
            num_warps=2 if wide else 1,
            num_stages=4,
            **self.arch.launch,
        )
        return out

    def _given(self) -> tuple[Any, ...]:
        zeros = self.scales if self.zeros is None else self.zeros
        return self.numbers, self.scales, zeros, self.middle

    def _sizes(self) -> dict[str, int]:
        return {
            "COLUMNS": self.numbers.shape[1],
            "GROUPS": self.scales.shape[1],
            "SIZE": self._group,
            "HALVES": self.halves,
            "ZEROS": self.zeros is not None,
            "FLOAT8": self.float8,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Groups:
    """Satisfies `Kernel`."""

    arch: Architecture
    float8: bool
    """Whether the chip reads fp8."""
    name = "ours"

    def ordered(self, weight: FewBits) -> GroupsWeight | None:
        """See `Kernel.ordered`. The numbers lie as they did."""
        match weight:
            case GroupedWeight():
                return GroupsWeight(
                    numbers=weight.numbers,
                    scales=weight.scales,
                    zeros=weight.zeros,
                    middle=float(weight.middle),
                    halves=weight.halves,
                    arch=self.arch,
                )
            case Int8Weight():
                scales = weight.scales.unsqueeze(-1)
                return GroupsWeight(numbers=weight.numbers, scales=scales, arch=self.arch)
            case Float8Weight() if self.float8:
                return GroupsWeight(
                    numbers=weight.numbers.view(torch.uint8),
                    scales=weight.scales.contiguous(),
                    float8=True,
                    arch=self.arch,
                )
            case _:
                return None
