"""How the kit measures: the sizes that it steps over, and when logits count as the same."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tgi_core.contract import Capabilities
from tgi_core.testing.conformance.comparison import Comparison
from tgi_core.testing.conformance.device import too_small, unit_of

ENOUGH = Capabilities(
    device="none",
    vocab_size=100,
    max_sequences=4,
    max_rows=1,
    max_step_tokens=64,
    max_sequence_tokens=64,
    max_prefill_tokens=32,
    cache_tokens=256,
    cache_grain_tokens=16,
)


def test_sizes_that_are_just_enough_are_accepted() -> None:
    assert too_small(ENOUGH) == []


@pytest.mark.parametrize(
    "size", ["max_sequences", "max_prefill_tokens", "max_step_tokens", "cache_tokens"]
)
def test_size_that_is_too_small_is_named_with_its_number(size: str) -> None:
    number = getattr(ENOUGH, size)
    (complaint,) = too_small(replace(ENOUGH, **{size: number - 1}))
    assert complaint == f"{size} is {number - 1} and should be at least {number}"


@pytest.mark.parametrize(("grain", "unit"), [(1, 8), (2, 8), (3, 9), (16, 16), (64, 8)])
def test_unit_is_the_block_unless_that_has_no_borders(grain: int, unit: int) -> None:
    assert unit_of(replace(ENOUGH, cache_grain_tokens=grain)) == unit


def test_rounding_is_the_same_unless_exactness_is_claimed() -> None:
    logits = np.linspace(-5, 5, 20, dtype=np.float32)
    rounded = logits + np.float32(1e-5)
    Comparison(atol=1e-4, rtol=0).same(rounded, logits)
    with pytest.raises(AssertionError, match="batch_invariant"):
        Comparison(atol=1e-4, rtol=0, exact=True).same(rounded, logits)


def test_one_logit_too_far_away_is_not_the_same() -> None:
    logits = np.zeros((2, 20), np.float32)
    other = logits.copy()
    other[1, 7] = 0.01
    with pytest.raises(AssertionError, match=r"differ by up to 0\.01"):
        Comparison(atol=1e-4, rtol=0).same(other, logits)


def test_numbers_that_are_none_are_never_the_same() -> None:
    logits = np.full(20, np.nan, np.float32)
    with pytest.raises(AssertionError):
        Comparison(atol=1, rtol=1).same(logits, logits)
    with pytest.raises(AssertionError):
        Comparison(atol=1, rtol=1, exact=True).same(logits, logits)


def test_rounding_is_no_difference() -> None:
    logits = np.linspace(-5, 5, 20, dtype=np.float32)
    with pytest.raises(AssertionError, match="the logits are the same"):
        Comparison(atol=1e-4, rtol=0).different(logits + np.float32(1e-5), logits, "a token")
