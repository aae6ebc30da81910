"""The queue of sequences that hold nothing in the cache, in the order of their keys."""

from __future__ import annotations

from bisect import bisect_left, insort

from tgi_core.scheduler.sequence import Sequence


class Waiting:
    """A preempted sequence has its old key, so it stands before all that arrived after it."""

    def __init__(self) -> None:
        self._queue: list[Sequence] = []

    def __len__(self) -> int:
        return len(self._queue)

    def add(self, sequence: Sequence) -> None:
        """Puts a sequence where its key belongs."""
        insort(self._queue, sequence, key=_key)

    @property
    def first(self) -> Sequence:
        """The next one to admit."""
        return self._queue[0]

    def remove(self, sequence: Sequence) -> None:
        """Takes a sequence out, wherever it stands."""
        place = bisect_left(self._queue, sequence.key, key=_key)
        if place == len(self._queue) or self._queue[place] is not sequence:
            raise ValueError(f"request {sequence.request.request_id} is not waiting")
        del self._queue[place]


def _key(sequence: Sequence) -> tuple[float, ...]:
    return sequence.key
