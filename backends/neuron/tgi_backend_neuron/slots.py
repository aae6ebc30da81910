"""What the slots of the cache hold, and what the decode graph is fed for them. Knows no device.

The decode graph computes every slot, whether a step names it or not, and writes a cell of each. So
a slot that the step does not name gets its own last token again: it is written where the next one
will be, and the next one overwrites it. In a full slot there is no such cell, and the last token's
own cell gets what it holds already.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tgi_core.contract import Step

IntArray = NDArray[np.int32]


class Slots:
    """Sequence ids are slots. What lies beyond `held` in a slot is never seen."""

    def __init__(self, num: int, tokens: int) -> None:
        self.tokens = tokens
        """Cells of each."""
        self.held = np.zeros(num, np.int32)
        """int32 (num,): tokens in each."""
        self._last = np.zeros(num, np.int32)

    def advance(self, step: Step) -> None:
        """Notes that the rows of a step are in their slots."""
        self.held[step.seq] = step.past + step.n
        self._last[step.seq] = step.tokens[step.row_begins()[1:] - 1]

    def truncate(self, seq: int, length: int) -> None:
        """Forgets what lies beyond `length`."""
        self.held[seq] = min(int(self.held[seq]), length)

    def decode_inputs(self, step: Step) -> tuple[IntArray, IntArray]:
        """Tokens and positions for all slots: int32 (num,) each."""
        tokens, positions = self._last.copy(), np.minimum(self.held, self.tokens - 1)
        tokens[step.seq] = step.tokens
        return tokens, positions.astype(np.int32)
