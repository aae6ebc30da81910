"""The few calls of torch.cuda that ordering and memory depend on, and nothing else of CUDA.

All that could go wrong between host and device goes through here, so that a recorder can stand in
for it where there is no GPU. ROCm's torch answers to the same names.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from numpy.typing import NDArray
from tgi_backend_torch.group import Group, connect_devices
from torch import Tensor


class Mark(Protocol):
    """A place in the device's queue."""

    def wait(self) -> None:
        """Returns when the device has come so far."""
        ...


class Graph(Protocol):
    """Work that was captured."""

    def replay(self) -> None:
        """Queues all of it."""
        ...


class CannotCapture(Exception):
    """The work waits for the device in between, so it makes no graph."""


class Driver(Protocol):
    """One device and its queue."""

    @property
    def torch_device(self) -> torch.device:
        """Where tensors live."""
        ...

    @property
    def num_devices(self) -> int:
        """How many of them this process may use."""
        ...

    def of_rank(self, rank: int) -> Driver:
        """The same of another device, which becomes this process's."""
        ...

    def connect(self, meeting_point: Path, rank: int, size: int) -> Group:
        """Connects the devices of all ranks; see `connect_devices`. What they exchange may be
        captured.
        """
        ...

    def free_bytes(self) -> int:
        """What can still be allocated."""
        ...

    def peak_bytes(self, run: Callable[[], object]) -> int:
        """Runs something, and tells how much memory it took beyond what was held."""
        ...

    def host_buffer(self, numbers: int) -> Tensor:
        """int32 (numbers,), on the host, where the device can read it."""
        ...

    def send(self, source: Tensor, target: Tensor) -> None:
        """Queues a copy from the host. The source must stay as it is until it is done."""
        ...

    def move(self, array: NDArray[Any]) -> Tensor:
        """A copy on the device; the array may be changed at once."""
        ...

    def fetch(self, source: Tensor) -> Tensor:
        """Queues a copy to the host; what is returned is filled when the queue has come so far."""
        ...

    def mark(self) -> Mark:
        """The end of the queue."""
        ...

    def capture(self, run: Callable[[], None]) -> Graph:
        """Runs something, and captures it.

        Raises:
            CannotCapture: it reads something back from the device.
        """
        ...

    def synchronize(self) -> None:
        """Returns when the queue is empty."""
        ...


@dataclass(frozen=True, slots=True)
class _Event:
    event: torch.cuda.Event

    def wait(self) -> None:
        self.event.synchronize()


class TorchDriver:
    """Satisfies `Driver` with torch.cuda: everything on its current stream, in order."""

    def __init__(self, index: int = 0) -> None:
        self.torch_device = torch.device("cuda", index)
        self._side: torch.cuda.Stream | None = None
        self._pool: tuple[int, int] | None = None

    @property
    def num_devices(self) -> int:
        """What CUDA_VISIBLE_DEVICES leaves."""
        return torch.cuda.device_count()

    def of_rank(self, rank: int) -> TorchDriver:
        """Streams, events and pinned memory are those of the current device."""
        torch.cuda.set_device(rank)
        return TorchDriver(rank)

    def connect(self, meeting_point: Path, rank: int, size: int) -> Group:
        """By NCCL, or by RCCL, which torch calls so too. Both wait on streams, never the host."""
        return connect_devices(meeting_point, rank, size, "nccl", self.torch_device)

    def free_bytes(self) -> int:
        """What the driver has, and what torch's allocator keeps without use."""
        device = self.torch_device
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)

    def peak_bytes(self, run: Callable[[], object]) -> int:
        """By the allocator's own count; afterwards it keeps nothing."""
        device = self.torch_device
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        run()
        self.synchronize()
        peak = torch.cuda.max_memory_allocated(device) - before
        torch.cuda.empty_cache()
        return peak

    def host_buffer(self, numbers: int) -> Tensor:
        """Pinned memory."""
        return torch.empty(numbers, dtype=torch.int32, pin_memory=True)

    def send(self, source: Tensor, target: Tensor) -> None:
        """Does not wait."""
        target.copy_(source, non_blocking=True)

    def move(self, array: NDArray[Any]) -> Tensor:
        """By way of pinned memory, which torch gives back when the copy is done."""
        host = torch.from_numpy(array).pin_memory()
        return host.to(self.torch_device, non_blocking=True)

    def fetch(self, source: Tensor) -> Tensor:
        """Into pinned memory, without waiting."""
        host = torch.empty(source.shape, dtype=source.dtype, pin_memory=True)
        host.copy_(source, non_blocking=True)
        return host

    def mark(self) -> Mark:
        """An event."""
        event = torch.cuda.Event()
        event.record()
        return _Event(event)

    def capture(self, run: Callable[[], None]) -> Graph:
        """Three runs: one compiles what is to be compiled, one shows whether it waits."""
        if self._side is None:
            self._side = torch.cuda.Stream(self.torch_device)
            self._pool = torch.cuda.graph_pool_handle()
        current = torch.cuda.current_stream(self.torch_device)
        self._side.wait_stream(current)
        with torch.cuda.stream(self._side):
            run()
            _check_runs_on(run)
            self._side.synchronize()
            graph = torch.cuda.CUDAGraph()
            graph.capture_begin(pool=self._pool, capture_error_mode="thread_local")
            try:
                run()
            except RuntimeError as error:
                with suppress(RuntimeError):  # the capture is void, and says so once more
                    graph.capture_end()
                raise CannotCapture(str(error)) from error
            graph.capture_end()
        current.wait_stream(self._side)
        return graph

    def synchronize(self) -> None:
        """Of the whole device."""
        torch.cuda.synchronize(self.torch_device)


def _check_runs_on(run: Callable[[], None]) -> None:
    before = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that this is a prototype
        torch.cuda.set_sync_debug_mode("error")
    try:
        run()
    except RuntimeError as error:
        if "synchroniz" not in str(error):
            raise
        raise CannotCapture(str(error)) from error
    finally:
        torch.cuda.set_sync_debug_mode(before)
