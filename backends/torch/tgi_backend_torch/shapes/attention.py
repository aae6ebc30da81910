"""Attention over gathered blocks, in shapes that the step's numbers do not change."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from tgi_backend_torch.attention import Scoring
from tgi_backend_torch.cache import BLOCK_TOKENS, PagedCache


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """Where the tokens of a step are stored, and what they see: tensors on the device."""

    positions: Tensor
    """int64 (R * N,)."""
    blocks: Tensor
    """int64 (R * N,)."""
    offsets: Tensor
    """int64 (R * N,)."""
    tables: Tensor
    """int64 (R, B)."""
    seen: Tensor | None = None
    """int64 (2, R * N): from and up to which cell each token sees besides; None: nothing."""

    @property
    def num_cells(self) -> int:
        """Cells that each row gathers."""
        return int(self.tables.shape[1]) * BLOCK_TOKENS


class FusedAttention(Protocol):
    """A device's own kernel for attention without caps and sinks."""

    def __call__(
        self, query: Tensor, keys: Tensor, values: Tensor, mask: Tensor, scaling: float
    ) -> Tensor:
        """
        Args:
            query: (R, heads, N, key_dim).
            keys: (R, kv_heads, cells, key_dim); some heads share one.
            values: (R, kv_heads, cells, value_dim).
            mask: (R, 1, N, cells), what is added to scores.
            scaling: what they are multiplied by before.

        Returns:
            (R, heads, N, value_dim).
        """
        ...


class BlockAttention:
    """Satisfies `Attention`. May be compiled: writes whole tensors, never views."""

    def __init__(self, cache: PagedCache, fused: FusedAttention | None = None) -> None:
        """`fused`: computes what it can; None: all is done by products and a softmax."""
        self._fused = fused
        self._layers = cache.layers
        self._dtype = cache.dtype
        self._rows: Rows | None = None

    def use(self, rows: Rows) -> None:
        """Takes the rows of the forward that follows."""
        self._rows = rows

    def attend(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, scoring: Scoring
    ) -> Tensor:
        """See `Attention.attend`."""
        rows = self._rows
        assert rows is not None, "use comes first"
        num_rows, kv_heads = rows.tables.shape[0], key.shape[1]
        places = (rows.blocks, rows.offsets)
        gathered = []
        for pool, new in zip(self._layers[layer], (key, value), strict=True):
            pool.index_put_(places, new.to(self._dtype))
            gathered.append(cells_of(pool, rows.tables))
        keys, values = gathered
        seen = _seen(rows, scoring.window)
        if self._fused is not None and scoring.is_common:
            new = query.to(self._dtype).view(num_rows, -1, *query.shape[1:]).transpose(1, 2)
            mask = torch.zeros_like(seen, dtype=self._dtype)
            mask = mask.masked_fill(~seen, torch.finfo(self._dtype).min)[:, None]
            out = self._fused(new, keys.squeeze(2), values.squeeze(2), mask, scoring.scaling)
            return out.transpose(1, 2).reshape(query.shape[0], query.shape[1], -1)
        new = folded(query.to(self._dtype), num_rows, kv_heads)
        scores = (new @ keys.transpose(3, 4)).float() * scoring.scaling
        if scoring.softcap is not None:
            scores = torch.tanh(scores / scoring.softcap) * scoring.softcap
        scores = scores.masked_fill(~seen[:, None, None], -torch.inf)
        if scoring.sinks is not None:
            sinks = scoring.sinks.float().view(1, kv_heads, -1, 1, 1)
            scores = torch.cat((scores, sinks.expand(*scores.shape[:-1], 1)), -1)
        weights = scores.softmax(-1)[..., : keys.shape[3]].to(values.dtype)
        return unfolded(weights @ values)


def cells_of(pool: Tensor, blocks: Tensor) -> Tensor:
    """(R, kv_heads, 1, cells, dim): what blocks, int64 (R, B), hold in a pool of a layer."""
    cells = pool.index_select(0, blocks.flatten())
    return cells.view(blocks.shape[0], -1, *pool.shape[2:]).transpose(1, 2).unsqueeze(2)


def folded(query: Tensor, num_rows: int, kv_heads: int) -> Tensor:
    """(T, heads, dim) -> (R, kv_heads, fold, N, dim): queries that share keys stand together."""
    shape = (num_rows, -1, kv_heads, query.shape[1] // kv_heads, query.shape[2])
    return query.view(shape).permute(0, 2, 3, 1, 4)


def unfolded(out: Tensor) -> Tensor:
    """(R, kv_heads, fold, N, dim) -> (T, heads, dim)."""
    rows, kv_heads, fold, n, dim = out.shape
    return out.permute(0, 3, 1, 2, 4).reshape(rows * n, kv_heads * fold, dim)


def _seen(rows: Rows, window: int | None) -> Tensor:
    """Boolean (R, N, cells): which cells of its row each token sees."""
    positions = rows.positions.view(rows.tables.shape[0], -1, 1)
    cells = torch.arange(rows.num_cells, device=positions.device)
    seen = cells <= positions
    if window is not None:
        seen = seen & (cells > positions - window)
    if rows.seen is not None:
        begin, end = rows.seen.view(2, *positions.shape).unbind(0)
        seen = seen | ((cells >= begin) & (cells < end))
    return seen
