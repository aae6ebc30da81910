"""What a device brings to have steps compiled."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from torch import Tensor, nn


class Compiler(Protocol):
    """How a device compiles, and is started."""

    def compiled(self, forward: nn.Module) -> Callable[..., Tensor]:
        """What computes the same, compiled once for each shapes of its inputs."""
        ...

    def launch(self) -> None:
        """Starts what was called since the last time, and does not wait for it."""
        ...

    def wait(self) -> None:
        """Until all that was started is done."""
        ...

    @property
    def advice(self) -> str:
        """What to do about a model that it cannot compile."""
        ...
