"""Block tables, where `tests/property/test_scheduler.py` does not reach."""

from __future__ import annotations

import numpy as np

from tgi_core.contract import BlockPool, BlockTables


def test_several_sequences_advance_at_once_as_one_after_another() -> None:
    at_once, by_turns = (BlockTables(BlockPool(16), 4, 5, 40) for _ in range(2))
    seq, n = np.array([3, 0, 4], np.int32), np.array([1, 7, 2], np.int32)
    for _ in range(3):
        at_once.advance(seq, n)
        for one, num in zip(seq.tolist(), n.tolist(), strict=True):
            by_turns.advance(one, num)
    assert [at_once.held(s) for s in range(5)] == [by_turns.held(s) for s in range(5)]
    assert at_once.held_by(seq).tolist() == [3, 21, 6]
    assert type(at_once.held(3)) is int
