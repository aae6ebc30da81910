"""A cache in 8 bits, for attention that computes in more: rounds what is written, widens it again.

Scales are 1, as in TGI without scales in the checkpoint; what is beyond the range becomes the
largest number. What is written counts rounded at once, so that no result depends on how a prompt
was cut.
"""

from __future__ import annotations

import torch
from torch import Tensor

from tgi_backend_torch.cache import PagedCache
from tgi_backend_torch.quant.float8 import FLOAT8, narrow, widen


class WideCache:
    """Looks like a `PagedCache` of the dtype that is computed in."""

    def __init__(self, cache: PagedCache, dtype: torch.dtype) -> None:
        """`cache`: of 8 bits; as bytes, because torch indexes no such numbers on CPUs."""
        self._kind = cache.dtype
        self._pools = [tuple(pool.view(torch.uint8) for pool in layer) for layer in cache.layers]
        self.dtype = dtype
        self.device = cache.device
        self.padding_block = cache.padding_block
        self.cell_bytes = cache.cell_bytes * dtype.itemsize
        self._rooms = [torch.empty(0, dtype=dtype, device=cache.device) for _ in range(2)]

    def write(
        self, layer: int, cells: Tensor, keys: Tensor, values: Tensor
    ) -> tuple[Tensor, Tensor]:
        """See `PagedCache.write`."""
        rounded = [narrow(x, self._kind) for x in (keys, values)]
        for pool, new in zip(self._pools[layer], rounded, strict=True):
            pool.flatten(0, 1).index_copy_(0, cells, new.view(torch.uint8))
        wide_keys, wide_values = (widen(x, torch.empty_like(x, dtype=self.dtype)) for x in rounded)
        return wide_keys, wide_values

    def clear(self, layer: int, cells: Tensor) -> None:
        """See `PagedCache.clear`."""
        for pool in self._pools[layer]:
            pool.flatten(0, 1).index_fill_(0, cells, 0)

    def read(self, layer: int, blocks: Tensor) -> tuple[Tensor, Tensor]:
        """See `PagedCache.read`."""
        keys, values = (
            self._gather(pool, blocks, room)
            for pool, room in zip(self._pools[layer], self._rooms, strict=True)
        )
        return keys, values

    def read_layers(self, layers: range, blocks: Tensor) -> tuple[Tensor, Tensor]:
        """See `PagedCache.read_layers`."""
        found = [[x.clone() for x in self.read(layer, blocks)] for layer in layers]
        keys, values = zip(*found, strict=True)
        return torch.cat(keys), torch.cat(values)

    def _gather(self, pool: Tensor, blocks: Tensor, room: Tensor) -> Tensor:
        """Blocks of a pool, widened into a buffer that grows as needed."""
        held = pool.index_select(0, blocks).flatten(0, 1).view(self._kind)
        if room.numel() < held.numel():
            room.resize_(held.numel())
        return widen(held, room[: held.numel()].view(held.shape))


def wide(cache: PagedCache, dtype: torch.dtype) -> PagedCache | WideCache:
    """The cache as attention in `dtype` reads it."""
    return WideCache(cache, dtype) if cache.dtype in FLOAT8.values() else cache
