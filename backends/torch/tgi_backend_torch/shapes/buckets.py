"""Which shapes of steps are compiled, and which of them a step is padded to. Knows no device."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass, replace

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
    aside: int = 0
    """Blocks of images from outside the text that each row sees."""


@dataclass(frozen=True, slots=True)
class Buckets:
    """Powers of two, so that padding is never more than half, and the largest of each.

    Steps in which rows see images aside come in the first width of these in all shapes, and in
    others beside the longest sequences only: else there would be twice as many to compile for what
    is rare.
    """

    rows: tuple[int, ...]
    """Of decode steps, ascending."""
    tokens: tuple[int, ...]
    """Of prompts and their chunks, ascending."""
    blocks: tuple[int, ...]
    """That a row sees, ascending."""
    block_tokens: int
    aside: tuple[int, ...] = ()
    """Blocks of images that a row sees aside, ascending; steps without any are there as well."""

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
        text = (*decode, *prompts)
        aside = [
            replace(shape, aside=width)
            for width in self.aside
            for shape in text
            if width == self.aside[0] or shape.blocks == self.blocks[-1]
        ]
        return tuple(sorted((*text, *aside), key=_size, reverse=True))

    def shape_for(
        self, rows: int, longest_row: int, longest_sequence: int, aside: int = 0
    ) -> Shape:
        """The smallest that holds a step: either rows of one token, or one row."""
        blocks = _least(self.blocks, self._blocks_of(longest_sequence))
        width = _least((0, *self.aside), aside)
        if width > 0 and width != self.aside[0]:
            blocks = self.blocks[-1]
        if longest_row == 1:
            return Shape(rows=_least(self.rows, rows), tokens=1, blocks=blocks, aside=width)
        tokens = _least(self.tokens, longest_row)
        return Shape(rows=1, tokens=tokens, blocks=blocks, aside=width)

    def _blocks_of(self, tokens: int) -> int:
        return -(-tokens // self.block_tokens)


def powers(first: int, last: int) -> tuple[int, ...]:
    """Each twice the one before it, and the last, whatever it is."""
    found = []
    while first < last:
        found.append(first)
        first *= 2
    return (*found, last)


def _size(shape: Shape) -> int:
    return shape.rows * shape.tokens * (shape.blocks + shape.aside)


def _least(buckets: tuple[int, ...], wanted: int) -> int:
    return buckets[bisect_left(buckets, wanted)]
