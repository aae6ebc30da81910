"""The numbers of one step in one array, so that one transfer brings them all to the device.

All int32, in this order: width of the block tables, tokens, positions (on each axis), cells, wanted
outputs, begins of rows, lengths of rows, block tables. A shape says how many of each there are; a
step is padded to it. Only the width of the tables is free, for it is read on the device.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from tgi_backend_cuda.launch import Rows
from tgi_core.contract import Step


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

    @classmethod
    def of(cls, step: Step, axes: int = 1) -> Shape:
        """A step's own, without padding."""
        return cls(
            tokens=step.num_tokens,
            rows=step.num_rows,
            outputs=len(step.out),
            decode=step.num_rows == step.num_tokens,
            axes=axes,
        )

    @property
    def begins(self) -> tuple[int, ...]:
        """Where tokens, positions, cells, outputs, begins, lengths and tables begin."""
        positions = self.tokens * self.axes
        sizes = (self.tokens, positions, self.tokens, self.outputs, self.rows + 1, self.rows)
        places = [1]
        for size in sizes:
            places.append(places[-1] + size)
        return tuple(places)

    def num_numbers(self, table_width: int) -> int:
        """Length of the array."""
        return self.begins[-1] + self.rows * table_width


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
    tokens, positions, cells, outputs, begins, lengths, blocks = shape.begins
    held = step.past + step.n
    width = -(-int(held.max()) // block_tokens)
    array[0] = width
    array[tokens:outputs] = 0
    array[tokens : tokens + num_tokens] = step.tokens
    at = step.token_positions()
    on_axes = array[positions:cells].reshape(shape.axes, -1)
    on_axes[:, :num_tokens] = at if step.positions is None else step.positions
    row_of = np.arange(num_rows) if shape.decode else np.repeat(np.arange(num_rows), step.n)
    array[cells:outputs] = -1
    array[cells : cells + num_tokens] = (
        tables[row_of, at // block_tokens] * block_tokens + at % block_tokens
    )
    array[outputs:begins] = 0
    array[outputs : outputs + len(step.out)] = step.out
    array[begins:lengths] = shape.tokens
    array[begins : begins + num_rows + 1] = step.row_begins()
    array[lengths:blocks] = 0
    array[lengths : lengths + num_rows] = held
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
        tokens, positions, cells, outputs, begins, lengths, blocks = shape.begins
        return cls(
            buffer[tokens:positions],
            buffer[positions:cells].view(shape.axes, -1).squeeze(0),
            buffer[outputs:begins],
            Rows(
                begins=buffer[begins:lengths],
                lengths=buffer[lengths:blocks],
                tables=buffer[blocks:],
                table_width=buffer[:1],
                cells=buffer[cells:outputs],
                num_rows=shape.rows,
                decode=shape.decode,
                num_single=num_single,
            ),
        )
