"""The sampler on torch tensors: what `tgi_core.sampling.reference` chooses, for all rows at once.

For devices that would wait if their logits went to the host. Nothing here reads a value back from
the device: which rows need what is known on the host, from the SamplingBatch. On a CPU the numpy
sampler is faster, row by row in the processor's cache, and stays the default there.
Knows no cache, no step and no request.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tgi_core.contract import SampledTokens, SamplingBatch
from tgi_core.sampling.seeds import keys

Move = Callable[[NDArray[Any]], Tensor]
"""Brings an array to the device, best without waiting for it."""

NO_NUMBER = 0x7FC00000
"""NaN, a float32, as an int32: a log-probability that nobody asked for."""
_BLOCK = 256
"""Token ids that a draw takes together, as in the reference."""
_INCREMENT = 0x9E3779B97F4A7C15 - 2**64
_MULTIPLIER_1 = 0xBF58476D1CE4E5B9 - 2**64
_MULTIPLIER_2 = 0x94D049BB133111EB - 2**64
"""Of splitmix64, as signed numbers: torch has no arithmetic on unsigned ones."""


@dataclass(frozen=True, slots=True, eq=False)
class DeviceTokens:
    """`SampledTokens`, still on the device."""

    ids: Tensor
    """int32 (L,)."""
    logprobs: Tensor
    """float32 (L,)."""
    top_ids: Tensor
    """int32 (L, K)."""
    top_logprobs: Tensor
    """float32 (L, K)."""

    def packed(self) -> Tensor:
        """int32 (L, 2 + 2 K): all of it in one tensor, for one transfer."""
        columns = (self.ids[:, None], self.logprobs[:, None], self.top_ids, self.top_logprobs)
        return torch.cat([column.contiguous().view(torch.int32) for column in columns], 1)


def unpack(packed: NDArray[np.int32]) -> SampledTokens:
    """What `sample` returns."""
    most = packed.shape[1] // 2 - 1
    columns = np.split(packed, (1, 2, 2 + most), axis=1)
    ids, logprobs, top_ids, top_logprobs = map(np.ascontiguousarray, columns)
    return SampledTokens(
        ids=ids[:, 0],
        logprobs=logprobs.view(np.float32)[:, 0],
        top_ids=top_ids,
        top_logprobs=top_logprobs.view(np.float32),
    )


def most_probable(logits: Tensor) -> Tensor:
    """What `sample` gives for a batch that wants nothing else, as most do, in few operations.

    Args:
        logits: (L, vocab).

    Returns:
        int32 (L, 2).
    """
    ids = logits.argmax(1, keepdim=True)
    # neither NaN, which argmax finds before anything else, nor -inf
    usable = logits.gather(1, ids) > -torch.inf
    ids = torch.where(usable, ids, -1).int()
    return torch.cat((ids, torch.full_like(ids, NO_NUMBER)), 1)


@torch.inference_mode()
def sample(
    logits: Tensor,
    batch: SamplingBatch,
    move: Move,
    plain: Callable[[Tensor], Tensor] = most_probable,
) -> Tensor:
    """Chooses one token a row.

    Args:
        logits: (L, vocab); overwritten if they are contiguous float32.
        batch: L rows.
        move: to the device of the logits.
        plain: `most_probable`, or what gives the same.

    Returns:
        int32 (L, 2 + 2 K), for `unpack`. First is a token for each row; -1 where the logits hold
        NaN or nothing above -inf.
    """
    if _is_plain(batch):
        return plain(logits)
    logits = logits.float().contiguous()
    num_rows = len(logits)
    _adjust(logits, batch, move)
    # argmax finds NaN before anything else, so the winner tells whether a row can be used
    ids = logits.argmax(1)
    best = logits.gather(1, ids[:, None])[:, 0]
    usable = ~(best.isnan() | (best == -torch.inf))

    most = int(batch.num_top.max(initial=0))
    result = DeviceTokens(
        ids=ids.int(),
        logprobs=logits.new_full((num_rows,), torch.nan),
        top_ids=ids.new_full((num_rows, most), -1, dtype=torch.int32),
        top_logprobs=logits.new_full((num_rows, most), -torch.inf),
    )
    drawn = batch.temperature > 0
    detailed = batch.logprobs | (batch.num_top > 0) | (batch.forced >= 0)
    rows = np.flatnonzero(drawn | detailed)
    if len(rows):
        index = move(rows)
        part = _choose(logits[index], ids[index], _Rows(batch, rows), move)
        result.ids.index_copy_(0, index, part.ids)
        result.logprobs.index_copy_(0, index, part.logprobs)
        result.top_ids.index_copy_(0, index, part.top_ids)
        result.top_logprobs.index_copy_(0, index, part.top_logprobs)
    result.ids.masked_fill_(~usable, -1)
    result.logprobs.masked_fill_(~usable, torch.nan)
    result.top_ids.masked_fill_(~usable[:, None], -1)
    result.top_logprobs.masked_fill_(~usable[:, None], -torch.inf)
    return result.packed()


def _is_plain(batch: SamplingBatch) -> bool:
    """Whether nothing is wanted but the most probable tokens of the model's own logits."""
    adjusted = (batch.boost_rows, batch.bias_tokens, batch.history_tokens, batch.mask_rows)
    wants = (batch.temperature > 0, batch.logprobs, batch.num_top > 0, batch.forced >= 0)
    return not any(map(len, adjusted)) and not any(wanted.any() for wanted in wants)


class _Rows:
    """The wishes of some rows of a batch, neutral where a greedy row has them for nothing."""

    def __init__(self, batch: SamplingBatch, rows: NDArray[np.intp]) -> None:
        self.drawn = batch.temperature[rows] > 0
        self.temperature = np.where(self.drawn, batch.temperature[rows], np.float32(1))
        self.top_k = np.where(self.drawn, batch.top_k[rows], 0)
        self.top_p = np.where(self.drawn, batch.top_p[rows], 1).astype(np.float64)
        self.min_p = np.where(self.drawn, batch.min_p[rows], 0).astype(np.float32)
        self.typical_p = np.where(self.drawn, batch.typical_p[rows], 1).astype(np.float64)
        self.keys = keys(batch.uniform[rows]).view(np.int64)
        self.forced = batch.forced[rows].astype(np.int64)
        self.num_top = batch.num_top[rows].astype(np.int64)
        self.detailed = batch.logprobs[rows] | (self.num_top > 0) | (self.forced >= 0)
        self.most = int(batch.num_top.max(initial=0))


def _choose(logits: Tensor, best: Tensor, rows: _Rows, move: Move) -> DeviceTokens:
    """Of rows that draw, or want to know more than the most probable token.

    Args:
        logits: float32 (D, vocab), adjusted.
        best: int64 (D,), the most probable tokens.
        rows: D rows.
        move: to the device.
    """
    scores = logits / move(rows.temperature)[:, None]
    highest = scores.amax(1, keepdim=True)
    # infinite ones share all, as in the reference
    share = torch.where(scores == highest, 0.0, -torch.inf)
    scores = torch.where(highest.isposinf(), share, scores)
    highest = highest.masked_fill(highest.isposinf(), 0.0)
    _truncate(scores, highest, rows, move)
    weights = _weights(scores, highest)
    ids = best
    if rows.drawn.any():
        ids = torch.where(move(rows.drawn), _draw(weights, move(rows.keys)), ids)
    forced = move(rows.forced)
    ids = torch.where(forced >= 0, forced, ids)
    total = highest.double() + weights.sum(1, keepdim=True, dtype=torch.float64).log()
    logprobs = (scores.gather(1, ids[:, None]).double() - total).float()[:, 0]
    top_ids, top_logprobs = _top(scores, total, rows, move)
    return DeviceTokens(
        ids=ids.int(),
        logprobs=logprobs.masked_fill(~move(rows.detailed), torch.nan),
        top_ids=top_ids,
        top_logprobs=top_logprobs,
    )


def _adjust(logits: Tensor, batch: SamplingBatch, move: Move) -> None:
    """Boosts, bias, repetition, frequency and presence penalty, mask; in place."""
    vocab = logits.shape[1]
    if len(batch.boost_rows):
        green = _bits(batch.boost, vocab, move)
        values = torch.where(green, move(batch.boost_values)[:, None], 0.0)
        logits.index_add_(0, move(batch.boost_rows.astype(np.int64)), values)
    if len(batch.bias_tokens):
        _, places = _places(batch.bias_begins, batch.bias_tokens, vocab)
        logits.view(-1).index_add_(0, move(places), move(batch.bias_values))
    if len(batch.history_tokens):
        row_of, places = _places(batch.history_begins, batch.history_tokens, vocab)
        counts = batch.history_counts
        index, repetition = move(places), move(batch.repetition_penalty[row_of])
        values = logits.view(-1)[index]
        values = torch.where(values < 0, values * repetition, values / repetition)
        values -= move(batch.frequency_penalty[row_of] * counts.astype(np.float32))
        values -= move(batch.presence_penalty[row_of] * (counts > 0))
        logits.view(-1).index_copy_(0, index, values)
    if len(batch.mask_rows):
        index = move(batch.mask_rows.astype(np.int64))
        allowed = _bits(batch.mask, vocab, move)
        logits.index_copy_(0, index, logits[index].masked_fill(~allowed, -torch.inf))


def _places(
    begins: NDArray[np.int32], tokens: NDArray[np.int32], vocab: int
) -> tuple[NDArray[np.intp], NDArray[np.int64]]:
    """The row of each entry of flat lists, and its place in flat logits."""
    row_of = np.repeat(np.arange(len(begins) - 1), np.diff(begins))
    return row_of, row_of * np.int64(vocab) + tokens


def _bits(words: NDArray[np.int32], vocab: int, move: Move) -> Tensor:
    """Sets of tokens, bool (rows, vocab). Word w, bit b is token 32 w + b."""
    packed = move(np.ascontiguousarray(words.astype("<i4")).view(np.uint8))
    shifts = torch.arange(8, dtype=torch.uint8, device=packed.device)
    return (packed[:, :, None] >> shifts & 1).flatten(1)[:, :vocab].bool()


def _truncate(scores: Tensor, highest: Tensor, rows: _Rows, move: Move) -> None:
    """Writes -inf in place of what top-k, top-p, min-p and typical-p exclude, in this order."""
    vocab = scores.shape[1]
    for wanted, keep in (
        ((rows.top_k > 0) & (rows.top_k < vocab), _top_k),
        (rows.top_p < 1, _nucleus),
        (rows.min_p > 0, _min_p),
        (rows.typical_p < 1, _typical),
    ):
        which = np.flatnonzero(wanted)
        if not len(which):
            continue
        if len(which) == len(wanted):
            scores.masked_fill_(~keep(scores, highest, rows, which, move), -torch.inf)
        else:
            index = move(which)
            part = scores[index]
            kept = keep(part, highest[index], rows, which, move)
            scores.index_copy_(0, index, part.masked_fill_(~kept, -torch.inf))


def _top_k(
    scores: Tensor, highest: Tensor, rows: _Rows, which: NDArray[np.intp], move: Move
) -> Tensor:
    """All that are as probable as the k-th token."""
    top_k = rows.top_k[which]
    best = scores.topk(int(top_k.max()), 1).values
    return scores >= best.gather(1, move(top_k.astype(np.int64) - 1)[:, None])


def _nucleus(
    scores: Tensor, highest: Tensor, rows: _Rows, which: NDArray[np.intp], move: Move
) -> Tensor:
    """Shortest prefix, most probable first, whose mass reaches top_p."""
    weights, order = _weights(scores, highest).sort(stable=True, dim=1, descending=True)
    mass = weights.cumsum(1, dtype=torch.float64)
    below = mass < move(rows.top_p[which])[:, None] * mass[:, -1:]
    return _prefix(order, below)


def _min_p(
    scores: Tensor, highest: Tensor, rows: _Rows, which: NDArray[np.intp], move: Move
) -> Tensor:
    """All that are probable enough beside the most probable one."""
    return _weights(scores, highest) >= move(rows.min_p[which])[:, None]


def _typical(
    scores: Tensor, highest: Tensor, rows: _Rows, which: NDArray[np.intp], move: Move
) -> Tensor:
    """Shortest prefix, surprise closest to the entropy first, whose mass reaches typical_p."""
    p = _weights(scores, highest).double()
    p /= p.sum(1, keepdim=True)
    surprise = -p.log()
    entropy = torch.where(p > 0, p * surprise, 0.0).sum(1, keepdim=True)
    order = (surprise - entropy).abs().sort(stable=True, dim=1).indices
    mass = p.gather(1, order).cumsum(1)
    return _prefix(order, mass < move(rows.typical_p[which])[:, None])


def _prefix(order: Tensor, below: Tensor) -> Tensor:
    """The tokens of an order for which `below` holds, and the next one: bool (D, vocab)."""
    count = below.sum(1, keepdim=True)
    first = torch.arange(order.shape[1], device=order.device) <= count
    return torch.zeros_like(below).scatter_(1, order, first)


def _weights(scores: Tensor, highest: Tensor) -> Tensor:
    """float32 (D, vocab): probabilities up to a factor."""
    return (scores - highest).exp_()


def _draw(weights: Tensor, row_keys: Tensor) -> Tensor:
    """int64 (D,): the winners of two exponential races, of blocks and of a block's tokens."""
    num_rows, vocab = weights.shape
    weights = torch.nn.functional.pad(weights, (0, -vocab % _BLOCK)).view(num_rows, -1, _BLOCK)
    mass = weights.sum(2, dtype=torch.float64)
    numbers = torch.arange(mass.shape[1], device=mass.device)
    # below zero, where no token has its number
    arrivals = _exponentials(row_keys[:, None], -1 - numbers) / mass
    block = arrivals.argmin(1)
    chosen = block[:, None, None].expand(-1, 1, _BLOCK)
    inside = weights.gather(1, chosen)[:, 0].double()
    ids = block[:, None] * _BLOCK + torch.arange(_BLOCK, device=mass.device)
    arrivals = _exponentials(row_keys[:, None], ids) / inside
    return ids.gather(1, arrivals.argmin(1, keepdim=True))[:, 0]


def _exponentials(row_keys: Tensor, numbers: Tensor) -> Tensor:
    """float64: what `tgi_core.sampling.seeds.exponentials` gives."""
    x = row_keys + numbers * _INCREMENT + _INCREMENT
    x = (x ^ _shift(x, 30)) * _MULTIPLIER_1
    x = (x ^ _shift(x, 27)) * _MULTIPLIER_2
    x = x ^ _shift(x, 31)
    return -((_shift(x, 11).double() + 0.5) * 2.0**-53).log()


def _shift(x: Tensor, by: int) -> Tensor:
    """To the right, with zeros from the left."""
    return (x >> by) & ((1 << (64 - by)) - 1)


def _top(scores: Tensor, total: Tensor, rows: _Rows, move: Move) -> tuple[Tensor, Tensor]:
    """int32 and float32 (D, K): the most probable tokens, of equal ones the lower ids."""
    num_rows, vocab = scores.shape
    ids = scores.new_full((num_rows, rows.most), -1, dtype=torch.int32)
    logprobs = scores.new_full((num_rows, rows.most), -torch.inf)
    if not rows.most:
        return ids, logprobs
    width = min(rows.most, vocab)
    # integers in the order of the floats, then in the order of ids; -0.0 is 0.0
    bits = (scores + 0.0).view(torch.int32).long()
    ordered = bits ^ (bits >> 63 & 0x7FFFFFFF)
    composed = (ordered << 32) + (vocab - 1 - torch.arange(vocab, device=scores.device))
    found = vocab - 1 - (composed.topk(width, 1).values & 0xFFFFFFFF)
    logits = scores.gather(1, found)
    places = torch.arange(width, device=scores.device)
    wanted = (places < move(rows.num_top)[:, None]) & (logits > -torch.inf)
    ids[:, :width] = torch.where(wanted, found, -1)
    values = (logits.double() - total).float()
    logprobs[:, :width] = torch.where(wanted, values, -torch.inf)
    return ids, logprobs
