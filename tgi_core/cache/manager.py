"""Owns the sequence ids of a backend's cache: opens, grows, parks, evicts and releases them.

A finished sequence is parked: it keeps its cells until somebody needs the room, so a prompt with
the same beginning can fork it or go on with it. Running sequences can be forked too. Knows nothing
of requests, rows or time.
"""

from __future__ import annotations

from collections.abc import Sequence as Tokens
from dataclasses import dataclass
from typing import Protocol

from tgi_core.cache.prefix import Match, PrefixIndex
from tgi_core.contract import Capabilities, Fork

_AHEAD_TOKENS = 16
"""Room is asked for in steps of this many tokens, or of the cache's grain if that is larger."""


class CacheCalls(Protocol):
    """The part of `StepBackend` that concerns the cache."""

    def reserve(self, seq: int, length: int) -> bool:
        """See `StepBackend.reserve`."""
        ...

    def fork(self, src: int, dst: int, length: int) -> bool:
        """See `StepBackend.fork`."""
        ...

    def truncate(self, seq: int, length: int) -> None:
        """See `StepBackend.truncate`."""
        ...

    def release(self, seq: int) -> None:
        """See `StepBackend.release`."""
        ...


@dataclass(frozen=True, slots=True)
class Opened:
    """A sequence that was opened for a prompt."""

    seq: int
    num_cached: int
    """Tokens that it holds already."""


class CacheManager:
    """Calls the backend only when something has to change."""

    def __init__(
        self, backend: CacheCalls, capabilities: Capabilities, *, prefix_caching: bool = True
    ) -> None:
        self._backend = backend
        self._fork = capabilities.fork
        self._truncates = capabilities.truncates
        self._grain = capabilities.cache_grain_tokens
        self._ahead = max(self._grain, _AHEAD_TOKENS)
        # a prompt that begins with cached tokens needs a row with past > 0
        self._prefix_caching = prefix_caching and capabilities.chunked
        self._max_tokens = capabilities.max_sequence_tokens
        self._parked_tokens = capabilities.parked_tokens
        self._index = PrefixIndex()
        self._free = list(range(capabilities.max_sequences - 1, -1, -1))
        self.room = [0] * capabilities.max_sequences
        """Tokens that each sequence has room for; up to there `grow` has nothing to do."""
        # least recently used first; the value is the number of tokens held
        self._parked: dict[int, int] = {}

    @property
    def num_parked(self) -> int:
        """Finished sequences that are kept."""
        return len(self._parked)

    @property
    def num_free(self) -> int:
        """Sequence ids in no use at all."""
        return len(self._free)

    def open(
        self,
        salt: str,
        tokens: Tokens[int],
        room: int,
        *,
        share: bool = True,
        blocks: Tokens[tuple[int, int]] = (),
    ) -> Opened | None:
        """Opens a sequence for a prompt, with room for `room` tokens.

        Args:
            salt: only sequences opened with the same salt are shared.
            tokens: the prompt; at least its last token is left to compute.
            room: at least len(tokens).
            share: False computes the whole prompt, for requests that need all its logits.
            blocks: begin and end of runs of which no part is shared without the rest, ascending.

        Returns:
            None if it does not fit, even with nothing parked.
        """
        match = self._match(salt, tokens, blocks) if share else None
        if match is not None and self._goes_on(match):
            seq = self._take_over(match)
        else:
            if match is not None and self._fork is Fork.NONE:
                match = None
            free = self._take_id(keep=match.seq if match else None)
            if free is None:
                return None
            seq = free
            if match is not None and not self._share(match, seq):
                match = None
        if not self.grow(seq, min(room, self._max_tokens)):
            self.release(seq)
            return None
        num_cached = match.length if match else 0
        if num_cached:
            self.note(seq, salt, tokens[:num_cached])
        return Opened(seq, num_cached)

    def num_shared(self, salt: str, tokens: Tokens[int]) -> int:
        """Tokens of a prompt that `open` would not have to compute now."""
        match = self._match(salt, tokens)
        return match.length if match else 0

    @property
    def shares_running(self) -> bool:
        """Whether a prompt can begin with what a running sequence holds."""
        return self._prefix_caching and self._fork is not Fork.NONE

    def num_noted(self, seq: int) -> int:
        """Tokens of a running sequence that others may share by now."""
        return self._index.length(seq)

    def grow(self, seq: int, length: int) -> bool:
        """Makes room for `length` tokens in a sequence, evicting parked ones as needed.

        Returns:
            False if there is no room even with nothing parked.
        """
        if length <= self.room[seq]:
            return True
        # a little ahead, so that most tokens need no call; if that does not fit, just enough
        ahead = min(-(-length // self._ahead) * self._ahead, self._max_tokens)
        while True:
            for wanted in (ahead, length):
                if wanted >= length and self._backend.reserve(seq, wanted):
                    self.room[seq] = wanted
                    return True
            if not self.evict():
                return False

    def evict(self) -> bool:
        """Gives up the parked sequence that was used longest ago; False if there is none."""
        if not self._parked:
            return False
        self.release(next(iter(self._parked)))
        return True

    def truncate(self, seq: int, length: int) -> None:
        """Drops what a running sequence holds beyond `length`, which is none that was noted."""
        self._backend.truncate(seq, length)
        self.room[seq] = length

    def note(self, seq: int, salt: str, tokens: Tokens[int]) -> None:
        """Notes what a running sequence holds by now, so that others may fork it."""
        if self.shares_running:
            self._index.extend(seq, salt, tokens)

    def park(self, seq: int, salt: str, tokens: Tokens[int]) -> None:
        """Keeps a sequence that holds exactly `tokens`, if its beginning can be of use."""
        if not self._prefix_caching or not tokens:
            self.release(seq)
            return
        self._index.extend(seq, salt, tokens)
        if self.room[seq] > len(tokens):  # room for tokens that will not come
            self._backend.truncate(seq, len(tokens))
            self.room[seq] = len(tokens)
        self._parked[seq] = len(tokens)
        if self._parked_tokens is not None:
            # the newest one stays, however long: it is the likeliest to be continued
            while len(self._parked) > 1 and sum(self._parked.values()) > self._parked_tokens:
                self.release(next(iter(self._parked)))

    def release(self, seq: int) -> None:
        """Empties a sequence and frees its id."""
        self._index.remove(seq)
        self._parked.pop(seq, None)
        self._backend.release(seq)
        self.room[seq] = 0
        self._free.append(seq)

    def _match(
        self, salt: str, tokens: Tokens[int], blocks: Tokens[tuple[int, int]] = ()
    ) -> Match | None:
        if not self._prefix_caching:
            return None
        found = self._index.longest(salt, tokens[:-1])
        if found is None:
            return None
        length = found.length
        whole = self._parked.get(found.seq) == length
        if not whole and not self._truncates and self._fork is Fork.NONE:
            return None  # neither its beginning nor a copy of that can be had
        grain = self._grain if self._fork is Fork.BLOCK else 1
        if not whole:
            length -= length % grain
        while cut := [begin for begin, end in blocks if begin < length < end]:
            length = cut[0] - cut[0] % grain
        return Match(found.seq, length) if length else None

    def _goes_on(self, match: Match) -> bool:
        """Whether to go on with a parked sequence itself instead of a fork of it."""
        held = self._parked.get(match.seq)
        if held is None:
            return False
        # without forks its tail is lost: worth it if the prompt reuses most of it
        return held == match.length or (self._fork is Fork.NONE and 2 * match.length >= held)

    def _take_over(self, match: Match) -> int:
        del self._parked[match.seq]
        self._index.remove(match.seq)
        self._backend.truncate(match.seq, match.length)
        self.room[match.seq] = match.length
        return match.seq

    def _share(self, match: Match, seq: int) -> bool:
        if not self._backend.fork(match.seq, seq, match.length):
            return False
        self.room[seq] = match.length
        if match.seq in self._parked:
            self._parked[match.seq] = self._parked.pop(match.seq)  # used just now
        return True

    def _take_id(self, keep: int | None) -> int | None:
        if not self._free:
            victim = next((seq for seq in self._parked if seq != keep), None)
            if victim is None:
                return None
            self.release(victim)
        return self._free.pop()
