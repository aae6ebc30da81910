"""Paged batches for the kernels, and attention in float64 as their reference."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from tgi_backend_cuda.launch import Pages, Rows
from tgi_backend_cuda.tiles import Architecture, Stream, Tile
from torch import Tensor

BLOCK_TOKENS = 16
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
SMALL = Architecture(
    name="small",
    multiprocessors=2,
    decode=Tile(rows=16, keys=32, warps=4, stages=1),
    prefill=Tile(rows=32, keys=32, warps=4, stages=1),
    joined=Tile(rows=16, keys=32, warps=4, stages=1),
    programs=4,
    stream=Stream(most_tokens=2, numbers=1 << 9, warps=4, resident_warps=2),
)
"""Tiles that short rows fill."""


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Case:
    """A batch of rows over a cache."""

    pages: Pages
    query: Tensor
    rows: Rows
    tables: np.ndarray
    past: list[int]
    n: list[int]


def make_case(
    past: list[int],
    n: list[int],
    *,
    heads: int,
    kv_heads: int,
    key_dim: int,
    value_dim: int | None = None,
    dtype: torch.dtype = torch.float32,
    cache_dtype: torch.dtype | None = None,
    pad_tokens: int = 0,
    seed: int = 0,
    scale: float = 1.0,
) -> Case:
    """Random numbers everywhere; NaN in every cell that no row holds."""
    value_dim = key_dim if value_dim is None else value_dim
    made = torch.Generator().manual_seed(seed)
    rng = np.random.default_rng(seed)
    lengths = [p + m for p, m in zip(past, n, strict=True)]
    blocks = [-(-length // BLOCK_TOKENS) for length in lengths]
    num_blocks = sum(blocks) + 2
    order = rng.permutation(num_blocks)
    width = max(blocks) + 1
    tables = np.full((len(n), width), -1, np.int32)
    begin = 0
    for row, count in enumerate(blocks):
        tables[row, :count] = order[begin : begin + count]
        begin += count

    def pool(dim: int) -> Tensor:
        numbers = torch.randn(num_blocks, BLOCK_TOKENS, kv_heads, dim, generator=made)
        held = torch.zeros(num_blocks, BLOCK_TOKENS, dtype=torch.bool)
        for row, length in enumerate(lengths):
            for position in range(length):
                held[tables[row, position // BLOCK_TOKENS], position % BLOCK_TOKENS] = True
        numbers[~held] = torch.nan
        return numbers.to(cache_dtype or dtype).to(DEVICE)

    cells = [
        tables[row, position // BLOCK_TOKENS] * BLOCK_TOKENS + position % BLOCK_TOKENS
        for row in range(len(n))
        for position in range(past[row], lengths[row])
    ]
    num_tokens = sum(n) + pad_tokens
    begins = np.cumsum([0, *n])
    if pad_tokens:
        begins, lengths = np.append(begins, num_tokens), [*lengths, 0]
    query = torch.randn(num_tokens, heads, key_dim, generator=made).to(dtype)
    int32 = dict(dtype=torch.int32, device=DEVICE)
    return Case(
        pages=Pages(keys=pool(key_dim), values=pool(value_dim), key_scale=scale, value_scale=scale),
        query=query.to(DEVICE),
        rows=Rows(
            begins=torch.tensor(begins, **int32),
            lengths=torch.tensor(lengths, **int32),
            tables=torch.tensor(tables, **int32),
            table_width=torch.tensor([width], **int32),
            cells=torch.tensor([*cells, *[-1] * pad_tokens], **int32),
            num_rows=len(lengths),
            decode=all(m == 1 for m in n) and pad_tokens <= 1,
        ),
        tables=tables,
        past=past,
        n=n,
    )


def reference(
    case: Case,
    *,
    scaling: float,
    window: int | None = None,
    softcap: float | None = None,
    sinks: Tensor | None = None,
    slopes: Tensor | None = None,
) -> Tensor:
    """float64 (T, heads, value_dim), row by row and head by head; 0 for padding."""
    keys, values = (
        x.detach().cpu().double().flatten(0, 1) for x in (case.pages.keys, case.pages.values)
    )
    keys, values = keys * case.pages.key_scale, values * case.pages.value_scale
    query = case.query.detach().cpu().double()
    group = query.shape[1] // keys.shape[1]
    out = query.new_zeros(query.shape[0], query.shape[1], values.shape[-1])
    begin = 0
    for row, (past, n) in enumerate(zip(case.past, case.n, strict=True)):
        at = np.arange(past + n)
        cells = torch.from_numpy(
            case.tables[row, at // BLOCK_TOKENS].astype(np.int64) * BLOCK_TOKENS + at % BLOCK_TOKENS
        )
        distance = torch.arange(past, past + n)[:, None] - torch.from_numpy(at)[None]
        hidden = (distance < 0) | (distance >= (window or past + n))
        for head in range(query.shape[1]):
            k, v = keys[cells, head // group], values[cells, head // group]
            scores = query[begin : begin + n, head] @ k.T * scaling
            if softcap is not None:
                scores = softcap * torch.tanh(scores / softcap)
            if slopes is not None:
                scores = scores - slopes[head].double().cpu() * distance
            scores = scores.masked_fill(hidden, -torch.inf)
            if sinks is not None:
                sink = sinks[head].double().cpu().expand(n, 1)
                weights = torch.cat((scores, sink), 1).softmax(1)[:, :-1]
            else:
                weights = scores.softmax(1)
            out[begin : begin + n, head] = weights @ v
        begin += n
    return out
