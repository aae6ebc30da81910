"""Habana's fused kernels in the places of what they compute, where a trial shows the same.

What Intel's own code for transformers has over ours is these kernels, which are Habana's PyTorch's.
"""

from __future__ import annotations

import logging
from typing import Any

import torch
from tgi_backend_torch.attention import Scoring
from tgi_backend_torch.cache import BLOCK_TOKENS, LayerShape, PagedCache
from tgi_backend_torch.replaced import calls_of, is_alike, is_rms_norm, take
from tgi_backend_torch.shapes.attention import BlockAttention, FusedAttention, Rows
from torch import Tensor
from transformers import PreTrainedModel

from tgi_backend_gaudi import habana

logger = logging.getLogger(__name__)


def fuse_norms(model: PreTrainedModel) -> int:
    """Replaces the `forward` of RMS norms, in place; how many."""
    kernel = habana.rms_norm()
    if kernel is None:
        return 0
    taken = 0
    for call in calls_of(model, is_rms_norm):
        norm: Any = call.module

        def forward(x: Tensor, norm: Any = norm) -> Tensor:
            # the kernel takes one dtype, and a norm gives back that of what it got
            result: Tensor = kernel(x.to(norm.weight.dtype), norm.weight, norm.variance_epsilon)
            return result.to(x.dtype)

        taken += take(call, forward, lambda found, call=call: is_alike(found, call.result))
    return taken


def fused_attention(dtype: torch.dtype) -> FusedAttention | None:
    """Habana's attention, if there is one that computes what ours does in this dtype."""
    kernel = habana.attention()
    if kernel is None:
        logger.warning("this release of Habana's PyTorch has no fused attention; ours is used")
        return None
    try:
        ours, theirs = (_tried(fused, dtype) for fused in (None, kernel))
    except Exception as error:  # whatever the kernel does not take
        logger.warning("Habana's attention does not run (%s); ours is used", error)
        return None
    if not is_alike(theirs, ours):
        logger.warning("Habana's attention computes something else than ours, which is used")
        return None
    return kernel


def _tried(fused: FusedAttention | None, dtype: torch.dtype) -> Tensor:
    """What a row of three tokens sees of four and of itself, with heads that share keys."""
    shape = LayerShape(kv_heads=2, key_dim=64, value_dim=64)
    cache = PagedCache([shape], 1, dtype, habana.DEVICE)
    attention = BlockAttention(cache, fused)
    positions = torch.arange(4, 7)
    rows = Rows(
        positions=positions.to(habana.DEVICE),
        blocks=torch.zeros(3, dtype=torch.int64).to(habana.DEVICE),
        offsets=(positions % BLOCK_TOKENS).to(habana.DEVICE),
        tables=torch.zeros((1, 1), dtype=torch.int64).to(habana.DEVICE),
    )
    attention.use(rows)
    generator = torch.Generator().manual_seed(1)
    query, key, value = (
        torch.randn((3, heads, 64), generator=generator).to(dtype).to(habana.DEVICE)
        for heads in (4, 2, 2)
    )
    out = attention.attend(0, query, key, value, Scoring(0.125))
    habana.synchronize()
    return out
