"""A device for tests that is always late: what is queued happens when somebody waits for it.

On the CPU's memory. A host that overwrites what the device has yet to read, or reads what it has
yet to write, gets wrong numbers, as it would now and then on a GPU.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from tgi_backend_cuda.driver import CannotCapture
from tgi_backend_torch.group import Group, connect_devices
from torch import Tensor


@dataclass(slots=True)
class Reached:
    driver: LazyDriver
    place: int

    def wait(self) -> None:
        self.driver.advance(self.place)


@dataclass(slots=True)
class Captured:
    driver: LazyDriver
    run: Callable[[], None]

    def replay(self) -> None:
        self.driver.queue("replay", self.run)


@dataclass(slots=True)
class LazyDriver:
    """Satisfies `Driver`."""

    memory: int = 8 << 30
    captures: bool = True
    late: bool = True
    """False: everything happens at once, so that torch's own calls may come between."""
    torch_device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    log: list[str] = field(default_factory=list)
    """What was asked for, in order; `done: ` before what then happened."""
    _queue: list[tuple[str, Callable[[], object]]] = field(default_factory=list)
    _done: int = 0

    num_devices: int = 1

    def of_rank(self, rank: int) -> LazyDriver:
        return self

    def connect(self, meeting_point: Path, rank: int, size: int) -> Group:
        """Gloo stands for the maker's library: it computes when it is asked, so ranks are never
        late, and what a graph holds of it is computed at each replay.
        """
        assert not self.late, "gloo reads at once what ranks exchange"
        return connect_devices(meeting_point, rank, size, "gloo", self.torch_device)

    def queue(self, what: str, run: Callable[[], object]) -> None:
        self.log.append(what)
        self._queue.append((what, run))
        if not self.late:
            self.synchronize()

    def advance(self, place: int) -> None:
        while self._done < place:
            what, run = self._queue[self._done]
            self._done += 1
            self.log.append(f"done: {what}")
            run()

    def free_bytes(self) -> int:
        return self.memory

    def peak_bytes(self, run: Callable[[], object]) -> int:
        run()
        return 1 << 20

    def host_buffer(self, numbers: int) -> Tensor:
        return torch.full((numbers,), 7, dtype=torch.int32)

    def send(self, source: Tensor, target: Tensor) -> None:
        self.queue("send", lambda: target.copy_(source))

    def move(self, array: np.ndarray) -> Tensor:
        return torch.from_numpy(array.copy())

    def fetch(self, source: Tensor) -> Tensor:
        host = torch.zeros_like(source)
        self.queue("fetch", lambda: host.copy_(source))
        return host

    def mark(self) -> Reached:
        return Reached(self, len(self._queue))

    def capture(self, run: Callable[[], None]) -> Captured:
        self.synchronize()
        self.log.append("capture")
        if not self.captures:
            raise CannotCapture("it reads a number back")
        run()
        return Captured(self, run)

    def synchronize(self) -> None:
        self.advance(len(self._queue))
