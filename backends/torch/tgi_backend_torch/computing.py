"""How a device computes the steps of one model: the seam between runner and device.

The runner knows sequences, blocks and rows; what is behind this knows how tensors get to the
device, and what is launched there.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tgi_backend_torch.attention import Attention, SdpaAttention
from tgi_backend_torch.cache import PagedCache
from tgi_backend_torch.forward import FlatModel
from tgi_backend_torch.layout import StepLayout
from tgi_backend_torch.sampler import most_probable
from tgi_backend_torch.wide_cache import wide
from tgi_core.contract import Progress, Step


class Computing(Protocol):
    """Computes the steps of one model, over one cache."""

    @property
    def attention(self) -> Attention:
        """What the model's layers call."""
        ...

    def warm_up(self, progress: Progress) -> None:
        """Whatever the first steps would otherwise wait for."""
        ...

    def logits(self, step: Step, tables: NDArray[np.int32]) -> Tensor:
        """Appends the step's tokens to their sequences.

        Args:
            step: the rows.
            tables: int32 (R, blocks), the block table of each; -1 pads.

        Returns:
            (L, vocab) in the model's dtype: those of `step.out`. Valid until the next step.
        """
        ...

    def hidden(self, step: Step, tables: NDArray[np.int32]) -> Tensor:
        """The same, up to the hidden states of all tokens: (T, size)."""
        ...

    def most_probable(self, logits: Tensor) -> Tensor:
        """As `sampler.most_probable`, of what the last call of `logits` returned."""
        ...

    def keep(self, ids: Tensor) -> None:
        """Remembers what was sampled for the outputs of the last step, int32 (L,): the next step
        may name them (`Step.tokens`). -1 marks one that could not be sampled.
        """
        ...


class EagerComputing:
    """Satisfies `Computing`: one call after another, attention by torch over gathered pages."""

    def __init__(
        self, model: FlatModel, cache: PagedCache, to_device: Callable[[NDArray[Any]], Tensor]
    ) -> None:
        self._cache = wide(cache, model.model.dtype)
        self.attention = SdpaAttention(self._cache)
        self._model = model
        self._to_device = to_device
        self._sampled: Tensor | None = None

    def warm_up(self, progress: Progress) -> None:
        """Nothing: the steps that the runner tries suffice."""

    def logits(self, step: Step, tables: NDArray[np.int32]) -> Tensor:
        """See `Computing.logits`."""
        positions = self._begin(step, tables)
        wanted = self._to_device(step.out.astype(np.int64))
        return self._model(self._tokens(step.tokens), positions, wanted)

    def hidden(self, step: Step, tables: NDArray[np.int32]) -> Tensor:
        """See `Computing.hidden`."""
        positions = self._begin(step, tables)
        return self._model.hidden(self._tokens(step.tokens), positions)

    def most_probable(self, logits: Tensor) -> Tensor:
        """By torch."""
        return most_probable(logits)

    def keep(self, ids: Tensor) -> None:
        """Keeps the tensor itself."""
        self._sampled = ids

    def _begin(self, step: Step, tables: NDArray[np.int32]) -> Tensor:
        layout = StepLayout(step, tables, self._cache)
        self.attention.begin(layout)
        if step.positions is not None:
            return self._to_device(step.positions.astype(np.int64))
        return layout.positions

    def _tokens(self, tokens: NDArray[np.int32]) -> Tensor:
        return named_tokens(tokens, self._sampled, self._to_device)


def named_tokens(
    tokens: NDArray[np.int32],
    sampled: Tensor | None,
    to_device: Callable[[NDArray[Any]], Tensor],
) -> Tensor:
    """int64 (T,), what was sampled, int32 (L,), in the place of tokens that name it."""
    given = to_device(tokens.astype(np.int64))
    if sampled is None or tokens.min(initial=0) >= 0:
        return given
    named = to_device(np.maximum(-1 - tokens, 0).astype(np.int64))
    # a row that could not be sampled fails as soon as that is read
    last = sampled.long().clamp_min(0)
    return torch.where(given < 0, last[named], given)
