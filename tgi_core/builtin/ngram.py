"""The speculator `ngram`: what followed the last few tokens when they last occurred.

Prompt lookup, after Saxena, https://github.com/apoorvumang/prompt-lookup-decoding. Good for outputs
that repeat their prompts or themselves: summaries, edits of code, answers from documents. A token
costs a few dictionary entries once, and a draft at most three look-ups, however long the sequence.
"""

from __future__ import annotations

from collections.abc import Sequence

from tgi_core.contract import Draft, Drafter, DraftSetup, DraftWish, Speculator
from tgi_core.plugin import hookimpl

_LONGEST = 3
"""Tokens of the longest beginning that is looked up."""
_COMPARED = 16
"""Tokens before a found place that are compared with the end, to tell how alike the two are."""
_GRADES = (1, 2, 3, 5, 8, _COMPARED)
"""A draft's grade is the number of these that its equal tokens reach."""


class _Occurrences:
    """Where the beginnings of one sequence's continuations are."""

    __slots__ = ("after", "num_seen")

    def __init__(self) -> None:
        self.after: dict[tuple[int, ...], int] = {}
        """For one to three tokens: the place after their last occurrence but the sequence's end."""
        self.num_seen = 1

    def extend(self, tokens: Sequence[int]) -> None:
        """Takes in what was added; the last token begins nothing yet."""
        seen = self.num_seen
        for size in range(1, min(_LONGEST, len(tokens) - 1) + 1):
            begin = max(seen - size, 0)
            columns = [tokens[begin + i : len(tokens) - size + i] for i in range(size)]
            places = range(begin + size, len(tokens))
            self.after.update(zip(zip(*columns, strict=True), places, strict=True))
        self.num_seen = len(tokens)


class NgramDrafter:
    """Satisfies `Drafter`."""

    def __init__(self) -> None:
        self._occurrences: dict[str, _Occurrences] = {}

    def propose(self, wishes: Sequence[DraftWish]) -> Sequence[Draft]:
        """Continues each sequence as it went on before."""
        return [self._propose(wish) for wish in wishes]

    def forget(self, request_id: str) -> None:
        """Drops what is known of a sequence."""
        self._occurrences.pop(request_id, None)

    def _propose(self, wish: DraftWish) -> Draft:
        tokens = wish.tokens
        occurrences = self._occurrences.setdefault(wish.request_id, _Occurrences())
        occurrences.extend(tokens)
        for size in range(min(_LONGEST, len(tokens)), 0, -1):
            place = occurrences.after.get(tuple(tokens[-size:]))
            if place is not None:
                return Draft(
                    tokens=_continuation(tokens, place, wish.most),
                    grade=_grade(_equal(tokens, place)),
                )
        return Draft()


def _continuation(tokens: Sequence[int], place: int, most: int) -> tuple[int, ...]:
    """What stands from a place on; where that reaches the end, it is taken to go round."""
    found = list(tokens[place : place + most])
    period = len(tokens) - place
    while len(found) < most:
        found.append(found[-period])
    return tuple(found)


def _equal(tokens: Sequence[int], place: int) -> int:
    """How many tokens before a place are those at the end."""
    most = min(_COMPARED, place)
    for count in range(most):
        if tokens[place - 1 - count] != tokens[-1 - count]:
            return count
    return most


def _grade(num_equal: int) -> int:
    return sum(num_equal >= least for least in _GRADES)


class NgramSpeculator:
    """Satisfies `Speculator`."""

    name = "ngram"

    def start(self, setup: DraftSetup) -> Drafter:
        """Needs nothing of the model."""
        return NgramDrafter()


@hookimpl
def tgi_speculators() -> Sequence[Speculator]:
    """The speculator that comes with core."""
    return (NgramSpeculator(),)
