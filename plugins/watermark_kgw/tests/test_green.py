"""The green list: a share of the vocabulary, another one after each token, the same for ever."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tgi_plugin_watermark_kgw.green import GreenList
from tgi_plugin_watermark_kgw.watermark import Watermark

VOCAB = 49_152
KEY = 15485863


@pytest.mark.parametrize("gamma", [0.05, 0.25, 0.5, 0.9])
@pytest.mark.parametrize("key", [0, KEY, 2**63 - 1])
def test_gamma_is_the_share_of_green_tokens(gamma, key):
    shares = [GreenList(gamma, key).after(token, VOCAB).mean() for token in range(200)]
    deviation = np.sqrt(gamma * (1 - gamma) / VOCAB)
    assert np.abs(np.array(shares) - gamma).max() < 5 * deviation
    assert abs(np.mean(shares) - gamma) < 4 * deviation / np.sqrt(len(shares))


def test_lists_after_different_tokens_have_nothing_to_do_with_each_other():
    gamma = 0.25
    tokens = [*range(40), 49_151, 65_535, 2**20, 2**20 + 1, 2**31]
    green_list = GreenList(gamma, KEY)
    lists = np.array([green_list.after(token, VOCAB) for token in tokens], np.float64)
    together = lists @ lists.T / VOCAB
    np.fill_diagonal(together, gamma**2)
    assert np.abs(together - gamma**2).max() < 5 * np.sqrt(gamma**2 * (1 - gamma**2) / VOCAB)


def test_a_token_is_as_often_green_as_any_other():
    """Over the tokens before it, whatever its id."""
    green_list = GreenList(0.5, KEY)
    often = np.mean([green_list.after(token, 4096) for token in range(4096)], axis=0)
    assert np.abs(often - 0.5).max() < 5 * np.sqrt(0.25 / 4096)


def test_another_key_makes_other_lists():
    one, other = GreenList(0.5, 1).after(7, VOCAB), GreenList(0.5, 2).after(7, VOCAB)
    assert abs((one == other).mean() - 0.5) < 0.02


@settings(max_examples=50, deadline=None)
@given(st.integers(0, VOCAB - 1), st.integers(0, VOCAB - 1), st.integers(0, 2**63 - 1))
def test_the_detector_sees_the_list_that_the_sampler_saw(token, follower, key):
    green_list = GreenList(0.5, key)
    assert green_list.holds(token, follower) == green_list.after(token, VOCAB)[follower]


def test_the_size_of_the_vocabulary_does_not_matter():
    """A model's logits may be wider than its tokenizer's vocabulary."""
    small, large = GreenList(0.5, KEY), GreenList(0.5, KEY)
    assert (small.after(3, 1000) == large.after(3, 1024)[:1000]).all()
    assert (large.after(3, 1000) == small.after(3, 1000)).all()


def test_lists_stay_what_they_are():
    """Texts that were marked before must be found after an upgrade."""
    assert np.flatnonzero(GreenList(0.5, KEY).after(42, 24)).tolist() == GREEN_AFTER_42


GREEN_AFTER_42 = [1, 3, 6, 7, 8, 16, 17, 18, 19, 20, 22, 23]


@pytest.mark.parametrize("vocab_size", [1, 31, 32, 33, 1000])
def test_a_boost_is_the_packed_list_after_the_last_token(vocab_size):
    watermark = Watermark(0.5, 2.5, KEY)
    boost = watermark.boost([9, 9, 3], vocab_size)
    assert (boost.tokens.dtype, boost.value) == (np.int32, 2.5)
    assert boost.tokens.shape == (-(-vocab_size // 32),)
    bits = [bool(boost.tokens.view(np.uint32)[t // 32] >> t % 32 & 1) for t in range(vocab_size)]
    assert bits == GreenList(0.5, KEY).after(3, vocab_size).tolist()
    assert (watermark.boost([3], vocab_size).tokens == boost.tokens).all()
