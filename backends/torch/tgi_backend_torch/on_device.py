"""A TorchBackend that also chooses the tokens on its device, two steps in flight.

For device packages: what a step sampled stays on the device, and the next step may name it, so the
device never waits for the host. On the CPU, where nothing runs behind our back, it is for tests.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tgi_backend_torch.runner import TorchBackend, TorchLogits
from tgi_backend_torch.sampler import sample, unpack
from tgi_core.contract import (
    Capabilities,
    LoadRequest,
    PendingLogits,
    PendingTokens,
    Progress,
    SampledTokens,
    SamplingBatch,
)


class SamplingTorchBackend(TorchBackend):
    """Satisfies `StepBackend` and `SamplesOnDevice`. Device packages pass their device."""

    _last_ids: Tensor | None = None
    """int32 (L,), on the device: what was sampled for the outputs of the last step."""

    def load(self, request: LoadRequest, progress: Progress) -> Capabilities:
        """As `TorchBackend.load`, with two steps in flight."""
        return replace(super().load(request, progress), steps_in_flight=2)

    def sample(self, logits: PendingLogits, batch: SamplingBatch) -> PendingTokens:
        """Chooses one token a row; see `SamplesOnDevice.sample`."""
        if not isinstance(logits, TorchLogits):
            raise TypeError("only what `step` returned can be sampled")
        sampled = sample(logits.tensor, batch, self._device.to_device)
        self._last_ids = sampled.ids
        return _Pending(self._device.to_host(sampled.packed()))

    def _tokens(self, tokens: NDArray[np.int32]) -> Tensor:
        """Puts what the last step sampled in the place of tokens that name it."""
        given = super()._tokens(tokens)
        if self._last_ids is None or tokens.min(initial=0) >= 0:
            return given
        named = self._device.to_device(np.maximum(-1 - tokens, 0).astype(np.int64))
        # -1 marks a row that could not be sampled; its request fails as soon as that is read
        last = self._last_ids.long().clamp_min(0)
        return torch.where(given < 0, last[named], given)


@dataclass(frozen=True, slots=True)
class _Pending:
    """Satisfies PendingTokens. May be waited for more than once."""

    arrive: Callable[[], Tensor]

    def wait(self) -> SampledTokens:
        return unpack(self.arrive().numpy())
