"""Integers of a few bits in words of 32, lowest bits first: how GPTQ and its heirs write them."""

from __future__ import annotations

import torch
from torch import Tensor

WORD = 32


def unpack(words: Tensor, bits: int) -> Tensor:
    """int32 (rows, words) -> uint8 (rows, numbers). A number may begin in one word and end in the
    next one, as with 3 bits, where 3 words hold 32 numbers.
    """
    if WORD % bits == 0:
        shifts = torch.arange(0, WORD, bits, dtype=torch.int32, device=words.device)
        numbers = (words.unsqueeze(-1) >> shifts) & ((1 << bits) - 1)
        return numbers.to(torch.uint8).flatten(1)
    begins = torch.arange(0, words.shape[1] * WORD, bits, device=words.device)
    begins = begins[: words.shape[1] * WORD // bits]
    wide = words.long() & 0xFFFFFFFF
    after = torch.cat((wide[:, 1:], wide.new_zeros(len(wide), 1)), 1)
    both = wide | (after << WORD)
    numbers = (both[:, begins // WORD] >> (begins % WORD)) & ((1 << bits) - 1)
    return numbers.to(torch.uint8)


def pack(numbers: Tensor, bits: int) -> Tensor:
    """Integers below 2 ** bits, (rows, numbers), as many as fill words of 32 bits -> int32 (rows,
    words). For widths that divide 32.
    """
    shifts = torch.arange(0, WORD, bits, device=numbers.device)
    words = (numbers.long().unflatten(1, (-1, WORD // bits)) << shifts).sum(-1)
    # as the signed number of the same bits
    return ((words ^ (1 << 31)) - (1 << 31)).to(torch.int32)
