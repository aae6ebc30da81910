"""Promises of a sampler by itself, over logits that a small model never gives.

    from tgi_core.testing.conformance import SamplerConformance

    class TestMySampler(SamplerConformance):
        def sample(self, logits, batch):
            return my_sampler(to_device(logits), batch).wait()

Knows no backend and no step.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from tgi_core.contract import SampledTokens, SamplingBatch
from tgi_core.sampling import reference
from tgi_core.testing.conformance.runner import Logits
from tgi_core.testing.conformance.wishes import WISHES, random_batch

_NUDGE = 1e-4
"""Share of a row's probability by which a device's float32 sums may be off."""
_LOGPROB_ATOL = 1e-3
_VOCABULARIES = (3, 300, 5000)
"""Less than a block of a draw, not a multiple of one or of a mask's words, and many blocks."""


class SamplerConformance:
    """All of them; a subclass says how to sample."""

    def sample(self, logits: Logits, batch: SamplingBatch) -> SampledTokens:
        """One token a row; may write to the logits, float32 (L, vocab)."""
        raise NotImplementedError

    @pytest.mark.parametrize("vocab_size", _VOCABULARIES)
    @pytest.mark.parametrize("wish", WISHES)
    def test_chooses_what_the_reference_chooses(self, wish: str, vocab_size: int) -> None:
        """Over plain, flat, peaked, masked and tied logits in one batch."""
        rng = np.random.default_rng((sorted(WISHES).index(wish), vocab_size))
        compared = total = 0
        for _ in range(4):
            logits = _logits(rng, 20, vocab_size)
            batch = random_batch(rng, len(logits), vocab_size, wish)
            want, firm = choose(logits, batch)
            compare(self.sample(logits.copy(), batch), want, firm, batch)
            compared += int(firm.sum())
            total += len(firm)
        assert compared * 2 > total

    @pytest.mark.parametrize("wish", WISHES)
    def test_rows_without_a_usable_number_are_marked_and_harm_no_other(self, wish: str) -> None:
        """NaN, nothing above -inf, infinities: -1, or what the reference takes."""
        rng = np.random.default_rng(sorted(WISHES).index(wish))
        logits = _logits(rng, 12, 300)
        logits[1, 7] = np.nan
        logits[4] = -np.inf
        logits[6] = np.nan
        logits[9, [11, 250]] = np.inf
        batch = random_batch(rng, len(logits), 300, wish)
        want, firm = choose(logits, batch)
        got = self.sample(logits.copy(), batch)
        assert (got.ids[want.ids < 0] == -1).all()
        compare(got, want, firm | (want.ids < 0), batch)

    def test_a_large_vocabulary(self) -> None:
        """151,936 tokens, all wishes at once."""
        rng = np.random.default_rng(0)
        logits = _logits(rng, 6, 151_936)
        batch = random_batch(rng, len(logits), 151_936, "mixed")
        want, firm = choose(logits, batch)
        compare(self.sample(logits.copy(), batch), want, firm, batch)

    def test_no_rows(self) -> None:
        """A step may have no output."""
        rng = np.random.default_rng(0)
        got = self.sample(np.zeros((0, 300), np.float32), random_batch(rng, 0, 300, "draw"))
        assert got.ids.shape == got.logprobs.shape == (0,)
        assert got.top_ids.shape == got.top_logprobs.shape == (0, 0)


def choose(logits: Logits, batch: SamplingBatch) -> tuple[SampledTokens, NDArray[np.bool_]]:
    """What the reference chooses, and bool (L,): where rounding cannot change it.

    A draw that two tokens win as good as together, or a limit that a token just reaches, may
    fall either way on a device that adds in another order. Such rows are not compared.
    """
    want = reference.sample(logits.copy(), batch)
    firm = np.ones(batch.num_rows, np.bool_)
    for sign in (-_NUDGE, _NUDGE):
        for nudged in (
            replace(batch, top_p=_below_one(batch.top_p, sign)),
            replace(batch, typical_p=_below_one(batch.typical_p, sign)),
            replace(batch, min_p=batch.min_p * np.float32(1 + sign)),
        ):
            other = reference.sample(logits.copy(), nudged)
            firm &= (other.ids == want.ids) & _near(other.logprobs, want.logprobs)
        warmer = replace(batch, temperature=batch.temperature * np.float32(1 + sign))
        firm &= reference.sample(logits.copy(), warmer).ids == want.ids
    return want, firm


def compare(
    got: SampledTokens, want: SampledTokens, firm: NDArray[np.bool_], batch: SamplingBatch
) -> None:
    """Fails where a sampler's result is not the reference's, in the rows that are firm."""
    assert got.ids.dtype == np.int32 and got.ids.shape == want.ids.shape
    assert got.ids[firm].tolist() == want.ids[firm].tolist()
    asked = firm & batch.logprobs & (want.ids >= 0)
    assert _near(got.logprobs, want.logprobs)[asked].all(), "log-probabilities differ"
    asked = firm & (batch.num_top > 0) & (want.ids >= 0)
    assert got.top_ids.shape == want.top_ids.shape, "one column for each of the most wanted"
    assert got.top_ids[asked].tolist() == want.top_ids[asked].tolist()
    assert _near(got.top_logprobs, want.top_logprobs)[asked].all(), "top log-probabilities differ"


def _logits(rng: np.random.Generator, num_rows: int, vocab_size: int) -> Logits:
    """float32 (num_rows, vocab_size): a kind after the other, five in all."""
    logits = rng.standard_normal((num_rows, vocab_size)).astype(np.float32)
    logits *= np.array([2, 0.05, 12, 3, 2], np.float32)[np.arange(num_rows) % 5][:, None]
    forbidden = rng.random(logits.shape) < 0.6
    forbidden[:, rng.integers(vocab_size)] = False
    logits[3::5][forbidden[3::5]] = -np.inf
    logits[4::5] = np.round(logits[4::5])
    return logits


def _below_one(values: NDArray[np.float32], by: float) -> NDArray[np.float32]:
    """Moves the values below 1, which alone have an effect."""
    return np.where(values < 1, np.clip(values + np.float32(by), 0, 1), values).astype(np.float32)


def _near(one: NDArray[np.float32], other: NDArray[np.float32]) -> NDArray[np.bool_]:
    return np.asarray(np.isclose(one, other, rtol=0, atol=_LOGPROB_ATOL, equal_nan=True))
