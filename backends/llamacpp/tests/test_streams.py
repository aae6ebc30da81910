"""Sequences keep what they hold, wherever they are moved to decode side by side."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tgi_backend_llamacpp.streams import exchanges

PROMPTS = {seq: [1, *(260 + (seq * 7 + i) % 50 for i in range(10 + seq))] for seq in range(12)}
NEXT = {seq: [270 + seq] for seq in PROMPTS}


def test_rows_are_right_whichever_of_many_decode_together(tiny: Path, drive: Callable) -> None:
    """Those that are moved side by side, and those that were in their way."""
    driver = drive(tiny)
    expected = {}
    for seq, prompt in PROMPTS.items():
        driver.step({seq: prompt})
        expected[seq] = driver.step({seq: NEXT[seq]})[0]
        driver.truncate(seq, len(prompt))
    rng = np.random.default_rng(2)
    for _ in range(25):
        rows = rng.permutation(12)[: rng.integers(1, 13)].tolist()
        got = driver.step({seq: NEXT[seq] for seq in rows})
        for seq, logits in zip(rows, got, strict=True):
            assert np.allclose(logits, expected[seq], rtol=0, atol=1e-4)
            driver.truncate(seq, len(PROMPTS[seq]))


def test_a_long_fork_source_and_its_forks_survive_moves(tiny: Path, drive: Callable) -> None:
    prompt = [1, *(262 + i % 29 for i in range(300))]
    expected = drive(tiny).step({0: [*prompt[:200], 299]})
    driver = drive(tiny)
    driver.step({3: prompt})
    for seq in (0, 9, 15):
        driver.fork(3, seq, 200)
    driver.step({7: [5]})
    got = driver.step({7: [6], 15: [299], 0: [299], 9: [299]})
    for logits in got[1:]:
        assert np.allclose(logits, expected[0], rtol=0, atol=1e-4)


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 50)), min_size=1, max_size=9))
def test_wanted_streams_become_neighbours_and_few_tokens_move(
    streams: list[tuple[bool, int]],
) -> None:
    wanted, held = [is_wanted for is_wanted, _ in streams], [tokens for _, tokens in streams]
    pairs = exchanges(np.array(wanted), np.array(held, np.int32))
    after, moved = list(wanted), 0
    for a, b in pairs:
        after[a], after[b] = after[b], after[a]
        moved += held[a] + held[b]
    num = sum(wanted)
    assert "".join("x" if one else " " for one in after).strip() == "x" * num
    assert moved == min(
        sum(
            tokens
            for i, (is_wanted, tokens) in enumerate(streams)
            if (begin <= i < begin + num) != is_wanted
        )
        for begin in range(len(streams) - num + 1)
    )


@pytest.mark.parametrize("length", [0, 7])
def test_a_fork_into_a_sequence_in_use_is_an_error(
    tiny: Path, drive: Callable, length: int
) -> None:
    driver = drive(tiny)
    driver.step({0: PROMPTS[0], 1: [5]})
    with pytest.raises(ValueError, match="not empty"):
        driver.backend.fork(0, 1, length)
