"""One uniform number for each drawn token, from the request's seed and the token's place, and
what a draw makes of it.

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


def exponentials(
    draws: NDArray[np.float64] | float, tokens: NDArray[np.intp]
) -> NDArray[np.float64]:
    """An exponential random number for each token, from a row's one uniform draw.

    Args:
        draws: in [0, 1), from `uniform`; one, or an array that goes with `tokens`.
        tokens: token ids, or other numbers from -2**63 to 2**63 - 1.

    Returns:
        float64, above 0. A token's number does not depend on which others there are.
    """
    with np.errstate(over="ignore"):
        bits = _mix(keys(np.asarray(draws)) + tokens.astype(np.uint64) * _INCREMENT)
    result: NDArray[np.float64] = -np.log(
        ((bits >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53
    )
    return result


def keys(draws: NDArray[np.float64]) -> NDArray[np.uint64]:
    """What `exponentials` makes of a row's uniform draw first; for samplers on a device.

    A token's number is -log((b + 0.5) / 2**53), b the first 53 bits of mix(key + token * i), where
    i is splitmix64's increment, mix its output function after adding i, and all wraps at 64 bits.
    """
    with np.errstate(over="ignore"):
        return _mix((draws * 2**53).astype(np.uint64))


def _mix(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    x = x + _INCREMENT
    x = (x ^ (x >> np.uint64(30))) * _MULTIPLIER_1
    x = (x ^ (x >> np.uint64(27))) * _MULTIPLIER_2
    return x ^ (x >> np.uint64(31))
