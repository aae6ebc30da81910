"""Weights of 4 bits, each a place in a table of 16, with a scale for each block: NF4 and FP4.

The tables are bitsandbytes': NF4 is of Dettmers et al., 2023 (arXiv 2305.14314), appendix E.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from tgi_backend_torch.quant.grouped import of_columns
from tgi_backend_torch.quant.linear import Room, by_slabs
from tgi_core.errors import UnsupportedModel

BLOCK = 64
NF4 = (
    -1.0,
    -0.6961928009986877,
    -0.5250730514526367,
    -0.39491748809814453,
    -0.28444138169288635,
    -0.18477343022823334,
    -0.09105003625154495,
    0.0,
    0.07958029955625534,
    0.16093020141124725,
    0.24611230194568634,
    0.33791524171829224,
    0.44070982933044434,
    0.5626170039176941,
    0.7229568362236023,
    1.0,
)
_FP4 = (0.0, 0.0625 / 12, 8 / 12, 1.0, 4 / 12, 6 / 12, 2 / 12, 3 / 12)
FP4 = (*_FP4, *(-number for number in _FP4))

_PAIRS = {2: torch.int32, 4: torch.int64}
"""What two numbers of so many bytes are looked up as: four times as fast as two at a time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CodebookWeight:
    """Satisfies `FewBits`: `table[number] * scale`."""

    numbers: Tensor
    """uint8 (outputs, inputs / 2): the first of two is in the high half."""
    pairs: Tensor
    """int32 or int64 (256,): the bits of two numbers of the table, for each byte."""
    scales: Tensor
    """(outputs, blocks, 1), in the dtype that is computed in."""

    @property
    def shape(self) -> tuple[int, int]:
        """See `FewBits`."""
        outputs, columns = self.numbers.shape
        return outputs, columns * 2

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """See `FewBits`."""
        return self.numbers, self.pairs, self.scales

    @property
    def grain(self) -> int:
        """See `InSlabs`."""
        return 1

    def rows(self, begin: int, end: int, room: Tensor) -> Tensor:
        """See `InSlabs`."""
        numbers, scales = self.numbers[begin:end], self.scales[begin:end]
        pairs = room.view(self.pairs.dtype)[: numbers.numel()]
        torch.index_select(self.pairs, 0, numbers.reshape(-1).int(), out=pairs)
        slab = pairs.view(room.dtype).view(end - begin, -1)
        slab.view(end - begin, scales.shape[1], -1).mul_(scales)
        return slab

    def product(self, x: Tensor, room: Room) -> Tensor:
        """See `FewBits`."""
        return by_slabs(self, x, room)

    def outputs(self, rows: Tensor) -> CodebookWeight:
        """See `Divisible`."""
        return replace(self, numbers=self.numbers[rows], scales=self.scales[rows])

    def inputs(self, begin: int, end: int) -> CodebookWeight:
        """See `Divisible`."""
        if begin % 2 or end % 2:
            raise UnsupportedModel(
                f"{end - begin} inputs of 4 bits are no whole bytes: choose another --num-shard."
            )
        return replace(
            self,
            numbers=self.numbers[:, begin // 2 : end // 2].contiguous(),
            scales=of_columns(self.scales, self.shape[1], begin, end),
        )


def codebook(
    numbers: Tensor, table: Tensor, scales: Tensor, block: int, dtype: torch.dtype
) -> CodebookWeight:
    """Keeps a weight.

    Args:
        numbers: uint8 (outputs, inputs / 2).
        table: (16,).
        scales: (blocks,), of `block` numbers each, one row after another.
        block: see `scales`.
        dtype: what is computed in.
    """
    outputs, inputs = numbers.shape[0], numbers.shape[1] * 2
    finer = math.gcd(block, inputs)
    scales = scales.repeat_interleave(block // finer)[: outputs * inputs // finer]
    table = table.to(dtype)
    both = torch.stack((table.repeat_interleave(16), table.repeat(16)), 1)
    return CodebookWeight(
        numbers=numbers.contiguous(),
        pairs=both.view(_PAIRS[dtype.itemsize]).view(-1),
        scales=scales.view(outputs, -1, 1).to(dtype),
    )


def to_codebook(weight: Tensor, table: tuple[float, ...], dtype: torch.dtype) -> CodebookWeight:
    """Rounds each number of a weight, (outputs, inputs), to the nearest of the table."""
    outputs, inputs = weight.shape
    block = math.gcd(BLOCK, inputs)
    blocks = weight.float().contiguous().view(outputs, -1, block)
    scales = blocks.abs().amax(-1, keepdim=True).clamp_min(1e-20)
    ordered, places = torch.tensor(table, device=weight.device).sort(stable=True)
    borders = (ordered[1:] + ordered[:-1]) / 2
    nearest = places.to(torch.uint8)[torch.bucketize(blocks / scales, borders)]
    numbers = nearest.view(outputs, -1, 2)
    return codebook(
        (numbers[..., 0] << 4) | numbers[..., 1],
        torch.tensor(table, device=weight.device),
        scales.view(-1),
        block,
        dtype,
    )
