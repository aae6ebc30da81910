"""Launches the kernels on tensors: chooses tiles, allocates outputs. Knows no model."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import triton
from torch import Tensor

from tgi_backend_cuda.kernels.fused import rotate
from tgi_backend_cuda.kernels.paged import attend, combine
from tgi_backend_cuda.kernels.store import rotate_and_store, store
from tgi_backend_cuda.tiles import Architecture, Tile


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """The rows of a step, on the device."""

    begins: Tensor
    """int32 (R + 1,): where the tokens of each row begin."""
    lengths: Tensor
    """int32 (R,): keys of each row, its new tokens included; 0 if the row only pads."""
    tables: Tensor
    """int32, at least R * table_width[0]: the blocks of each row."""
    table_width: Tensor
    """int32 (1,)."""
    cells: Tensor
    """int32 (T,): where the keys and values of each token go; -1: nowhere."""
    num_rows: int
    """R; shapes may be padded, so it is not read off a tensor."""
    decode: bool
    """Every row has one token."""
    short: bool = False
    """No row is longer than what is attended faster by one kernel than by three."""
    num_single: int = 0
    """Rows at the beginning that have one token, if others have more and it is known how many."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pages:
    """The cache of one layer."""

    keys: Tensor
    """(blocks, block_tokens, kv_heads, key_dim), contiguous."""
    values: Tensor
    """(blocks, block_tokens, kv_heads, value_dim), contiguous."""
    key_scale: float = 1.0
    """What numbers in the cache are multiplied by."""
    value_scale: float = 1.0

    @property
    def quantized(self) -> bool:
        """Whether numbers are scaled on their way in and out."""
        return self.keys.dtype.itemsize == 1


def store_tokens(
    pages: Pages, key: Tensor, value: Tensor, cells: Tensor, arch: Architecture
) -> None:
    """Writes key (T, kv_heads, key_dim) and value into the cells, int32 (T,); -1 is passed over."""
    key, value = _dense(key), _dense(value)
    kv_heads, key_dim, value_dim = key.shape[1], key.shape[2], value.shape[2]
    dtype = pages.keys.dtype
    store[(key.shape[0],)](
        pages.keys,
        pages.values,
        key,
        value,
        cells,
        1.0 / pages.key_scale,
        1.0 / pages.value_scale,
        torch.finfo(dtype).max,
        key.stride(0),
        key.stride(1),
        value.stride(0),
        value.stride(1),
        SCALED=pages.quantized,
        KV_HEADS=kv_heads,
        HEADS_PAD=triton.next_power_of_2(kv_heads),
        KEY_DIM=key_dim,
        KEY_PAD=pad(key_dim),
        VALUE_DIM=value_dim,
        VALUE_PAD=pad(value_dim),
        EARLY=arch.early,
        num_warps=4,
        **arch.launch,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Turning:
    """Rotary positions of a step's tokens."""

    cos: Tensor
    """(T, dim), contiguous, in halves that are alike."""
    sin: Tensor
    """Likewise."""
    heads: int
    """Of queries; keys and values follow them."""
    kv_heads: int

    @property
    def dim(self) -> int:
        """Of a head."""
        return self.cos.shape[-1]


def turn_tokens(x: Tensor, turning: Turning, arch: Architecture) -> None:
    """Rotates queries and keys in x (T, (heads + 2 kv_heads) * dim), in place."""
    heads, dim = turning.heads + turning.kv_heads, turning.dim
    rotate[(len(x),)](
        x,
        turning.cos,
        turning.sin,
        x.stride(0),
        DIM=dim,
        HEADS=heads,
        HEADS_PAD=triton.next_power_of_2(heads),
        HALF_PAD=triton.next_power_of_2(dim // 2),
        EARLY=arch.early,
        num_warps=4,
        **arch.launch,
    )


def turn_and_store_tokens(
    pages: Pages, x: Tensor, turning: Turning, cells: Tensor, arch: Architecture
) -> None:
    """The same of queries, and writes rotated keys, and values, into cells as `store_tokens`."""
    dtype = pages.keys.dtype
    rotate_and_store[(len(x),)](
        x,
        turning.cos,
        turning.sin,
        pages.keys,
        pages.values,
        cells,
        1.0 / pages.key_scale,
        1.0 / pages.value_scale,
        torch.finfo(dtype).max,
        x.stride(0),
        SCALED=pages.quantized,
        DIM=turning.dim,
        DIM_PAD=pad(turning.dim),
        HALF_PAD=triton.next_power_of_2(turning.dim // 2),
        HEADS=turning.heads,
        HEADS_PAD=triton.next_power_of_2(turning.heads),
        KV_HEADS=turning.kv_heads,
        KV_PAD=triton.next_power_of_2(turning.kv_heads),
        EARLY=arch.early,
        num_warps=4,
        **arch.launch,
    )


def attend_rows(
    pages: Pages,
    query: Tensor,
    rows: Rows,
    arch: Architecture,
    *,
    scaling: float,
    window: int | None = None,
    softcap: float | None = None,
    sinks: Tensor | None = None,
    slopes: Tensor | None = None,
    tile: Tile | None = None,
    splits: int | None = None,
) -> Tensor:
    """Causal attention of new tokens to all that the cache holds of their rows.

    Args:
        pages: keys and values; those of the new tokens are in it.
        query: (T, heads, key_dim).
        rows: which tokens and blocks belong together.
        arch: chooses tiles and splits, unless they are given.
        scaling: what products are multiplied by.
        window: how many tokens each sees, itself included; None: all.
        softcap: limit of the scores; None: none.
        sinks: (heads,), a score that takes its share of the softmax and adds nothing.
        slopes: (heads,), what a key's distance costs (ALiBi).
        tile: how programs work.
        splits: in how many parts keys are read.

    Returns:
        (T, heads, value_dim), 0 for tokens that only pad.
    """
    query = _dense(query)
    out = query.new_empty(len(query), query.shape[1], pages.values.shape[-1])
    parts = [rows]
    if rows.num_single and not rows.decode:
        # a tile of a prompt's size would be nearly empty
        single = replace(rows, num_rows=rows.num_single, num_single=0, decode=True)
        parts = [single, rows]
    for part in parts:
        _attend(
            out,
            pages,
            query,
            part,
            arch,
            scaling=scaling,
            window=window,
            softcap=softcap,
            sinks=sinks,
            slopes=slopes,
            tile=tile,
            splits=splits,
        )
    return out


def _attend(
    out: Tensor,
    pages: Pages,
    query: Tensor,
    rows: Rows,
    arch: Architecture,
    *,
    scaling: float,
    window: int | None,
    softcap: float | None,
    sinks: Tensor | None,
    slopes: Tensor | None,
    tile: Tile | None,
    splits: int | None,
) -> None:
    """Of all rows, or of those behind the ones with a single token."""
    num_tokens, heads, key_dim = query.shape
    _, block_tokens, kv_heads, value_dim = pages.values.shape
    key_pad, value_pad = pad(key_dim), pad(value_dim)
    group = heads // kv_heads
    if tile is None:
        tile = arch.tile(
            decode=rows.decode, dim=max(key_pad, value_pad), itemsize=query.element_size()
        )
    tile_tokens = 1 if rows.decode else max(1, tile.rows // group)
    # as the kernel counts them
    first = rows.num_single // tile_tokens + rows.num_single
    last = rows.num_rows if rows.decode else num_tokens // tile_tokens + rows.num_rows
    tiles = last - first
    if splits is None:
        splits = arch.splits(tiles=tiles, kv_heads=kv_heads)
    if splits > 1:
        places = (rows.num_rows if rows.decode else num_tokens, heads, splits)
        part_out = query.new_empty(*places, value_dim, dtype=torch.float32)
        part_high = query.new_empty(places, dtype=torch.float32)
        part_total = torch.empty_like(part_high)
    else:
        part_out = part_high = part_total = out
    attend[(tiles, kv_heads, splits)](
        out,
        part_out,
        part_high,
        part_total,
        query,
        pages.keys,
        pages.values,
        rows.tables,
        rows.table_width,
        rows.begins,
        rows.lengths,
        out if sinks is None else sinks,
        out if slopes is None else slopes,
        rows.num_rows,
        splits,
        first,
        scaling * pages.key_scale,
        softcap or 0.0,
        pages.value_scale,
        query.stride(0),
        query.stride(1),
        DECODE=rows.decode,
        SPLIT=splits > 1,
        WINDOW=window or 0,
        SOFTCAP=softcap is not None,
        SINKS=sinks is not None,
        SLOPES=slopes is not None,
        GROUP=group,
        KV_HEADS=kv_heads,
        BLOCK_TOKENS=block_tokens,
        KEY_DIM=key_dim,
        KEY_PAD=key_pad,
        VALUE_DIM=value_dim,
        VALUE_PAD=value_pad,
        TILE_TOKENS=tile_tokens,
        TILE_ROWS=max(16, triton.next_power_of_2(tile_tokens * group)),
        KEYS=tile.keys,
        EARLY=arch.early,
        num_warps=tile.warps,
        num_stages=tile.stages,
        **arch.launch,
        **dict(arch.extra),
    )
    if splits > 1:
        # what comes before was added up, or is none of ours
        begin = 0 if rows.decode else rows.num_single
        combine[(places[0] - begin, heads)](
            out[begin:],
            part_out[begin:],
            part_high[begin:],
            part_total[begin:],
            splits,
            SPLITS=triton.next_power_of_2(splits),
            VALUE_DIM=value_dim,
            VALUE_PAD=value_pad,
            EARLY=arch.early,
            num_warps=4,
            **arch.launch,
        )


def _dense(x: Tensor) -> Tensor:
    """The last dimension side by side; the kernels take any other strides."""
    return x if x.stride(-1) == 1 else x.contiguous()


def pad(dim: int) -> int:
    """The width of a tile: a power of two that matrix units take."""
    return max(16, int(triton.next_power_of_2(dim)))
