"""Tokens that a graph chose by itself, and what it is told to choose by. Knows no device."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tgi_core.contract import SampledTokens, SamplingBatch
from tgi_core.errors import Unsupported


@dataclass(frozen=True, slots=True)
class ChosenTokens:
    """Satisfies PendingLogits and PendingTokens: no logits left the device."""

    ids: NDArray[np.int32]
    """int32 (L,)."""

    def numpy(self) -> NDArray[np.float32]:
        """There are none."""
        raise Unsupported("logits", "this model was compiled to sample on the device")

    def wait(self) -> SampledTokens:
        """The tokens alone; core asks for no probabilities."""
        rows = len(self.ids)
        return SampledTokens(
            ids=self.ids,
            logprobs=np.full(rows, np.nan, np.float32),
            top_ids=np.zeros((rows, 0), np.int32),
            top_logprobs=np.zeros((rows, 0), np.float32),
        )


def neutral_params(num: int) -> NDArray[np.float32]:
    """float32 (num, 3), top-k, top-p and temperature: the likeliest token of each row."""
    return np.ones((num, 3), np.float32)


def sampling_params(batch: SamplingBatch, most_top_k: int) -> NDArray[np.float32]:
    """The same, as a batch of L rows wants it: float32 (L, 3).

    Args:
        batch: core gives it no wish but these three.
        most_top_k: what no top-k becomes, and any larger one.
    """
    top_k = np.where(batch.top_k == 0, most_top_k, np.minimum(batch.top_k, most_top_k))
    # the graph takes no 0
    drawn = np.stack([top_k, np.maximum(batch.top_p, 1e-6), batch.temperature], axis=1)
    greedy = neutral_params(batch.num_rows)
    return np.where(batch.temperature[:, None] > 0, drawn, greedy).astype(np.float32)
