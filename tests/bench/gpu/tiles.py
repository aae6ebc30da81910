"""Times the attention kernel with each candidate tile, on batches like those of an 8B model."""

from __future__ import annotations

import time
from collections.abc import Iterator
from functools import partial

import torch
from tgi_backend_cuda.chip import nvidia_chip
from tgi_backend_cuda.launch import Pages, Rows, attend_rows
from tgi_backend_cuda.tiles import candidates

from tests.bench.gpu.limits import Limits, seconds

_BLOCK, _HEADS, _KV_HEADS, _DIM = 16, 32, 8, 128
_SECONDS = 25.0
"""Most that one batch may take, compiling included."""


def _batch(rows: int, past: int, n: int) -> tuple[Pages, torch.Tensor, Rows]:
    width = -(-(past + n) // _BLOCK)
    shape = (rows * width, _BLOCK, _KV_HEADS, _DIM)
    half = dict(device="cuda", dtype=torch.bfloat16)
    pages = Pages(keys=torch.randn(shape, **half), values=torch.randn(shape, **half))
    int32 = dict(device="cuda", dtype=torch.int32)
    tables = torch.randperm(rows * width, device="cuda").to(torch.int32)
    return (
        pages,
        torch.randn(rows * n, _HEADS, _DIM, **half),
        Rows(
            begins=torch.arange(0, rows * n + 1, n, **int32),
            lengths=torch.full((rows,), past + n, **int32),
            tables=tables,
            table_width=torch.tensor([width], **int32),
            cells=torch.full((rows * n,), -1, **int32),
            num_rows=rows,
            decode=n == 1,
        ),
    )


def best_tiles(limits: Limits) -> Iterator[str]:
    """A line for each batch's three fastest."""
    arch = nvidia_chip().architecture
    for rows, past, n in ((256, 1535, 1), (64, 1535, 1), (1, 8191, 1), (1, 0, 8192), (8, 0, 1024)):
        pages, query, batch = _batch(rows, past, n)
        found = []
        deadline = time.perf_counter() + _SECONDS
        first = arch.decode if n == 1 else arch.prefill
        for tile in [first, *(t for t in candidates(first) if t != first)]:
            if time.perf_counter() > deadline:
                break
            attend = partial(attend_rows, pages, query, batch, arch, scaling=_DIM**-0.5, tile=tile)
            try:
                took = seconds(attend, repeats=5)
            except Exception:  # it does not fit this chip's shared memory
                continue
            found.append((took, tile))
        found.sort(key=lambda pair: pair[0])
        moved = 2 * rows * (past + n) * _KV_HEADS * _DIM * 2
        flops = 4 * rows * _HEADS * _DIM * (n * past + n * n / 2)
        yield f"attention, {rows} rows of {n} new tokens after {past} (chosen now: {first}):"
        for took, tile in found[:3]:
            yield (
                f"  {took * 1e6:8.0f} us {moved / took / limits.bytes_s:5.0%} of the bandwidth "
                f"{flops / took / limits.flops_s:5.0%} of the matrix rate {tile}"
            )
