"""Weights of 4 and 8 bits in groups, unpacked in one go or multiplied with a few tokens.

Numbers lie as in `GroupedWeight`: (outputs, COLUMNS) bytes with one in each, or with HALVES two of
4 bits: the low ones are the first COLUMNS inputs, the high ones those after them. With FLOAT8 they
are e4m3, in uint8. Scales and zeros are (outputs, GROUPS), one for SIZE inputs; without ZEROS
`middle` is the zero of all.
"""

from __future__ import annotations

import triton
import triton.language as tl
from triton.language.extra import cuda


@triton.jit
def numbers_in(
    byte, half: tl.constexpr, HALVES: tl.constexpr, FLOAT8: tl.constexpr
):  # fmt: skip
    """What bytes hold: the low or the high half of each, a float, or an integer."""
    if HALVES:
        return (byte >> 4) if half else (byte & 15)
    return byte.to(tl.float8e4nv, bitcast=True) if FLOAT8 else byte


@triton.jit
def unpack_groups(
    out, numbers, scales, zeros, middle,
    COLUMNS: tl.constexpr, GROUPS: tl.constexpr, SIZE: tl.constexpr, BLOCK: tl.constexpr,
    HALVES: tl.constexpr, ZEROS: tl.constexpr, FLOAT8: tl.constexpr,
):  # fmt: skip
    """Out (outputs, inputs) = (number - zero) * scale; a program has BLOCK columns of an output."""
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = column < COLUMNS
    byte = tl.load(numbers + row * COLUMNS + column, inside, other=0)
    for half in tl.static_range(2 if HALVES else 1):
        number = numbers_in(byte, half, HALVES, FLOAT8)
        place = half * COLUMNS + column
        group = row * GROUPS + place // SIZE
        zero = tl.load(zeros + group, inside, other=0.0).to(tl.float32) if ZEROS else middle
        scale = tl.load(scales + group, inside, other=0.0).to(tl.float32)
        value = (number.to(tl.float32) - zero) * scale
        size = COLUMNS * (2 if HALVES else 1)
        tl.store(out + row * size + place, value.to(out.dtype.element_ty), inside)


@triton.jit
def multiply_groups(
    out, x, numbers, scales, zeros, middle, num_outputs,
    COLUMNS: tl.constexpr, GROUPS: tl.constexpr, SIZE: tl.constexpr,
    PIECE: tl.constexpr, PIECES_PAD: tl.constexpr, ROWS: tl.constexpr,
    HALVES: tl.constexpr, ZEROS: tl.constexpr, FLOAT8: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    """Out (1, num_outputs) = x (1, inputs) times the weight transposed.

    A program has ROWS outputs, whole. PIECE columns lie in one group; PIECES_PAD pieces are as many
    as COLUMNS have, or more. Zeros and scales are of a piece's sum, not of each of its numbers.
    """
    if EARLY:
        cuda.gdc_launch_dependents()
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    there = row < num_outputs
    piece = tl.arange(0, PIECES_PAD)
    column = piece[:, None] * PIECE + tl.arange(0, PIECE)[None, :]
    inside = column < COLUMNS
    mask = there[:, None, None] & inside[None, :, :]
    at = numbers + row.to(tl.int64)[:, None, None] * COLUMNS + column[None, :, :]
    byte = tl.load(at, mask, other=0)
    in_row = there[:, None] & (piece * PIECE < COLUMNS)[None, :]
    if EARLY:
        cuda.gdc_wait()
    result = tl.zeros((ROWS,), tl.float32)
    for half in tl.static_range(2 if HALVES else 1):
        number = numbers_in(byte, half, HALVES, FLOAT8)
        begin = half * COLUMNS
        given = tl.load(x + begin + column, inside, other=0.0).to(tl.float32)
        products = tl.sum(number.to(tl.float32) * given[None, :, :], 2)
        group = row[:, None] * GROUPS + ((begin + piece * PIECE) // SIZE)[None, :]
        zero = tl.load(zeros + group, in_row, other=0.0).to(tl.float32) if ZEROS else middle
        scale = tl.load(scales + group, in_row, other=0.0).to(tl.float32)
        result += tl.sum((products - zero * tl.sum(given, 1)[None, :]) * scale, 1)
    tl.store(out + row, result.to(out.dtype.element_ty), there)


@triton.jit
def multiply_groups_by_some(
    out, x, numbers, scales, zeros, middle, num_outputs, num_tokens,
    COLUMNS: tl.constexpr, GROUPS: tl.constexpr, SIZE: tl.constexpr,
    PIECE: tl.constexpr, TOKENS: tl.constexpr, ROWS: tl.constexpr,
    HALVES: tl.constexpr, ZEROS: tl.constexpr, FLOAT8: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    """The same for num_tokens, TOKENS at most, by matrix instructions.

    So a number is converted once for all tokens: that takes longer than to read it. Differences of
    small integers, and e4m3, are exact in every type of x.
    """
    if EARLY:
        cuda.gdc_launch_dependents()
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    there = row < num_outputs
    token = tl.arange(0, TOKENS)
    column = tl.arange(0, PIECE)
    row_at = numbers + row.to(tl.int64)[:, None] * COLUMNS
    size = COLUMNS * (2 if HALVES else 1)
    x_at = x + token[None, :] * size + column[:, None]
    some = (token < num_tokens)[None, :]
    if EARLY:
        cuda.gdc_wait()
    result = tl.zeros((ROWS, TOKENS), tl.float32)
    for begin in range(0, COLUMNS, PIECE):
        byte = tl.load(row_at + begin + column[None, :], there[:, None], other=0)
        for half in tl.static_range(2 if HALVES else 1):
            number = numbers_in(byte, half, HALVES, FLOAT8)
            place = half * COLUMNS + begin
            group = row * GROUPS + place // SIZE
            value = number.to(tl.float32)
            if ZEROS:
                value -= tl.load(zeros + group, there, other=0.0).to(tl.float32)[:, None]
            else:
                value -= middle
            given = tl.load(x_at + place, some, other=0.0)
            part = tl.dot(value.to(given.dtype), given, input_precision="ieee")
            scale = tl.load(scales + group, there, other=0.0).to(tl.float32)
            result += part * scale[:, None]
    at = out + token[None, :] * num_outputs + row[:, None]
    tl.store(at, result.to(out.dtype.element_ty), some & there[:, None])
