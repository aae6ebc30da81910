"""The most probable token of each row, by many programs a row: one alone would take longer than a
layer of a small model.
"""

from __future__ import annotations

import triton
import triton.language as tl
from triton.language.extra import cuda


@triton.jit
def find_in_parts(
    kept, part_high, part_at, logits, vocab_size,
    BLOCK: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    """One program for each (row, part of BLOCK tokens); copies logits (L, vocab_size) to kept.

    part_high float32 (L, parts) is the highest of each part, NaN if any of it is NaN; part_at int32
    (L, parts) the first token that has it.
    """
    if EARLY:
        cuda.gdc_launch_dependents()
        cuda.gdc_wait()
    row, part = tl.program_id(0), tl.program_id(1)
    token = part * BLOCK + tl.arange(0, BLOCK)
    there = token < vocab_size
    at = row.to(tl.int64) * vocab_size + token
    numbers = tl.load(logits + at, there, other=float("-inf"))
    tl.store(kept + at, numbers, there)
    wide = numbers.to(tl.float32)
    num_wrong = tl.sum((wide != wide).to(tl.int32), 0)
    wide = tl.where(wide != wide, float("-inf"), wide)
    high = tl.where(num_wrong > 0, float("nan"), tl.max(wide, 0))
    at_part = row * tl.num_programs(1) + part
    tl.store(part_high + at_part, high)
    tl.store(part_at + at_part, part * BLOCK + tl.argmax(wide, 0))


@triton.jit
def find_best(
    chosen, part_high, part_at, num_parts, no_number, PARTS: tl.constexpr, EARLY: tl.constexpr
):  # fmt: skip
    """Chosen int32 (L, 2) = the first of the most probable tokens and no_number, a program a row.

    -1 stands for a row that has NaN, or nothing above -inf. PARTS is at least num_parts.
    """
    if EARLY:
        cuda.gdc_launch_dependents()
        cuda.gdc_wait()
    row = tl.program_id(0)
    part = tl.arange(0, PARTS)
    there = part < num_parts
    high = tl.load(part_high + row * num_parts + part, there, other=float("-inf"))
    num_wrong = tl.sum((high != high).to(tl.int32), 0)
    high = tl.where(high != high, float("-inf"), high)
    token = tl.load(part_at + row * num_parts + tl.argmax(high, 0))
    usable = (num_wrong == 0) & (tl.max(high, 0) > float("-inf"))
    tl.store(chosen + 2 * row, tl.where(usable, token, -1))
    tl.store(chosen + 2 * row + 1, no_number)
