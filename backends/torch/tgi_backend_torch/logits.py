"""What a step returns: logits, and what they were made of."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor


@dataclass(frozen=True, slots=True)
class TorchLogits:
    """PendingLogits that lie on the device."""

    tensor: Tensor
    """(L, vocab), in the model's dtype."""
    states: Tensor | None = None
    """(L, size), what they were made of; kept only for drafting heads."""

    def numpy(self) -> NDArray[np.float32]:
        """Waits for the device; see `PendingLogits`."""
        array: NDArray[np.float32] = self.tensor.float().cpu().numpy()
        return array
