"""The adjustment: green tokens become more probable. Knows no request and no text."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from tgi_core.contract import Boost
from tgi_plugin_watermark_kgw.green import GreenList

_KEPT = 1024
"""Green lists that are kept, for few tokens begin most pairs: 6 MB at 49,152 tokens."""


class Watermark:
    """Satisfies `tgi_core.contract.Adjustment`: delta for what is green after the last token."""

    name = "watermark"

    def __init__(self, gamma: float, delta: float, key: int) -> None:
        self._delta = delta
        self._green = GreenList(gamma, key)
        self._packed = lru_cache(_KEPT)(self._pack)

    def boost(self, tokens: Sequence[int], vocab_size: int) -> Boost:
        """Depends on the last token alone."""
        return Boost(self._packed(tokens[-1], vocab_size), self._delta)

    def _pack(self, token: int, vocab_size: int) -> NDArray[np.int32]:
        """Word w, bit b is token 32 w + b, whatever the machine's byte order."""
        bits = np.zeros(-(-vocab_size // 32) * 32, np.bool_)
        bits[:vocab_size] = self._green.after(token, vocab_size)
        return np.packbits(bits, bitorder="little").view("<i4").astype(np.int32)
