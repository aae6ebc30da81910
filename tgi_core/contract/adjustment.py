"""Adjustments: what plugins may change about the choice of a token, as data for any sampler.

An adjustment is a pure function of the tokens so far. So it is the same alone and in a batch, after
preemption, in a new engine, and for drafts that are only being verified.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, eq=False)
class Boost:
    """One bias for a whole set of tokens: 6 kB a row for 49,152 tokens, half of them or one."""

    tokens: NDArray[np.int32]
    """int32 (ceil(vocab / 32),): bit t % 32 of word t // 32 says that token t is in the set."""
    value: float
    """What is added to their logits, before anything else is done to them; -inf forbids them."""


class Adjustment(Protocol):
    """What a plugin offers with the hook `tgi_adjustments`."""

    name: str
    """What `SamplingParams.adjustments` names."""

    def boost(self, tokens: Sequence[int], vocab_size: int) -> Boost:
        """What to add to the logits of the token that comes next.

        Called for each such token of each sequence that asked for it, while the device computes the
        logits: a tenth of a millisecond is much.

        Args:
            tokens: prompt and output so far, at least one; not to be changed.
            vocab_size: the model's, padding included.

        Raises:
            GenerationError: the sequence cannot go on.
        """
        ...
