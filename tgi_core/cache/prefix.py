"""Finds the sequence in the cache that shares the longest beginning with a prompt.

Keys are chained digests over chunks of tokens, begun with the salt, so a key names one exact
beginning under one salt and nothing else. Knows nothing of sequences but their ids.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence as Tokens
from dataclasses import dataclass
from hashlib import blake2b

CHUNK_TOKENS = 16
"""Beginnings are looked up in steps of this many tokens, then compared token by token."""


@dataclass(frozen=True, slots=True)
class Match:
    """The best beginning found."""

    seq: int
    length: int


class _Entry:
    """What one sequence has in the index."""

    __slots__ = ("digests", "tokens")

    def __init__(self, root: bytes) -> None:
        self.digests = [root]
        self.tokens = array("i")


class PrefixIndex:
    """Maps beginnings to sequences. Each call costs about a microsecond a chunk."""

    def __init__(self) -> None:
        self._entries: dict[int, _Entry] = {}
        # insertion order: the last key of the inner dict is the newest sequence
        self._holders: dict[bytes, dict[int, None]] = {}

    def extend(self, seq: int, salt: str, tokens: Tokens[int]) -> None:
        """Notes that `seq` holds `tokens`; what was noted of it before must be their beginning."""
        entry = self._entries.get(seq)
        if entry is None:
            entry = self._entries[seq] = _Entry(_root(salt))
        entry.tokens.extend(tokens[len(entry.tokens) :])
        for begin in range((len(entry.digests) - 1) * CHUNK_TOKENS, len(tokens), CHUNK_TOKENS):
            if begin + CHUNK_TOKENS > len(tokens):
                break
            digest = _next(entry.digests[-1], entry.tokens[begin : begin + CHUNK_TOKENS])
            entry.digests.append(digest)
            self._holders.setdefault(digest, {})[seq] = None

    def remove(self, seq: int) -> None:
        """Forgets a sequence; an unknown one is no error."""
        entry = self._entries.pop(seq, None)
        if entry is None:
            return
        for digest in entry.digests[1:]:
            holders = self._holders[digest]
            del holders[seq]
            if not holders:
                del self._holders[digest]

    def length(self, seq: int) -> int:
        """Tokens noted of a sequence; 0 if it is not known."""
        entry = self._entries.get(seq)
        return 0 if entry is None else len(entry.tokens)

    def longest(self, salt: str, tokens: Tokens[int]) -> Match | None:
        """The sequence that shares most of the beginning of `tokens`, at least one chunk."""
        digest, depth, holders = _root(salt), 0, None
        wanted = array("i", tokens)
        while (depth + 1) * CHUNK_TOKENS <= len(wanted):
            chunk = wanted[depth * CHUNK_TOKENS : (depth + 1) * CHUNK_TOKENS]
            digest = _next(digest, chunk)
            deeper = self._holders.get(digest)
            if deeper is None:
                break
            holders, depth = deeper, depth + 1
        if holders is None:
            return None
        best = Match(-1, 0)
        for seq in reversed(holders):
            length = _common(self._entries[seq].tokens, wanted, depth * CHUNK_TOKENS)
            if length > best.length:
                best = Match(seq, length)
            if best.length >= (depth + 1) * CHUNK_TOKENS - 1:
                break
        return best


def _root(salt: str) -> bytes:
    return blake2b(salt.encode(), digest_size=32).digest()


def _next(digest: bytes, chunk: array[int]) -> bytes:
    return blake2b(digest + chunk.tobytes(), digest_size=32).digest()


def _common(held: array[int], wanted: array[int], start: int) -> int:
    """Length of the common beginning, known to be at least `start` and less than a chunk more."""
    end = min(len(held), len(wanted), start + CHUNK_TOKENS)
    for i in range(start, end):
        if held[i] != wanted[i]:
            return i
    return end
