"""The sampler takes short ways; here it is held to the long one, which sorts everything."""

from __future__ import annotations

import numpy as np
import pytest

from tests.sampling_batches import batch_of
from tgi_core.contract import SamplingParams
from tgi_core.sampling.reference import sample
from tgi_core.sampling.seeds import exponentials
from tgi_core.sampling.truncation import truncate

BLOCK = 256
STEP = 10
"""Of the sample by which a prefix's end is guessed, in a vocabulary of this size."""
VOCAB = 2048 * STEP + 77

rng = np.random.default_rng(7)
NORMAL = rng.standard_normal((2, VOCAB))
EVERY = np.arange(VOCAB) % STEP == 0
ROWS = {
    "flat": NORMAL * 0.01,
    "plain": NORMAL * 2,
    "peaked": NORMAL * 3 + 12 * (rng.random(NORMAL.shape) < 0.001),
    "wide": NORMAL * 40,
    "ties": np.round(NORMAL),
    "all equal": np.full(NORMAL.shape, 3.25),
    "masked": np.where(rng.random(NORMAL.shape) < 0.5, NORMAL * 3, -np.inf),
    "nearly one": np.where(np.arange(VOCAB) == 5000, 20.0, NORMAL),
    # what the sample sees is nothing like the rest
    "sample misses the many": np.where(EVERY, -20.0, NORMAL),
    "sample sees but a few": np.where(EVERY, 9.0, NORMAL),
    "sample sees the largest": np.where(EVERY, 9.0, -20.0 + NORMAL),
}
LIMITS = [
    {"top_p": 1e-6},
    {"top_p": 0.5},
    {"top_p": 0.95},
    {"top_p": 0.99999},
    {"typical_p": 0.3},
    {"typical_p": 0.95},
    {"top_k": 300, "top_p": 0.9},
    {"top_p": 0.9, "typical_p": 0.8, "min_p": 0.01},
    {},
]


def kept_the_long_way(logits: np.ndarray, limits: dict[str, float]) -> tuple[np.ndarray, ...]:
    """Ids and float64 weights of the tokens that may be drawn."""
    ids = np.arange(len(logits))
    if top_k := int(limits.get("top_k", 0)):
        ids = ids[logits >= np.sort(logits)[-top_k]]
    weights = np.exp(logits[ids] - logits[ids].max())

    def first(order: np.ndarray, mass: float) -> np.ndarray:
        sums = np.cumsum(weights[order], dtype=np.float64)
        return np.sort(order[: np.searchsorted(sums, mass * sums[-1]) + 1])

    if "top_p" in limits:
        places = first(np.argsort(-weights, kind="stable"), float(np.float32(limits["top_p"])))
        ids, weights = ids[places], weights[places]
    if "min_p" in limits:
        places = np.flatnonzero(weights >= np.float32(limits["min_p"]))
        ids, weights = ids[places], weights[places]
    if "typical_p" in limits:
        p = weights.astype(np.float64) / weights.sum(dtype=np.float64)
        with np.errstate(divide="ignore", invalid="ignore"):
            distance = np.abs(-np.log(p) - np.nansum(-p * np.log(p)))
        places = first(np.argsort(distance, kind="stable"), float(np.float32(limits["typical_p"])))
        ids, weights = ids[places], weights[places]
    return ids, weights


def drawn_the_long_way(ids: np.ndarray, weights: np.ndarray, uniform: float) -> int:
    blocks = np.unique(ids // BLOCK)
    mass = np.array([weights[ids // BLOCK == block].sum(dtype=np.float64) for block in blocks])
    with np.errstate(divide="ignore"):
        block = blocks[(exponentials(uniform, -1 - blocks) / mass).argmin()]
        inside = ids // BLOCK == block
        return int(ids[inside][(exponentials(uniform, ids[inside]) / weights[inside]).argmin()])


@pytest.mark.parametrize("limits", LIMITS, ids=str)
@pytest.mark.parametrize("kind", ROWS)
def test_the_short_way_leads_to_the_same_tokens(kind: str, limits: dict[str, float]) -> None:
    logits = ROWS[kind].astype(np.float32)
    uniform = np.random.default_rng(3).random(len(logits))
    drawn = sample(
        logits.copy(), batch_of([SamplingParams(temperature=1.0, **limits)] * 2, uniform=uniform)
    )
    neutral = dict(temperature=1.0, top_k=0, top_p=1.0, min_p=0.0, typical_p=1.0)
    for row in range(2):
        numbers = {name: float(np.float32(value)) for name, value in limits.items()}
        numbers["top_k"] = int(limits.get("top_k", 0))
        found = truncate(np.arange(VOCAB), logits[row].copy(), **{**neutral, **numbers})
        ids, weights = kept_the_long_way(logits[row], limits)
        possible = ids[weights > 1e-30]
        assert set(possible) <= set(found.ids[found.logits > -np.inf].tolist())
        # nobody is there but those without any chance
        surplus = np.setdiff1d(found.ids[found.weights > 1e-30], ids)
        assert not len(surplus)
        assert drawn.ids[row] == drawn_the_long_way(ids, weights, uniform[row])
