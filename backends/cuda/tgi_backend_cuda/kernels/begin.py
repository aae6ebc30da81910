"""What a step begins with: the tokens of the last one looked up, and the angles of positions."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit(do_not_specialize=["num_tokens"])
def look_up(out, tokens, sampled, num_tokens, SIZE: tl.constexpr):
    """Out int64 (num_tokens,) = tokens int32, where -1 - i stands for sampled int32 [i, 0] of 2.

    A token below zero among `sampled` could not be sampled; 0 takes its place, as its request fails
    as soon as that is read.
    """
    at = tl.program_id(0) * SIZE + tl.arange(0, SIZE)
    there = at < num_tokens
    token = tl.load(tokens + at, there, other=0)
    named = there & (token < 0)
    last = tl.load(sampled + 2 * (-1 - token), named, other=0)
    tl.store(out + at, tl.where(named, tl.maximum(last, 0), token).to(tl.int64), there)


@triton.jit
def angles(
    cos, sin, positions, frequencies, scaling,
    HALF: tl.constexpr, HALF_PAD: tl.constexpr,
):  # fmt: skip
    """Cos and sin (T, 2 HALF) of positions int64 (T,) times frequencies float32 (HALF,).

    Each twice, side by side, and times scaling; one program for each token.
    """
    token = tl.program_id(0).to(tl.int64)
    d = tl.arange(0, HALF_PAD)
    there = d < HALF
    angle = tl.load(positions + token).to(tl.float32) * tl.load(frequencies + d, there, other=0.0)
    at = token * 2 * HALF + d
    c = (tl.cos(angle) * scaling).to(cos.dtype.element_ty)
    s = (tl.sin(angle) * scaling).to(sin.dtype.element_ty)
    tl.store(cos + at, c, there)
    tl.store(cos + at + HALF, c, there)
    tl.store(sin + at, s, there)
    tl.store(sin + at + HALF, s, there)
