"""The sampler in numpy: the executable definition of what every sampler must choose.

For each row: boosts, bias, penalties, mask; then either the most probable token (temperature 0), or
temperature, top-k, top-p, min-p and typical-p, and a draw. Eligible tokens are taken together in
blocks of 256 neighbouring ids. Each block gets an exponential random number, made of the row's
uniform number and the block's, and the smallest quotient of number and probability wins; so does
then a token of that block.
Log-probabilities are those of the adjusted and truncated distribution, as TGI gives them.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tgi_core.contract import SampledTokens, SamplingBatch
from tgi_core.sampling.logprobs import log_normalizer, top
from tgi_core.sampling.penalties import adjust
from tgi_core.sampling.seeds import exponentials
from tgi_core.sampling.truncation import Candidates, truncate

_BLOCK = 256
"""Token ids in a block of a draw: near the square root of a vocabulary's size."""


@np.errstate(invalid="ignore")  # logits may be infinite; their log-probabilities are no numbers
def sample(logits: NDArray[np.float32], batch: SamplingBatch) -> SampledTokens:
    """Chooses one token a row.

    Args:
        logits: float32 (L, vocab); overwritten.
        batch: L rows.

    Returns:
        A token for each row; -1 where the logits hold NaN or nothing above -inf.
    """
    num_rows, vocab = logits.shape
    adjust(logits, batch)
    # argmax finds NaN before anything else, so the winner tells whether a row can be used
    ids = logits.argmax(axis=1).astype(np.int32) if num_rows else np.zeros(0, np.int32)
    best = logits[np.arange(num_rows), ids]
    usable = ~(np.isnan(best) | (best == -np.inf))
    ids[~usable] = -1

    logprobs = np.full(num_rows, np.nan, np.float32)
    most = int(batch.num_top.max(initial=0))
    top_ids = np.full((num_rows, most), -1, np.int32)
    top_logprobs = np.full((num_rows, most), -np.inf, np.float32)

    drawn = batch.temperature > 0
    detailed = batch.logprobs | (batch.num_top > 0) | (batch.forced >= 0)
    tokens = np.arange(vocab)
    for row in np.flatnonzero(usable & (drawn | detailed)):
        if drawn[row]:
            candidates = truncate(
                tokens,
                logits[row],
                float(batch.temperature[row]),
                int(batch.top_k[row]),
                float(batch.top_p[row]),
                float(batch.min_p[row]),
                float(batch.typical_p[row]),
            )
        else:
            candidates = Candidates.of(tokens, logits[row])
        if batch.forced[row] >= 0:
            ids[row] = batch.forced[row]
        elif drawn[row]:
            ids[row] = _draw(candidates, float(batch.uniform[row]))
        if detailed[row]:
            total = log_normalizer(candidates)
            logprobs[row] = _logit_of(candidates, int(ids[row])) - total
            num = int(batch.num_top[row])
            if num:
                best_ids, best_logits = top(candidates, num)
                top_ids[row, : len(best_ids)] = best_ids
                top_logprobs[row, : len(best_ids)] = best_logits.astype(np.float64) - total
    return SampledTokens(ids=ids, logprobs=logprobs, top_ids=top_ids, top_logprobs=top_logprobs)


def _draw(candidates: Candidates, uniform: float) -> int:
    """Two exponential races: between blocks of token ids, then between the tokens of the winner.

    Whoever arrives first wins; a runner takes its random number divided by its probability. A race
    of blocks needs a random number for each block instead of one for each token.
    """
    ids, weights = candidates.ids, candidates.weights
    borders = np.searchsorted(ids, np.arange(0, ids[-1] + 1 + _BLOCK, _BLOCK))
    blocks = np.flatnonzero(borders[:-1] < borders[1:])
    mass = np.add.reduceat(weights, borders[blocks], dtype=np.float64)
    with np.errstate(divide="ignore"):
        # below zero, where no token has its number
        block = blocks[(exponentials(uniform, -1 - blocks) / mass).argmin()]
        begin, end = borders[block], borders[block + 1]
        arrivals = exponentials(uniform, ids[begin:end]) / weights[begin:end]
    return int(ids[begin + arrivals.argmin()])


def _logit_of(candidates: Candidates, token: int) -> float:
    """The token's logit, -inf if it is not eligible."""
    place = int(np.searchsorted(candidates.ids, token))
    if place < len(candidates.ids) and candidates.ids[place] == token:
        return float(candidates.logits[place])
    return -np.inf
