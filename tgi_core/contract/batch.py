"""Step: what a backend gets to compute, as flat arrays."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tgi_core.contract.image import StepImage
from tgi_core.contract.sampling import SamplingBatch

IntArray = NDArray[np.int32]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Step:
    """One batched forward step: R rows with T tokens in all, without padding.

    Row r appends `n[r]` tokens to sequence `seq[r]`, which holds `past[r]` tokens already; they
    take the positions `past[r]` .. `past[r] + n[r] - 1`. No other state crosses.
    """

    seq: IntArray
    """int32 (R,), no two alike."""
    past: IntArray
    """int32 (R,), equal to what the backend holds for the sequence."""
    n: IntArray
    """int32 (R,), each at least 1."""
    tokens: IntArray
    """int32 (T,), row after row. A negative value -1 - i stands for the token that was sampled for
    output i of the step before; it occurs only where two steps may be in flight."""
    out: IntArray
    """int32 (L,), ascending indices into `tokens` whose logits are wanted; may be empty."""
    encoded: IntArray | None = None
    """int32 (R,): how many tokens at the beginning of each row's sequence are the encoder's. Given
    only to a backend that has `Capabilities.encoder`; such a beginning is never cut: `past[r]` is 0
    or at least `encoded[r]`, and `past[r] + n[r]` is more."""
    adapter: IntArray | None = None
    """int32 (R,): the place of each row's adapter (`HoldsAdapters`), 0 for the base model; None if
    all are 0."""
    images: tuple[StepImage, ...] = ()
    """Vectors that take the places of some tokens; only if the backend reads images."""
    two_way: IntArray | None = None
    """int32 (B, 2): begin and end, in `tokens`, of runs whose tokens see one another, those after
    them included; never more than `Capabilities.two_way` says. None: all see only what is before
    them."""
    positions: IntArray | None = None
    """int32 (A, T): only for models with rotary positions of more than one axis; None if each token
    stands where `token_positions` says, on all axes."""
    sampling: SamplingBatch | None = None
    """Given only to a backend whose `Capabilities.logits` is NONE."""

    @property
    def num_rows(self) -> int:
        """R."""
        return len(self.seq)

    @property
    def num_tokens(self) -> int:
        """T."""
        return len(self.tokens)

    def row_begins(self) -> IntArray:
        """int32 (R + 1,): where each row begins in `tokens`; the last entry is T."""
        begins = np.zeros(len(self.n) + 1, np.int32)
        np.cumsum(self.n, out=begins[1:])
        return begins

    def token_positions(self) -> IntArray:
        """int32 (T,): the position of each token in its sequence."""
        if len(self.tokens) == len(self.past):
            return self.past
        starts = np.repeat(self.past - self.row_begins()[:-1], self.n)
        return (starts + np.arange(len(self.tokens), dtype=np.int32)).astype(np.int32)
