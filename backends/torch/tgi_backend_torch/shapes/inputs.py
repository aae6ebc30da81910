"""The numbers of one step, padded to a shape. Knows no device.

Padding is tokens that are stored in the block which no sequence has, and rows that see nothing
else.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tgi_backend_torch.shapes.buckets import Shape
from tgi_core.contract import Step

IntArray = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    """int64 arrays; R rows of N tokens, flat, of which each row sees B blocks."""

    tokens: IntArray
    """(R * N,)."""
    positions: IntArray
    """(R * N,), in their sequences."""
    blocks: IntArray
    """(R * N,): the block that each is stored in,"""
    offsets: IntArray
    """(R * N,): and its place there."""
    tables: IntArray
    """(R, B)."""
    wanted: IntArray
    """(R,): the token of each row whose logits are computed."""
    places: IntArray
    """(R,): of each row's adapter; 0 is none."""


def fill(
    step: Step, tables: NDArray[np.int32], shape: Shape, block_tokens: int, padding_block: int
) -> Inputs:
    """Pads a step.

    Args:
        step: rows of one token, or one row.
        tables: int32 (rows, blocks) of the step; -1 pads.
        shape: at least as large.
        block_tokens: in a block.
        padding_block: the one that no sequence has.
    """
    rows, num = step.num_rows, step.num_tokens
    total = shape.rows * shape.tokens
    tokens, positions = np.zeros(total, np.int64), np.zeros(total, np.int64)
    blocks, offsets = np.full(total, padding_block, np.int64), np.zeros(total, np.int64)
    seen = np.full((shape.rows, shape.blocks), padding_block, np.int64)
    width = min(tables.shape[1], shape.blocks)
    seen[:rows, :width] = np.where(tables[:, :width] < 0, padding_block, tables[:, :width])
    # rows of one token, or all tokens of the one row: both fill the array from its begin
    tokens[:num], positions[:num] = step.tokens, step.token_positions()
    row_of = np.repeat(np.arange(rows), step.n)
    blocks[:num] = seen[row_of, positions[:num] // block_tokens]
    offsets[:num] = positions[:num] % block_tokens
    last = step.row_begins()[1:] - 1
    wanted = np.arange(shape.rows, dtype=np.int64) * shape.tokens
    wanted[:rows] = last
    places = np.zeros(shape.rows, np.int64)
    if step.adapter is not None:
        places[:rows] = step.adapter
    return Inputs(
        tokens=tokens,
        positions=positions,
        blocks=blocks,
        offsets=offsets,
        tables=seen,
        wanted=wanted,
        places=places,
    )
