"""Which shapes of steps are compiled, and which of them a step is padded to. Knows no device."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass

_LEAST_TOKENS = 32
"""Shorter prompts take no less time."""
_LEAST_BLOCKS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """What a step is padded to: each row has so many tokens, and sees so many blocks."""

    rows: int
    tokens: int
    """Of each row; 1 in decode steps. Prompts are alone in theirs."""
    blocks: int


@dataclass(frozen=True, slots=True)
class Buckets:
    """Powers of two, so that padding is never more than half, and the largest of each."""

    rows: tuple[int, ...]
    """Of decode steps, ascending."""
    tokens: tuple[int, ...]
    """Of prompts and their chunks, ascending."""
    blocks: tuple[int, ...]
    """That a row sees, ascending."""
    block_tokens: int

    @classmethod
    def up_to(
        cls, max_rows: int, max_tokens: int, max_sequence_tokens: int, block_tokens: int
    ) -> Buckets:
        """All that steps within these limits may need."""
        longest = min(max_tokens, max_sequence_tokens)
        most_blocks = -(-max_sequence_tokens // block_tokens)
        return cls(
            powers(1, max_rows),
            powers(_LEAST_TOKENS, longest),
            powers(_LEAST_BLOCKS, most_blocks),
            block_tokens,
        )

    @property
    def shapes(self) -> tuple[Shape, ...]:
        """All of them, the largest first, so that what does not fit fails early."""
        decode = [Shape(rows=r, tokens=1, blocks=b) for r in self.rows for b in self.blocks]
        prompts = [
            Shape(rows=1, tokens=n, blocks=b)
            for n in self.tokens
            for b in self.blocks
            # fewer blocks than the shortest prompt of this bucket fills are never needed
            if b >= self.blocks[bisect_left(self.blocks, self._blocks_of(n // 2 + 1))]
        ]
        size = {shape: shape.rows * shape.tokens * shape.blocks for shape in (*decode, *prompts)}
        return tuple(sorted(size, key=lambda shape: -size[shape]))

    def shape_for(self, rows: int, longest_row: int, longest_sequence: int) -> Shape:
        """The smallest that holds a step: either rows of one token, or one row."""
        blocks = _least(self.blocks, self._blocks_of(longest_sequence))
        if longest_row == 1:
            return Shape(rows=_least(self.rows, rows), tokens=1, blocks=blocks)
        return Shape(rows=1, tokens=_least(self.tokens, longest_row), blocks=blocks)

    def _blocks_of(self, tokens: int) -> int:
        return -(-tokens // self.block_tokens)


def powers(first: int, last: int) -> tuple[int, ...]:
    """Each twice the one before it, and the last, whatever it is."""
    found = []
    while first < last:
        found.append(first)
        first *= 2
    return (*found, last)


def _least(buckets: tuple[int, ...], wanted: int) -> int:
    return buckets[bisect_left(buckets, wanted)]
