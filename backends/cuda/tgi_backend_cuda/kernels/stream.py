"""Products of a few tokens: weights stream from memory once, and nothing else takes time.

A program has a few outputs and asks for all of their weights at once. It may be launched while the
kernel before it still runs: weights are under way before it waits for that one (programmatic
dependent launch, which NVIDIA has from Hopper on).
"""

from __future__ import annotations

import triton
import triton.language as tl
from triton.language.extra import cuda


@triton.jit
def multiply(
    out, x, weight, bias, addend, norm, epsilon, num_outputs,
    SIZE: tl.constexpr, PAD: tl.constexpr, TOKENS: tl.constexpr, ROWS: tl.constexpr,
    NORMED: tl.constexpr, PAIRED: tl.constexpr, BIASED: tl.constexpr, ADDED: tl.constexpr,
    EARLY: tl.constexpr,
):  # fmt: skip
    """Out (TOKENS, num_outputs) = x (TOKENS, SIZE) times weight (num_outputs, SIZE) transposed.

    All contiguous; PAD is the power of two above SIZE, and a program has ROWS outputs. With NORMED
    x is normalized before, as `rms_norm` does with the weight norm (SIZE,). With BIASED bias
    (num_outputs,) is added, with ADDED addend, of the shape of out. With PAIRED weight and bias
    hold gates and then values, num_outputs of each, and out = silu(gate) * value, rounded in
    between as transformers does.
    """
    if EARLY:
        cuda.gdc_launch_dependents()
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    there = row < num_outputs
    column = tl.arange(0, PAD)
    inside = column < SIZE
    mask = there[:, None] & inside[None, :]
    at = weight + row.to(tl.int64)[:, None] * SIZE + column[None, :]
    w = tl.load(at, mask, other=0.0)
    second = w
    if PAIRED:
        second = tl.load(at + tl.cast(num_outputs, tl.int64) * SIZE, mask, other=0.0)
    if NORMED:
        factor = tl.load(norm + column, inside, other=0.0)
    if EARLY:
        cuda.gdc_wait()
    for token in tl.static_range(TOKENS):
        numbers = tl.load(x + token * SIZE + column, inside, other=0.0).to(tl.float32)
        if NORMED:
            mean = tl.sum(numbers * numbers, 0) / SIZE
            normal = (numbers * (1.0 / tl.sqrt(mean + epsilon))).to(x.dtype.element_ty)
            numbers = (factor * normal).to(x.dtype.element_ty).to(tl.float32)
        result = tl.sum(w.to(tl.float32) * numbers[None, :], 1)
        if BIASED:
            result += tl.load(bias + row, there, other=0.0).to(tl.float32)
        result = result.to(out.dtype.element_ty).to(tl.float32)
        if PAIRED:
            value = tl.sum(second.to(tl.float32) * numbers[None, :], 1)
            if BIASED:
                value += tl.load(bias + num_outputs + row, there, other=0.0).to(tl.float32)
            active = (result / (1.0 + tl.exp(-result))).to(out.dtype.element_ty)
            result = active.to(tl.float32) * value.to(out.dtype.element_ty).to(tl.float32)
        place = token * num_outputs + row
        if ADDED:
            result += tl.load(addend + place, there, other=0.0).to(tl.float32)
        tl.store(out + place, result.to(out.dtype.element_ty), there)
