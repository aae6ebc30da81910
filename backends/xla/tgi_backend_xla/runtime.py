"""The few calls of torch_xla that a server makes, so that a double can stand in for them.

Importing it does not import torch_xla; making a `TorchXla` does.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor


class Runtime(Protocol):
    """One device that runs what XLA has compiled for it."""

    @property
    def torch_device(self) -> torch.device:
        """Where tensors live."""
        ...

    @property
    def kind(self) -> str:
        """TPU, CPU or another name of PJRT's."""
        ...

    def keep_compiled(self, folder: Path) -> None:
        """Keeps what is compiled from now on, and takes from there what fits."""
        ...

    def compiled(self, compute: Callable[..., Tensor]) -> Callable[..., Tensor]:
        """A function that computes the same, compiled once for each shapes of its inputs.

        What it calls is started when it returns, and not awaited. It raises RuntimeError if
        `compute` reads a number back.
        """
        ...

    def memory(self) -> tuple[int, int, int] | None:
        """Bytes that there are, that are in use, and that were at most; None if nobody counts."""
        ...

    def wait(self) -> None:
        """Until all that was started is done."""
        ...


class TorchXla:
    """Satisfies `Runtime`: the default device of this process, which PJRT_DEVICE names."""

    def __init__(self) -> None:
        import torch_xla
        import torch_xla.core.xla_model
        import torch_xla.runtime

        self._xla: Any = torch_xla
        self.torch_device: torch.device = torch_xla.device()

    @property
    def kind(self) -> str:
        """As PJRT says it."""
        return str(self._xla.runtime.device_type())

    @property
    def num_devices(self) -> int:
        """That this process could use."""
        return int(self._xla.runtime.addressable_device_count())

    def keep_compiled(self, folder: Path) -> None:
        """XLA's persistent cache; it cannot be moved once something was compiled."""
        self._xla.runtime.initialize_cache(str(folder))

    def compiled(self, compute: Callable[..., Tensor]) -> Callable[..., Tensor]:
        """Traced at each call, and compiled if its trace is a new one."""
        made: Callable[..., Tensor] = self._xla.compile(compute, full_graph=True, name="step")
        return made

    def memory(self) -> tuple[int, int, int] | None:
        """TPUs count, CPUs do not."""
        try:
            info = self._xla.core.xla_model.get_memory_info(self.torch_device)
        except RuntimeError:  # UNIMPLEMENTED
            return None
        return info["bytes_limit"], info["bytes_used"], info["peak_bytes_used"]

    def wait(self) -> None:
        """Starts what is pending, too."""
        self._xla.sync(wait=True)
        self._xla.core.xla_model.wait_device_ops()
