"""Which tokens stay eligible: top-k, top-p, min-p and typical-p on one row of logits.

Each step works on the candidates that the one before left over, in the order of transformers'
logits processors: temperature, top-k, top-p, min-p, typical-p. Among equal logits the lower token
id counts as the more probable one.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_LEAST_WEIGHTS = (1e-2, 1e-4)
"""Top-p sets seldom hold tokens below these; looking at fewer takes less time."""
_GROUPS = 1024
"""Of neighbours a vocabulary's length / 1024 apart, to find the k-th largest value."""


@dataclass(frozen=True, slots=True)
class Candidates:
    """Tokens that may still be chosen."""

    ids: NDArray[np.intp]
    """(C,), ascending."""
    logits: NDArray[np.float32]
    """float32 (C,), divided by the temperature. Where some are infinite, these are 0 instead and
    the others -inf: they share all."""
    weights: NDArray[np.float32]
    """float32 (C,): probabilities up to a factor, 1 for the most probable token of the row."""

    @classmethod
    def of(cls, ids: NDArray[np.intp], logits: NDArray[np.float32]) -> Candidates:
        """Those that are left of a row, its most probable token among them."""
        highest = logits.max()
        if np.isinf(highest):
            logits = np.where(logits == highest, np.float32(0), np.float32(-np.inf))
            highest = np.float32(0)
        weights = logits - highest
        return cls(ids, logits, np.exp(weights, out=weights))

    def keep(self, which: NDArray[np.bool_] | NDArray[np.intp]) -> Candidates:
        """Those at an ascending index or under a mask."""
        return Candidates(self.ids[which], self.logits[which], self.weights[which])


def truncate(
    ids: NDArray[np.intp],
    logits: NDArray[np.float32],
    temperature: float,
    top_k: int,
    top_p: float,
    min_p: float,
    typical_p: float,
) -> Candidates:
    """Divides by the temperature and drops what the four limits exclude; at least one token stays.

    Args:
        ids: (vocab,), all tokens in order.
        logits: float32 (vocab,) without NaN, with at least one value above -inf.
        temperature: above 0.
        top_k: 0 is off. Ties with the k-th token are kept.
        top_p: 1 is off.
        min_p: 0 is off.
        typical_p: 1 is off.
    """
    scaled = logits / np.float32(temperature)
    if 0 < top_k < len(scaled):
        ids = np.flatnonzero((scaled >= kth_largest(scaled, top_k)) & (scaled > -np.inf))
        scaled = scaled[ids]
    candidates = Candidates.of(ids, scaled)
    if top_p < 1:
        candidates = _nucleus(candidates, top_p)
    if min_p > 0:
        candidates = candidates.keep(candidates.weights >= np.float32(min_p))
    if typical_p < 1:
        candidates = _typical(candidates, typical_p)
    return candidates


def _nucleus(candidates: Candidates, top_p: float) -> Candidates:
    """Shortest prefix, most probable first, whose mass reaches top_p."""
    weights = candidates.weights
    total = float(weights.sum(dtype=np.float64))
    target = top_p * total
    # tokens below the last of these have less than 1 - top_p together, and so are in no prefix
    for least in (*_LEAST_WEIGHTS, (1 - top_p) * total / (2 * len(weights))):
        likely = np.flatnonzero(weights >= np.float32(least))
        if weights[likely].sum(dtype=np.float64) >= target:
            break
    weights = weights[likely]
    return candidates.keep(likely[_prefix(weights, -weights, _buckets(1 / weights), target)])


def _typical(candidates: Candidates, typical_p: float) -> Candidates:
    """Shortest prefix, surprise closest to the entropy first, whose mass reaches typical_p."""
    p = candidates.weights.astype(np.float64)
    p /= p.sum()
    with np.errstate(divide="ignore", invalid="ignore"):
        surprise = -np.log(p)
        entropy = np.nansum(p * surprise)
    distance = np.abs(surprise - entropy)
    return candidates.keep(_prefix(p, distance, _buckets(distance), typical_p))


def _buckets(values: NDArray[np.floating]) -> NDArray[np.int32]:
    """int32 (C,): the first 16 bits of positive numbers, which are in the order of the numbers."""
    return values.astype(np.float32, copy=False).view(np.int32) >> 16


def _prefix(
    p: NDArray[np.floating],
    order_by: NDArray[np.floating],
    buckets: NDArray[np.int32],
    mass: float,
) -> NDArray[np.bool_]:
    """Those in ascending `order_by`, up to and with the one at which `p` sums to `mass`: bool (C,).

    Only the bucket in which that happens has to be sorted; `buckets` are in the same order.
    """
    reached = np.cumsum(np.bincount(buckets, p))
    bucket = min(int(np.searchsorted(reached, mass)), len(reached) - 1)
    inside = np.flatnonzero(buckets == bucket)
    inside = inside[np.argsort(order_by[inside], kind="stable")]
    before = reached[bucket - 1] if bucket else 0.0
    sums = np.cumsum(p[inside], dtype=np.float64)
    kept = buckets < bucket
    kept[inside[: int(np.searchsorted(sums, mass - before)) + 1]] = True
    return kept


def kth_largest(values: NDArray[np.float32], k: int) -> np.float32:
    """The value at place k, 1 the largest.

    The largest of many groups come first: what is below the k-th of them need not be looked at.
    """
    size = len(values) // _GROUPS
    if k <= _GROUPS and size > 1:
        largest = values[: size * _GROUPS].reshape(size, _GROUPS).max(axis=0)
        values = values[values >= np.partition(largest, _GROUPS - k)[_GROUPS - k]]
    threshold: np.float32 = np.partition(values, len(values) - k)[len(values) - k]
    return threshold
