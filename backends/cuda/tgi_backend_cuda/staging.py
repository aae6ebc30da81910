"""Host memory that steps are written to, reused only when the device has read it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from tgi_backend_cuda.driver import Driver, Mark

_BUFFERS = 3
"""Two steps are in flight while a third is written."""


class Staging:
    """Buffers in turn, and the device's one buffer that each is sent to."""

    def __init__(self, driver: Driver, target: Tensor) -> None:
        """`target`: int32 (N,), on the device."""
        self._driver = driver
        self._target = target
        self._buffers = [driver.host_buffer(len(target)) for _ in range(_BUFFERS)]
        self._sent: list[Mark | None] = [None] * _BUFFERS
        self._next = 0

    def next(self) -> NDArray[np.int32]:
        """int32 (N,): what to write the next step to; waits until it was read."""
        mark = self._sent[self._next]
        if mark is not None:
            mark.wait()
        array: NDArray[np.int32] = self._buffers[self._next].numpy()
        return array

    def send(self, numbers: int) -> None:
        """Sends the first `numbers` of what `next` returned."""
        self._driver.send(self._buffers[self._next][:numbers], self._target[:numbers])
        self._sent[self._next] = self._driver.mark()
        self._next = (self._next + 1) % _BUFFERS
