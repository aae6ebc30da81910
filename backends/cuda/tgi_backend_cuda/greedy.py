"""Launches what finds the most probable token of each row; see `kernels.greedy`."""

from __future__ import annotations

import torch
import triton
from tgi_backend_torch.sampler import NO_NUMBER
from torch import Tensor

from tgi_backend_cuda.kernels.greedy import find_best, find_in_parts
from tgi_backend_cuda.tiles import Architecture

_PART_TOKENS = 2048
"""Of which one program finds the most probable."""


def find_best_tokens(chosen: Tensor, kept: Tensor, logits: Tensor, arch: Architecture) -> None:
    """Copies logits (L, vocab) to kept, and puts into chosen, int32 (L, 2), what
    `sampler.most_probable` gives for them. All contiguous.
    """
    num_rows, vocab_size = logits.shape
    num_parts = triton.cdiv(vocab_size, _PART_TOKENS)
    part_high = logits.new_empty(num_rows, num_parts, dtype=torch.float32)
    part_at = logits.new_empty(num_rows, num_parts, dtype=torch.int32)
    find_in_parts[(num_rows, num_parts)](
        kept,
        part_high,
        part_at,
        logits,
        vocab_size,
        BLOCK=_PART_TOKENS,
        EARLY=arch.early,
        num_warps=4,
        **arch.launch,
    )
    find_best[(num_rows,)](
        chosen,
        part_high,
        part_at,
        num_parts,
        NO_NUMBER,
        PARTS=triton.next_power_of_2(num_parts),
        EARLY=arch.early,
        num_warps=1,
        **arch.launch,
    )
