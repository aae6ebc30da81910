"""Random SamplingBatches: what requests may wish for, in any mix. Knows nothing of devices."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from tgi_core.contract import SamplingBatch

Rng = np.random.Generator


def greedy_batch(num_rows: int, vocab_size: int) -> SamplingBatch:
    """L rows without any wish."""
    zeros, ones = np.zeros(num_rows, np.float32), np.ones(num_rows, np.float32)
    ints, empty = np.zeros(num_rows, np.int32), np.zeros(0, np.int32)
    return SamplingBatch(
        temperature=zeros,
        top_k=ints,
        top_p=ones,
        typical_p=ones,
        min_p=zeros,
        repetition_penalty=ones,
        frequency_penalty=zeros,
        presence_penalty=zeros,
        uniform=np.zeros(num_rows, np.float64),
        logprobs=np.zeros(num_rows, np.bool_),
        num_top=ints,
        forced=ints - 1,
        history_begins=np.zeros(num_rows + 1, np.int32),
        history_tokens=empty,
        history_counts=empty,
        bias_begins=np.zeros(num_rows + 1, np.int32),
        bias_tokens=empty,
        bias_values=np.zeros(0, np.float32),
        mask_rows=empty,
        mask=np.zeros((0, -(-vocab_size // 32)), np.int32),
    )


def random_batch(rng: Rng, num_rows: int, vocab_size: int, wish: str) -> SamplingBatch:
    """L rows of which most have this wish; "mixed" gives each some of all wishes.

    Half of the rows draw at a temperature and half are greedy, and some want log-probabilities.
    """
    batch = _draw(rng, greedy_batch(num_rows, vocab_size), vocab_size)
    chosen = list(_WISHES.values()) if wish == "mixed" else [_WISHES[wish]]
    for change in chosen:
        batch = change(rng, batch, vocab_size)
    return batch


def _draw(rng: Rng, batch: SamplingBatch, vocab_size: int) -> SamplingBatch:
    num = batch.num_rows
    warm = rng.choice([0.0, 0.7, 1.0, 1.5], num, p=[0.3, 0.2, 0.3, 0.2])
    return replace(
        batch,
        temperature=warm.astype(np.float32),
        uniform=rng.random(num),
        logprobs=rng.random(num) < 0.7,
    )


def _top_k(rng: Rng, batch: SamplingBatch, vocab_size: int) -> SamplingBatch:
    wanted = rng.choice([0, 1, 2, 5, 40, vocab_size], batch.num_rows)
    return replace(batch, top_k=wanted.astype(np.int32))


def _top_p(rng: Rng, batch: SamplingBatch, vocab_size: int) -> SamplingBatch:
    return replace(batch, top_p=_some(rng, batch, [1.0, 0.01, 0.5, 0.9, 0.97]))


def _typical_p(rng: Rng, batch: SamplingBatch, vocab_size: int) -> SamplingBatch:
    return replace(batch, typical_p=_some(rng, batch, [1.0, 0.2, 0.6, 0.95]))


def _min_p(rng: Rng, batch: SamplingBatch, vocab_size: int) -> SamplingBatch:
    return replace(batch, min_p=_some(rng, batch, [0.0, 0.02, 0.1, 0.9]))


def _penalties(rng: Rng, batch: SamplingBatch, vocab_size: int) -> SamplingBatch:
    sizes = rng.integers(0, vocab_size, batch.num_rows)
    tokens = [rng.permutation(vocab_size)[:size] for size in sizes]
    return replace(
        batch,
        repetition_penalty=_some(rng, batch, [1.0, 1.3, 2.0, 0.8]),
        frequency_penalty=_some(rng, batch, [0.0, 0.5, 1.5, -0.5]),
        presence_penalty=_some(rng, batch, [0.0, 1.0, 2.0, -1.0]),
        history_begins=_begins(sizes),
        history_tokens=np.concatenate(tokens).astype(np.int32),
        history_counts=rng.integers(0, 4, int(sizes.sum())).astype(np.int32),
    )


def _bias(rng: Rng, batch: SamplingBatch, vocab_size: int) -> SamplingBatch:
    sizes = rng.integers(0, 20, batch.num_rows)
    total = int(sizes.sum())
    return replace(
        batch,
        bias_begins=_begins(sizes),
        # with tokens that occur twice: both biases count
        bias_tokens=rng.integers(0, vocab_size, total).astype(np.int32),
        bias_values=(rng.standard_normal(total) * 5).astype(np.float32),
    )


def _mask(rng: Rng, batch: SamplingBatch, vocab_size: int) -> SamplingBatch:
    rows = np.flatnonzero(rng.random(batch.num_rows) < 0.7).astype(np.int32)
    share = rng.choice([0.0, 0.02, 0.3, 0.9], len(rows), p=[0.1, 0.3, 0.3, 0.3])
    return replace(batch, mask_rows=rows, mask=_packed(rng, share, batch.mask.shape[1]))


def _boost(rng: Rng, batch: SamplingBatch, vocab_size: int) -> SamplingBatch:
    # some rows with two sets: both values count
    rows = np.sort(rng.integers(0, batch.num_rows, batch.num_rows)).astype(np.int32)
    values = rng.choice([2.0, -3.0, -np.inf], len(rows), p=[0.5, 0.3, 0.2])
    share = rng.choice([0.02, 0.5], len(rows))
    return replace(
        batch,
        boost_rows=rows,
        boost=_packed(rng, share, batch.mask.shape[1]),
        boost_values=values.astype(np.float32),
    )


def _top_tokens(rng: Rng, batch: SamplingBatch, vocab_size: int) -> SamplingBatch:
    return replace(batch, num_top=rng.integers(0, 6, batch.num_rows).astype(np.int32))


def _forced(rng: Rng, batch: SamplingBatch, vocab_size: int) -> SamplingBatch:
    tokens = rng.integers(0, vocab_size, batch.num_rows)
    forced = np.where(rng.random(batch.num_rows) < 0.4, tokens, -1)
    return replace(batch, forced=forced.astype(np.int32))


_WISHES: dict[str, Callable[[Rng, SamplingBatch, int], SamplingBatch]] = {
    "draw": _draw,
    "top_k": _top_k,
    "top_p": _top_p,
    "typical_p": _typical_p,
    "min_p": _min_p,
    "penalties": _penalties,
    "bias": _bias,
    "mask": _mask,
    "boost": _boost,
    "top_tokens": _top_tokens,
    "forced": _forced,
}
WISHES = (*_WISHES, "mixed")
"""Names for `random_batch`."""


def _some(rng: Rng, batch: SamplingBatch, values: list[float]) -> NDArray[np.float32]:
    """float32 (L,): the neutral first value for a third of the rows."""
    neutral = rng.random(batch.num_rows) < 0.3
    return np.where(neutral, values[0], rng.choice(values[1:], batch.num_rows)).astype(np.float32)


def _packed(rng: Rng, share: NDArray[np.float64], words: int) -> NDArray[np.int32]:
    """int32 (rows, words): random sets of tokens, each with about this share of all."""
    chosen = rng.random((len(share), words * 32)) < share[:, None]
    packed = np.packbits(chosen, axis=1, bitorder="little").view("<u4").astype(np.uint32)
    return packed.view(np.int32)


def _begins(sizes: NDArray[np.int64]) -> NDArray[np.int32]:
    """int32 (L + 1,)."""
    return np.concatenate([[0], np.cumsum(sizes)]).astype(np.int32)
