"""Log-probabilities of one row, and its most probable tokens."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tgi_core.sampling.truncation import Candidates, kth_largest


def log_normalizer(candidates: Candidates) -> float:
    """log(sum(exp(logits))), computed so that it neither overflows nor loses the small ones."""
    # a candidate's weight is exp(logit - highest); the highest one itself may have been dropped
    place = int(candidates.weights.argmax())
    logit, weight = float(candidates.logits[place]), float(candidates.weights[place])
    return logit + float(np.log(candidates.weights.sum(dtype=np.float64) / weight))


def top(candidates: Candidates, num: int) -> tuple[NDArray[np.intp], NDArray[np.float32]]:
    """Ids and logits of the `num` most probable candidates, best first, lower ids first in ties."""
    logits = candidates.logits
    if num < len(logits):
        chosen = np.flatnonzero((logits >= kth_largest(logits, num)) & (logits > -np.inf))
    else:
        chosen = np.flatnonzero(logits > -np.inf)
    chosen = chosen[np.argsort(-logits[chosen], kind="stable")][:num]
    return candidates.ids[chosen], logits[chosen]
