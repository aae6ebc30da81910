"""A TorchBackend that also chooses the tokens on its device, two steps in flight.

For device packages: what a step sampled stays on the device, and the next step may name it, so the
device never waits for the host. On the CPU, where nothing runs behind our back, it is for tests.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedModel

from tgi_backend_torch.device import DeviceOfRanks
from tgi_backend_torch.logits import TorchLogits
from tgi_backend_torch.ranks import RankedBackend
from tgi_backend_torch.runner import TorchBackend
from tgi_backend_torch.sampler import sample, unpack
from tgi_backend_torch.turns import Keep
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

    def load(self, request: LoadRequest, progress: Progress) -> Capabilities:
        """As `TorchBackend.load`, with two steps in flight; but what a sequence computes beyond its
        end cannot be taken from a state.
        """
        limits = super().load(request, progress)
        return replace(limits, steps_in_flight=2) if limits.truncates else limits

    def sample(self, logits: PendingLogits, batch: SamplingBatch) -> PendingTokens:
        """Chooses one token a row; see `SamplesOnDevice.sample`."""
        if not isinstance(logits, TorchLogits):
            raise TypeError("only what `step` returned can be sampled")
        with self._telling_want_of_memory(f"sampling {batch.num_rows} tokens"):
            packed = sample(
                logits.tensor, batch, self._device.to_device, self._here().computing.most_probable
            )
        self._here().computing.keep(self._group.first(packed[:, 0]))
        return _Pending(self._device.to_host(packed))

    def _largest_step(self, model: PreTrainedModel, num_tokens: int, num_rows: int) -> Tensor:
        """Samples too, with the wishes that take the most memory."""
        logits = super()._largest_step(model, num_tokens, num_rows)
        sample(logits, _demanding(len(logits)), self._device.to_device)
        return logits


class SamplingRankedBackend(RankedBackend):
    """The same by several ranks: the first one samples, and the others are given the tokens."""

    def __init__(self, device: DeviceOfRanks) -> None:
        super().__init__(device, SamplingTorchBackend)

    def sample(self, logits: PendingLogits, batch: SamplingBatch) -> PendingTokens:
        """As `SamplingTorchBackend.sample`."""
        own = self._own
        assert isinstance(own, SamplingTorchBackend), "all ranks are"
        self._tell(Keep(batch.num_rows))
        with self._together():
            return own.sample(logits, batch)


def _demanding(num_rows: int) -> SamplingBatch:
    """The wishes that take the most memory, for all rows."""

    def floats(value: float) -> NDArray[np.float32]:
        return np.full(num_rows, value, np.float32)

    ints, begins = np.zeros(num_rows, np.int32), np.zeros(num_rows + 1, np.int32)
    none = np.zeros(0, np.int32)
    return SamplingBatch(
        temperature=floats(1),
        top_k=ints + 50,
        top_p=floats(0.9),
        typical_p=floats(0.9),
        min_p=floats(0.01),
        repetition_penalty=floats(1),
        frequency_penalty=floats(0),
        presence_penalty=floats(0),
        uniform=np.full(num_rows, 0.5),
        logprobs=np.ones(num_rows, np.bool_),
        num_top=ints + 5,
        forced=ints - 1,
        history_begins=begins,
        history_tokens=none,
        history_counts=none,
        bias_begins=begins,
        bias_tokens=none,
        bias_values=none.astype(np.float32),
        mask_rows=none,
        mask=np.zeros((0, 0), np.int32),
    )


@dataclass(frozen=True, slots=True)
class _Pending:
    """Satisfies PendingTokens. May be waited for more than once."""

    arrive: Callable[[], Tensor]

    def wait(self) -> SampledTokens:
        return unpack(self.arrive().numpy())
