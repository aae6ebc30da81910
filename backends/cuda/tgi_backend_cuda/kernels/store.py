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
