"""Where the tokens of one step lie in the cache, and what each of them may see.

Computed once a step and used by every layer. Knows no attention kernel and no model.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tgi_backend_torch.cache import BLOCK_TOKENS, PagedCache
from tgi_backend_torch.wide_cache import WideCache
from tgi_core.contract import Step

_GROUPED_TOKENS = 16
"""Rows of at most this many new tokens are computed together; longer ones fill the CPU alone."""

_FREE_PADDING_CELLS = 512
"""Padding that costs less than another group: about 0.1 ms a layer, at 3 KV heads of 64."""

_GATHERED_BYTES = 4 << 20
"""Keys and values that a group gathers at most, so that they are still in the CPU's cache when
they are read. 32 rows of 200 tokens: 2.1 ms a layer instead of 2.7 with 3 KV heads of 64, 9.5
instead of 14.8 with 8 of 128 (float32, one thread of a shared Zen 3 with 32 MiB of cache)."""


class Group:
    """Rows of equally many new tokens, attended to in one call.

    Keys are gathered per row from whole blocks, `width` cells a row; `mask` says which count.
    """

    def __init__(
        self,
        *,
        tokens: slice | Tensor,
        num_rows: int,
        num_new: int,
        blocks: Tensor,
        cells: slice,
        query_positions: Tensor,
        key_positions: Tensor,
        seen: Tensor | None,
        window: int | None,
        dtype: torch.dtype,
        needs_mask: bool,
        is_fresh: bool,
    ) -> None:
        self.tokens = tokens
        """Which tokens of the step, row after row: a slice, or int64 (num_rows * num_new,)."""
        self.num_rows = num_rows
        self.num_new = num_new
        self.blocks = blocks
        """int64 (num_rows * blocks a row,): what to gather."""
        self.cells = cells
        """Which of a row's gathered cells to use."""
        self.needs_mask = needs_mask
        """False if every query of a row sees all cells, or `is_fresh`."""
        self.is_fresh = is_fresh
        """One row without past or effective window: its keys are the step's own, plainly causal."""
        self._query_positions = query_positions
        self._seen = seen
        self._key_positions = key_positions
        self._window = window
        self._dtype = dtype
        self._masks: dict[int, Tensor] = {}

    def mask(self, fold: int) -> Tensor:
        """What is added to scores: 0 or -inf.

        Args:
            fold: how often the queries of a row are repeated, one KV head's queries after another.

        Returns:
            (num_rows, 1, fold * num_new, cells); one query per row is left to broadcasting.
        """
        if self.num_new == 1:
            fold = 1
        if fold not in self._masks:
            keys, queries = self._key_positions[:, None, :], self._query_positions[:, :, None]
            hidden = keys > queries
            if self._window is not None:
                hidden |= keys <= queries - self._window
            if self._seen is not None:
                begin, end = self._seen[..., None].unbind(0)
                hidden &= (keys < begin) | (keys >= end)
            mask = torch.zeros(hidden.shape, dtype=self._dtype, device=hidden.device)
            mask.masked_fill_(hidden, -torch.inf)
            self._masks[fold] = mask.repeat(1, fold, 1)[:, None]
        return self._masks[fold]


@dataclass(frozen=True, slots=True)
class _Row:
    index: int
    begin: int
    past: int
    n: int

    def first_cell(self, window: int | None) -> int:
        """The first position that any of the new tokens sees."""
        return 0 if window is None else max(0, self.past + 1 - window)

    def first_block(self, window: int | None) -> int:
        return self.first_cell(window) // BLOCK_TOKENS

    def num_blocks(self, window: int | None) -> int:
        return -(-(self.past + self.n) // BLOCK_TOKENS) - self.first_block(window)


class StepLayout:
    """The cells of a step's tokens, and groups of rows for each width of the sliding window."""

    def __init__(
        self,
        step: Step,
        tables: NDArray[np.int32],
        cache: PagedCache | WideCache,
        *,
        cleared: bool = True,
    ) -> None:
        """
        Args:
            step: the rows.
            tables: int32 (R, blocks), the block table of each row; -1 pads.
            cache: where they are.
            cleared: whether the steps before had a layout too, and cleared what this says.
        """
        positions = step.token_positions()
        row_of = np.repeat(np.arange(step.num_rows), step.n)
        cells = tables[row_of, positions // BLOCK_TOKENS].astype(np.int64) * BLOCK_TOKENS
        self._device = cache.device
        self._dtype = cache.dtype
        self._group_cells = _GATHERED_BYTES // cache.cell_bytes
        self._tables = np.where(tables < 0, cache.padding_block, tables)
        self._rows = [
            _Row(i, begin, past, n)
            for i, (begin, past, n) in enumerate(
                zip(step.row_begins().tolist(), step.past.tolist(), step.n.tolist(), strict=False)
            )
        ]
        self._seen = seen_both_ways(step, positions)
        self._groups: dict[int | None, tuple[Group, ...]] = {}
        self.positions = self._move(positions.astype(np.int64))
        """int64 (T,)."""
        self.cells = self._move(cells + positions % BLOCK_TOKENS)
        """int64 (T,): where the keys and values of each token go."""
        self.stale_cells = self._stale_cells(cleared)
        """int64 (N,): cells behind the last token in blocks that this step begins, in all if none
        were cleared before; or None. They must be cleared: whatever an earlier sequence left there,
        NaN included, is multiplied by 0.
        """

    def groups(self, window: int | None) -> tuple[Group, ...]:
        """All rows, for layers whose tokens see themselves and `window` - 1 before, or all."""
        if window not in self._groups:
            self._groups[window] = tuple(self._make_groups(window))
        return self._groups[window]

    def _make_groups(self, window: int | None) -> Iterable[Group]:
        together: dict[int, list[_Row]] = {}
        for row in self._rows:
            if row.n > _GROUPED_TOKENS:
                yield self._group([row], window)
            else:
                together.setdefault(row.n, []).append(row)
        for rows in together.values():
            for similar in _by_length(rows, window, self._group_cells):
                yield self._group(similar, window)

    def _group(self, rows: list[_Row], window: int | None) -> Group:
        first, n = rows[0], rows[0].n
        width = max(row.num_blocks(window) for row in rows)
        begins = np.array([row.begin for row in rows])
        starts = np.array([row.first_block(window) for row in rows])
        past = np.array([row.past for row in rows])
        # a row that ends early runs into the padding of its table, or past the table's end
        columns = starts[:, None] + np.arange(width)
        inside = columns < self._tables.shape[1]
        blocks = self._tables[
            np.array([row.index for row in rows])[:, None], np.where(inside, columns, 0)
        ]
        cells = slice(0, width * BLOCK_TOKENS)
        if len(rows) == 1:
            offset = first.first_block(window) * BLOCK_TOKENS
            cells = slice(first.first_cell(window) - offset, first.past + n - offset)
        keys = starts[:, None] * BLOCK_TOKENS + np.arange(cells.start, cells.stop)
        is_contiguous = bool((np.diff(begins) == n).all())
        flat = begins[:, None] + np.arange(n)
        seen = None if self._seen is None else self._seen[:, flat]
        return Group(
            tokens=slice(first.begin, first.begin + n * len(rows))
            if is_contiguous
            else self._move(flat.ravel()),
            num_rows=len(rows),
            num_new=n,
            blocks=self._move(blocks.ravel().astype(np.int64)),
            cells=cells,
            query_positions=self._move(past[:, None] + np.arange(n)),
            key_positions=self._move(keys),
            seen=None if seen is None else self._move(seen),
            window=window,
            dtype=self._dtype,
            needs_mask=len(rows) > 1 or n > 1,
            is_fresh=len(rows) == 1
            and first.past == 0
            and (window is None or n <= window)
            and (seen is None or not seen.any()),
        )

    def _stale_cells(self, cleared: bool) -> Tensor | None:
        ends = [row.past + row.n for row in self._rows]
        stale = [
            int(self._tables[row.index, end // BLOCK_TOKENS]) * BLOCK_TOKENS + cell
            for row, end in zip(self._rows, ends, strict=True)
            if end % BLOCK_TOKENS
            and (not cleared or end - row.n <= end // BLOCK_TOKENS * BLOCK_TOKENS)
            for cell in range(end % BLOCK_TOKENS, BLOCK_TOKENS)
        ]
        return self._move(np.array(stale, np.int64)) if stale else None

    def _move(self, array: NDArray[np.int64]) -> Tensor:
        return torch.from_numpy(array).to(self._device)


def seen_both_ways(step: Step, positions: NDArray[np.int32]) -> NDArray[np.int64] | None:
    """int64 (2, T): from and up to which position each token sees, whatever causality and window
    say; 0 and 0 of those for which these say all. None if they do for all tokens.
    """
    if step.two_way is None:
        return None
    seen = np.zeros((2, step.num_tokens), np.int64)
    for begin, end in step.two_way.tolist():
        seen[:, begin:end] = [[positions[begin]], [positions[end - 1] + 1]]
    return seen


def _by_length(rows: list[_Row], window: int | None, most_cells: int) -> Iterable[list[_Row]]:
    """Splits rows so that padding them to the longest wastes little, and no group is too large."""
    lengths = {row.index: row.num_blocks(window) * BLOCK_TOKENS for row in rows}
    rows = sorted(rows, key=lambda row: -lengths[row.index])
    group: list[_Row] = []
    wasted = used = 0
    for row in rows:
        length = lengths[row.index]
        longest = lengths[group[0].index] if group else length
        wasted += longest - length
        is_large = group and longest * (len(group) + 1) > most_cells
        if is_large or wasted > max(_FREE_PADDING_CELLS, used // 4):
            yield sorted(group, key=lambda row: row.index)
            group, wasted, used = [], 0, 0
        group.append(row)
        used += length
    yield sorted(group, key=lambda row: row.index)
