"""The numbers of one step in one array, so that one transfer brings them all to the device.

All int32, in this order: width of the block tables, tokens, positions (on each axis), cells, wanted
outputs, begins of rows, lengths of rows, block tables. A shape says how many of each there are; a
step is padded to it. Only the width of the tables is free, for it is read on the device. Each
begins at a multiple of 16 bytes, for a kernel is compiled anew for pointers that do not.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from tgi_backend_cuda.launch import Rows
from tgi_core.contract import Step

_ALIGNED = 4
"""Numbers."""
SHORT_TOKENS = 2048
"""Attention by one kernel was faster with 1,000 keys, and slower with 8,000 (docs/measurements)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """What a step is padded to."""

    tokens: int
    rows: int
    """One more than a step has, where tokens are padded: the last row is the padding's."""
    outputs: int
    decode: bool
    """Every row has one token, and `rows` is `tokens`."""
    axes: int = 1
    """Of rotary positions."""
    short: bool = False
    """No row is longer than SHORT_TOKENS."""

    @classmethod
    def of(cls, step: Step, axes: int = 1) -> Shape:
        """A step's own, without padding."""
        return cls(
            tokens=step.num_tokens,
            rows=step.num_rows,
            outputs=len(step.out),
            decode=step.num_rows == step.num_tokens,
            axes=axes,
            short=is_short(step),
        )

    @property
    def places(self) -> tuple[slice, ...]:
        """Where tokens, positions, cells, outputs, begins and lengths are."""
        positions = self.tokens * self.axes
        sizes = (self.tokens, positions, self.tokens, self.outputs, self.rows + 1, self.rows)
        begins = accumulate((-(-size // _ALIGNED) * _ALIGNED for size in sizes), initial=_ALIGNED)
        return tuple(slice(begin, begin + size) for begin, size in zip(begins, sizes, strict=False))

    @property
    def tables(self) -> int:
        """Where the block tables begin."""
        return -(-self.places[-1].stop // _ALIGNED) * _ALIGNED

    def num_numbers(self, table_width: int) -> int:
        """Length of the array."""
        return self.tables + self.rows * table_width


def is_short(step: Step) -> bool:
    """Whether no row is longer than SHORT_TOKENS."""
    return int((step.past + step.n).max()) <= SHORT_TOKENS


def fill(
    array: NDArray[np.int32],
    step: Step,
    tables: NDArray[np.int32],
    shape: Shape,
    block_tokens: int,
) -> int:
    """Writes a step.

    Args:
        array: int32, at least `shape.num_numbers` long.
        step: at most as large as the shape.
        tables: int32 (R, blocks), the block tables of its rows.
        shape: what to pad to.
        block_tokens: tokens in a block.

    Returns:
        How many numbers were written.
    """
    num_tokens, num_rows = step.num_tokens, step.num_rows
    blocks = shape.tables
    array[:blocks] = 0
    tokens, positions, cells, outputs, begins, lengths = (array[place] for place in shape.places)
    held = step.past + step.n
    width = -(-int(held.max()) // block_tokens)
    array[0] = width
    tokens[:num_tokens] = step.tokens
    at = step.token_positions()
    on_axes = positions.reshape(shape.axes, -1)
    on_axes[:, :num_tokens] = at if step.positions is None else step.positions
    row_of = np.arange(num_rows) if shape.decode else np.repeat(np.arange(num_rows), step.n)
    cells[:] = -1
    cells[:num_tokens] = tables[row_of, at // block_tokens] * block_tokens + at % block_tokens
    outputs[: len(step.out)] = step.out
    begins[:] = shape.tokens
    begins[: num_rows + 1] = step.row_begins()
    lengths[:num_rows] = held
    end = blocks + num_rows * width
    array[blocks:end].reshape(num_rows, width)[:] = tables[:, :width]
    return end


@dataclass(frozen=True, slots=True)
class Inputs:
    """The same, on the device: views of one buffer."""

    tokens: Tensor
    """int32 (tokens,)."""
    positions: Tensor
    """int32 (tokens,), or (axes, tokens) if there are several."""
    outputs: Tensor
    """int32 (outputs,)."""
    rows: Rows

    @classmethod
    def of(cls, buffer: Tensor, shape: Shape, num_single: int = 0) -> Inputs:
        """Views of an int32 buffer that holds, or will hold, a step of this shape."""
        tokens, positions, cells, outputs, begins, lengths = (buffer[at] for at in shape.places)
        return cls(
            tokens,
            positions.view(shape.axes, -1).squeeze(0),
            outputs,
            Rows(
                begins=begins,
                lengths=lengths,
                tables=buffer[shape.tables :],
                table_width=buffer[:1],
                cells=cells,
                num_rows=shape.rows,
                decode=shape.decode,
                short=shape.short,
                num_single=num_single,
            ),
        )
