"""Which tokens are green after which: a coin for each pair of tokens, thrown by a hash.

A pair is green with probability gamma, whatever the size of the vocabulary. So a detector needs no
model, and looks at the pairs of a text alone. Knows nothing of logits.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_MASK_64 = 2**64 - 1


class GreenList:
    """The green tokens for one gamma and one key."""

    def __init__(self, gamma: float, key: int) -> None:
        """`gamma` is between 0 and 1, `key` from 0 to 2**63 - 1."""
        self._key = _mix_64(key)
        # a hash below this is green
        self._limit = np.uint32(min(round(gamma * 2**32), 2**32 - 1))
        self._hashes = np.zeros(0, np.uint32)

    def after(self, token: int, vocab_size: int) -> NDArray[np.bool_]:
        """Bool (vocab_size,): which tokens are green after this one."""
        if len(self._hashes) != vocab_size:
            self._hashes = _mix_32(np.arange(vocab_size, dtype=np.uint32))
        return self._green(self._hashes, self._number(token))

    def holds(self, token: int, follower: int) -> bool:
        """Whether `follower` is green after `token`."""
        hashed = _mix_32(np.array([follower], np.uint32))
        return bool(self._green(hashed, self._number(token))[0])

    def _number(self, token: int) -> np.uint32:
        """What the token and the key make of the hashes of all that may follow."""
        return np.uint32(_mix_64(self._key + token) >> 32)

    def _green(self, hashes: NDArray[np.uint32], number: np.uint32) -> NDArray[np.bool_]:
        """In place on one copy: it is done for each token that is generated."""
        x = hashes ^ number
        with np.errstate(over="ignore"):
            x *= np.uint32(0x85EBCA6B)
            x ^= x >> np.uint32(13)
            x *= np.uint32(0xC2B2AE35)
        return np.asarray(x < self._limit)


def _mix_64(x: int) -> int:
    """A round of splitmix64 (Steele, Lea and Flood, https://doi.org/10.1145/2660193.2660195)."""
    x = (x + 0x9E3779B97F4A7C15) & _MASK_64
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & _MASK_64
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & _MASK_64
    return x ^ (x >> 31)


def _mix_32(x: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """The last step of MurmurHash3 (Appleby), for 32 bits."""
    with np.errstate(over="ignore"):
        x = (x ^ (x >> np.uint32(16))) * np.uint32(0x85EBCA6B)
        x = (x ^ (x >> np.uint32(13))) * np.uint32(0xC2B2AE35)
    return x ^ (x >> np.uint32(16))
