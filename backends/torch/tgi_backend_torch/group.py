"""What the ranks of one model tell each other while they compute. Knows no model."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, distributed
from torch.distributed import FileStore, PrefixStore, ProcessGroup, ProcessGroupGloo, Store

PATIENCE = timedelta(minutes=10)
"""A rank that is later than this hangs. One that has died breaks its connections, and is noticed
at once."""


class Group(Protocol):
    """All ranks call the same methods in the same order."""

    @property
    def misses_the_dead(self) -> bool:
        """Whether an exchange fails if a rank has died; else it waits for as long as it may."""
        ...

    @property
    def size(self) -> int:
        """How many ranks there are."""
        ...

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum of the ranks' tensors, which may take the place of this one."""
        ...

    def join(self, tensor: Tensor) -> Tensor:
        """The ranks' tensors side by side, in the last dimension."""
        ...

    def first(self, tensor: Tensor) -> Tensor:
        """The tensor of rank 0, which may be written over this one of the same shape."""
        ...

    def least(self, number: int) -> int:
        """The least of the ranks' numbers."""
        ...

    def close(self) -> None:
        """Disconnects this one; nothing else is called then."""
        ...


class Meeting(Protocol):
    """Where the ranks of one model come together when they have their weights."""

    @property
    def rank(self) -> int:
        """Which of them this is; 0 answers for all."""
        ...

    @property
    def size(self) -> int:
        """How many there are."""
        ...

    def join(self) -> Group:
        """Waits for the others.

        Raises:
            SetupError: one of them cannot load its part.
        """
        ...


class Alone:
    """One rank that has nobody to wait for."""

    rank, size = 0, 1

    def join(self) -> Group:
        """Nobody else."""
        return Unconnected()


class Unconnected:
    """One rank alone; or one that plans what it would do among others."""

    misses_the_dead = True

    def __init__(self, size: int = 1) -> None:
        self.size = size

    def sum(self, tensor: Tensor) -> Tensor:
        """As if all others had zeros."""
        return tensor

    def join(self, tensor: Tensor) -> Tensor:
        """As if all others had the same."""
        return tensor if self.size == 1 else torch.cat([tensor] * self.size, -1)

    def first(self, tensor: Tensor) -> Tensor:
        """As if this were the first."""
        return tensor

    def least(self, number: int) -> int:
        """As if all others had the same."""
        return number

    def close(self) -> None:
        """Nobody is there."""


class SharedHost:
    """Ranks on one machine that share its memory."""

    misses_the_dead = True

    def __init__(self, processes: ProcessGroup) -> None:
        self._processes = processes
        self.size = processes.size()

    def sum(self, tensor: Tensor) -> Tensor:
        """In place, if the tensor is contiguous."""
        tensor = tensor.contiguous()
        self._processes.allreduce([tensor]).wait()
        return tensor

    def join(self, tensor: Tensor) -> Tensor:
        """A new tensor."""
        tensor = tensor.contiguous()
        parts = [torch.empty_like(tensor) for _ in range(self.size)]
        self._processes.allgather([parts], [tensor]).wait()
        return torch.cat(parts, -1)

    def first(self, tensor: Tensor) -> Tensor:
        """In place, if the tensor is contiguous."""
        tensor = tensor.contiguous()
        self._processes.broadcast(tensor, 0).wait()
        return tensor

    def least(self, number: int) -> int:
        """All get the same."""
        return int(self.join(torch.tensor([number])).min())

    def close(self) -> None:
        """Connections end with the last who knows of them."""


class OwnDevices(SharedHost):
    """Ranks with a device each, which exchange tensors by their maker's library. Numbers of the
    host go from host to host.
    """

    misses_the_dead = False

    def __init__(self, processes: ProcessGroup, host: Group, prepare: Callable[[], None]) -> None:
        """
        Args:
            processes: of the devices.
            host: the same ranks.
            prepare: what a device wants before each exchange.
        """
        super().__init__(processes)
        self._host = host
        self._prepare = prepare

    def sum(self, tensor: Tensor) -> Tensor:
        """Starts it: what the device does next has it, and the host does not wait."""
        self._prepare()
        return super().sum(tensor)

    def join(self, tensor: Tensor) -> Tensor:
        """Starts it, likewise."""
        self._prepare()
        return super().join(tensor)

    def first(self, tensor: Tensor) -> Tensor:
        """Starts it, likewise."""
        self._prepare()
        return super().first(tensor)

    def least(self, number: int) -> int:
        """By the hosts."""
        return self._host.least(number)

    def close(self) -> None:
        """Gives back what the library holds."""
        distributed.destroy_process_group()


def connect_on_this_host(meeting_point: Path, rank: int, size: int) -> Group:
    """Connects all ranks with each other, by gloo, over the loopback interface only.

    Args:
        meeting_point: a file that all ranks name and nobody else can read.
        rank: of this process.
        size: how many ranks there are.
    """
    return _over_loopback(FileStore(str(meeting_point), size), rank, size)


def connect_devices(
    meeting_point: Path,
    rank: int,
    size: int,
    library: str,
    device: torch.device,
    prepare: Callable[[], None] = lambda: None,
) -> Group:
    """Connects ranks of which each has a device, by the library of the devices' maker.

    Args:
        meeting_point: a file that all ranks name and nobody else can read. It must stay.
        rank: of this process.
        size: how many ranks there are.
        library: what torch calls it, such as "nccl".
        device: of this rank, and current.
        prepare: what the device wants before each exchange.
    """
    store = FileStore(str(meeting_point), size)
    host = _over_loopback(PrefixStore("host", store), rank, size)
    distributed.init_process_group(
        library,
        store=PrefixStore("devices", store),
        rank=rank,
        world_size=size,
        timeout=PATIENCE,
    )
    processes = distributed.group.WORLD
    assert processes is not None, "it was just made"
    group = OwnDevices(processes, host, prepare)
    # libraries connect at the first exchange, which must not be one that is captured
    group.sum(torch.zeros(1, device=device))
    group.least(0)
    return group


def _over_loopback(store: Store, rank: int, size: int) -> SharedHost:
    options = ProcessGroupGloo._Options()  # type: ignore[attr-defined]
    options._devices = [ProcessGroupGloo.create_device(hostname="127.0.0.1")]
    options._timeout = PATIENCE
    group = SharedHost(ProcessGroupGloo(store, rank, size, options))
    group.least(0)  # one that is connected may be ahead of others that still read the file
    return group
