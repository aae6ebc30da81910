"""Attention of a few rows that have one new token each, and are short, in one kernel.

Such a step waits for its kernels to follow one another more than for memory. So the programs of one
row and KV head rotate what is theirs, the first one puts the new key into the cache, and whoever is
the last to end adds up what all have found. What an earlier step has stored is under way before the
kernel that makes the new token has ended.
"""

from __future__ import annotations

import triton
import triton.language as tl
from triton.language.extra import cuda

from tgi_backend_cuda.kernels.paged import LOG2_E, add_keys, load_keys, take_in


@triton.jit(do_not_specialize=["num_splits"])
def turn_store_and_attend(
    out, part_out, part_high, part_total, arrived,
    x, cos, sin, keys, values, cells, tables, table_width, lengths, sinks,
    num_splits, scaling, softcap, value_scale, key_factor, value_factor, limit, token_stride,
    SCALED: tl.constexpr, WINDOW: tl.constexpr, SOFTCAP: tl.constexpr, SINKS: tl.constexpr,
    GROUP: tl.constexpr, GROUP_PAD: tl.constexpr, TILE_ROWS: tl.constexpr,
    KV_HEADS: tl.constexpr, BLOCK_TOKENS: tl.constexpr, DIM: tl.constexpr, DIM_PAD: tl.constexpr,
    KEYS: tl.constexpr, PARTS: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    """One program for each (row, KV head, split); what `rotate_and_store` and `attend` do.

    x (T, (HEADS + 2 KV_HEADS) * DIM) with the stride given: queries, keys and values of each row,
    not yet rotated; it is left as it is. cos and sin (T, DIM), contiguous, in halves that are
    alike. The other arguments are those of `attend` and `rotate_and_store`.

    out (T, HEADS, DIM); 0 for rows that only pad. part_out float32 (T, KV_HEADS, splits, GROUP,
    DIM), part_high and part_total float32 (T, KV_HEADS, splits, GROUP) hold what each program
    found, and arrived int32 (T, KV_HEADS) counts those that have ended; it is 0 before and after.
    PARTS of them are added up at once.
    """
    HEADS: tl.constexpr = GROUP * KV_HEADS
    HALF: tl.constexpr = DIM // 2
    row = tl.program_id(0)
    kv_head = tl.program_id(1)
    split = tl.program_id(2)
    # these, and all keys but the new ones, were there before the step began
    length = tl.load(lengths + row)
    width = tl.load(table_width)
    cell = tl.load(cells + row).to(tl.int64)
    past = length - 1
    start = 0
    if WINDOW > 0:
        start = tl.maximum(past + 1 - WINDOW, 0) // KEYS * KEYS
    num_keys = tl.maximum(past - start, 1)
    span = tl.cdiv(num_keys, num_splits * KEYS) * KEYS
    num_live = tl.cdiv(num_keys, span)
    if split >= num_live:
        return
    start += split * span
    end = tl.minimum(start + span, past)
    table = tables + row.to(tl.int64) * width
    k, v = load_keys(
        start, end, table, keys, values, kv_head, True, KEYS, KV_HEADS, BLOCK_TOKENS,
        DIM, DIM_PAD, DIM, DIM_PAD,
    )  # fmt: skip
    if EARLY:
        cuda.gdc_wait()

    d = tl.arange(0, DIM_PAD)
    inside = d < DIM
    other_d = tl.where(d < HALF, d + HALF, d - HALF)
    at = row.to(tl.int64) * DIM + d
    c = tl.load(cos + at, inside, other=0.0).to(tl.float32)
    s = tl.load(sin + at, inside, other=0.0).to(tl.float32)
    s = tl.where(d < HALF, -s, s)
    token = x + row.to(tl.int64) * token_stride
    place = tl.arange(0, TILE_ROWS)
    head = kv_head * GROUP + place
    live = place < GROUP
    there = live[:, None] & inside[None, :]
    at_head = token + head[:, None] * DIM
    one = tl.load(at_head + d[None, :], there, other=0.0).to(tl.float32)
    two = tl.load(at_head + other_d[None, :], there, other=0.0).to(tl.float32)
    q = (one * c[None, :] + two * s[None, :]).to(x.dtype.element_ty)

    if EARLY:
        # only now: the weights that the next kernel asks for would be before us in the queue
        cuda.gdc_launch_dependents()
    at_key = token + (HEADS + kv_head) * DIM
    one = tl.load(at_key + d, inside, other=0.0).to(tl.float32)
    two = tl.load(at_key + other_d, inside, other=0.0).to(tl.float32)
    new_key = (one * c + two * s).to(x.dtype.element_ty)
    new_value = tl.load(at_key + KV_HEADS * DIM + d, inside, other=0.0)
    if SCALED:
        new_key = tl.clamp(new_key.to(tl.float32) * key_factor, -limit, limit)
        new_value = tl.clamp(new_value.to(tl.float32) * value_factor, -limit, limit)
    new_key = new_key.to(keys.dtype.element_ty)
    new_value = new_value.to(values.dtype.element_ty)
    first = split == 0
    at = (cell * KV_HEADS + kv_head) * DIM + d
    stored = (tl.where(first, d, DIM) < DIM) & (at >= 0)
    tl.store(keys + at, new_key, stored)
    tl.store(values + at, new_value, stored)

    # the first program begins with the new key, as it would read it from the cache
    new_key = new_key.to(x.dtype.element_ty).to(tl.float32)
    new_value = new_value.to(x.dtype.element_ty).to(tl.float32)
    score = tl.sum(q.to(tl.float32) * new_key[None, :], 1) * scaling
    if SOFTCAP:
        score = softcap * (1.0 - 2.0 / (tl.exp(2.0 * score / softcap) + 1.0))
    high = score * LOG2_E
    total = tl.full((TILE_ROWS,), 1.0, tl.float32)
    weight = total
    if SINKS:
        sink = tl.load(sinks + head, live, other=0.0).to(tl.float32) * LOG2_E
        highest = tl.maximum(high, sink)
        weight = tl.exp2(high - highest)
        total = weight + tl.exp2(sink - highest)
        high = highest
    high = tl.where(first, high, float("-inf"))
    total = tl.where(first, total, 0.0)
    acc = tl.where(first, weight, 0.0)[:, None] * new_value[None, :]
    position = tl.full((TILE_ROWS,), 0, tl.int32) + past
    slope = high
    acc, high, total = take_in(
        acc, high, total, q, k, v, start, end, position, slope, scaling, softcap,
        True, WINDOW, SOFTCAP, False, KEYS,
    )  # fmt: skip
    start += KEYS
    whole = start
    if WINDOW == 0:
        whole = tl.maximum(end, start) // KEYS * KEYS
    for key in range(start, whole, KEYS):
        acc, high, total = add_keys(
            acc, high, total, q, key, end, table, keys, values, kv_head, position, slope,
            scaling, softcap, False, WINDOW, SOFTCAP, False, KEYS, KV_HEADS, BLOCK_TOKENS,
            DIM, DIM_PAD, DIM, DIM_PAD,
        )  # fmt: skip
    for key in range(whole, end, KEYS):
        acc, high, total = add_keys(
            acc, high, total, q, key, end, table, keys, values, kv_head, position, slope,
            scaling, softcap, True, WINDOW, SOFTCAP, False, KEYS, KV_HEADS, BLOCK_TOKENS,
            DIM, DIM_PAD, DIM, DIM_PAD,
        )  # fmt: skip
    acc *= value_scale

    at_out = out + (row.to(tl.int64) * HEADS + kv_head * GROUP) * DIM
    if num_live == 1:
        acc = tl.where(cell >= 0, acc / total[:, None], 0.0)
        at_number = at_out + place[:, None] * DIM + d[None, :]
        tl.store(at_number, acc.to(out.dtype.element_ty), there)
    else:
        group = row * KV_HEADS + kv_head
        at_part = (group.to(tl.int64) * num_splits + split) * GROUP + place
        tl.store(part_high + at_part, high, live)
        tl.store(part_total + at_part, total, live)
        tl.store(part_out + at_part[:, None] * DIM + d[None, :], acc, there)
        # all of this program's threads have stored before one of them says so
        tl.debug_barrier()
        num_arrived = tl.atomic_add(arrived + group, 1, sem="acq_rel", scope="gpu")
        if num_arrived == num_live - 1:
            tl.store(arrived + group, 0)
            add_up(
                at_out, part_out, part_high, part_total, group.to(tl.int64) * num_splits, num_live,
                GROUP, GROUP_PAD, DIM, DIM_PAD, PARTS,
            )  # fmt: skip


@triton.jit
def add_up(
    out, part_out, part_high, part_total, first_part, num_parts,
    GROUP: tl.constexpr, GROUP_PAD: tl.constexpr, DIM: tl.constexpr, DIM_PAD: tl.constexpr,
    PARTS: tl.constexpr,
):  # fmt: skip
    """Out (GROUP, DIM) of what the programs of one row and KV head have found."""
    place = tl.arange(0, GROUP_PAD)
    d = tl.arange(0, DIM_PAD)
    acc = tl.zeros((GROUP_PAD, DIM_PAD), tl.float32)
    high = tl.full((GROUP_PAD,), float("-inf"), tl.float32)
    total = tl.zeros((GROUP_PAD,), tl.float32)
    for begin in range(0, num_parts, PARTS):
        part = begin + tl.arange(0, PARTS)
        there = (part < num_parts)[:, None] & (place < GROUP)[None, :]
        at = (first_part + part)[:, None] * GROUP + place[None, :]
        # from the L2 cache, where other programs have put it
        part_highs = tl.load(part_high + at, there, other=float("-inf"), cache_modifier=".cg")
        totals = tl.load(part_total + at, there, other=0.0, cache_modifier=".cg")
        numbers = tl.load(
            part_out + at[:, :, None] * DIM + d[None, None, :],
            there[:, :, None] & (d < DIM)[None, None, :],
            other=0.0,
            cache_modifier=".cg",
        )
        highest = tl.maximum(high, tl.max(part_highs, 0))
        zero = tl.where(highest == float("-inf"), 0.0, highest)
        shares = tl.exp2(part_highs - zero[None, :])
        shrink = tl.exp2(high - zero)
        total = total * shrink + tl.sum(shares * totals, 0)
        acc = acc * shrink[:, None] + tl.sum(shares[:, :, None] * numbers, 0)
        high = highest
    acc /= tl.where(total == 0.0, 1.0, total)[:, None]
    at_out = out + place[:, None] * DIM + d[None, :]
    tl.store(at_out, acc.to(out.dtype.element_ty), (place < GROUP)[:, None] & (d < DIM)[None, :])
