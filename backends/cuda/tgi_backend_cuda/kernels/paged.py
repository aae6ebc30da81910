"""Attention over a paged cache, one kernel for prompts, chunks, drafts and single tokens.

A tile is some new tokens of one row, times the query heads that share one KV head; it reads each
key once for all of them. With split keys several programs share a tile, and `combine` adds up what
they found (Flash-Decoding, https://pytorch.org/blog/flash-decoding). The softmax is computed on
the way (https://arxiv.org/abs/2205.14135), with powers of two.
"""

from __future__ import annotations

import triton
import triton.language as tl
from triton.language.extra import cuda

LOG2_E = tl.constexpr(1.4426950408889634)


@triton.jit
def find_row(begins, num_rows, tile, TILE_TOKENS: tl.constexpr):
    """The row of a tile: row r has its tiles from begins[r] // TILE_TOKENS + r on.

    That leaves room for a last tile that is not full, and needs no table of tiles.
    """
    low = 0
    high = num_rows
    while low < high:
        middle = (low + high) // 2
        if tl.load(begins + middle) // TILE_TOKENS + middle <= tile:
            low = middle + 1
        else:
            high = middle
    return low - 1


@triton.jit
def load_keys(
    start, end, table, keys, values, kv_head,
    MASKED: tl.constexpr, KEYS: tl.constexpr, KV_HEADS: tl.constexpr, BLOCK_TOKENS: tl.constexpr,
    KEY_DIM: tl.constexpr, KEY_PAD: tl.constexpr, VALUE_DIM: tl.constexpr, VALUE_PAD: tl.constexpr,
):  # fmt: skip
    """KEYS keys and their values from `start` on: (KEYS, KEY_PAD) and (KEYS, VALUE_PAD).

    With MASKED those from `end` on are 0.
    """
    key = start + tl.arange(0, KEYS)
    key_d = tl.arange(0, KEY_PAD)
    value_d = tl.arange(0, VALUE_PAD)
    if MASKED:
        block = tl.load(table + key // BLOCK_TOKENS, mask=key < end, other=0)
    else:
        block = tl.load(table + key // BLOCK_TOKENS)
    cell = (block.to(tl.int64) * BLOCK_TOKENS + key % BLOCK_TOKENS) * KV_HEADS + kv_head
    key_at = keys + cell[:, None] * KEY_DIM + key_d[None, :]
    value_at = values + cell[:, None] * VALUE_DIM + value_d[None, :]
    if MASKED:
        # whatever an earlier sequence left behind the end, NaN included, must not be multiplied
        k = tl.load(key_at, mask=(key < end)[:, None] & (key_d < KEY_DIM)[None, :], other=0.0)
        v = tl.load(value_at, mask=(key < end)[:, None] & (value_d < VALUE_DIM)[None, :], other=0.0)
    else:
        if KEY_DIM == KEY_PAD:
            k = tl.load(key_at)
        else:
            k = tl.load(key_at, mask=(key_d < KEY_DIM)[None, :], other=0.0)
        if VALUE_DIM == VALUE_PAD:
            v = tl.load(value_at)
        else:
            v = tl.load(value_at, mask=(value_d < VALUE_DIM)[None, :], other=0.0)
    return k, v


@triton.jit
def take_in(
    acc, high, total, q, k, v, start, end, position, slope, scaling, softcap,
    MASKED: tl.constexpr, WINDOW: tl.constexpr, SOFTCAP: tl.constexpr, SLOPES: tl.constexpr,
    KEYS: tl.constexpr,
):  # fmt: skip
    """Takes these keys and values into the running output, maximum and sum of a tile."""
    key = start + tl.arange(0, KEYS)
    scores = tl.dot(q, tl.trans(k.to(q.dtype)), input_precision="ieee") * scaling
    if SOFTCAP:
        # tanh by the exponential function, which every Triton has
        scores = softcap * (1.0 - 2.0 / (tl.exp(2.0 * scores / softcap) + 1.0))
    if SLOPES:
        scores += slope[:, None] * (key[None, :] - position[:, None]).to(tl.float32)
    scores *= LOG2_E
    if MASKED:
        seen = (key[None, :] <= position[:, None]) & (key < end)[None, :]
        if WINDOW > 0:
            seen = seen & (key[None, :] > position[:, None] - WINDOW)
        scores = tl.where(seen, scores, float("-inf"))
    new_high = tl.maximum(high, tl.max(scores, 1))
    # a token that has seen no key yet has no maximum to subtract
    zero = tl.where(new_high == float("-inf"), 0.0, new_high)
    weights = tl.exp2(scores - zero[:, None])
    shrink = tl.exp2(high - zero)
    total = total * shrink + tl.sum(weights, 1)
    v = v.to(q.dtype)
    acc = tl.dot(weights.to(q.dtype), v, acc=acc * shrink[:, None], input_precision="ieee")
    return acc, new_high, total


@triton.jit
def add_keys(
    acc, high, total, q, start, end, table, keys, values, kv_head, position, slope,
    scaling, softcap,
    MASKED: tl.constexpr, WINDOW: tl.constexpr, SOFTCAP: tl.constexpr, SLOPES: tl.constexpr,
    KEYS: tl.constexpr, KV_HEADS: tl.constexpr, BLOCK_TOKENS: tl.constexpr,
    KEY_DIM: tl.constexpr, KEY_PAD: tl.constexpr, VALUE_DIM: tl.constexpr, VALUE_PAD: tl.constexpr,
):  # fmt: skip
    """Takes KEYS more keys of the cache into the running output, maximum and sum of a tile."""
    k, v = load_keys(
        start, end, table, keys, values, kv_head, MASKED, KEYS, KV_HEADS, BLOCK_TOKENS,
        KEY_DIM, KEY_PAD, VALUE_DIM, VALUE_PAD,
    )  # fmt: skip
    return take_in(
        acc, high, total, q, k, v, start, end, position, slope, scaling, softcap,
        MASKED, WINDOW, SOFTCAP, SLOPES, KEYS,
    )  # fmt: skip


@triton.jit(do_not_specialize=["num_rows", "num_splits", "first_tile"])
def attend(
    out, part_out, part_high, part_total,
    query, keys, values, tables, table_width, begins, lengths, sinks, slopes,
    num_rows, num_splits, first_tile,
    scaling, softcap, value_scale, query_token_stride, query_head_stride,
    DECODE: tl.constexpr, SPLIT: tl.constexpr, WINDOW: tl.constexpr, SOFTCAP: tl.constexpr,
    SINKS: tl.constexpr, SLOPES: tl.constexpr,
    GROUP: tl.constexpr, KV_HEADS: tl.constexpr, BLOCK_TOKENS: tl.constexpr,
    KEY_DIM: tl.constexpr, KEY_PAD: tl.constexpr, VALUE_DIM: tl.constexpr, VALUE_PAD: tl.constexpr,
    TILE_TOKENS: tl.constexpr, TILE_ROWS: tl.constexpr, KEYS: tl.constexpr,
    EARLY: tl.constexpr,
):  # fmt: skip
    """One program for each (tile, KV head, split), of the tiles from first_tile on.

    query (T, heads, KEY_DIM) with the strides given; keys (blocks, BLOCK_TOKENS, KV_HEADS,
    KEY_DIM) and values alike, contiguous; tables int32 (R, table_width[0]); begins int32 (R + 1,),
    where the tokens of each row begin; lengths int32 (R,), keys of each row with the new ones, and
    0 for tokens that only pad: their output is 0. sinks and slopes (heads,). scaling multiplies
    q · k, softcap is the limit of scores, value_scale multiplies the result.

    out (T, heads, VALUE_DIM). With SPLIT it is left alone, and part_out float32 (T, heads,
    splits, VALUE_DIM), part_high and part_total float32 (T, heads, splits) are written instead.
    """
    if EARLY:
        cuda.gdc_launch_dependents()
        cuda.gdc_wait()
    # the last tiles of a prompt see the most keys: they are begun first
    tile = first_tile + tl.num_programs(0) - 1 - tl.program_id(0)
    kv_head = tl.program_id(1)
    if DECODE:
        row = tile
        begin = tile
        num_new = 1
        first = 0
    else:
        row = find_row(begins, num_rows, tile, TILE_TOKENS)
        begin = tl.load(begins + row)
        num_new = tl.load(begins + row + 1) - begin
        first = (tile - begin // TILE_TOKENS - row) * TILE_TOKENS
        if first >= num_new:
            return
    # all of these are under way before the first is waited for
    length = tl.load(lengths + row)
    width = tl.load(table_width)
    place = tl.arange(0, TILE_ROWS)
    token = first + place // GROUP
    head = kv_head * GROUP + place % GROUP
    live = (token < num_new) & (place < TILE_TOKENS * GROUP)
    key_d = tl.arange(0, KEY_PAD)
    value_d = tl.arange(0, VALUE_PAD)
    flat = (begin + token).to(tl.int64)
    q = tl.load(
        query + flat[:, None] * query_token_stride + head[:, None] * query_head_stride
        + key_d[None, :],
        mask=live[:, None] & (key_d < KEY_DIM)[None, :],
        other=0.0,
    )  # fmt: skip
    past = length - num_new
    position = past + token
    end = past + tl.minimum(first + TILE_TOKENS, num_new)
    start = 0
    if WINDOW > 0:
        start = tl.maximum(past + first + 1 - WINDOW, 0) // KEYS * KEYS
    if SPLIT:
        span = tl.cdiv(tl.maximum(end - start, 0), num_splits * KEYS) * KEYS
        start += tl.program_id(2) * span
        end = tl.minimum(start + span, end)
        empty = start >= end
        if SINKS:
            empty = empty & (tl.program_id(2) > 0)
        if empty:  # of which `combine` asks no more
            at_part = ((begin + token).to(tl.int64) * (GROUP * KV_HEADS) + head) * num_splits
            at_part += tl.program_id(2)
            tl.store(part_high + at_part, tl.full((TILE_ROWS,), float("-inf"), tl.float32), live)
            tl.store(part_total + at_part, tl.zeros((TILE_ROWS,), tl.float32), live)
            return
    table = tables + row.to(tl.int64) * width
    # keys before this one are seen by every token of the tile
    whole = (past + first + 1) // KEYS * KEYS
    if WINDOW > 0:
        whole = start
    whole = tl.minimum(tl.maximum(whole, start), tl.maximum(end, start) // KEYS * KEYS)

    acc = tl.zeros((TILE_ROWS, VALUE_PAD), tl.float32)
    high = tl.full((TILE_ROWS,), float("-inf"), tl.float32)
    total = tl.zeros((TILE_ROWS,), tl.float32)
    slope = high
    if SLOPES:
        slope = tl.load(slopes + head, mask=live, other=0.0).to(tl.float32)
    if SINKS:
        if tl.program_id(2) == 0:
            high = tl.load(sinks + head, mask=live, other=0.0).to(tl.float32) * LOG2_E
            total = tl.full((TILE_ROWS,), 1.0, tl.float32)
    for at in range(start, whole, KEYS):
        acc, high, total = add_keys(
            acc, high, total, q, at, end, table, keys, values, kv_head, position, slope,
            scaling, softcap, False, WINDOW, SOFTCAP, SLOPES, KEYS, KV_HEADS, BLOCK_TOKENS,
            KEY_DIM, KEY_PAD, VALUE_DIM, VALUE_PAD,
        )  # fmt: skip
    for at in range(whole, end, KEYS):
        acc, high, total = add_keys(
            acc, high, total, q, at, end, table, keys, values, kv_head, position, slope,
            scaling, softcap, True, WINDOW, SOFTCAP, SLOPES, KEYS, KV_HEADS, BLOCK_TOKENS,
            KEY_DIM, KEY_PAD, VALUE_DIM, VALUE_PAD,
        )  # fmt: skip

    HEADS: tl.constexpr = GROUP * KV_HEADS
    at_head = flat * HEADS + head
    if SPLIT:
        at_part = at_head * num_splits + tl.program_id(2)
        tl.store(part_high + at_part, high, mask=live)
        tl.store(part_total + at_part, total, mask=live)
        tl.store(
            part_out + at_part[:, None] * VALUE_DIM + value_d[None, :],
            acc * value_scale,
            mask=live[:, None] & (value_d < VALUE_DIM)[None, :],
        )
    else:
        acc = acc * (value_scale / tl.where(total == 0.0, 1.0, total))[:, None]
        tl.store(
            out + at_head[:, None] * VALUE_DIM + value_d[None, :],
            acc.to(out.dtype.element_ty),
            mask=live[:, None] & (value_d < VALUE_DIM)[None, :],
        )


@triton.jit(do_not_specialize=["num_splits"])
def combine(
    out, part_out, part_high, part_total, num_splits,
    SPLITS: tl.constexpr, VALUE_DIM: tl.constexpr, VALUE_PAD: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    """Adds up the splits of one token and head; see `attend`. SPLITS is at least num_splits."""
    if EARLY:
        cuda.gdc_launch_dependents()
        cuda.gdc_wait()
    at = tl.program_id(0).to(tl.int64) * tl.num_programs(1) + tl.program_id(1)
    split = tl.arange(0, SPLITS)
    value_d = tl.arange(0, VALUE_PAD)
    there = split < num_splits
    high = tl.load(part_high + at * num_splits + split, mask=there, other=float("-inf"))
    total = tl.load(part_total + at * num_splits + split, mask=there, other=0.0)
    highest = tl.max(high, 0)
    share = tl.exp2(high - tl.where(highest == float("-inf"), 0.0, highest))
    whole = tl.sum(share * total, 0)
    parts = tl.load(
        part_out + (at * num_splits + split)[:, None] * VALUE_DIM + value_d[None, :],
        mask=(there & (total > 0.0))[:, None] & (value_d < VALUE_DIM)[None, :],
        other=0.0,
    )
    result = tl.sum(parts * share[:, None], 0) / tl.where(whole == 0.0, 1.0, whole)
    tl.store(out + at * VALUE_DIM + value_d, result.to(out.dtype.element_ty), value_d < VALUE_DIM)
