"""How many drafts pay: what tokens cost a step, and how often drafts are right. Pure arithmetic.

A step takes a fixed time, for the weights are read once, and some more for each token, for each row
of several tokens, and for having such rows at all. Drafts pay if the tokens they can be expected to
bring, by the time they take, are more than the step brings anyway. Both are learned from what
happens, so nothing here knows a device.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from heapq import heappop, heappush

import numpy as np
from numpy.typing import NDArray

_KEPT = 0.995
"""Of the weight of older steps, with each new one."""
_FIRST_SHARES = np.array([0.9, 0.06, 0.02, 0.04])
"""Of a step's time: what its parts are taken to be until steps of several kinds were seen. Those of
tokens and rows are what all of them take."""
_FIRST_WEIGHTS = np.diag([0.01, 8.0, 4.0, 4.0])
"""How much that counts: as so many steps that tell one part from the others."""
_LEAST_SHARE = 0.003
"""No token is free: the host has to sample and check it."""
_HOPE_SHARE = 0.02
"""Of the time of steps that may go into looking for drafts which are not expected to pay."""
_SURPRISE = 3.0
"""A step that takes so many times what was expected was held up by something else."""


class StepCosts:
    """What the parts of a step take: least squares over steps without prompts, newer ones more."""

    def __init__(self) -> None:
        self._mean_s = self._mean_tokens = 0.0
        self._weight = 0.0
        self._squares: NDArray[np.float64] = np.zeros((4, 4))
        self._products: NDArray[np.float64] = np.zeros(4)
        self._parts_s: NDArray[np.float64] = np.zeros(4)

    def observe(self, num_tokens: int, num_drafted_rows: int, seconds: float) -> None:
        """A step of so many tokens, and rows with drafts, took so long."""
        told = np.array([1.0, num_tokens, num_drafted_rows, float(num_drafted_rows > 0)])
        if self.known:
            expected = float(self._parts_s @ told)
            seconds = min(max(seconds, expected / _SURPRISE), expected * _SURPRISE)
        self._weight = self._weight * _KEPT + 1
        self._mean_s += (seconds - self._mean_s) / self._weight
        self._mean_tokens += (num_tokens - self._mean_tokens) / self._weight
        self._squares = self._squares * _KEPT + np.outer(told, told)
        self._products = self._products * _KEPT + told * seconds
        token_s = self._mean_s / self._mean_tokens
        first_s = _FIRST_SHARES * np.array([self._mean_s, token_s, token_s, self._mean_s])
        found = np.linalg.solve(
            self._squares + _FIRST_WEIGHTS, self._products + _FIRST_WEIGHTS @ first_s
        )
        self._parts_s = np.maximum(found, np.array([0, _LEAST_SHARE * token_s, 0, 0]))

    @property
    def known(self) -> bool:
        """Whether a step was seen."""
        return bool(self._weight)

    @property
    def fixed_s(self) -> float:
        """Seconds of any step."""
        return float(self._parts_s[0])

    @property
    def token_s(self) -> float:
        """Seconds that each token adds."""
        return float(self._parts_s[1])

    @property
    def row_s(self) -> float:
        """Seconds that each row with drafts adds besides."""
        return float(self._parts_s[2])

    @property
    def drafting_s(self) -> float:
        """Seconds that it adds to have such rows at all."""
        return float(self._parts_s[3])


@dataclass(slots=True)
class Chance:
    """How often drafts of one grade are right, newer ones counting more."""

    kept: float
    """Of the weight of what was seen, with each new draft."""
    right: float = 0.0
    seen: float = 0.0

    def observe(self, num_right: int, num_wrong: int) -> None:
        """So many drafts were right, and so many wrong; those behind a wrong one tell nothing."""
        for outcome in (1.0,) * num_right + (0.0,) * num_wrong:
            self.right = self.right * self.kept + outcome
            self.seen = self.seen * self.kept + 1

    def estimate(self, before: float, weight: float) -> float:
        """Probability that a draft is right, given what was to be expected before."""
        return (self.right + before * weight) / (self.seen + weight)


_EARNED = 2.5
"""Drafts that a sequence may have for each one that was right lately."""
_FIRST_CHANCE = 0.5
_FIRST_WEIGHT = 4.0
_SHARED_WEIGHT = 2.0
"""How many drafts' worth of trust all other sequences have, in what to expect of this one."""


@dataclass(frozen=True, slots=True)
class Offer:
    """Drafts that a row could have."""

    chance: float
    """Probability that one is right if those before it are."""
    most: int


@dataclass(slots=True)
class Chances:
    """Of each grade: for all sequences together, from which a new one starts, and for each one."""

    _all: dict[int, Chance] = field(default_factory=dict)
    _own: dict[str, dict[int, Chance]] = field(default_factory=dict)

    def observe(self, request_id: str, grade: int, num_right: int, num_wrong: int) -> None:
        """What came of a draft for a request."""
        shared = self._all.setdefault(grade, Chance(0.995))
        own = self._own.setdefault(request_id, {}).setdefault(grade, Chance(0.9))
        shared.observe(num_right, num_wrong)
        own.observe(num_right, num_wrong)

    def of(self, request_id: str, grade: int) -> float:
        """Probability that the next draft of this grade is right."""
        shared, own = self._all.get(grade), self._own.get(request_id, {}).get(grade)
        chance = shared.estimate(_FIRST_CHANCE, _FIRST_WEIGHT) if shared else _FIRST_CHANCE
        return own.estimate(chance, _SHARED_WEIGHT) if own else chance

    def offer(self, request_id: str, grade: int, most: int) -> Offer:
        """Up to so many drafts of a grade, but no more than its sequence has earned.

        A sequence earns by drafts of this grade, or of a lower one, that were right, computed or
        not: so what repeats nothing has none, whatever others do, and what begins to repeat has
        soon as many as it likes.
        """
        own = self._own.get(request_id, {})
        right = max((own[g].right for g in own if g <= grade), default=0.0)
        return Offer(self.of(request_id, grade), min(most, round(_EARNED * right)))

    def best_offer(self, request_id: str, most: int) -> Offer:
        """The same of the best grade, which the next draft may turn out to have."""
        offers = [self.offer(request_id, grade, most) for grade in self._all]
        return Offer(
            max((offer.chance for offer in offers), default=_FIRST_CHANCE),
            max((offer.most for offer in offers), default=0),
        )

    def forget(self, request_id: str) -> None:
        """A request has ended."""
        self._own.pop(request_id, None)


@dataclass(slots=True)
class LookCosts:
    """What looking for drafts takes, and how much of it is affordable where none are expected."""

    token_s: float = 0.0
    """Of each drafted token."""
    _credit_s: float = 0.0

    def earn(self, step_s: float) -> None:
        """A step took so long, so some time may be spent on hope; it is not saved up for ever."""
        self._credit_s = min(self._credit_s + step_s * _HOPE_SHARE, step_s)

    @property
    def may_hope(self) -> bool:
        """Whether drafts may be looked for that will hardly pay."""
        return self._credit_s >= 0

    def spend(self, num_tokens: int, seconds: float, *, hoping: float) -> None:
        """So many tokens were drafted in so much time, a share of it without expectations."""
        self._credit_s -= seconds * hoping
        if num_tokens:
            took_s = seconds / num_tokens
            if not self.token_s:
                self.token_s = took_s
            # the first look at a long prompt takes longer, and says nothing of the others
            elif took_s < self.token_s:
                self.token_s += (took_s - self.token_s) * 0.5
            else:
                self.token_s += (min(took_s, 2 * self.token_s) - self.token_s) * 0.1


def worthwhile(
    offers: Sequence[Offer],
    costs: StepCosts,
    *,
    num_rows: int,
    num_tokens: int,
    most: int,
    look_s: float = 0.0,
) -> list[int]:
    """How many drafts each row should have, so that tokens come fastest.

    What brings most for its time is taken first, for as long as it brings more tokens by the second
    than the step does with all that was taken before.

    Args:
        offers: one for each row.
        costs: of steps.
        num_rows: rows that get a token anyway, at least 1.
        num_tokens: tokens of the step without drafts.
        most: drafts that the step has room for.
        look_s: seconds that each draft takes besides, if it has yet to be made.
    """
    counts = [0] * len(offers)
    if not costs.known:
        return counts
    token_s = costs.token_s + look_s
    plain_s = costs.fixed_s + costs.token_s * num_tokens
    seconds, gained = plain_s + costs.drafting_s, float(num_rows)
    heap: list[tuple[float, int, _Parcel]] = []
    for row, offer in enumerate(offers):
        parcel = _first_parcel(offer, token_s, costs.row_s)
        if parcel.count:
            heappush(heap, (-parcel.gain / parcel.seconds, row, parcel))
    while heap:
        worth, row, parcel = heappop(heap)
        if -worth * seconds <= gained:
            break
        if parcel.count > most:
            continue
        counts[row] += parcel.count
        most -= parcel.count
        gained += parcel.gain
        seconds += parcel.seconds
        if counts[row] < offers[row].most:
            chance = offers[row].chance
            parcel = _Parcel(1, chance ** (counts[row] + 1), token_s)
            heappush(heap, (-parcel.gain / token_s, row, parcel))
    if gained * plain_s <= num_rows * seconds:
        return [0] * len(offers)  # all together do not bring in what it costs to have any
    return counts


@dataclass(frozen=True, slots=True, order=True)
class _Parcel:
    """Some drafts that a row takes together."""

    count: int
    gain: float
    """Tokens that they are expected to bring."""
    seconds: float


def _first_parcel(offer: Offer, token_s: float, row_s: float) -> _Parcel:
    """As many as make the best of what it costs that the row has any."""
    best, gain = _Parcel(0, 0.0, 1.0), 0.0
    for count in range(1, offer.most + 1):
        gain += offer.chance**count
        parcel = _Parcel(count, gain, row_s + token_s * count)
        if parcel.gain * best.seconds <= best.gain * parcel.seconds:
            break
        best = parcel
    return best
