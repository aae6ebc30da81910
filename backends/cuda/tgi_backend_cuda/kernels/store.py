"""Puts the new keys and values of a step into the paged cache."""

from __future__ import annotations

import triton
import triton.language as tl
from triton.language.extra import cuda


@triton.jit
def store(
    keys, values, key, value, cells, key_factor, value_factor, limit,
    key_token_stride, key_head_stride, value_token_stride, value_head_stride,
    SCALED: tl.constexpr, KV_HEADS: tl.constexpr, HEADS_PAD: tl.constexpr,
    KEY_DIM: tl.constexpr, KEY_PAD: tl.constexpr, VALUE_DIM: tl.constexpr, VALUE_PAD: tl.constexpr,
    EARLY: tl.constexpr,
):  # fmt: skip
    """One program for each token.

    keys (cells, KV_HEADS, KEY_DIM) and values are the cache, contiguous; key (T, KV_HEADS,
    KEY_DIM) and value have the strides given; cells int32 (T,), -1 stores nothing. With SCALED
    numbers are multiplied by key_factor and value_factor and kept within -limit .. limit.
    """
    if EARLY:
        cuda.gdc_launch_dependents()
        cuda.gdc_wait()
    token = tl.program_id(0).to(tl.int64)
    cell = tl.load(cells + token).to(tl.int64)
    if cell < 0:
        return
    head = tl.arange(0, HEADS_PAD)
    key_d = tl.arange(0, KEY_PAD)
    value_d = tl.arange(0, VALUE_PAD)
    there = (head < KV_HEADS)[:, None] & (key_d < KEY_DIM)[None, :]
    k = tl.load(
        key + token * key_token_stride + head[:, None] * key_head_stride + key_d[None, :], there
    )
    if SCALED:
        k = tl.clamp(k.to(tl.float32) * key_factor, -limit, limit)
    at = keys + (cell * KV_HEADS + head)[:, None] * KEY_DIM + key_d[None, :]
    tl.store(at, k.to(keys.dtype.element_ty), there)
    there = (head < KV_HEADS)[:, None] & (value_d < VALUE_DIM)[None, :]
    v = tl.load(
        value + token * value_token_stride + head[:, None] * value_head_stride + value_d[None, :],
        there,
    )
    if SCALED:
        v = tl.clamp(v.to(tl.float32) * value_factor, -limit, limit)
    at = values + (cell * KV_HEADS + head)[:, None] * VALUE_DIM + value_d[None, :]
    tl.store(at, v.to(values.dtype.element_ty), there)


@triton.jit
def rotate_and_store(
    x, cos, sin, keys, values, cells, key_factor, value_factor, limit, token_stride,
    SCALED: tl.constexpr, DIM: tl.constexpr, DIM_PAD: tl.constexpr, HALF_PAD: tl.constexpr,
    HEADS: tl.constexpr, HEADS_PAD: tl.constexpr, KV_HEADS: tl.constexpr, KV_PAD: tl.constexpr,
    EARLY: tl.constexpr,
):  # fmt: skip
    """As `rotate` of HEADS queries, and `store` of KV_HEADS rotated keys and their values.

    x (T, (HEADS + 2 KV_HEADS) * DIM), with the stride given: queries, keys and values of each
    token. One program for each token; those that are not stored are left as they are.
    """
    if EARLY:
        cuda.gdc_launch_dependents()
        cuda.gdc_wait()
    token = tl.program_id(0).to(tl.int64)
    cell = tl.load(cells + token).to(tl.int64)
    if cell < 0:
        return
    HALF: tl.constexpr = DIM // 2
    half_d = tl.arange(0, HALF_PAD)
    c = tl.load(cos + token * DIM + half_d, half_d < HALF)[None, :].to(tl.float32)
    s = tl.load(sin + token * DIM + half_d, half_d < HALF)[None, :].to(tl.float32)

    head = tl.arange(0, HEADS_PAD)
    there = (head < HEADS)[:, None] & (half_d < HALF)[None, :]
    at = x + token * token_stride + head[:, None] * DIM + half_d[None, :]
    one = tl.load(at, there).to(tl.float32)
    two = tl.load(at + HALF, there).to(tl.float32)
    tl.store(at, (one * c - two * s).to(x.dtype.element_ty), there)
    tl.store(at + HALF, (two * c + one * s).to(x.dtype.element_ty), there)

    head = tl.arange(0, KV_PAD)
    there = (head < KV_HEADS)[:, None] & (half_d < HALF)[None, :]
    at = x + token * token_stride + (HEADS + head)[:, None] * DIM + half_d[None, :]
    one = tl.load(at, there).to(tl.float32)
    two = tl.load(at + HALF, there).to(tl.float32)
    first = (one * c - two * s).to(x.dtype.element_ty)
    second = (two * c + one * s).to(x.dtype.element_ty)
    d = tl.arange(0, DIM_PAD)
    there_whole = (head < KV_HEADS)[:, None] & (d < DIM)[None, :]
    at = x + token * token_stride + (HEADS + KV_HEADS + head)[:, None] * DIM + d[None, :]
    value = tl.load(at, there_whole)
    if SCALED:
        first = tl.clamp(first.to(tl.float32) * key_factor, -limit, limit)
        second = tl.clamp(second.to(tl.float32) * key_factor, -limit, limit)
        value = tl.clamp(value.to(tl.float32) * value_factor, -limit, limit)
    at = keys + (cell * KV_HEADS + head)[:, None] * DIM + half_d[None, :]
    tl.store(at, first.to(keys.dtype.element_ty), there)
    tl.store(at + HALF, second.to(keys.dtype.element_ty), there)
    at = values + (cell * KV_HEADS + head)[:, None] * DIM + d[None, :]
    tl.store(at, value.to(values.dtype.element_ty), there_whole)
