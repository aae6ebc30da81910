"""The sampler in numpy: the executable definition of what every sampler must choose.

For each row: boosts, bias, penalties, mask; then either the most probable token (temperature 0), or
temperature, top-k, top-p, min-p and typical-p, and a draw. Eligible tokens are taken together in
blocks of 256 neighbouring ids. Each block gets an exponential random number, made of the row's
uniform number and the block's, and the smallest quotient of number and probability wins; so does
then a token of that block.
Log-probabilities are those of the adjusted and truncated distribution, as TGI gives them.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

from tgi_core.contract import SampledTokens, SamplingBatch
from tgi_core.sampling.logprobs import log_normalizer, top
from tgi_core.sampling.penalties import adjust
from tgi_core.sampling.seeds import exponentials
from tgi_core.sampling.truncation import Candidates, truncate

_BLOCK = 256
"""Token ids in a block of a draw: near the square root of a vocabulary's size."""
_ROUGHNESS = 1e-4
"""More than two sums of 256 numbers in float32 can be off, in whatever order they are added."""


def sample(logits: NDArray[np.float32], batch: SamplingBatch) -> SampledTokens:
    """Chooses one token a row.

    Args:
        logits: float32 (L, vocab); overwritten.
        batch: L rows.

    Returns:
        A token for each row; -1 where the logits hold NaN or nothing above -inf.
    """
    num_rows = len(logits)
    adjust(logits, batch)
    # argmax finds NaN before anything else, so the winner tells whether a row can be used
    ids = logits.argmax(axis=1).astype(np.int32) if num_rows else np.zeros(0, np.int32)
    best = logits[np.arange(num_rows), ids]
    usable = best > -np.inf  # NaN is not, either
    ids[~usable] = -1
    detailed = batch.logprobs | (batch.num_top > 0) | (batch.forced >= 0)
    if not (detailed.any() or batch.temperature.any()):
        nothing = np.full(num_rows, np.nan, np.float32)
        return SampledTokens(
            ids=ids,
            logprobs=nothing,
            top_ids=np.empty((num_rows, 0), np.int32),
            top_logprobs=np.empty((num_rows, 0), np.float32),
        )
    return _in_detail(logits, batch, ids, best, usable, detailed)


@np.errstate(invalid="ignore")  # logits may be infinite; their log-probabilities are no numbers
def _in_detail(
    logits: NDArray[np.float32],
    batch: SamplingBatch,
    ids: NDArray[np.int32],
    best: NDArray[np.float32],
    usable: NDArray[np.bool_],
    detailed: NDArray[np.bool_],
) -> SampledTokens:
    """Draws, and log-probabilities; `ids` and `best` are the most probable tokens and their logits,
    all arrays but the first of L rows.
    """
    num_rows, vocab = logits.shape
    most = int(batch.num_top.max(initial=0))
    top_ids = np.full((num_rows, most), -1, np.int32)
    top_logprobs = np.full((num_rows, most), -np.inf, np.float32)

    drawn = (batch.temperature > 0) & (batch.forced < 0)
    ids = np.where((batch.forced >= 0) & usable, batch.forced, ids)
    chosen, totals = best.astype(np.float64), np.full(num_rows, np.nan)
    tokens, spare = _tokens(vocab), np.empty(vocab, np.float32)
    race = _Race(vocab, batch.uniform, drawn)
    for row in np.flatnonzero(usable & (drawn | detailed)):
        if batch.temperature[row] > 0:
            candidates = truncate(
                tokens,
                logits[row],
                float(batch.temperature[row]),
                int(batch.top_k[row]),
                float(batch.top_p[row]),
                float(batch.min_p[row]),
                float(batch.typical_p[row]),
                spare,
            )
        else:
            candidates = Candidates.of(tokens, logits[row], spare)
        if drawn[row]:
            race.run(int(row), candidates)
        else:
            chosen[row] = _logit_of(candidates, int(ids[row]))
        if detailed[row]:
            totals[row] = log_normalizer(candidates)
            num = int(batch.num_top[row])
            if num:
                best_ids, best_logits = top(candidates, num)
                top_ids[row, : len(best_ids)] = best_ids
                top_logprobs[row, : len(best_ids)] = best_logits.astype(np.float64) - totals[row]
    race.end(ids, chosen)
    logprobs = (chosen - totals).astype(np.float32)
    return SampledTokens(ids=ids, logprobs=logprobs, top_ids=top_ids, top_logprobs=top_logprobs)


class _Race:
    """Two exponential races: between blocks of token ids, then between the tokens of the winner.

    Whoever arrives first wins; a runner takes its random number divided by its probability. A race
    of blocks needs a random number for each block instead of one for each token.
    """

    def __init__(self, vocab: int, uniform: NDArray[np.float64], drawn: NDArray[np.bool_]) -> None:
        self._vocab = vocab
        self._uniform = uniform
        self._borders = np.arange(0, vocab + _BLOCK, _BLOCK)
        num_blocks = len(self._borders) - 1
        self._numbers = np.empty((len(uniform), num_blocks))
        if drawn.any():
            # below zero, where no token has its number
            self._numbers[drawn] = exponentials(uniform[drawn, None], -1 - np.arange(num_blocks))
        self._rows: list[int] = []
        self._blocks: list[Candidates] = []

    def run(self, row: int, candidates: Candidates) -> None:
        """The race of a row's blocks."""
        numbers, weights = self._numbers[row], candidates.weights
        with np.errstate(divide="ignore"):
            if len(weights) == self._vocab:
                borders = self._borders
                block = _first_block(numbers, weights)
            else:
                borders = np.searchsorted(candidates.ids, self._borders)
                blocks = np.flatnonzero(borders[:-1] < borders[1:])
                mass = np.add.reduceat(weights, borders[blocks], dtype=np.float64)
                block = int(blocks[(numbers[blocks] / mass).argmin()])
        self._rows.append(row)
        self._blocks.append(candidates.copy(slice(borders[block], borders[block + 1])))

    def end(self, ids: NDArray[np.int32], chosen: NDArray[np.float64]) -> None:
        """The races of the winners' tokens, together: the tokens, and their logits."""
        if not self._rows:
            return
        sizes = [len(block.ids) for block in self._blocks]
        numbers = exponentials(
            np.repeat(self._uniform[self._rows], sizes),
            np.concatenate([block.ids for block in self._blocks]),
        )
        with np.errstate(divide="ignore"):
            arrivals = numbers / np.concatenate([block.weights for block in self._blocks])
        begin = 0
        for row, size, block in zip(self._rows, sizes, self._blocks, strict=True):
            winner = arrivals[begin : begin + size].argmin()
            ids[row], chosen[row] = block.ids[winner], block.logits[winner]
            begin += size


@cache
def _tokens(vocab: int) -> NDArray[np.intp]:
    """All token ids; making them takes as long as choosing the largest of their logits."""
    tokens = np.arange(vocab)
    tokens.flags.writeable = False
    return tokens


def _first_block(numbers: NDArray[np.float64], weights: NDArray[np.float32]) -> int:
    """The block of all tokens that arrives first.

    Sums of float32 take a fifth of the time of those of float64; they are rounded, but tell nearly
    always who wins, and else who may.
    """
    whole = len(weights) // _BLOCK * _BLOCK
    sums = np.einsum("ij->i", weights[:whole].reshape(-1, _BLOCK))
    if whole < len(weights):
        sums = np.append(sums, weights[whole:].sum())
    arrivals = numbers / sums
    first = np.flatnonzero(arrivals <= arrivals.min() * (1 + _ROUGHNESS))
    if len(first) == 1:
        return int(first[0])
    exact = [weights[i * _BLOCK : (i + 1) * _BLOCK].sum(dtype=np.float64) for i in first]
    return int(first[(numbers[first] / exact).argmin()])


def _logit_of(candidates: Candidates, token: int) -> float:
    """The token's logit, -inf if it is not eligible."""
    place = int(np.searchsorted(candidates.ids, token))
    if place < len(candidates.ids) and candidates.ids[place] == token:
        return float(candidates.logits[place])
    return -np.inf
