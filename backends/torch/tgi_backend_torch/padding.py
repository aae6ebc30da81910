"""Rows of a step as ordinary batches: equally many new tokens each, what they hold at their left.

That is what `generate` makes of prompts, so any model of transformers takes it. Knows cells of the
cache, and no model.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tgi_backend_torch.cache import BLOCK_TOKENS
from tgi_core.contract import Step

_GROUPED_TOKENS = 16
"""Rows of at most this many new tokens share a batch; longer ones fill a device alone."""

_WASTE = 0.5
"""Largest share of padding in a batch."""

Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class PaddingRules:
    """Which rows of a model may share a batch."""

    pads: bool = True
    """Rows may hold different numbers of tokens. Models that count positions themselves, from the
    left edge, would count the padding too."""
    separate: bool = False
    """Rows that begin and rows that go on need batches of their own, as with recurrent states."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Batch:
    """B rows with n new tokens each; W cells a row, the most that any of them holds afterwards."""

    rows: NDArray[np.intp]
    """(B,), ascending: which rows of the step."""
    seqs: Ints
    """(B,)"""
    tokens: Ints
    """(B, n), indices into the step's tokens."""
    positions: Ints
    """(B, n)"""
    new_cells: Ints
    """(B * n,), where keys and values of the new tokens go."""
    cells: Ints
    """(B, W), where those of all tokens are; padding at the left is a cell of zeros."""
    mask: Ints
    """(B, W): 0 for padding, else 1."""
    alone: bool
    """Whether the new tokens are all there is to attend to."""
    begun: bool
    """Whether the rows hold anything, be it of an encoder."""

    @property
    def num_new(self) -> int:
        """New tokens of each row: n."""
        return self.tokens.shape[1]

    @property
    def width(self) -> int:
        """Cells of each row: W."""
        return self.cells.shape[1]

    @property
    def is_padded(self) -> bool:
        """Whether any row holds less than another one."""
        return not self.mask.all()


def batches(
    step: Step, tables: NDArray[np.int32], padding_cell: int, rules: PaddingRules
) -> Iterator[Batch]:
    """Divides the rows of a step.

    Args:
        step: the rows.
        tables: int32 (R, blocks), the block table of each.
        padding_cell: a cell that holds zeros.
        rules: of the model.
    """
    rows = _Rows.of(step)
    groups: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for row, (past, n) in enumerate(zip(rows.past.tolist(), rows.n.tolist(), strict=True)):
        begun = bool(rows.begun[row]) and rules.separate
        if n > _GROUPED_TOKENS:
            key: tuple[int, ...] = (n, begun, past, row)
        else:
            key = (n, begun) if rules.pads else (n, begun, past)
        groups[key].append(row)
    for group in groups.values():
        for similar in _similar(group, rows):
            yield _batch(np.array(similar), rows, tables, padding_cell)


@dataclass(frozen=True, slots=True)
class _Rows:
    """The decoder's part of the rows of a step; each int64 (R,)."""

    seq: Ints
    begins: Ints
    """Where its tokens begin in the step's."""
    past: Ints
    n: Ints
    first: Ints
    """Cells of its sequence that come before its own: the encoder's."""
    begun: NDArray[np.bool_]
    """Whether the sequence holds anything, be it of the encoder."""

    @classmethod
    def of(cls, step: Step) -> _Rows:
        begins, past, n = (x.astype(np.int64) for x in (step.row_begins()[:-1], step.past, step.n))
        first = np.zeros_like(n) if step.encoded is None else step.encoded.astype(np.int64)
        begun = past > 0
        new = np.where(begun, 0, first)
        seq = step.seq.astype(np.int64)
        return cls(seq, begins + new, np.maximum(past - first, 0), n - new, first, begun)


def _similar(which: list[int], rows: _Rows) -> Iterator[list[int]]:
    """Splits rows, so that padding them to the longest, and their prompts too, wastes little."""
    past, first = rows.past, rows.first
    group: list[int] = []
    held = most_past = most_first = 0
    for row in sorted(which, key=lambda row: -int(past[row] + first[row])):
        most_past, most_first = max(most_past, int(past[row])), max(most_first, int(first[row]))
        held += int(past[row] + first[row]) + 1
        padded = (len(group) + 1) * (most_past + most_first + 1)
        if group and padded - held > _WASTE * padded:
            yield sorted(group)
            group, held = [], int(past[row] + first[row]) + 1
            most_past, most_first = int(past[row]), int(first[row])
        group.append(row)
    yield sorted(group)


def _batch(
    which: NDArray[np.intp], rows: _Rows, tables: NDArray[np.int32], padding_cell: int
) -> Batch:
    past, n, first = rows.past[which], int(rows.n[which[0]]), rows.first[which]
    width = int(past.max()) + n
    # column W - 1 of each row is its last new token
    held = np.arange(width) - (width - n - past)[:, None]
    cells = cells_of(tables[which], np.maximum(held, 0) + first[:, None])
    cells[held < 0] = padding_cell
    return Batch(
        rows=which,
        seqs=rows.seq[which],
        tokens=rows.begins[which][:, None] + np.arange(n),
        positions=past[:, None] + np.arange(n),
        new_cells=cells[:, width - n :].ravel(),
        cells=cells,
        mask=(held >= 0).astype(np.int64),
        alone=not past.any(),
        begun=bool(rows.begun[which].any()),
    )


def cells_of(tables: NDArray[np.int32], positions: Ints) -> Ints:
    """The cells of positions (B, k) in sequences whose block tables are int32 (B, blocks)."""
    blocks = np.take_along_axis(tables.astype(np.int64), positions // BLOCK_TOKENS, 1)
    return blocks * BLOCK_TOKENS + positions % BLOCK_TOKENS
