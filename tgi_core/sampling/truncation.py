"""Which tokens stay eligible: top-k, top-p, min-p and typical-p on one row of logits.

Each step works on the candidates that the one before left over, in the order of transformers'
logits processors: temperature, top-k, top-p, min-p, typical-p. Among equal logits the lower token
id counts as the more probable one.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_GROUPS = 1024
"""Of neighbours a vocabulary's length / 1024 apart, to find the k-th largest value."""
_SAMPLED = 2048
"""Tokens that are looked at to guess where a prefix ends."""
_LIKELY, _FEW = np.float32(1e-2), 1024
"""A weight above which top-p sets of models that know what they want to say are found, and the
most tokens for which it is worth a look."""
_NO_CHANCE = np.float32(-80)
"""Logarithm of a weight that no sum and no draw notices. Much below it numbers lose their leading
bit, and all that is done with them takes ten times as long."""


@dataclass(frozen=True, slots=True)
class Candidates:
    """Tokens that may still be chosen."""

    ids: NDArray[np.intp]
    """(C,), ascending."""
    logits: NDArray[np.float32]
    """float32 (C,), divided by the temperature; -inf for those that may not. Where some are
    infinite, these are 0 instead and the others -inf: they share all."""
    weights: NDArray[np.float32]
    """float32 (C,): probabilities up to a factor, 1 for the most probable token of the row."""

    @classmethod
    def of(
        cls,
        ids: NDArray[np.intp],
        logits: NDArray[np.float32],
        spare: NDArray[np.float32] | None = None,
    ) -> Candidates:
        """Those that are left of a row, its most probable token among them.

        `spare`, of the length of a row, becomes the weights, for new memory costs more than exp.
        """
        highest = logits.max()
        if np.isinf(highest):
            logits = np.where(logits == highest, np.float32(0), np.float32(-np.inf))
            highest = np.float32(0)
        room = None if spare is None else spare[: len(logits)]
        weights = np.subtract(logits, highest, out=room)
        if weights.min() < _NO_CHANCE:
            np.maximum(weights, _NO_CHANCE, out=weights)
        return cls(ids, logits, np.exp(weights, out=weights))

    def keep(self, which: NDArray[np.bool_] | NDArray[np.intp]) -> Candidates:
        """Those at an ascending index or under a mask; if few are to go they stay, see `drop`."""
        if which.dtype == np.bool_:
            num = np.count_nonzero(which)
            if 2 * num > len(which):
                return self if num == len(which) else self.drop(np.flatnonzero(~which))
            which = np.flatnonzero(which)
        return Candidates(self.ids[which], self.logits[which], self.weights[which])

    def copy(self, which: slice) -> Candidates:
        """Some neighbours, in memory of their own."""
        return Candidates(self.ids[which], self.logits[which].copy(), self.weights[which].copy())

    def drop(self, places: NDArray[np.intp]) -> Candidates:
        """All but those at an index, which stay where they are, without weight."""
        self.logits[places] = -np.inf
        self.weights[places] = 0
        return self


def truncate(
    ids: NDArray[np.intp],
    logits: NDArray[np.float32],
    temperature: float,
    top_k: int,
    top_p: float,
    min_p: float,
    typical_p: float,
    spare: NDArray[np.float32] | None = None,
) -> Candidates:
    """Divides by the temperature and drops what the four limits exclude; at least one token stays.

    Args:
        ids: (vocab,), all tokens in order.
        logits: float32 (vocab,) without NaN, with at least one value above -inf; overwritten.
        temperature: above 0.
        top_k: 0 is off. Ties with the k-th token are kept.
        top_p: 1 is off.
        min_p: 0 is off.
        typical_p: 1 is off.
        spare: float32 (vocab,), overwritten: what is returned may live there.
    """
    if temperature != 1:
        logits = np.divide(logits, np.float32(temperature), out=logits)
    if 0 < top_k < len(logits):
        ids = np.flatnonzero((logits >= kth_largest(logits, top_k)) & (logits > -np.inf))
        logits = logits[ids]
    candidates = Candidates.of(ids, logits, spare)
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
    ranked = _Ranked(weights, weights)
    likely = weights >= _LIKELY
    if np.count_nonzero(likely) <= _FEW:
        # most models' answers end here
        places = np.flatnonzero(likely)
        first = ranked.at(places).first(top_p * total)
        if first is not None:
            return candidates.keep(places[first])
    return _prefix(candidates, ranked, top_p * total, total)


def _typical(candidates: Candidates, typical_p: float) -> Candidates:
    """Shortest prefix, surprise closest to the entropy first, whose mass reaches typical_p."""
    if not candidates.weights.all():
        places = np.flatnonzero(candidates.weights)
        candidates = candidates.keep(places)
    p = candidates.weights.astype(np.float64)
    p /= p.sum()
    surprise = np.log(p)
    np.negative(surprise, out=surprise)
    surprise -= np.einsum("i,i->", p, surprise)  # the entropy
    distance = np.abs(surprise, out=surprise)
    return _prefix(candidates, _Ranked(p, np.negative(distance, out=distance)), typical_p, 1.0)


@dataclass(frozen=True, slots=True)
class _Ranked:
    """Probabilities with what orders them, the highest first."""

    p: NDArray[np.floating]
    """(C,), up to a factor."""
    rank: NDArray[np.floating]
    """(C,); may be the same array."""

    def at(self, places: NDArray[np.intp] | slice) -> _Ranked:
        """Those at an index."""
        p = self.p[places]
        return _Ranked(p, p if self.rank is self.p else self.rank[places])

    def ascending(self) -> _Ranked:
        """Worst first; a third of the time where they are the same."""
        if self.rank is self.p:
            ordered = np.sort(self.p)
            return _Ranked(ordered, ordered)
        return self.at(np.argsort(self.rank))

    def first(self, mass: float) -> NDArray[np.bool_] | None:
        """Which of them are the first that have a mass; of equal ones the earlier come first.

        None if all have less, or if nothing is wanted.
        """
        ordered = self.ascending()
        sums = np.cumsum(ordered.p[::-1], dtype=np.float64)
        place = int(np.searchsorted(sums, mass))
        if mass <= 0 or place == len(sums):
            return None
        last = ordered.rank[-1 - place]
        kept: NDArray[np.bool_] = self.rank > last
        ties = np.flatnonzero(self.rank == last)
        num = 1
        if len(ties) > 1:
            above = len(sums) - int(np.searchsorted(ordered.rank, last, side="right"))
            missing = mass - (float(sums[above - 1]) if above else 0.0)
            num += int(np.searchsorted(np.cumsum(self.p[ties], dtype=np.float64), missing))
        kept[ties[:num]] = True
        return kept

    def around_last(self, beyond: float) -> tuple[float, float, bool]:
        """Between which ranks the last one is, probably, if those beyond it have that mass.

        Also whether most are before it.
        """
        step = len(self.p) // _SAMPLED
        if not step:
            return np.inf, -np.inf, False
        some = self.at(slice(None, None, step)).ascending()
        size = len(some.p)
        num = int(np.searchsorted(np.cumsum(some.p, dtype=np.float64) * step, beyond))
        slack = 8 + int(3 * min(num, size - num) ** 0.5)
        lower = some.rank[num - slack] if num >= slack else -np.inf
        upper = some.rank[num + slack] if num + slack < size else np.inf
        return float(upper), float(lower), 2 * num < size


def _prefix(candidates: Candidates, ranked: _Ranked, mass: float, total: float) -> Candidates:
    """The best ones, down to and with the one at which they sum to `mass`, of `total`.

    To sort them all would take most of a sampler's time. Where the last one is, a sample tells
    nearly, and only those near it are sorted. If it is not there after all, all of them are.
    """
    upper, lower, most = ranked.around_last(total - mass)
    # those that may be dropped, or those that may be kept, whichever are fewer
    places = np.flatnonzero(ranked.rank < upper if most else ranked.rank >= lower)
    part = ranked.at(places)
    kept = part.rank >= upper
    before = total - part.p.sum(dtype=np.float64) if most else part.p[kept].sum(dtype=np.float64)
    near = np.flatnonzero((part.rank >= lower) & ~kept)
    first = part.at(near).first(mass - float(before))
    if first is None:
        everyone = ranked.first(mass)
        return candidates if everyone is None else candidates.keep(everyone)
    kept[near] = first
    return candidates.drop(places[~kept]) if most else candidates.keep(places[kept])


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
