"""What a step gives back: logits, perhaps still on the device, and sampled tokens on the host."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray


class PendingLogits(Protocol):
    """Logits of the tokens in `Step.out`. Opaque to core until it asks for them."""

    def numpy(self) -> NDArray[np.float32]:
        """Waits for the device.

        Returns:
            float32 (L, vocab). Valid until the next step; the caller may write to it.

        Raises:
            BackendError: when the step failed after it was started.
        """
        ...


@dataclass(frozen=True, slots=True)
class HostLogits:
    """PendingLogits of a backend whose steps are done when they return."""

    array: NDArray[np.float32]
    """float32 (L, vocab)."""

    def numpy(self) -> NDArray[np.float32]:
        """The array itself."""
        return self.array


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SampledTokens:
    """The outcome of sampling L rows of logits, on the host."""

    ids: NDArray[np.int32]
    """int32 (L,). -1 marks a row whose logits held no usable number (NaN, or nothing allowed)."""
    logprobs: NDArray[np.float32]
    """float32 (L,): log-probability of the token after all adjustments; NaN where not asked for."""
    top_ids: NDArray[np.int32]
    """int32 (L, K), K the largest `num_top` of the batch; best first, -1 pads."""
    top_logprobs: NDArray[np.float32]
    """float32 (L, K), -inf pads."""


class PendingTokens(Protocol):
    """Tokens that a device is still sampling."""

    def wait(self) -> SampledTokens:
        """Waits for the device and brings the tokens to the host."""
        ...
