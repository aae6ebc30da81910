"""An Intel GPU, or several, that the CPU plays: satisfies the xpu backend's `Driver`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from tgi_backend_torch.group import Group, connect_devices
from torch import Tensor

MIB = 1 << 20


class OnCpu:
    """Its memory and queue; gloo stands for the maker's library."""

    torch_device = torch.device("cpu")

    def __init__(self, *halves: torch.dtype, num_devices: int = 1) -> None:
        self.dtypes = frozenset({torch.float32, *halves})
        self.free, self.peak = 64 * MIB, MIB
        self.num_devices = num_devices

    def of_rank(self, rank: int) -> OnCpu:
        return self

    def connect(self, meeting_point: Path, rank: int, size: int) -> Group:
        return connect_devices(meeting_point, rank, size, "gloo", self.torch_device)

    def free_bytes(self) -> int:
        return self.free

    def peak_bytes(self, run: Callable[[], object]) -> int:
        run()
        return self.peak

    def fetch(self, source: Tensor) -> Callable[[], Tensor]:
        copy = source.clone()  # what the source becomes later is not what was asked for

        return lambda: copy

    def synchronize(self) -> None:
        pass
