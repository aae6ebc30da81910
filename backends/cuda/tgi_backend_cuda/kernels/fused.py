"""What a transformer does between its matrix products, each in one pass over memory."""

from __future__ import annotations

import triton
import triton.language as tl
from triton.language.extra import cuda


@triton.jit
def rms_norm(
    out, x, weight, epsilon, SIZE: tl.constexpr, PAD: tl.constexpr, EARLY: tl.constexpr
):  # fmt: skip
    """Out = weight * round(x / sqrt(mean(x²) + epsilon)), one program for each row of SIZE numbers.

    Rounds to the dtype of x before it multiplies, as transformers does.
    """
    if EARLY:
        cuda.gdc_launch_dependents()
        cuda.gdc_wait()
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, PAD)
    there = column < SIZE
    numbers = tl.load(x + row * SIZE + column, there, other=0.0).to(tl.float32)
    mean = tl.sum(numbers * numbers, 0) / SIZE
    normal = (numbers * (1.0 / tl.sqrt(mean + epsilon))).to(x.dtype.element_ty)
    factor = tl.load(weight + column, there)
    tl.store(out + row * SIZE + column, (factor * normal).to(out.dtype.element_ty), there)


@triton.jit
def silu_and_multiply(out, x, SIZE: tl.constexpr, COLUMNS: tl.constexpr):
    """X (T, 2 SIZE) holds gate and up side by side; out (T, SIZE) = silu(gate) * up."""
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    there = column < SIZE
    gate = tl.load(x + row * 2 * SIZE + column, there).to(tl.float32)
    up = tl.load(x + row * 2 * SIZE + SIZE + column, there)
    # rounded between the two, as transformers does
    active = (gate / (1.0 + tl.exp(-gate))).to(x.dtype.element_ty)
    tl.store(out + row * SIZE + column, active * up, there)


@triton.jit
def rotate(
    x, cos, sin, token_stride,
    DIM: tl.constexpr, HEADS: tl.constexpr, HEADS_PAD: tl.constexpr, HALF_PAD: tl.constexpr,
    EARLY: tl.constexpr,
):  # fmt: skip
    """Rotary positions of the first HEADS heads of each token, in place.

    x (T, at least HEADS * DIM) with the stride given; cos and sin (T, DIM), contiguous, in halves
    that are alike (https://arxiv.org/abs/2104.09864, as transformers arranges it).
    """
    if EARLY:
        cuda.gdc_launch_dependents()
        cuda.gdc_wait()
    token = tl.program_id(0).to(tl.int64)
    HALF: tl.constexpr = DIM // 2
    d = tl.arange(0, HALF_PAD)
    head = tl.arange(0, HEADS_PAD)
    there = (head < HEADS)[:, None] & (d < HALF)[None, :]
    c = tl.load(cos + token * DIM + d, d < HALF)[None, :].to(tl.float32)
    s = tl.load(sin + token * DIM + d, d < HALF)[None, :].to(tl.float32)
    at = x + token * token_stride + head[:, None] * DIM + d[None, :]
    one = tl.load(at, there).to(tl.float32)
    two = tl.load(at + HALF, there).to(tl.float32)
    tl.store(at, (one * c - two * s).to(x.dtype.element_ty), there)
    tl.store(at + HALF, (two * c + one * s).to(x.dtype.element_ty), there)
