"""Which shapes of steps are captured as graphs, and which of them a step is padded to."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass

from tgi_backend_cuda.inputs import Shape, is_short
from tgi_core.contract import Step

_ROWS = (1, 2, 4, 8, *range(16, 65, 8), *range(80, 257, 16))
_TOKENS = (
    *(8, 16, 32, 64),
    *range(128, 513, 64),
    *range(640, 1025, 128),
    *range(1280, 2049, 256),
)
_FURTHER_ROWS = 64
SHORT_ROWS = 16
"""Of more rows the programs of attention fill a chip without parts."""
MOST_GRAPH_TOKENS = 2048
"""Longer steps compute for longer than the host takes to launch them."""


@dataclass(frozen=True, slots=True)
class Buckets:
    """The shapes of one model's graphs."""

    decode: tuple[int, ...]
    """Rows of steps in which each has one token, ascending."""
    mixed: tuple[int, ...]
    """Tokens of other steps, ascending."""
    max_rows: int
    axes: int = 1
    """Of rotary positions."""
    short_rows: int = 0
    """Most rows of one token for which there is a graph for short ones beside that for any."""

    @classmethod
    def up_to(
        cls, max_rows: int, max_tokens: int, axes: int = 1, *, short: bool = False
    ) -> Buckets:
        """Close enough together that padding costs little: an eighth, but for the smallest."""
        rows = {*_ROWS, *range(_ROWS[-1], max_rows + _FURTHER_ROWS, _FURTHER_ROWS)}
        longest = min(max_tokens, MOST_GRAPH_TOKENS)
        return cls(
            (*sorted(r for r in rows if r < max_rows), max_rows),
            (*(t for t in _TOKENS if t < longest), longest),
            max_rows,
            axes,
            SHORT_ROWS if short else 0,
        )

    @property
    def shapes(self) -> tuple[Shape, ...]:
        """All of them, the largest first, so that the others find room in its memory."""
        mixed = [self._mixed(tokens) for tokens in self.mixed]
        decode = [self._decode(rows, short=False) for rows in self.decode]
        short = [self._decode(rows, short=True) for rows in self.decode if rows <= self.short_rows]
        return tuple(sorted(mixed + decode + short, key=lambda s: (-s.tokens, s.decode)))

    def shape_for(self, step: Step) -> Shape | None:
        """The smallest that holds the step; None if none does."""
        if len(step.out) > self.max_rows:
            return None
        if step.num_tokens == step.num_rows:
            at = bisect_left(self.decode, step.num_rows)
            if at == len(self.decode):
                return None
            rows = self.decode[at]
            return self._decode(rows, short=rows <= self.short_rows and is_short(step))
        at = bisect_left(self.mixed, step.num_tokens)
        if at == len(self.mixed):
            return None
        shape = self._mixed(self.mixed[at])
        return shape if len(step.out) <= shape.outputs else None

    def _decode(self, rows: int, *, short: bool) -> Shape:
        return Shape(tokens=rows, rows=rows, outputs=rows, decode=True, axes=self.axes, short=short)

    def _mixed(self, tokens: int) -> Shape:
        # no row is shorter than a token, and the padding is a row
        rows = min(self.max_rows, tokens)
        return Shape(tokens=tokens, rows=rows + 1, outputs=rows, decode=False, axes=self.axes)
