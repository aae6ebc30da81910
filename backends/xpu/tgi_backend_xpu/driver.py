"""The few calls of torch.xpu that steps depend on, so that a double can stand in for them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import torch
from tgi_backend_torch.group import Group, connect_devices
from torch import Tensor


class Driver(Protocol):
    """One device and its queue."""

    @property
    def torch_device(self) -> torch.device:
        """Where tensors live."""
        ...

    @property
    def dtypes(self) -> frozenset[torch.dtype]:
        """What it computes in without emulating it."""
        ...

    @property
    def num_devices(self) -> int:
        """How many of them this process may use."""
        ...

    def of_rank(self, rank: int) -> Driver:
        """The same of another device, which becomes this process's."""
        ...

    def connect(self, meeting_point: Path, rank: int, size: int) -> Group:
        """Connects the devices of all ranks; see `connect_devices`."""
        ...

    def free_bytes(self) -> int:
        """What can still be allocated."""
        ...

    def peak_bytes(self, run: Callable[[], object]) -> int:
        """Runs something, and tells how much memory it took beyond what was held."""
        ...

    def fetch(self, source: Tensor) -> Callable[[], Tensor]:
        """Queues a copy to the host. What is returned waits for it, and for nothing after it."""
        ...

    def synchronize(self) -> None:
        """Returns when the queue is empty."""
        ...


class XpuDriver:
    """Satisfies `Driver` with torch.xpu: everything on its current stream, in order."""

    def __init__(self, index: int = 0) -> None:
        self.torch_device = torch.device("xpu", index)

    @property
    def num_devices(self) -> int:
        """What ZE_AFFINITY_MASK leaves."""
        return int(_xpu.device_count())

    def of_rank(self, rank: int) -> XpuDriver:
        """Streams and events are those of the current device."""
        _xpu.set_device(rank)
        return XpuDriver(rank)

    def connect(self, meeting_point: Path, rank: int, size: int) -> Group:
        """By oneCCL, which torch has built in where it has Intel GPUs."""
        return connect_devices(meeting_point, rank, size, "xccl", self.torch_device)

    @property
    def dtypes(self) -> frozenset[torch.dtype]:
        """Float32 and float16; bfloat16 where the chip has matrix engines for it."""
        found = {torch.float32, torch.float16}
        if _xpu.is_bf16_supported(False):
            found.add(torch.bfloat16)
        return frozenset(found)

    def free_bytes(self) -> int:
        """What the driver has, and what torch's allocator keeps without use."""
        device = self.torch_device
        free, _ = _xpu.mem_get_info(device)
        kept = _xpu.memory_reserved(device) - _xpu.memory_allocated(device)
        return int(free + kept)

    def peak_bytes(self, run: Callable[[], object]) -> int:
        """By the allocator's own count; afterwards it keeps nothing."""
        device = self.torch_device
        _xpu.empty_cache()
        _xpu.reset_peak_memory_stats(device)
        before = _xpu.memory_allocated(device)
        run()
        self.synchronize()
        peak = _xpu.max_memory_allocated(device) - before
        _xpu.empty_cache()
        return int(peak)

    def fetch(self, source: Tensor) -> Callable[[], Tensor]:
        """Into pinned memory, which the device writes by itself."""
        host = torch.empty(source.shape, dtype=source.dtype, pin_memory=True)
        host.copy_(source, non_blocking=True)
        arrived = _xpu.Event()
        arrived.record()

        def wait() -> Tensor:
            arrived.synchronize()
            return host

        return wait

    def synchronize(self) -> None:
        """Of this device."""
        _xpu.synchronize(self.torch_device)


_xpu: Any = torch.xpu
