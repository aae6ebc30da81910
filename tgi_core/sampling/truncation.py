"""Which tokens stay eligible: top-k, top-p, min-p and typical-p on one row of logits.

Each step works on the candidates that the one before left over, in the order of transformers'
logits processors: temperature, top-k, top-p, min-p, typical-p. Among equal logits the lower token
id counts as the more probable one.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_GUESSES = (256, 4096)
"""Top-p sets are nearly always smaller than the first, so a full sort can be spared."""


@dataclass(frozen=True, slots=True)
class Candidates:
    """Tokens that may still be chosen."""

    ids: NDArray[np.intp]
    """(C,), ascending."""
    logits: NDArray[np.float32]
    """float32 (C,), divided by the temperature."""

    def keep(self, which: NDArray[np.bool_] | NDArray[np.intp]) -> Candidates:
        """Those at an ascending index or under a mask."""
        return Candidates(self.ids[which], self.logits[which])

    def weights(self) -> NDArray[np.float32]:
        """float32 (C,): probabilities up to a factor, 1 the largest. Infinite logits share all."""
        highest = self.logits.max()
        if np.isinf(highest):
            return np.asarray(self.logits == highest, np.float32)
        return np.asarray(np.exp(self.logits - highest), np.float32)

    def probabilities(self) -> NDArray[np.float64]:
        """float64 (C,), summing to 1."""
        weights = self.weights().astype(np.float64)
        return np.asarray(weights / weights.sum())


def truncate(
    logits: NDArray[np.float32],
    temperature: float,
    top_k: int,
    top_p: float,
    min_p: float,
    typical_p: float,
) -> Candidates:
    """Divides by the temperature and drops what the four limits exclude; at least one token stays.

    Args:
        logits: float32 (vocab,) without NaN, with at least one value above -inf.
        temperature: above 0.
        top_k: 0 is off. Ties with the k-th token are kept.
        top_p: 1 is off.
        min_p: 0 is off.
        typical_p: 1 is off.
    """
    scaled = logits / np.float32(temperature)
    if 0 < top_k < len(scaled):
        threshold = np.partition(scaled, len(scaled) - top_k)[len(scaled) - top_k]
        ids = np.flatnonzero((scaled >= threshold) & (scaled > -np.inf))
        candidates = Candidates(ids, scaled[ids])
    else:
        candidates = Candidates(np.arange(len(scaled)), scaled)
    if top_p < 1:
        candidates = _nucleus(candidates, top_p)
    if min_p > 0:
        p = candidates.probabilities()
        candidates = candidates.keep(p >= min_p * p.max())
    if typical_p < 1:
        candidates = _typical(candidates, typical_p)
    return candidates


def _nucleus(candidates: Candidates, top_p: float) -> Candidates:
    """Shortest prefix, most probable first, whose mass reaches top_p."""
    every = candidates.probabilities()
    # tokens below this have less than 1 - top_p together, so none of them is in the prefix
    likely = np.flatnonzero(every >= (1 - top_p) / (2 * len(every)))
    p = every[likely]
    for guess in _GUESSES:
        if guess >= len(p):
            break
        # everything above the guess's smallest value, so that ties are not cut at random
        smallest = np.partition(p, len(p) - guess)[len(p) - guess]
        head = np.flatnonzero(p > smallest)
        if p[head].sum() >= top_p:
            likely, p = likely[head], p[head]
            break
    return candidates.keep(likely[np.sort(_prefix(p, -p, top_p))])


def _typical(candidates: Candidates, typical_p: float) -> Candidates:
    """Shortest prefix, surprise closest to the entropy first, whose mass reaches typical_p."""
    p = candidates.probabilities()
    with np.errstate(divide="ignore", invalid="ignore"):
        surprise = -np.log(p)
        entropy = np.nansum(p * surprise)
    return candidates.keep(np.sort(_prefix(p, np.abs(surprise - entropy), typical_p)))


def _prefix(p: NDArray[np.float64], order_by: NDArray[np.float64], mass: float) -> NDArray[np.intp]:
    """Indices in ascending `order_by`, up to and with the one at which `p` sums to `mass`."""
    order = np.argsort(order_by, kind="stable")
    count = int(np.searchsorted(np.cumsum(p[order]), mass, side="left")) + 1
    return order[:count]
