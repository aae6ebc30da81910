"""Builds SamplingBatch from per-row wishes, for tests."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tgi_core.contract import SamplingBatch, SamplingParams


def batch_of(
    params: Sequence[SamplingParams],
    *,
    uniform: np.ndarray | None = None,
    forced: Sequence[int] | None = None,
    histories: Sequence[dict[int, int]] | None = None,
    mask_rows: Sequence[int] = (),
    mask: np.ndarray | None = None,
    boosts: Sequence[tuple[int, np.ndarray, float]] = (),
) -> SamplingBatch:
    """`mask` and the sets of `boosts` (row, set, value) are packed: see `packed`."""
    rows = len(params)
    histories = histories or [{}] * rows

    def floats(name: str) -> np.ndarray:
        return np.array([getattr(p, name) for p in params], np.float32)

    def begins(lengths: Sequence[int]) -> np.ndarray:
        return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)

    return SamplingBatch(
        temperature=floats("temperature"),
        top_k=np.array([p.top_k for p in params], np.int32),
        top_p=floats("top_p"),
        typical_p=floats("typical_p"),
        min_p=floats("min_p"),
        repetition_penalty=floats("repetition_penalty"),
        frequency_penalty=floats("frequency_penalty"),
        presence_penalty=floats("presence_penalty"),
        uniform=np.full(rows, 0.5) if uniform is None else uniform,
        logprobs=np.array([p.logprobs for p in params], np.bool_),
        num_top=np.array([p.num_top for p in params], np.int32),
        forced=np.full(rows, -1, np.int32) if forced is None else np.array(forced, np.int32),
        history_begins=begins([len(h) for h in histories]),
        history_tokens=np.array([t for h in histories for t in h], np.int32),
        history_counts=np.array([c for h in histories for c in h.values()], np.int32),
        bias_begins=begins([len(p.logit_bias) for p in params]),
        bias_tokens=np.array([t for p in params for t, _ in p.logit_bias], np.int32),
        bias_values=np.array([v for p in params for _, v in p.logit_bias], np.float32),
        mask_rows=np.array(mask_rows, np.int32),
        mask=np.zeros((0, 0), np.int32) if mask is None else mask,
        boost_rows=np.array([row for row, _, _ in boosts], np.int32),
        boost=np.stack([s for _, s, _ in boosts]) if boosts else np.zeros((0, 0), np.int32),
        boost_values=np.array([value for _, _, value in boosts], np.float32),
    )


def packed(tokens: Sequence[int], vocab_size: int) -> np.ndarray:
    """int32 (ceil(vocab / 32),): a set of tokens as masks and boosts have it."""
    words = np.zeros(-(-vocab_size // 32), np.uint32)
    for token in tokens:
        words[token // 32] |= np.uint32(1 << token % 32)
    return words.view(np.int32)
