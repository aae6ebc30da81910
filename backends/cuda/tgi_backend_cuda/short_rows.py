"""Launches what attends a few short rows of one token each; see `kernels.decode`."""

from __future__ import annotations

import torch
import triton
from torch import Tensor

from tgi_backend_cuda.kernels.decode import turn_store_and_attend
from tgi_backend_cuda.launch import Pages, Rows, Turning, pad
from tgi_backend_cuda.tiles import Architecture

_ADDED_NUMBERS = 4096
"""Of what several programs found, added up at once."""


def attend_turning(
    pages: Pages,
    x: Tensor,
    turning: Turning,
    rows: Rows,
    arch: Architecture,
    arrived: Tensor,
    *,
    scaling: float,
    window: int | None = None,
    softcap: float | None = None,
    sinks: Tensor | None = None,
    splits: int | None = None,
) -> Tensor | None:
    """As `turn_and_store_tokens` and then `attend_rows`, of a few short rows of one token each.

    Args:
        pages: keys and values; those of the new tokens are put into it.
        x: (T, (heads + 2 kv_heads) * dim); stays as it is.
        turning: positions and heads.
        rows: of one token each.
        arch: chooses tiles and splits.
        arrived: int32 (`arch.most_programs`,), 0 before and after.
        scaling: see `attend_rows`, also for all that follow.
        window: see there.
        softcap: see there.
        sinks: see there.
        splits: see there.

    Returns:
        (T, heads, dim), 0 for tokens that only pad; None, and nothing is done, for other rows.
    """
    num_rows, dim, kv_heads = len(x), turning.dim, turning.kv_heads
    group = turning.heads // kv_heads
    dim_pad, group_pad = pad(dim), triton.next_power_of_2(group)
    if splits is None:
        splits = arch.splits(tiles=num_rows, kv_heads=kv_heads)
    tile = arch.joined_tile(dim=dim_pad, itemsize=x.element_size())
    if tile is None or splits == 1 or not (rows.decode and rows.short):
        return None
    out = x.new_empty(num_rows, turning.heads, dim)
    part_out = x.new_empty(num_rows, kv_heads, splits, group, dim, dtype=torch.float32)
    part_high = x.new_empty(num_rows, kv_heads, splits, group, dtype=torch.float32)
    part_total = torch.empty_like(part_high)
    dtype = pages.keys.dtype
    turn_store_and_attend[(num_rows, kv_heads, splits)](
        out,
        part_out,
        part_high,
        part_total,
        arrived,
        x,
        turning.cos,
        turning.sin,
        pages.keys,
        pages.values,
        rows.cells,
        rows.tables,
        rows.table_width,
        rows.lengths,
        out if sinks is None else sinks,
        splits,
        scaling * pages.key_scale,
        softcap or 0.0,
        pages.value_scale,
        1.0 / pages.key_scale,
        1.0 / pages.value_scale,
        torch.finfo(dtype).max,
        x.stride(0),
        SCALED=pages.quantized,
        WINDOW=window or 0,
        SOFTCAP=softcap is not None,
        SINKS=sinks is not None,
        GROUP=group,
        GROUP_PAD=group_pad,
        TILE_ROWS=max(16, group_pad),
        KV_HEADS=kv_heads,
        BLOCK_TOKENS=pages.keys.shape[1],
        DIM=dim,
        DIM_PAD=dim_pad,
        KEYS=tile.keys,
        PARTS=max(1, _ADDED_NUMBERS // (group_pad * dim_pad)),
        EARLY=arch.early,
        num_warps=tile.warps,
        num_stages=tile.stages,
        **arch.launch,
        **dict(arch.extra),
    )
    return out
