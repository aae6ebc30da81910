"""Log-probabilities of one row, and its most probable tokens."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tgi_core.sampling.truncation import Candidates


def log_normalizer(logits: NDArray[np.float32]) -> float:
    """log(sum(exp(logits))), computed so that it neither overflows nor loses the small ones."""
    highest = float(logits.max())
    if np.isinf(highest):
        return highest + float(np.log(np.count_nonzero(logits == highest)))
    return highest + float(np.log(np.exp(logits - np.float32(highest)).sum(dtype=np.float64)))


def top(candidates: Candidates, num: int) -> tuple[NDArray[np.intp], NDArray[np.float32]]:
    """Ids and logits of the `num` most probable candidates, best first, lower ids first in ties."""
    logits = candidates.logits
    if num < len(logits):
        threshold = np.partition(logits, len(logits) - num)[len(logits) - num]
        chosen = np.flatnonzero((logits >= threshold) & (logits > -np.inf))
    else:
        chosen = np.flatnonzero(logits > -np.inf)
    chosen = chosen[np.argsort(-logits[chosen], kind="stable")][:num]
    return candidates.ids[chosen], logits[chosen]
