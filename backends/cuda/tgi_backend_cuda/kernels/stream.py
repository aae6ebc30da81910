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
    out, x, weight, bias, addend, norm, epsilon, num_outputs, num_blocks,
    SIZE: tl.constexpr, PAD: tl.constexpr, TOKENS: tl.constexpr, ROWS: tl.constexpr,
    NORMED: tl.constexpr, PAIRED: tl.constexpr, BIASED: tl.constexpr, ADDED: tl.constexpr,
    LOOPED: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    """Out (TOKENS, num_outputs) = x (TOKENS, SIZE) times weight (num_outputs, SIZE) transposed.

    All contiguous; PAD is the power of two above SIZE. Each of num_blocks has ROWS outputs, and a
    program has one of them; with LOOPED, which takes one token, so many that those of the next are
    under way while it computes. With NORMED x is normalized before, as `rms_norm` does with the
    weight norm (SIZE,). With BIASED bias (num_outputs,) is added, with ADDED addend, of the shape
    of out. With PAIRED weight and bias hold gates and then values, num_outputs of each, and out =
    silu(gate) * value, rounded in between as transformers does.
    """
    if EARLY:
        cuda.gdc_launch_dependents()
    block = tl.program_id(0)
    w, second = load_rows(weight, block * ROWS, num_outputs, SIZE, PAD, ROWS, PAIRED)
    column = tl.arange(0, PAD)
    inside = column < SIZE
    factor = column
    if NORMED:
        factor = tl.load(norm + column, inside, other=0.0)
    if EARLY:
        cuda.gdc_wait()
    if LOOPED:
        numbers = load_token(x, factor, epsilon, SIZE, PAD, NORMED)
        for at in range(block, num_blocks, tl.num_programs(0)):
            following = (at + tl.num_programs(0)) * ROWS
            next_w, next_second = load_rows(weight, following, num_outputs, SIZE, PAD, ROWS, PAIRED)
            multiply_rows(
                out, numbers, w, second, bias, addend, at * ROWS, num_outputs,
                ROWS, PAIRED, BIASED, ADDED,
            )  # fmt: skip
            w = next_w
            second = next_second
    else:
        for token in tl.static_range(TOKENS):
            numbers = load_token(x + token * SIZE, factor, epsilon, SIZE, PAD, NORMED)
            first = token * num_outputs
            multiply_rows(
                out + first, numbers, w, second, bias, addend + first, block * ROWS, num_outputs,
                ROWS, PAIRED, BIASED, ADDED,
            )  # fmt: skip


@triton.jit
def load_rows(
    weight, first, num_outputs,
    SIZE: tl.constexpr, PAD: tl.constexpr, ROWS: tl.constexpr, PAIRED: tl.constexpr,
):  # fmt: skip
    """ROWS rows of weight, (ROWS, PAD), and with PAIRED those that are num_outputs behind them."""
    row = first + tl.arange(0, ROWS)
    column = tl.arange(0, PAD)
    mask = (row < num_outputs)[:, None] & (column < SIZE)[None, :]
    at = weight + row.to(tl.int64)[:, None] * SIZE + column[None, :]
    w = tl.load(at, mask, other=0.0)
    second = w
    if PAIRED:
        second = tl.load(at + tl.cast(num_outputs, tl.int64) * SIZE, mask, other=0.0)
    return w, second


@triton.jit
def load_token(
    x, factor, epsilon, SIZE: tl.constexpr, PAD: tl.constexpr, NORMED: tl.constexpr
):  # fmt: skip
    """X (SIZE,), normalized if so wanted, in its own dtype: (PAD,)."""
    column = tl.arange(0, PAD)
    numbers = tl.load(x + column, column < SIZE, other=0.0)
    if NORMED:
        wide = numbers.to(tl.float32)
        mean = tl.sum(wide * wide, 0) / SIZE
        normal = (wide * (1.0 / tl.sqrt(mean + epsilon))).to(x.dtype.element_ty)
        numbers = (factor * normal).to(x.dtype.element_ty)
    return numbers


@triton.jit
def multiply_rows(
    out, numbers, w, second, bias, addend, first, num_outputs,
    ROWS: tl.constexpr, PAIRED: tl.constexpr, BIASED: tl.constexpr, ADDED: tl.constexpr,
):  # fmt: skip
    """ROWS outputs of one token, from `first` on; out and addend (num_outputs,)."""
    row = first + tl.arange(0, ROWS)
    there = row < num_outputs
    wide = numbers.to(tl.float32)[None, :]
    result = tl.sum(w.to(tl.float32) * wide, 1)
    if BIASED:
        result += tl.load(bias + row, there, other=0.0).to(tl.float32)
    result = result.to(out.dtype.element_ty).to(tl.float32)
    if PAIRED:
        value = tl.sum(second.to(tl.float32) * wide, 1)
        if BIASED:
            value += tl.load(bias + num_outputs + row, there, other=0.0).to(tl.float32)
        active = (result / (1.0 + tl.exp(-result))).to(out.dtype.element_ty)
        result = active.to(tl.float32) * value.to(out.dtype.element_ty).to(tl.float32)
    if ADDED:
        result += tl.load(addend + row, there, other=0.0).to(tl.float32)
    tl.store(out + row, result.to(out.dtype.element_ty), there)


@triton.jit
def multiply_chosen(
    out, x, weight, chosen, num_outputs,
    SIZE: tl.constexpr, PAD: tl.constexpr, ROWS: tl.constexpr, SHARED: tl.constexpr,
    PAIRED: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    """The same with an expert for each row of out (choices, num_outputs): chosen int64 (choices,).

    weight (experts, num_outputs, SIZE); with PAIRED it has gates and values as in `multiply`.
    SHARED rows of out have one row of x, which has choices / SHARED.
    """
    if EARLY:
        cuda.gdc_launch_dependents()
        cuda.gdc_wait()
    choice = tl.program_id(1)
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    there = row < num_outputs
    column = tl.arange(0, PAD)
    inside = column < SIZE
    mask = there[:, None] & inside[None, :]
    matrix = tl.cast(num_outputs, tl.int64) * SIZE
    expert = tl.load(chosen + choice).to(tl.int64)
    if PAIRED:
        expert *= 2
    at = weight + expert * matrix + row.to(tl.int64)[:, None] * SIZE + column[None, :]
    w = tl.load(at, mask, other=0.0)
    second = w
    if PAIRED:
        second = tl.load(at + matrix, mask, other=0.0)
    numbers = tl.load(x + choice // SHARED * SIZE + column, inside, other=0.0).to(tl.float32)
    result = tl.sum(w.to(tl.float32) * numbers[None, :], 1)
    if PAIRED:
        result = result.to(out.dtype.element_ty).to(tl.float32)
        value = tl.sum(second.to(tl.float32) * numbers[None, :], 1)
        active = (result / (1.0 + tl.exp(-result))).to(out.dtype.element_ty)
        result = active.to(tl.float32) * value.to(out.dtype.element_ty).to(tl.float32)
    tl.store(out + choice * num_outputs + row, result.to(out.dtype.element_ty), there)


@triton.jit
def choose(
    logits, scores, chosen, x, weight,
    SIZE: tl.constexpr, PAD: tl.constexpr, EXPERTS: tl.constexpr, EXPERTS_PAD: tl.constexpr,
    CHOICES: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    """The most probable experts of each token, one program for each.

    logits (T, EXPERTS) = x (T, SIZE) times weight (EXPERTS, SIZE) transposed, rounded as x is;
    chosen int64 (T, CHOICES), and scores (T, CHOICES) their probabilities, which add up to one.
    """
    if EARLY:
        cuda.gdc_launch_dependents()
    token = tl.program_id(0)
    expert = tl.arange(0, EXPERTS_PAD)
    column = tl.arange(0, PAD)
    there = expert < EXPERTS
    inside = column < SIZE
    at = weight + expert[:, None] * SIZE + column[None, :]
    w = tl.load(at, there[:, None] & inside[None, :], other=0.0)
    if EARLY:
        cuda.gdc_wait()
    numbers = tl.load(x + token * SIZE + column, inside, other=0.0).to(tl.float32)
    result = tl.sum(w.to(tl.float32) * numbers[None, :], 1).to(x.dtype.element_ty)
    tl.store(logits + token * EXPERTS + expert, result, there)
    left = tl.where(there, result.to(tl.float32), float("-inf"))
    highest = tl.max(left, 0)
    total = 0.0
    for choice in tl.static_range(CHOICES):
        best = tl.argmax(left, 0)
        total += tl.exp(tl.max(left, 0) - highest)
        tl.store(chosen + token * CHOICES + choice, best.to(tl.int64))
        left = tl.where(expert == best, float("-inf"), left)
    left = tl.where(there, result.to(tl.float32), float("-inf"))
    for choice in tl.static_range(CHOICES):
        score = tl.exp(tl.max(left, 0) - highest) / total
        tl.store(scores + token * CHOICES + choice, score.to(scores.dtype.element_ty))
        left = tl.where(expert == tl.argmax(left, 0), float("-inf"), left)
