"""The numbers of one step, padded to a shape. Knows no device.

Padding is tokens that are stored in the block which no sequence has, and rows that see nothing
else.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tgi_backend_torch.layout import seen_both_ways
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Sight:
    """What a model that takes images is told besides: int64 arrays of T = R * N tokens."""

    shown: IntArray
    """(T,): 1 where a token stands for a vector of an image."""
    on_axes: IntArray
    """(A, T): rotary positions; (T,) if there is one axis."""
    both_ways: IntArray
    """(2, T): from and up to which position a token sees whatever causality and window say."""


def show(step: Step | None, positions: IntArray, num_axes: int) -> Sight:
    """Pads what a step has of images.

    Args:
        step: as `fill` got it; None: all is padding.
        positions: what `fill` made of it.
        num_axes: of rotary positions.
    """
    total = len(positions)
    shown, both_ways = np.zeros(total, np.int64), np.zeros((2, total), np.int64)
    on_axes = positions if num_axes == 1 else np.tile(positions, (num_axes, 1))
    if step is not None:
        for image in step.images:
            shown[image.at] = 1
        seen = seen_both_ways(step, step.token_positions())
        if seen is not None:
            both_ways[:, : step.num_tokens] = seen
        if step.positions is not None:
            on_axes[:, : step.num_tokens] = step.positions
    return Sight(shown=shown, on_axes=on_axes, both_ways=both_ways)


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
