"""One uniform number for each drawn token, from the request's seed and the token's place.

A pure function, so a draw is the same alone, in a batch, after preemption and in a new engine.
The mixer is splitmix64 (Steele, Lea and Flood, https://doi.org/10.1145/2660193.2660195).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_INCREMENT = np.uint64(0x9E3779B97F4A7C15)
_MULTIPLIER_1 = np.uint64(0xBF58476D1CE4E5B9)
_MULTIPLIER_2 = np.uint64(0x94D049BB133111EB)


def uniform(seed: NDArray[np.uint64], position: NDArray[np.uint64]) -> NDArray[np.float64]:
    """Draws for tokens number `position` of outputs with these seeds.

    Args:
        seed: uint64 (L,).
        position: uint64 (L,), 0 for the first generated token.

    Returns:
        float64 (L,) in [0, 1), with 53 random bits.
    """
    with np.errstate(over="ignore"):
        bits = _mix(_mix(seed) + position)
    return (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _mix(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    x = x + _INCREMENT
    x = (x ^ (x >> np.uint64(30))) * _MULTIPLIER_1
    x = (x ^ (x >> np.uint64(27))) * _MULTIPLIER_2
    return x ^ (x >> np.uint64(31))
