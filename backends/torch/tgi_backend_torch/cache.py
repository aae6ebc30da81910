"""The KV cache: keys and values of every layer, in pages.

Knows cells and blocks. Which sequence holds which block is the block tables' business.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tgi_core.contract import BlockCopy

BLOCK_TOKENS = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerShape:
    """What one attention layer keeps of a token."""

    kv_heads: int
    key_dim: int
    value_dim: int

    @property
    def numbers(self) -> int:
        """Numbers in a cell of this layer."""
        return self.kv_heads * (self.key_dim + self.value_dim)


class PagedCache:
    """`num_blocks` blocks of `BLOCK_TOKENS` cells, and a last one of zeros that pads tables."""

    def __init__(
        self,
        layers: Sequence[LayerShape],
        num_blocks: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        self.num_blocks = num_blocks
        self.dtype = dtype
        self.device = device
        self.cell_bytes = max((shape.numbers for shape in layers), default=0) * dtype.itemsize
        """Keys and values of one token in one layer, the largest one."""
        blocks = num_blocks + 1
        # zeros are written, not only promised: a page that was never touched is slow to read
        self._keys = [
            torch.empty(
                (blocks, BLOCK_TOKENS, s.kv_heads, s.key_dim), dtype=dtype, device=device
            ).zero_()
            for s in layers
        ]
        self._values = [
            torch.empty(
                (blocks, BLOCK_TOKENS, s.kv_heads, s.value_dim), dtype=dtype, device=device
            ).zero_()
            for s in layers
        ]

        self._key_cells = [pool.flatten(0, 1) for pool in self._keys]
        self._value_cells = [pool.flatten(0, 1) for pool in self._values]
        self._key_buffer = torch.empty(0, dtype=dtype, device=device)
        self._value_buffer = torch.empty(0, dtype=dtype, device=device)

    @property
    def padding_block(self) -> int:
        """The block that is never handed out and holds zeros."""
        return self.num_blocks

    @property
    def num_bytes(self) -> int:
        """Memory that the cache takes."""
        return sum(t.nbytes for t in (*self._keys, *self._values))

    @property
    def layers(self) -> list[tuple[Tensor, Tensor]]:
        """Keys (blocks, BLOCK_TOKENS, kv_heads, key_dim) and values of each layer, themselves."""
        return list(zip(self._keys, self._values, strict=True))

    def write(
        self, layer: int, cells: Tensor, keys: Tensor, values: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Stores keys (T, kv_heads, key_dim) and values at cells, int64 (T,); returns what a reader
        would get of them.
        """
        self._key_cells[layer].index_copy_(0, cells, keys)
        self._value_cells[layer].index_copy_(0, cells, values)
        return keys, values

    def clear(self, layer: int, cells: Tensor) -> None:
        """Writes zeros into cells, int64 (N,)."""
        self._key_cells[layer].index_fill_(0, cells, 0)
        self._value_cells[layer].index_fill_(0, cells, 0)

    def read(self, layer: int, blocks: Tensor) -> tuple[Tensor, Tensor]:
        """Copies of the keys and values of blocks, int64 (N,).

        Returns:
            (N * BLOCK_TOKENS, kv_heads, key_dim) and (..., value_dim). Valid until the next read:
            all reads share two buffers, because fresh memory costs a page fault every 4 KiB.
        """
        return (
            _gather(self._keys[layer], blocks, self._key_buffer),
            _gather(self._values[layer], blocks, self._value_buffer),
        )

    def read_layers(self, layers: range, blocks: Tensor) -> tuple[Tensor, Tensor]:
        """The same blocks of several layers, one layer behind the other; see `read`."""
        places = slice(layers.start, layers.stop)
        return (
            _gather_all(self._keys[places], blocks, self._key_buffer),
            _gather_all(self._values[places], blocks, self._value_buffer),
        )

    def read_cells(self, layer: int, cells: Tensor) -> tuple[Tensor, Tensor]:
        """Copies of the keys and values of cells, int64 (B, W).

        Returns:
            (B, W, kv_heads, key_dim) and (..., value_dim).
        """
        return (
            self._keys[layer].flatten(0, 1)[cells],
            self._values[layer].flatten(0, 1)[cells],
        )

    def copy(self, copies: Sequence[BlockCopy]) -> None:
        """Copies whole blocks, in all layers."""
        for pool in (*self._keys, *self._values):
            for copy in copies:
                pool[copy.dst].copy_(pool[copy.src])


def _gather(pool: Tensor, blocks: Tensor, buffer: Tensor) -> Tensor:
    """Blocks of a pool, in a buffer that grows as needed."""
    gathered = _room((len(blocks), *pool.shape[1:]), buffer)
    return torch.index_select(pool, 0, blocks, out=gathered).flatten(0, 1)


def _gather_all(pools: Sequence[Tensor], blocks: Tensor, buffer: Tensor) -> Tensor:
    """Blocks of several pools; see `_gather`."""
    gathered = _room((len(pools), len(blocks), *pools[0].shape[1:]), buffer)
    for pool, part in zip(pools, gathered, strict=True):
        torch.index_select(pool, 0, blocks, out=part)
    return gathered.flatten(0, 2)


def _room(shape: tuple[int, ...], buffer: Tensor) -> Tensor:
    if buffer.numel() < math.prod(shape):
        buffer.resize_(math.prod(shape))
    return buffer[: math.prod(shape)].view(shape)
